"""Rows of `sacct -P` as windows: the nodes of a job, its start and end, and how many GPUs it had.

Slurm prints local times without a zone, a row for each step of a job, and the number of GPUs of a job, but
not which GPUs. Source: sacct's manual, "Job Accounting Fields".
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from llem_core.errors import ConfigError
from llem_integrator.series.matchers import Selector
from llem_integrator.windows.hostlist import expand
from llem_integrator.windows.hosts import Hosts, on_hosts
from llem_integrator.windows.window import LocalTimeError, Window, parse_time_us

FORMAT: Final = "JobID,Start,End,NodeList,AllocTRES"
"""The fields that are needed, as sacct's --format takes them. JobIDRaw can replace JobID."""

_JOB_COLUMNS: Final = ("JobID", "JobIDRaw")
_OTHER_COLUMNS: Final = ("Start", "End", "NodeList", "AllocTRES")
_COUNT: Final = re.compile(r"(?:^|,)gres/gpu(:[^=,]+)?=(\d+)")
_SLICE: Final = re.compile(r"(?:^|,)(gres/gpu:[^=,]*\dg\.\d+gb[^=,]*=\d+)")
"""MIG profiles, as Slurm names them if it detects them. Sites may choose other names."""

_SHARE: Final = re.compile(r"(?:^|,)(gres/(?:shard|mps)(?::[^=,]+)?=[1-9]\d*)")
_UNTRACKED: Final = (
    "sacct shows no gres/gpu for any job of the list: use --job, or add gres/gpu to AccountingStorageTRES"
)
_NEVER: Final = ("Unknown", "None", "")
_NO_NODES: Final = ("None assigned", *_NEVER)


def is_header(line: str) -> bool:
    """Return whether a list begins as sacct's output does."""
    return "|" in line and not set(_JOB_COLUMNS).isdisjoint(line.strip().split("|"))


def check_columns(names: Sequence[str]) -> None:
    """Raise ConfigError if a column that is needed is not among the names of the header."""
    if missing := [name for name in _OTHER_COLUMNS if name not in names]:
        raise ConfigError(f"no column {', '.join(missing)}: run sacct -P --format={FORMAT}")


def is_step(line: str) -> bool:
    """Return whether a row, which begins with the job, is of one of its steps, as 4711.batch."""
    return "." in line.partition("|")[0]


def tracks_gpus(rows: Iterable[Mapping[str, str]]) -> bool:
    """Return whether any job shows GPUs, so that jobs without gres/gpu had none."""
    return any(_COUNT.search(row["AllocTRES"]) for row in rows)


@dataclass(frozen=True, slots=True)
class SacctReader:
    """Reads the rows of a list as windows.

    Times without an offset are in `zone`, and a job without an end ends at `now_us` (unix microseconds).
    `node_label` is the label that holds a node's name, and `selectors` limit the series. With `tracks_gpus`,
    a job without gres/gpu had no GPU.
    """

    now_us: int
    zone: tzinfo | None
    node_label: str
    selectors: tuple[Selector, ...]
    tracks_gpus: bool

    def window(self, row: Mapping[str, str]) -> Window | None:
        """Return the job's window, or None for a step and for a job that never ran or had no GPU.

        Raises ConfigError.
        """
        job = next(row[name] for name in _JOB_COLUMNS if name in row)
        start, end, nodes = row["Start"], row["End"], row["NodeList"]
        if "." in job or start in _NEVER or nodes in _NO_NODES:
            return None
        count, unknown = self._gpus(row["AllocTRES"])
        if count == 0:
            return None
        start_us = self._time_us(start)
        end_us = self.now_us if end in _NEVER else self._time_us(end)
        if end in _NEVER and end_us <= start_us:
            raise ConfigError(f"job {job} is running and started at {start}, in the future: check --timezone")
        if end_us == start_us:
            raise ConfigError(f"job {job} lasted less than one second: measure a longer time with --window")
        if end_us < start_us:
            raise ConfigError(
                f"job {job} ends ({end}) before it starts ({start}): are both in the same zone? "
                "Use SLURM_TIME_FORMAT=%s"
            )
        hosts, selectors = _placed(nodes, self.node_label, self.selectors)
        return Window(start_us, end_us, job, selectors, gpu_count=count, hosts=hosts, gpus_unknown=unknown)

    def _time_us(self, text: str) -> int:
        try:
            return parse_time_us(text, self.now_us, self.zone)
        except LocalTimeError as exc:
            raise LocalTimeError(f"{exc}, or run sacct with SLURM_TIME_FORMAT=%s") from exc

    def _gpus(self, tres: str) -> tuple[int | None, str | None]:
        """Return how many GPUs a job had on all of its nodes, or None and why that is not known."""
        if part := _SLICE.search(tres):
            return None, f"the job had {part[1]}, and nothing measures a MIG slice"
        if part := _SHARE.search(tres):
            return None, f"the job had {part[1]}, and nothing measures a share of a GPU"
        counts = [(kind, int(count)) for kind, count in _COUNT.findall(tres)]
        if not counts and not self.tracks_gpus:
            return None, _UNTRACKED
        return next((count for kind, count in counts if not kind), sum(count for _, count in counts)), None


@functools.lru_cache(maxsize=10_000)
def _placed(
    node_list: str, node_label: str, selectors: tuple[Selector, ...]
) -> tuple[Hosts, tuple[Selector, ...]]:
    """Return the hosts of a list, and the selectors of their series. Many jobs ran on the same nodes."""
    hosts = Hosts(node_label, tuple(dict.fromkeys(expand(node_list))))
    return hosts, on_hosts(hosts, selectors)
