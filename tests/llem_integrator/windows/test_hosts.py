"""Hosts of jobs: which values of a label name them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_integrator.stores import Matcher, parse_selector
from llem_integrator.windows.hosts import Hosts, common_selectors, on_hosts
from llem_integrator.windows.window import Window

PAIRS = [
    ("node01", "node01:9955", True),
    ("node01", "Node01.cluster.local:9955", True),
    ("Node01.cluster.local", "node01:9955", True),
    ("Node01.cluster.local", "NODE01.CLUSTER", True),
    ("node01.cluster", "node01.cluster.local:9955", True),
    ("node01.a.org", "node01.b.org", False),
    ("node01", "node011:9955", False),
    ("node01", "xnode01", False),
    ("node01", "", False),
    ("127.0.0.1", "127.0.0.1:9955", True),
    ("127.0.0.1", "127.0.0.2:9955", False),
    ("10.0.0.1", "10:9955", False),
    ("a-b+c", "A-B+C:1", True),
    ("a{0}.x{1}", "a{0}.x{1}", True),
]


def test_names_match_with_or_without_domain_port_and_capitals(subtests: pytest.Subtests) -> None:
    """The matchers, matching() and unseen() agree."""
    for name, value, same in PAIRS:
        with subtests.test(name=name, value=value):
            hosts = Hosts("node", (name,))
            assert any(matcher({"node": value}) for matcher in hosts.matchers()) == same
            assert bool(hosts.matching([value])) == same
            assert (hosts.unseen([{"node": value}]) == []) == same


def test_the_hosts_of_all_windows_are_one_regular_expression() -> None:
    """One read serves all windows; its matchers include the hosts of each, and selectors of other windows."""
    zone_a = parse_selector('zone="a"')
    windows = [
        Window(1, 2, selectors=(zone_a,)),
        *(
            Window(1, 2, hosts=hosts, selectors=on_hosts(hosts, [zone_a]))
            for hosts in (Hosts("node", (f"n{number}", f"n{number + 1}.lan")) for number in range(100))
        ),
    ]
    selectors = common_selectors(windows, [zone_a])
    assert selectors[0] == zone_a
    assert len(selectors) == 2
    for number in range(100):
        assert all(matcher({"node": f"n{number}:9955", "zone": "a"}) for matcher in selectors[1])
    assert not all(matcher({"node": "n0:9955", "zone": "b"}) for matcher in selectors[1])
    assert common_selectors([*windows, Window(1, 2)], [()]) == ((),)
    assert common_selectors([Window(1, 2)], [zone_a]) == (zone_a,)


def test_thousands_of_hosts_are_several_regular_expressions() -> None:
    """Stores limit the length of a query. Each host is in exactly one matcher."""
    hosts = Hosts("node", tuple(f"gpu{number:04d}.example.org" for number in range(3000)))
    matchers: list[Matcher] = list(hosts.matchers())
    assert all(len(matcher.value) < 4200 for matcher in matchers)
    for value in ("gpu0000:9955", "GPU1500.example.org", "gpu2999"):
        assert sum(matcher({"node": value}) for matcher in matchers) == 1


NAMES = st.lists(st.text("aB1-", min_size=1, max_size=3), min_size=1, max_size=3).map(".".join)


@given(st.lists(NAMES, min_size=1, max_size=5), NAMES, st.sampled_from(["", ":9955"]))
def test_the_matchers_and_the_comparison_here_agree(names: list[str], value: str, port: str) -> None:
    """A store and the integrator select the same series."""
    hosts = Hosts("node", tuple(names))
    selected = any(matcher({"node": value + port}) for matcher in hosts.matchers())
    assert selected == bool(hosts.matching([value + port]))
    assert selected == (len(hosts.unseen([{"node": value + port}])) < len(names))
