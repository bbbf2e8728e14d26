"""Whatever a user, a file or a peer writes, there is a result or one line: no traceback, and soon."""

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import exporter_targets, file_targets, integrator_targets, store_targets
from tests.fuzz.command import EXAMPLE_SECONDS
from tests.fuzz.inputs import near, query_answers
from tests.fuzz.integrator_targets import ask_prometheus
from tests.fuzz.target import Target

TARGETS = {
    **{f"exporter.{name}": target for name, target in exporter_targets.TARGETS.items()},
    **{f"file.{name}": target for name, target in file_targets.TARGETS.items()},
    **{f"integrator.{name}": target for name, target in integrator_targets.TARGETS.items()},
    **{f"store.{name}": target for name, target in store_targets.TARGETS.items()},
}
EXAMPLES = 150
SLOW = [HealthCheck.too_slow]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_nearly_right_is_read_or_refused(name: str) -> None:
    """Meaningful inputs with a few places changed."""
    take(TARGETS[name], near(TARGETS[name].seeds))


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    """Of any length up to some hundred."""
    take(TARGETS[name], st.binary(max_size=300) | st.text(max_size=100).map(str.encode))


def test_whatever_a_prometheus_answers_is_read_or_refused() -> None:
    """JSON of the API's shape, with anything in its places."""
    bodies = st.lists(query_answers(), min_size=1, max_size=3).map(
        lambda answers: "\n".join(json.dumps(answer) for answer in answers).encode()
    )
    take(Target(ask_prometheus, ()), bodies)


def take(target: Target, inputs: st.SearchStrategy[bytes]) -> None:
    """Try examples of `inputs`, each within bounded time."""

    @settings(max_examples=EXAMPLES, suppress_health_check=SLOW, database=None)
    @given(inputs)
    def every(data: bytes) -> None:
        began_s = time.monotonic()
        target.run(data)
        assert time.monotonic() - began_s < EXAMPLE_SECONDS

    every()
