"""The choice among backends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.backend import PRIORITY, Backend, Candidate, choose

ZEUS, NVML, CODECARBON, NONE = PRIORITY


def candidates(**coverage: float) -> list[Candidate]:
    return [Candidate(Backend(name), share, f"{name} has {share:g}") for name, share in coverage.items()]


def test_priority_is_the_order_of_the_words() -> None:
    """zeus, nvml, codecarbon, none: the words users type, in the order in which they are tried."""
    assert [str(backend) for backend in PRIORITY] == ["zeus", "nvml", "codecarbon", "none"]


@pytest.mark.parametrize(
    ("offered", "min_coverage", "chosen"),
    [
        pytest.param({"zeus": 1.0, "nvml": 1.0}, 0.99, ZEUS, id="first that covers enough"),
        pytest.param({"nvml": 1.0, "zeus": 0.99}, 0.99, ZEUS, id="whatever the order it came in"),
        pytest.param({"zeus": 0.98, "nvml": 0.99}, 0.99, NVML, id="first does not cover enough"),
        pytest.param({"zeus": 0.99, "nvml": 1.0}, 0.9, ZEUS, id="enough is enough"),
        pytest.param({"zeus": 0.4, "nvml": 0.6, "codecarbon": 0.5}, 0.99, NVML, id="none does: best covered"),
        pytest.param({"codecarbon": 0.5, "nvml": 0.5, "zeus": 0.4}, 0.99, NVML, id="ties by priority"),
        pytest.param({"zeus": 0.0, "nvml": 0.01}, 0.99, NVML, id="little is better than nothing"),
        pytest.param({"zeus": 0.0, "nvml": 0.01}, 0.0, NVML, id="nothing is never enough"),
        pytest.param({"zeus": 0.0, "nvml": 0.0}, 0.99, None, id="nothing usable"),
        pytest.param({}, 0.99, None, id="nothing offered"),
    ],
)
def test_choose_table(offered: dict[str, float], min_coverage: float, chosen: Backend | None) -> None:
    """The first by priority that covers enough; else the best covered; else none."""
    choice = choose(candidates(**offered), min_coverage)
    assert (choice and choice.backend) == chosen


COVERAGES = st.dictionaries(st.sampled_from(PRIORITY), st.floats(0.0, 1.0), min_size=1)


@given(st.data(), COVERAGES, st.floats(0.0, 1.0))
def test_choose_does_not_care_for_the_order_offered(
    data: st.DataObject, coverages: dict[Backend, float], min_coverage: float
) -> None:
    """The choice is one of the candidates, usable, and the same for any order they come in."""
    offered = [Candidate(backend, coverage, "") for backend, coverage in coverages.items()]
    choice = choose(offered, min_coverage)
    assert choice == choose(data.draw(st.permutations(offered)), min_coverage)
    assert choice is None or (choice in offered and choice.usable)
    assert (choice is None) == (not any(candidate.usable for candidate in offered))
