"""A list of jobs is read as one window over its time is."""

import numpy as np

from llem_integrator.integration import integrate
from llem_integrator.results.request import Request
from llem_integrator.windows.hosts import Hosts, on_hosts
from llem_integrator.windows.window import Window
from tests.llem_integrator.clusters import T0, scraped, store

HOURS = 48
NODES = 10


def test_a_list_of_jobs_asks_what_one_window_asks() -> None:
    """100 jobs on 10 nodes in two days make no more requests than one window, and each has its own hosts."""
    rng = np.random.default_rng(5)
    nodes = [
        scraped(node, 0, HOURS * 3600, rng, scrape_s=60, more={"instance": f"node{node}:9955"})
        for node in range(NODES)
    ]
    held = store(*nodes)
    jobs = []
    for number in range(100):
        hosts = Hosts("instance", tuple(f"node{(number + more) % NODES}" for more in range(1 + number % 3)))
        start_us = (T0 + int(rng.integers(3600, (HOURS - 12) * 3600)) * 1000) * 1000
        end_us = start_us + int(rng.integers(600, 36_000)) * 1_000_000
        selectors = on_hosts(hosts, ((),))
        job = Window(start_us, end_us, f"j{number}", selectors, gpu_count=len(hosts.names), hosts=hosts)
        jobs.append(job)
    whole = Window((T0 + 3_600_000) * 1000, (T0 + (HOURS - 1) * 3_600_000) * 1000)
    list(integrate(held, [whole], Request()))
    one_window = held.pieces_read
    results = list(integrate(held, jobs, Request()))
    assert held.pieces_read - one_window <= one_window
    assert all(result.valid for result in results)
    assert [len(result.gpus) for result in results] == [job.gpu_count for job in jobs]
