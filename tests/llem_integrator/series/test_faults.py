"""Invalid and conflicting samples are reported in the windows that contain them."""

import math
from pathlib import Path

import numpy as np

from llem_core.measurement import WarningCode
from llem_integrator.series.faults import Marks, within
from llem_integrator.series.spans import Spans
from tests.llem_integrator.measured import file_of, results_of
from tests.llem_integrator.pages import scraped, trace


def test_a_window_reports_its_own_faults(tmp_path: Path) -> None:
    """A window has warnings only for its own samples. A sample on an edge belongs to both windows."""
    samples = [(ms, 100.0) for ms in range(0, 120_000, 100)]
    samples += [(33_350, -1.0), (34_250, -2.0), (60_000, math.inf), (90_000, 107.0)]
    path = file_of(tmp_path, scraped(0), trace(0, sorted(samples)))
    spans = [(0, 30), (30, 60), (60, 80), (80, 100), (100, 110)]
    results = results_of(path, *spans)
    by_code = [{warning.code: warning.message for warning in result.warnings} for result in results]
    bad, conflicting = WarningCode.BAD_SAMPLES, WarningCode.CONFLICTING_SAMPLES
    reported = [sorted(codes.keys() & {bad, conflicting}) for codes in by_code]
    assert reported == [[], [bad], [bad], [conflicting], []]
    assert by_code[1][bad].startswith("ignored 3 invalid samples ")
    assert by_code[2][bad].startswith("ignored 1 invalid sample ")
    assert by_code[3][conflicting].startswith("1 timestamp has two different values; the larger value")


def test_many_marks_are_few_and_miss_none() -> None:
    """A million bad samples are stored as at most 256 marks. Their counts per window are approximate."""
    unix_ms = np.random.default_rng(5).permutation(np.arange(0, 10_000_000, 10))
    kept = Marks.of(unix_ms)
    assert len(kept.unix_ms) <= 256
    edges_us = np.arange(0, 10_000_001, 1_000_000) * 1000
    counts = within([kept], Spans(edges_us[:-1], edges_us[1:] - 1000))
    assert counts.sum() == len(unix_ms)
    assert np.abs(counts - 100_000).max() < 4000
    assert within([kept, Marks.of(np.array([-5]))], Spans(edges_us[:1] - 5000, edges_us[:1] - 4000)) == [1]
