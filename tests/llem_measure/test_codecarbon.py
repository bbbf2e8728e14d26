"""CodeCarbonBackend: joules of the GPUs together, or of the node; offline, quiet and without a trace."""

from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_measure.child import Child, ask

UNSEEN = """
import signal
touched = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        touched.append(f"{event} {arguments}")
    path, mode = (*arguments, None, None)[:2]
    if event == "open" and isinstance(path, str) and set(mode or "") & set("wax+"):
        touched.append(f"open {path}")
sys.addaudithook(watch)
handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
m = window(eb.CodeCarbonBackend("deu"), 0.5)
from codecarbon.input import DataSource
m["grams_per_kwh"] = DataSource().get_global_energy_mix_data()["DEU"]["carbon_intensity"]
same = handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
sys.stderr.flush()
tell([m, same, [t for t in touched if "/dev/null" not in t]])
"""


def test_it_goes_nowhere_and_leaves_nothing(
    steady: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CodeCarbon opens no connection, writes no file or log, and ignores the user's settings."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".codecarbon.config").write_text("[codecarbon]\nsave_to_file = true\npue = 2\n")
    monkeypatch.chdir(home)
    hostile = {
        "HOME": str(home),
        "CODECARBON_SAVE_TO_API": "true",
        "CODECARBON_EMISSIONS_ENDPOINT": "http://127.0.0.1:9/",
        "CODECARBON_ELECTRICITYMAPS_API_TOKEN": "secret",
        "CODECARBON_CO2_SIGNAL_API_TOKEN": "secret",
        "CODECARBON_GPU_IDS": "0",
        "CODECARBON_LOG_LEVEL": "debug",
        "CODECARBON_ALLOW_MULTIPLE_RUNS": "false",
    }
    with Child(UNSEEN, {**steady.env, **hostile}) as child:
        measured, same_handlers, touched = child.hear()
        assert child.end() == 0
        assert "codecarbon" not in child.errors
    assert (same_handlers, touched) == (True, [])
    assert [path.name for path in home.iterdir()] == [".codecarbon.config"]
    assert measured["total_j"] == pytest.approx(400 * measured["duration"], rel=0.3)
    assert (measured["per_gpu_j"], measured["scope"], measured["codes"]) == (None, "gpu", ["short_window"])
    # Of the GPUs, as the joules: what CodeCarbon counts of CPU and memory has no part in either.
    grams = measured["total_j"] / 3.6e6 * measured["grams_per_kwh"]
    assert measured["grams"] == pytest.approx(grams, rel=1e-3)


def test_without_a_country_joules_and_no_grams(steady: FakeDriver) -> None:
    """Without a country there are joules, no grams, and a warning. An unknown country is an error."""
    program = """
tell([window(eb.CodeCarbonBackend(gpu_indices=[1]), 0.5), failure(eb.CodeCarbonBackend("DE").check)])
"""
    measured, refused = ask(program, steady.env)
    assert measured["grams"] is None
    assert "emissions_unavailable" in measured["codes"]
    assert measured["per_gpu_j"] == {"1": measured["total_j"]}
    assert refused == "CodeCarbon does not know the country 'DE'; use ISO 3166 alpha-3, for example DEU"


def test_without_a_gpu_it_is_the_node(steady: FakeDriver) -> None:
    """Without a visible GPU, the joules are those of CPU and memory, with the scope "node"."""
    program = "tell(window(eb.CodeCarbonBackend(), 0.5))"
    hidden = ask(program, {**steady.env, "CUDA_VISIBLE_DEVICES": ""})
    steady.unload()
    for measured in (hidden, ask(program, steady.env)):
        assert (measured["scope"], measured["per_gpu_j"], measured["backend"]) == ("node", None, "codecarbon")
        assert 0 < measured["total_j"] < 400 * measured["duration"]


def test_gpus_that_codecarbon_cannot_see_are_no_zero(steady: FakeDriver) -> None:
    """Without nvidia-smi, CodeCarbon counts 0 J. The backend gives no joules and a warning."""
    measured = ask("tell(window(eb.CodeCarbonBackend(), 0.5))", steady.env_without_nvidia_smi)
    assert (measured["total_j"], measured["coverage"], measured["grams"]) == (None, 0, None)
    said = dict(zip(measured["codes"], measured["messages"], strict=True))
    assert "nvidia-smi --help" in said["energy_unavailable"]


def test_a_gpu_that_is_lost_before_or_after_the_start_is_told(steady: FakeDriver) -> None:
    """A GPU that is lost at the start is a ConfigError. If it is lost later, there are no joules."""
    program = """
backend = eb.CodeCarbonBackend(gpu_indices=[0])
tracker = backend.start_tracking()
tell("begun")
input()
tell([shown(backend.stop_tracking(tracker)), failure(eb.CodeCarbonBackend(gpu_indices=[0]).check)])
"""
    with Child(program, steady.env) as child:
        child.hear()
        steady.gpus[0].lost = True
        child.go_on()
        measured, refused = child.hear()
    assert measured["total_j"] is None
    assert {"gpu_lost", "energy_unavailable"} <= set(measured["codes"])
    assert refused.startswith("GPU 0 cannot be opened: NVML_ERROR_GPU_IS_LOST")


def test_a_gpu_beside_it_that_is_lost_stops_codecarbon(steady: FakeDriver) -> None:
    """If any GPU of the node is lost, CodeCarbon does not start, because it opens all GPUs."""
    steady.gpus[1].lost = True
    said = ask("tell(failure(eb.CodeCarbonBackend(gpu_indices=[0]).check))", steady.env)
    assert said.startswith("CodeCarbon does not start")


def test_a_start_that_hangs_ends_after_the_drivers_timeout(steady: FakeDriver) -> None:
    """A GPU that hangs when CodeCarbon starts to read it is a ConfigError, not a program that hangs."""
    steady.gpus[0].hung_calls = frozenset({"energy"})
    program = """
tell(failure(eb.CodeCarbonBackend(gpu_indices=[0], driver_timeout_s=5.0).check))
os._exit(0)
"""
    assert ask(program, steady.env) == "CodeCarbon has not started for 10 s; see dmesg"


@pytest.mark.full
def test_gpu_joules_are_the_true_ones(tmp_path: Path) -> None:
    """Over 20 s, the joules are within 10 %. CodeCarbon's period is 15 s."""
    with FakeDriver(tmp_path, gpus=2) as driver:
        measured = ask("tell(window(eb.CodeCarbonBackend(), 20))", driver.env)
        exact = sum(driver.exact_joules(gpu, measured["start"], measured["end"]) for gpu in range(2))
    assert measured["total_j"] == pytest.approx(exact, rel=0.1)
    assert measured["coverage"] == 1
    assert measured["codes"] == ["emissions_unavailable"]
