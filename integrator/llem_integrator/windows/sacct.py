"""A row of `sacct -P` as a window: which nodes, from when to when, and how many GPUs.

Slurm prints local times without a zone, a row for each step of a job, and how many GPUs a job had, but
never which. Source: sacct's manual, "Job Accounting Fields".
"""

import re
from collections.abc import Mapping
from datetime import tzinfo
from typing import Final

from llem_core.errors import ConfigError
from llem_integrator.windows.hostlist import expand
from llem_integrator.windows.hosts import Hosts
from llem_integrator.windows.window import Window, parse_time_us

FORMAT: Final = "JobID,Start,End,NodeList,AllocTRES"
"""The fields that are needed, as sacct's --format takes them."""

_GPUS: Final = re.compile(r"(?:^|,)gres/gpu=(\d+)")
_TYPED_GPUS: Final = re.compile(r"(?:^|,)gres/gpu:[^=,]+=(\d+)")
_SLICES: Final = re.compile(r"(?:^|,)gres/gpu:[^=,]*\dg\.\d+gb")
"""MIG's profiles, as Slurm names them when it finds them by itself."""

_NOT_YET: Final = ("Unknown", "None", "")


def is_header(line: str) -> bool:
    """Whether a list begins as sacct's does."""
    return "|" in line and "JobID" in line.strip().split("|")


def window(row: Mapping[str, str], now_us: int, zone: tzinfo | None, node_label: str) -> Window | None:
    """The job's window; None of a step, and of a job that never began or had no GPU.

    Raises ConfigError for what cannot be read.
    """
    if missing := [name for name in FORMAT.split(",") if name not in row]:
        raise ConfigError(f"no column {', '.join(missing)}; run sacct -P --format={FORMAT}")
    job, start, end = row["JobID"], row["Start"], row["End"]
    if "." in job or start in _NOT_YET:
        return None
    gpus = _gpus(row["AllocTRES"])
    start_us = parse_time_us(start, now_us, zone)
    end_us = now_us if end in _NOT_YET else parse_time_us(end, now_us, zone)
    if gpus == 0 or end_us == start_us:
        return None
    if _SLICES.search(row["AllocTRES"]):
        gpus = 0  # of whole ones
    hosts = Hosts(node_label, tuple(dict.fromkeys(expand(row["NodeList"]))))
    return Window(
        start_us,
        end_us,
        job,
        selectors=tuple((one,) for one in hosts.matchers()),
        gpu_count=gpus,
        hosts=hosts,
    )


def _gpus(tres: str) -> int:
    """How many GPUs a job had, over all of its nodes."""
    if total := _GPUS.search(tres):
        return int(total[1])
    return sum(int(count) for count in _TYPED_GPUS.findall(tres))
