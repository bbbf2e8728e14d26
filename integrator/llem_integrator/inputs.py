"""From the options of llem-integrate to the request, the source, and the windows."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import tzinfo
from typing import TYPE_CHECKING

import click

from llem_core.errors import ConfigError
from llem_integrator.options import Options
from llem_integrator.report import calibration, printable
from llem_integrator.results.request import Request
from llem_integrator.windows.window import Window, parse_duration_us, parse_window

if TYPE_CHECKING:
    from llem_integrator.reading import Reader
    from llem_integrator.stores import Source


def request_of(given: Options) -> Request:
    """Return the request. Raises ConfigError if a value is invalid."""
    return Request(
        given.backend,
        given.matches,
        () if given.gpus is None else given.gpus,
        None if given.max_gap == "auto" else parse_duration_us(given.max_gap) / 1000,
        given.min_coverage,
        emissions=given.emissions,
        grams_per_kwh=given.carbon_intensity,
        pue=given.pue,
        price_per_kwh=given.price,
        calibration=None if given.calibration is None else calibration.read(given.calibration),
        idle_watts=given.idle_watts,
    )


def source_and_windows(given: Options, request: Request) -> "tuple[Source, list[Window], bool]":
    """Return the source, the windows in the order of the options, and whether rows of a list were left out.

    Waits as long as --wait says for the samples after the last window. Raises ConfigError and SourceError.
    """
    from llem_integrator.series.matchers import LABEL

    now_us = time.time_ns() // 1000
    wait_s = _wait_s(given)
    if given.job is not None and given.gpus is not None:
        raise ConfigError("--job finds the GPUs of the job; omit --gpus")
    if not LABEL.fullmatch(given.node_label):
        raise ConfigError(f"--node-label is not the name of a label: {given.node_label!r}")
    zone = _zone(given.timezone)
    windows = [parse_window(text, now_us, zone) for text in given.windows]
    listed, left_out = _listed(given, request, now_us, zone)
    windows += listed
    source = _open(given)
    windows += _of_job(given, request, now_us, source)
    if wait_s is not None and windows:
        from llem_integrator.windows.hosts import common_selectors
        from llem_integrator.windows.wait import wait_for_samples

        end_us, selectors = max(w.end_us for w in windows), common_selectors(windows, request.selectors)
        wait_for_samples(lambda: _open(given), end_us, wait_s, selectors)
        source = _open(given)
    return source, windows, left_out


def _listed(
    given: Options, request: Request, now_us: int, zone: tzinfo | None
) -> tuple[Sequence[Window], bool]:
    """Return the windows of --windows, and whether rows were left out, which are reported."""
    if given.window_list is None:
        return (), False
    from llem_integrator.windows.lists import read_windows

    if given.window_list == given.source == "-":
        raise ConfigError("--windows and --source cannot both be standard input")
    listed = read_windows(
        given.window_list, zone, node_label=given.node_label, selectors=request.selectors, now_us=now_us
    )
    for line in listed.left_out:
        click.echo(f"left out {printable(line)}", err=True)
    return listed.windows, bool(listed.left_out)


def _of_job(given: Options, request: Request, now_us: int, source: "Source") -> Sequence[Window]:
    """Return the windows of --job."""
    if given.job is None:
        return ()
    from llem_integrator.progress import bar
    from llem_integrator.windows.job_lookup import find_job

    with bar(given.progress, f"looking for job {given.job}", 1) as shown:
        return find_job(
            source,
            given.job,
            request.selectors,
            node_label=given.node_label,
            now_us=now_us,
            progress=shown.advance,
        )


def reader(given: Options, source: "Source") -> "AbstractContextManager[Reader | None]":
    """Return the Dask cluster that reads the power traces, if there is one."""
    if given.dask is None:
        return nullcontext()
    from llem_integrator.dask.cluster import DaskCluster, quiet_log
    from llem_integrator.dask.tasks import Store
    from llem_integrator.http.access import http_config
    from llem_integrator.stores.exporter import ExporterSource

    if given.source == "-" or isinstance(source, ExporterSource):
        raise ConfigError(f"--dask needs a source that many workers can read; {source.address} is not one")
    quiet_log()
    return DaskCluster(given.dask, Store(given.source, http_config(**given.http)))


def _open(given: Options) -> "Source":
    from llem_integrator.http.access import http_config
    from llem_integrator.stores import open_source

    return open_source(given.source, http_config(**given.http))


def _wait_s(given: Options) -> float | None:
    if given.wait is None:
        return None
    from llem_integrator.http.urls import store_url

    if store_url(given.source) is None:
        raise ConfigError(f"--wait needs a live server; {given.source!r} is a file")
    return parse_duration_us(given.wait) / 1e6


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ConfigError(f"no such time zone: {name!r} (for example Europe/Berlin or UTC)") from exc
