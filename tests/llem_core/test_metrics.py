"""The metric specs hold to Prometheus's conventions."""

import re

import pytest

from llem_core import metrics
from llem_core.metrics import HISTORY_PAGE, METRICS_PAGE, Kind, MetricSpec

SPECS = [value for value in vars(metrics).values() if isinstance(value, MetricSpec)]
BASE_UNITS = {"watts", "joules", "seconds", "bytes", "celsius", "ratio", "grams"}
# Suffixes that a histogram's or a counter's own samples carry.
RESERVED = ("_total", "_bucket", "_sum", "_count", "_created")

every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def last_word(spec: MetricSpec) -> str:
    """The last word of the name, before _total."""
    return spec.name.removesuffix("_total").rpartition("_")[2]


@every_spec
def test_name_and_labels_are_valid(spec: MetricSpec) -> None:
    """Names are llem_ and lower case; labels are too, none twice, none of a scrape's own but a job's job."""
    assert re.fullmatch(r"llem(_[a-z][a-z0-9]*)+", spec.name)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in spec.labels)
    assert len(set(spec.labels)) == len(spec.labels)
    own = {"job"} if spec is metrics.GPU_JOB_INFO else set()
    assert {"le", "quantile", "job", "instance"} & set(spec.labels) == own


@every_spec
def test_unit_is_the_last_word(spec: MetricSpec) -> None:
    """A metric with a unit says so in its name's last word, and one without has no such word."""
    if spec.unit:
        assert spec.unit in BASE_UNITS
        assert last_word(spec) == spec.unit
    else:
        assert last_word(spec) not in BASE_UNITS


@every_spec
def test_suffix_says_the_kind(spec: MetricSpec) -> None:
    """Counters end in _total; gauges and histograms end in nothing that a counter or a bucket would."""
    match spec.kind:
        case Kind.COUNTER:
            assert spec.name.endswith("_total")
        case Kind.GAUGE | Kind.HISTOGRAM:
            assert not spec.name.endswith(RESERVED)


@every_spec
def test_help_is_one_sentence_or_more(spec: MetricSpec) -> None:
    """The help ends in a full stop and fits one line."""
    assert spec.help.endswith(".")
    assert "\n" not in spec.help


def test_names_are_unique() -> None:
    """No two specs share a name."""
    assert len({spec.name for spec in SPECS}) == len(SPECS)


def test_every_spec_is_on_a_page_once() -> None:
    """/metrics and /history together carry every spec, and neither carries one twice."""
    assert set(METRICS_PAGE) | set(HISTORY_PAGE) == set(SPECS)
    assert len(set(METRICS_PAGE)) == len(METRICS_PAGE)
    assert len(set(HISTORY_PAGE)) == len(HISTORY_PAGE)


def test_per_gpu_series_carry_gpu_and_uuid() -> None:
    """Whatever is of a GPU has its index and its uuid as first labels, and nothing else has."""
    assert all((spec.labels[:2] == ("gpu", "uuid")) == spec.name.startswith("llem_gpu_") for spec in SPECS)
