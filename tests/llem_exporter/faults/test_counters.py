"""Energy counters that stand still, whose calls are slow, or that change rarely."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import pytest

from llem_core import metrics
from llem_measure.sampling.counter_filter import STUCK_SECONDS
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    DURATION,
    ERRORS,
    NVML,
    POWER,
    SELECTED,
    STUCK,
    TOTAL,
    ZEUS,
    SteadyDriver,
    all_read,
    page_when,
    page_with,
)
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.servers import Exporter
