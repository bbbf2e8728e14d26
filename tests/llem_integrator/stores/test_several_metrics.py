"""One question for several metrics, of a store that holds its samples."""

from llem_integrator.stores import whole
from tests.llem_integrator.pages import parse

PAGE = 'watts{gpu="0"} 5 1\njoules_total{gpu="0"} 7 1\nother{gpu="0"} 9 1\n# EOF\n'


def test_each_series_names_its_metric() -> None:
    """Several names are joined by a bar. Series of other metrics are left out."""
    found = whole(parse(PAGE, "page").pieces("watts|joules_total", (), 0, 5000))
    assert {(series.metric, series.values.tolist()[0]) for series in found} == {
        ("watts", 5.0),
        ("joules_total", 7.0),
    }


def test_a_store_says_what_it_certainly_has_not() -> None:
    """Before traces are read around a thousand edges, one question tells whether there are any."""
    source = parse(PAGE, "page")
    assert source.may_have("watts|nothing", (), 0, 5000)
    assert not source.may_have("watts", (), 2000, 5000)
    assert not source.may_have("nothing", (), 0, 5000)
