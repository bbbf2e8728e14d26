"""The metric specs hold to Prometheus's conventions."""

import re
from collections.abc import Callable

from llem_core import metrics
from llem_core.metrics import HISTORY_PAGE, METRICS_PAGE, Kind, MetricSpec

SPECS = [value for value in vars(metrics).values() if isinstance(value, MetricSpec)]
BASE_UNITS = {"watts", "joules", "seconds", "bytes", "celsius", "ratio", "grams", "hertz"}
# Suffixes that a histogram's or a counter's own samples carry.
RESERVED = ("_total", "_bucket", "_sum", "_count", "_created")


def last_word(spec: MetricSpec) -> str:
    """The last word of the name, before _total."""
    return spec.name.removesuffix("_total").rpartition("_")[2]


def failing(holds: Callable[[MetricSpec], bool]) -> list[str]:
    """The names of the specs that break a convention."""
    return [spec.name for spec in SPECS if not holds(spec)]


def test_name_and_labels_are_valid() -> None:
    """Names are llem_ and lower case; labels are too, and none is there twice."""
    assert not failing(lambda spec: bool(re.fullmatch(r"llem(_[a-z][a-z0-9]*)+", spec.name)))
    assert not failing(lambda spec: all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in spec.labels))
    assert not failing(lambda spec: len(set(spec.labels)) == len(spec.labels))


def test_no_label_is_one_that_a_scrape_sets() -> None:
    """Prometheus would rename such a label to exported_job, or take it for a bucket's."""
    assert not failing(lambda spec: {"le", "quantile", "job", "instance"}.isdisjoint(spec.labels))


def test_unit_is_the_last_word() -> None:
    """A metric with a unit says so in its name's last word, and one without has no such word."""
    assert {spec.unit for spec in SPECS if spec.unit} <= BASE_UNITS
    assert not failing(
        lambda spec: last_word(spec) == spec.unit if spec.unit else last_word(spec) not in BASE_UNITS
    )


def test_suffix_says_the_kind() -> None:
    """Counters end in _total; gauges and histograms end in nothing that a counter or a bucket would."""
    assert not failing(
        lambda spec: (
            spec.name.endswith("_total") if spec.kind is Kind.COUNTER else not spec.name.endswith(RESERVED)
        )
    )


def test_help_is_one_sentence_or_more() -> None:
    """The help ends in a full stop and fits one line."""
    assert not failing(lambda spec: spec.help.endswith(".") and "\n" not in spec.help)


def test_names_are_unique() -> None:
    """No two specs share a name."""
    assert len({spec.name for spec in SPECS}) == len(SPECS)


def test_every_spec_is_on_a_page_once() -> None:
    """/metrics and /history together carry every spec, and neither carries one twice."""
    assert set(METRICS_PAGE) | set(HISTORY_PAGE) == set(SPECS)
    assert len(set(METRICS_PAGE)) == len(METRICS_PAGE)
    assert len(set(HISTORY_PAGE)) == len(HISTORY_PAGE)


def test_per_gpu_series_carry_gpu_and_uuid() -> None:
    """The first labels of a GPU's metric are its index and its uuid. Only a module's power has neither."""
    of_gpus = [spec for spec in SPECS if spec.name.startswith("llem_gpu_")]
    assert [spec for spec in of_gpus if spec.labels[:2] != ("gpu", "uuid")] == [metrics.GPU_MODULE_POWER]
    assert not failing(lambda spec: spec in of_gpus or "gpu" not in spec.labels)
