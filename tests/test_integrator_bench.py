"""A short version of the integrator benchmark: both programs that it compares compute the same joules."""

from pathlib import Path

import pytest

from tests.bench.bench_integrator import ALONE, SAME, Board, integrator, windows
from tests.bench.clusters import Cluster

pytestmark = pytest.mark.full


def test_joules_by_remote_read_are_those_of_the_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """prometheus-api-client with numpy computes the same joules from the same Prometheus, to 1e-9."""
    board = Board()
    integrator(board, Cluster(gpus=2, hours=2), tmp_path)
    assert SAME in capsys.readouterr().out
    assert SAME not in board.missed


def test_many_windows_are_each_as_if_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two hundred windows in one run give the same joules as separate runs of some of them, to 1e-12."""
    board = Board()
    windows(board, Cluster(gpus=2, hours=2), 200, tmp_path)
    assert ALONE in capsys.readouterr().out
    assert ALONE not in board.missed
