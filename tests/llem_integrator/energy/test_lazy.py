"""GPUs that are made when they are looked at are as good as made ones."""

import copy
import pickle
from dataclasses import asdict, replace
from pathlib import Path

from llem_integrator import WindowResult
from llem_integrator.energy.lazy import Batch, Gpus
from llem_integrator.energy.result import GpuEnergy
from tests.llem_integrator.measured import results_of, two_gpus


def test_a_batch_is_made_once_and_only_when_it_is_looked_at(tmp_path: Path) -> None:
    """The length is known earlier. Access to one GPU creates the GPUs of all windows."""
    (result,) = results_of(two_gpus(tmp_path), (0, 100))
    made = list[tuple[GpuEnergy, ...]]([tuple(result.gpus), tuple(result.gpus)[::-1]])
    calls: list[int] = []

    def make() -> list[tuple[GpuEnergy, ...]]:
        calls.append(1)
        return made

    batch = Batch(("GPU-0", "GPU-1"), make)
    first, second = Gpus(((batch, 0),)), Gpus(((batch, 1),))
    assert len(first) == len(second) == 2
    assert not calls
    assert (list(first), list(second), calls) == ([*made[0]], [*made[1]], [1])
    assert Gpus.together([first, second]) == (*made[0], *made[1])


def test_they_are_a_sequence_like_a_tuple(tmp_path: Path) -> None:
    """Equality, indices and slices are those of a tuple, also after a copy or pickling."""
    result, other = results_of(two_gpus(tmp_path), (0, 100), (10, 100))
    as_tuple = tuple(result.gpus)
    assert result.gpus == as_tuple
    assert as_tuple == result.gpus
    assert result.gpus != other.gpus
    assert (result.gpus[-1], result.gpus[:1]) == (as_tuple[-1], as_tuple[:1])
    assert repr(result.gpus) == repr(as_tuple)
    assert copied(result) == [result] * 3


def copied(result: WindowResult) -> list[WindowResult]:
    there: WindowResult = pickle.loads(pickle.dumps(result))  # noqa: S301 (our own)
    return [there, copy.deepcopy(result), replace(result, gpus=asdict(result)["gpus"])]
