"""Unit tests of the alerts on exporters and their history: what must fire, what must not, how it ends."""

from tests.grafana.promtool import Case, Firing, Message
from tests.grafana.scraped import Gpu, Taken, Target

N1 = Target("n1:9955").labels


def exporter_down() -> Case:
    alert = "LlemExporterDown"
    return Case(
        "an exporter is down; one that misses a scrape now and then is not",
        [
            Target("n1:9955").up(10).down(10).up(20),
            Target("n2:9955").up(5).down(1.75).up(10).down(1.75).up(21.5),
            Target("n3:9955").up(10).removed(30),
        ],
        [
            Firing(11, alert),
            Firing(13, alert, [N1]),
            Firing(21, alert, [N1]),
            Firing(24, alert),
            Message(
                13,
                alert,
                N1,
                "The exporter n1:9955 cannot be scraped",
                "/metrics of n1:9955 (job llem) has not been scraped for more than 2 min (up is 0). "
                "Power and joules of its GPUs are not known.",
            ),
        ],
    )


def no_exporter() -> Case:
    alert = "LlemNoExporter"
    return Case(
        "no exporter is a target any more, though its history and others are",
        [
            Target("n1:9955").up(10).removed(20).up(10),
            Target("n1:9955", job="llem-history").up(40),
            Target("n1:9100", job="node").up(40),
        ],
        [
            Firing(9, alert),
            Firing(14, alert),
            Firing(17, alert, [{}]),
            Firing(31.5, alert, [{}]),
            Firing(34, alert),
            Message(
                17,
                alert,
                {},
                "No llem exporter is scraped at all",
                "Prometheus has no target whose job is named llem... (absent for more than 5 min, 1 of 1): "
                "no other alert here can fire.",
            ),
        ],
    )


def no_exporter_down() -> Case:
    alert = "LlemNoExporter"
    return Case("one that is down is a target", [Target("n1:9955").down(20)], [Firing(15, alert)])


def no_fresh_sample() -> Case:
    alert = "LlemNoFreshSample"
    pulsing = Target("n2:9955")
    for _ in range(60):
        # Its newest tick is 30 s old at most: not above the threshold.
        pulsing.up(0.5, ticks=False).up(0.25)
    return Case(
        "an exporter answers and samples nothing",
        [Target("n1:9955").up(10).up(10, ticks=False).up(30), pulsing],
        [
            Firing(11, alert),
            Firing(12, alert, [N1]),
            Firing(24, alert, [N1]),
            Firing(26, alert),
            Message(
                12,
                alert,
                N1,
                "n1:9955 reads none of its GPUs",
                "The newest sample of n1:9955 is 2m 15s old, though its exporter answers.",
            ),
        ],
    )


def no_fresh_sample_missed() -> Case:
    """Where a driver hangs, scrapes are slow, too: one in four fails. One that is down is another thing."""
    alert = "LlemNoFreshSample"
    target = Target("n1:9955").up(10)
    for _ in range(10):
        target.up(0.75, ticks=False).down(0.25)
    return Case(
        "an exporter samples nothing, and answers now and then",
        [target, Target("n2:9955").up(10).down(10)],
        [Firing(minute, alert, [target.labels]) for minute in (12.5, 15, 19)],
    )


def no_fresh_sample_aged() -> Case:
    """Its newest tick lies a constant time back: 30 and 31 s."""
    alert = "LlemNoFreshSample"
    behind, further = Target("n1:9955", tick_age_s=29.7), Target("n2:9955", tick_age_s=30.3)
    return Case(
        "a tick just old enough",
        [behind.up(10), further.up(10)],
        [Firing(5, alert, [further.labels])],
    )


def history_not_scraped() -> Case:
    alert = "LlemHistoryNotScraped"
    n1 = N1 | {"job": "llem-history"}
    shaky = Target("n4:9955").up(10)
    for _ in range(10):
        shaky.up(0.75).down(0.25)
    return Case(
        "/history fails while /metrics is scraped, but not where both do",
        [
            Target("n1:9955").up(50),
            Target("n1:9955", job="llem-history").up(10).down(20).up(20),
            Target("n2:9955").up(10).down(20).up(20),
            Target("n2:9955", job="llem-history").up(10).down(20).up(20),
            Target("n3:9955").up(50),
            Target("n3:9955", job="llem-history").up(10).down(4.5).up(35.5),
            shaky,
            Target("n4:9955", job="llem-history").up(10).down(10).removed(30),
        ],
        [
            Firing(14, alert),
            Firing(16, alert, [n1, n1 | {"instance": "n4:9955"}]),
            Firing(34, alert, [n1]),
            Firing(37, alert),
            Message(
                30,
                alert,
                n1,
                "/history of n1:9955 cannot be scraped",
                "/metrics of n1:9955 is scraped, and /history (job llem-history) is not, for more than 5 min "
                "(up is 0). After 15 min its 100 ms samples are lost.",
            ),
        ],
    )


def history_backlog() -> Case:
    alert = "LlemHistoryBacklog"
    all_taken, one_of_two = Taken(2, 20), Taken(2, 10)
    return Case(
        "a scraper of /history stops or is slow; one that is new, catches up or is paused is not behind",
        [
            Target("n1:9955").up(20, taken=all_taken).up(14, taken=one_of_two).up(30, taken=Taken(1, 10)),
            Gpu("GPU-a").draws(300, 64),
            Target("n2:9955").up(64, taken=Taken(2, 16.2)),
            Gpu("GPU-b", "n2:9955").draws(300, 64),
            Target("n3:9955").up(64, taken=Taken(2, 15.8)),
            Gpu("GPU-c", "n3:9955").draws(300, 64),
            Target("n4:9955").up(20, taken=Taken(1, 10)).up(10, taken=Taken(2, 30)).up(34, taken=all_taken),
            Gpu("GPU-d", "n4:9955").draws(300, 64),
            Target("n5:9955").up(64, taken=Taken(0, 0)),
            Gpu("GPU-e", "n5:9955").draws(300, 64),
            Target("n6:9955")
            .up(20, taken=all_taken)
            .up(14, taken=Taken(2, 0, paused=True))
            .up(30, taken=all_taken),
            Gpu("GPU-f", "n6:9955").draws(300, 64),
        ],
        [
            Firing(4, alert),
            Firing(7, alert, [N1 | {"instance": "n3:9955"}]),
            Firing(25, alert, [N1 | {"instance": "n3:9955"}]),
            Firing(29, alert, [N1, N1 | {"instance": "n3:9955"}]),
            Firing(38, alert, [N1, N1 | {"instance": "n3:9955"}]),
            Firing(41, alert, [N1 | {"instance": "n3:9955"}]),
        ],
    )


def history_backlog_message() -> Case:
    alert = "LlemHistoryBacklog"
    return Case(
        "the text of a backlog",
        [Target("n1:9955").up(20, taken=Taken(2, 10)), Gpu("GPU-a").draws(300, 20)],
        [
            Firing(4, alert),
            Message(
                15,
                alert,
                N1,
                "/history of n1:9955 is not taken as fast as it grows",
                "Its scrapers took 50% of the samples of the last 5 min. "
                "What is not taken within 15 min is lost.",
            ),
        ],
    )


def history_evicted() -> Case:
    alert = "LlemHistoryEvicted"
    return Case(
        "samples went before a scraper had them",
        [
            Target("n1:9955").up(20, taken=Taken()).up(4, taken=Taken(evicted=10)).up(120, taken=Taken()),
            Target("n2:9955").up(144, taken=Taken()),
        ],
        [
            Firing(21, alert),
            Firing(22, alert, [N1]),
            Firing(95, alert, [N1]),
            Firing(102, alert),
            Message(
                30,
                alert,
                N1,
                "n1:9955 has lost samples of /history",
                "About 2400 readings went out of the history of n1:9955 in the last 15 min "
                "before a scraper had them.",
            ),
        ],
    )


FAST = (
    exporter_down,
    no_exporter,
    no_exporter_down,
    no_fresh_sample,
    no_fresh_sample_missed,
    no_fresh_sample_aged,
    history_not_scraped,
    history_backlog,
    history_backlog_message,
    history_evicted,
)
