"""Whatever a user, a file or a peer writes, there is a result or an error of one line, never a traceback."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import exporter_targets, file_targets, integrator_targets, store_targets
from tests.fuzz.inputs import near, query_answers
from tests.fuzz.integrator_targets import ask_prometheus
from tests.fuzz.target import Target

TARGETS = {
    **{f"exporter.{name}": target for name, target in exporter_targets.TARGETS.items()},
    **{f"file.{name}": target for name, target in file_targets.TARGETS.items()},
    **{f"integrator.{name}": target for name, target in integrator_targets.TARGETS.items()},
    **{f"store.{name}": target for name, target in store_targets.TARGETS.items()},
}


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_read_or_refused(name: str) -> None:
    """Valid inputs with a few changes, and random bytes, are parsed or rejected."""
    any_bytes = st.binary(max_size=300) | st.text(max_size=100).map(str.encode)
    take(TARGETS[name], near(TARGETS[name].seeds) | any_bytes)


def test_whatever_a_prometheus_answers_is_read_or_refused() -> None:
    """JSON in the format of the API, with arbitrary values, is parsed or rejected."""
    bodies = st.lists(query_answers(), min_size=1, max_size=3).map(
        lambda answers: "\n".join(json.dumps(answer) for answer in answers).encode()
    )
    take(Target(ask_prometheus, ()), bodies)


def take(target: Target, inputs: st.SearchStrategy[bytes]) -> None:
    """Run the target on examples of `inputs`."""

    @settings(suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(inputs)
    def every(data: bytes) -> None:
        target.run(data)

    every()
