"""Unit tests of the alerts on what is known of a GPU: what must fire, what just must not, and how it ends."""

from tests.grafana.promtool import Case, Firing, Message
from tests.grafana.scraped import Gpu, Target

GPU = Gpu("GPU-a").labels


def gpu_lost() -> Case:
    alert = "LlemGpuVanished"
    return Case(
        "a GPU is lost while its exporter answers, for more than an hour, and comes back",
        [
            Target("n1:9955").up(150),
            Gpu("GPU-a").draws(300, 10).lost(90).draws(300, 50),
            Gpu("GPU-b", gpu="1").draws(300, 150),
            Gpu("GPU-c", gpu="2").draws(300, 10).lost(1.75).draws(300, 138.25),
        ],
        [
            Firing(11.75, alert),
            Firing(12.5, alert, [GPU]),
            *(Firing(minute, alert, [GPU]) for minute in range(20, 105, 12)),
            Firing(106, alert),
            Message(
                13,
                alert,
                GPU,
                "GPU 0 of n1:9955 has vanished",
                "GPU-a has not been read for at least 3m 15s, and no other exporter has it.",
            ),
        ],
    )


def gpu_lost_missed() -> Case:
    alert = "LlemGpuVanished"
    target, gpu, never = (
        Target("n1:9955").up(10),
        Gpu("GPU-a").draws(300, 10),
        Gpu("GPU-b", gpu="1").absent(10),
    )
    for _ in range(10):
        target.up(0.75).down(0.25)
        for one in (gpu, never):
            one.lost(0.75).missed(0.25)
    return Case(
        "GPUs are lost, or were never read, while one scrape in four fails",
        [target, gpu, never],
        [Firing(minute, alert, [gpu.labels, never.labels]) for minute in (13.5, 15.5, 19.5)],
    )


def gpu_gone_from_the_page() -> Case:
    alert = "LlemGpuVanished"
    return Case(
        "a GPU is not found when its exporter restarts; after an hour it is forgotten",
        [
            Target("n1:9955").up(120),
            Gpu("GPU-a").draws(300, 10).missed(110),
            Gpu("GPU-b", gpu="1").draws(300, 10).missed(1).exporter_restarts().draws(300, 109),
        ],
        [
            Firing(11, alert),
            Firing(13, alert, [GPU]),
            Firing(70, alert, [GPU]),
            Firing(78, alert),
        ],
    )


def gpu_moved() -> Case:
    alert = "LlemGpuVanished"
    return Case(
        "a GPU that is read elsewhere has not vanished, nor has one whose exporter is down or gone",
        [
            Target("n1:9955").up(60),
            Target("n2:9955").up(60),
            Target("n3:9955").up(10).down(50),
            Target("n4:9955").up(10).removed(50),
            Gpu("GPU-a").draws(300, 10).lost(50),
            Gpu("GPU-a", "n2:9955", gpu="5").absent(11.75).draws(300, 48.25),
            Gpu("GPU-c", "n3:9955").draws(300, 10).missed(50),
            Gpu("GPU-d", "n4:9955").draws(300, 10).missed(50),
        ],
        [Firing(minute, alert) for minute in (11.75, 13, 20, 40, 58)],
    )


def coverage_low() -> Case:
    alert = "LlemCoverageLow"
    return Case(
        "the joules cover too little",
        [
            Gpu("GPU-a").draws(300, 60, covered=0.985).draws(300, 40),
            Gpu("GPU-b", gpu="1").draws(300, 100, covered=0.995),
            Gpu("GPU-c", gpu="2").draws(300, 30).missed(5, watts=300).draws(300, 65),
            Gpu("GPU-d", gpu="3").draws(300, 30).exporter_restarts().draws(300, 70),
        ],
        [
            Firing(4, alert),
            Firing(6, alert, [GPU]),
            Firing(59, alert, [GPU]),
            Firing(72, alert, [GPU]),
            Firing(87, alert),
            Message(
                30,
                alert,
                GPU,
                "The joules of GPU 0 of n1:9955 have gaps",
                "llem_gpu_nvml_energy_joules_total of GPU-a covers 98.5% of the last 15 min.",
            ),
        ],
    )


def backends_disagree() -> Case:
    alert = "LlemBackendsDisagree"
    gpu_5 = GPU | {"gpu": "4", "uuid": "GPU-e"}
    return Case(
        "zeus and nvml disagree, either way; a gap in nvml is no disagreement",
        [
            Gpu("GPU-a", zeus_joules=4e6).draws(300, 60, zeus=1.0505).draws(300, 60),
            Gpu("GPU-b", gpu="1", zeus_joules=4e6).draws(300, 120, zeus=1.0495),
            Gpu("GPU-c", gpu="2", zeus_joules=4e6).draws(300, 120, covered=0.9, zeus=1.1),
            Gpu("GPU-d", gpu="3").draws(300, 120),
            Gpu("GPU-e", gpu="4", zeus_joules=4e6).draws(300, 60, zeus=0.94).draws(300, 60),
            Gpu("GPU-f", gpu="5", zeus_joules=4e6).draws(300, 60, zeus=0.9505).draws(300, 60),
        ],
        [
            Firing(14, alert),
            Firing(17, alert, [GPU, gpu_5]),
            Firing(33, alert, [GPU, gpu_5]),
            Firing(59, alert, [GPU, gpu_5]),
            Firing(74, alert, [GPU, gpu_5]),
            Firing(95, alert),
        ],
    )


def backends_agree_over_restarts() -> Case:
    """The hardware counts on while the exporter is away; what ours did not see, it cannot disagree on."""
    gpu = Gpu("GPU-a", zeus_joules=4e6).draws(300, 30)
    for _ in range(4):
        gpu.missed(1.5, watts=300).exporter_restarts().draws(300, 10)
    return Case(
        "zeus and nvml agree, though an exporter restarts again and again",
        [gpu.draws(300, 20)],
        [Firing(minute, "LlemBackendsDisagree") for minute in range(40, 90, 5)],
    )


def backends_disagree_message() -> Case:
    alert = "LlemBackendsDisagree"
    return Case(
        "the text of a disagreement",
        [Gpu("GPU-a", zeus_joules=4e6).draws(300, 40, zeus=1.25)],
        [
            Firing(14, alert),
            Message(
                30,
                alert,
                GPU,
                "zeus and nvml disagree about GPU 0 of n1:9955",
                "Over 15 min without gaps, the joules of GPU-a by the hardware's counter (zeus) and by power "
                "samples (nvml) lie 25% apart.",
            ),
        ],
    )


FAST = (
    gpu_lost,
    gpu_lost_missed,
    gpu_gone_from_the_page,
    gpu_moved,
    coverage_low,
    backends_disagree,
    backends_agree_over_restarts,
    backends_disagree_message,
)
