"""Whose GPU: job files on the page, whatever lies in their directory."""

import fcntl
import os
import signal
import stat
import threading
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core import metrics
from llem_core.errors import ConfigError
from llem_exporter.collectors.job_files import (
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_JOBS,
    Job,
    Listing,
    parse,
    read_jobs,
)
from llem_exporter.collectors.jobs import STALE_SECONDS, JobsCollector
from llem_measure.sampling.devices import DeviceInfo
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.page import scrape
from tests.llem_measure.fake_time import FakeTime
from tests.servers import Exporter, wait_until

JOB = "llem_gpu_job_info"
UUID = "GPU-0c58ae58-6bba-4b2f-8a0c-000000000000"
OURS = UUID.lower()
GPUS = [DeviceInfo(0, UUID, "test")]


def listing(directory: Path) -> Listing:
    return read_jobs(str(directory), {OURS})


def put(directory: Path, name: str, text: str | bytes) -> None:
    """Write a job file as a prolog does: whole, by a rename."""
    temporary = directory / ".new"
    temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
    temporary.rename(directory / name)


def jobs_on(exporter: Exporter) -> set[tuple[str, str, str]]:
    """GPU index, job and user of each series."""
    return {(found["gpu"], found["job_id"], found["user"]) for found in scrape(exporter).labels(JOB)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("job_id=1\nuser=ada\naccount=physics\npartition=gpu\n", [("1", "ada", "physics", "gpu")]),
        ("account=a\njob_id=1\njob_id=2\npartition=b\n", [("1", "", "a"), ("2", "", "", "b")]),
        ("user=ada\njob_id=1\n", [("1", "ada")]),
        ("job_id=1\n", [("1", "")]),
        ("job_id=1\nuser=ada\njob_id=2\njob_id=3\nuser=bo\n", [("1", "ada"), ("2", ""), ("3", "bo")]),
        ("# by the prolog\n\n job_id = 12_3 \r\nstart=17\nuser=a=b\n", [("12_3", "a=b")]),
        ('job_id="1\\"}\nuser=ü\n', [('"1\\"}', "ü")]),
        ("", []),
        ("start=1\nuser=ada\n", []),
        ("job=1\njob_id=2\n", [("2",)]),
        ("job=1\nuser=ada\n", []),
    ],
)
def test_lines_are_jobs(text: str, expected: list[tuple[str, ...]]) -> None:
    """Each job_id= starts a new job. Unknown keys are ignored."""
    assert parse(text, OURS) == tuple(Job(OURS, *job) for job in expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("job\n", "line 1 is not key=value"),
        ("job_id=1\njob_id=\n", "line 2: job_id is empty"),
        ("job_id=1\nuser=\x1b[31m\n", "line 2: user contains unprintable characters"),
        ("job_id=1\x002\n", "line 1: job_id contains unprintable characters"),
        ("job_id=\u202eevil\n", "line 1: job_id contains unprintable characters"),
        ("job_id=1\npartition=\x7f\n", "line 2: partition contains unprintable characters"),
    ],
)
def test_what_is_no_job_is_refused(text: str, reason: str) -> None:
    """Text that could harm a page, a log or a store is rejected with its line number."""
    with pytest.raises(ConfigError) as refused:
        parse(text, OURS)
    assert str(refused.value) == reason


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["job_id=", "user=", "=", "1", "\n", "\r", "a"])).map("".join)
)
def test_no_text_brings_anything_but_printable_values(text: str) -> None:
    """Any file is either rejected or gives jobs with printable values of limited length."""
    try:
        jobs = parse(text, OURS)
    except ConfigError as exc:
        jobs, reason = (), str(exc)
    else:
        reason = ""
    assert reason.isprintable()
    assert all((job.job_id + job.user).isprintable() and job.job_id for job in jobs)


def test_files_are_found_by_uuid(tmp_path: Path) -> None:
    """UUID and UUID.SUFFIX match in upper and lower case. Dot-files and other names do not."""
    put(tmp_path, UUID, "job_id=1\n")
    put(tmp_path, f"{UUID}.2", "job_id=2\nuser=bo\n")
    put(tmp_path, f"{UUID.upper()}.job.3", "job_id=3\n")
    for name in (f".{UUID}", f"{UUID}x", "GPU-other", "MIG-0c58ae58-6bba-4b2f-8a0c-000000000000", "README"):
        put(tmp_path, name, "job_id=9\n")
    assert listing(tmp_path) == Listing((Job(OURS, "1", ""), Job(OURS, "2", "bo"), Job(OURS, "3", "")))


def test_one_job_in_two_files_is_one_series(tmp_path: Path) -> None:
    """A label set occurs only once, because Prometheus rejects a page with duplicates."""
    put(tmp_path, UUID, "job_id=1\nuser=ada\njob_id=1\nuser=ada\n")
    put(tmp_path, f"{UUID}.1", "job_id=1\nuser=ada\n")
    assert listing(tmp_path).jobs == (Job(OURS, "1", "ada"),)


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    """Symbolic links, FIFOs, sockets and directories are rejected without blocking."""
    secret = tmp_path / "secret"
    secret.write_text("job_id=secret\n")
    (tmp_path / f"{UUID}.link").symlink_to(secret)
    (tmp_path / f"{UUID}.dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / f"{UUID}.zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / f"{UUID}.fifo")
    (tmp_path / f"{UUID}.folder").mkdir()
    os.mknod(tmp_path / f"{UUID}.socket", stat.S_IFSOCK | 0o600)
    put(tmp_path, UUID, "job_id=1\n")
    found = listing(tmp_path)
    assert found.jobs == (Job(OURS, "1", ""),)
    assert found.problems == tuple(
        f"'{UUID}.{kind}': not a regular file"
        for kind in ("dangling", "fifo", "folder", "link", "socket", "zero")
    )


def test_a_leased_file_is_not_waited_for(tmp_path: Path) -> None:
    """A file with a lease could block the reader. It is rejected instead."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # it tells the holder that somebody came
    put(tmp_path, f"{UUID}.leased", "job_id=1\n")
    with (tmp_path / f"{UUID}.leased").open("r+") as leased:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        found = listing(tmp_path)
    signal.signal(signal.SIGIO, before)
    reason = "cannot be read: Resource temporarily unavailable"
    assert found == Listing((), (f"'{UUID}.leased': {reason}",))


def test_what_is_too_much_is_refused(tmp_path: Path) -> None:
    """Files that are too large, and entries beyond the limit, are rejected with a reason."""
    with (tmp_path / f"{UUID}.huge").open("wb") as huge:
        huge.truncate(10**12)
    assert listing(tmp_path).problems == (f"'{UUID}.huge': larger than {MAX_BYTES} bytes",)
    for number in range(MAX_ENTRIES - 1):
        (tmp_path / str(number)).touch()
    assert len(listing(tmp_path).problems) == 1
    (tmp_path / "one more").touch()
    reason = (
        f"the directory has more than {MAX_ENTRIES} entries; the others were not read. "
        "Remove the files of finished jobs."
    )
    assert listing(tmp_path).problems[0] == reason


def test_at_most_256_jobs_are_published(tmp_path: Path) -> None:
    """The jobs of all files together are limited, because each is a series. The excess is reported."""
    for number in range(5):
        text = "".join(f"job_id={100 * number + job}\n" for job in range(100))
        (tmp_path / f"{UUID}.{number}").write_text(text)
    found = listing(tmp_path)
    assert len(found.jobs) == MAX_JOBS
    assert found.problems == (f"found 500 jobs; only the first {MAX_JOBS} are published",)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Invalid UTF-8 in a file or its name is rejected with a printable reason."""
    put(tmp_path, UUID, b"job_id=1\nuser=\xff\n")
    (tmp_path / os.fsdecode(f"{UUID}.\xe9\n".encode("latin-1"))).write_text("job_id\n")
    found = listing(tmp_path)
    assert found.jobs == ()
    assert f"'{UUID}': byte 14 is not UTF-8" in found.problems
    assert all(reason.isprintable() for reason in found.problems)


def test_a_half_written_file_is_refused(tmp_path: Path) -> None:
    """A file counts once its last line ends. Until then its job ID may be cut short."""
    path = tmp_path / UUID
    path.write_text("")
    assert listing(tmp_path) == Listing()
    path.write_text("job_id=12")
    reason = (
        "the last line has no newline. The file is ignored until it is complete. "
        "Write to a temporary file and rename it."
    )
    assert listing(tmp_path) == Listing((), (f"'{UUID}': {reason}",))
    path.write_text("job_id=1234\n")
    assert listing(tmp_path) == Listing((Job(OURS, "1234"),))


def test_an_unreadable_directory_is_a_reason(tmp_path: Path) -> None:
    """A missing directory, or a path that is not a directory, gives an error with its name."""
    (tmp_path / "file").write_text("")
    for name, reason in (("none", "No such file or directory"), ("file", "Not a directory")):
        with pytest.raises(ConfigError, match=reason):
            read_jobs(str(tmp_path / name), {OURS})


def values(jobs: JobsCollector) -> dict[str, float]:
    """Job ID -> 1, and the state of the collector."""
    state = jobs.state()
    shown = {sample.labels["job_id"]: sample.value for family in jobs.collect() for sample in family.samples}
    return {SUCCESS: state.success, DURATION: state.duration_s or 0.0, **shown}


SUCCESS, DURATION = metrics.COLLECTOR_SUCCESS.name, metrics.COLLECTOR_DURATION.name


def test_every_label_is_published() -> None:
    """The labels are those of the file, with the index and the UUID of the GPU as its driver writes it."""
    jobs = JobsCollector(lambda _: Listing((Job(OURS, "1", "ada", "physics", "gpu"),)), lambda: GPUS)
    jobs.read()
    (family,) = (family for family in jobs.collect() if family.name == JOB)
    assert [sample.labels for sample in family.samples] == [
        {"gpu": "0", "uuid": UUID, "job_id": "1", "user": "ada", "account": "physics", "partition": "gpu"}
    ]


def test_a_directory_that_hangs_stops_no_scrape() -> None:
    """If a reading hangs, the page is served without jobs, and the collector has failed."""
    hung, hangs, released, clock = threading.Event(), threading.Event(), threading.Event(), FakeTime()

    def read(uuids: Collection[str]) -> Listing:
        assert uuids == {OURS}
        if hung.is_set():
            hangs.set()
            released.wait()
        return Listing((Job(OURS, "1", "ada"),))

    jobs = JobsCollector(read, lambda: GPUS, period_s=0.01, monotonic_s=clock.monotonic_s)
    assert values(jobs) == {SUCCESS: 0, DURATION: 0}
    jobs.start()
    try:
        wait_until(lambda: values(jobs) == {SUCCESS: 1, DURATION: 0, "1": 1}, "the job")
        hung.set()
        assert hangs.wait(30)
        clock.sleep(STALE_SECONDS + 0.5)
        assert values(jobs) == {SUCCESS: 0, DURATION: 0}
        hung.clear()
        released.set()
        wait_until(lambda: values(jobs).get("1") == 1, "the job again")
        assert values(jobs)[SUCCESS] == 1
    finally:
        released.set()
        jobs.stop()


def test_a_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line is logged when readings start to fail, and one when they work again."""
    failing = [True]

    def refuse() -> NoReturn:
        raise ConfigError("cannot read the directory 'x': No such file or directory")

    jobs = JobsCollector(lambda _: refuse() if failing[0] else Listing(), lambda: GPUS)
    with caplog.at_level("INFO"):
        for _ in range(3):
            jobs.read()
        failing[0] = False
        for _ in range(3):
            jobs.read()
    assert [record.message for record in caplog.records] == [
        "jobs: cannot read the directory 'x': No such file or directory",
        "jobs: every job file can be read again",
    ]


def test_jobs_come_and_go_with_their_files(start: StartExporter, driver: FakeDriver, tmp_path: Path) -> None:
    """The directory may be created later. Jobs on several GPUs and several jobs per GPU are supported."""
    directory = tmp_path / "jobs"
    exporter = start("--jobs.dir", str(directory), driver=driver)
    wait_until(lambda: "No such file or directory" in exporter.log(), "the missing directory, said")
    assert scrape(exporter).value("llem_collector_success", collector="jobs") == 0
    directory.mkdir()
    uuids = [gpu.uuid for gpu in driver.gpus]
    put(directory, uuids[0], "job_id=1\nuser=ada\n")
    put(directory, f"{uuids[1]}.2", "job_id=2\nuser=bo\n")
    put(directory, f"{uuids[1]}.3", 'job_id=3\nuser=c"\\\n')
    wait_until(
        lambda: jobs_on(exporter) == {("0", "1", "ada"), ("1", "2", "bo"), ("1", "3", 'c"\\')}, "all jobs"
    )
    page = scrape(exporter)
    assert page.value("llem_collector_success", collector="jobs") == 1
    assert page.value("llem_collector_duration_seconds", collector="jobs") >= 0
    assert page.labels(JOB, gpu=0)[0]["uuid"] == uuids[0]
    (directory / f"{uuids[1]}.2").unlink()
    wait_until(lambda: jobs_on(exporter) == {("0", "1", "ada"), ("1", "3", 'c"\\')}, "one job gone")
    assert JOB not in exporter.fetch_text("/history?since=0")


def test_a_replayed_gpu_has_jobs_too(start: StartExporter, tmp_path: Path) -> None:
    """The UUID of a replayed GPU matches in upper and lower case."""
    exporter = start("--replay", "demo", "--jobs.dir", str(tmp_path))
    uuid = scrape(exporter).labels("llem_gpu_info", gpu=0)[0]["uuid"]
    put(tmp_path, uuid.upper(), "job_id=7\nuser=ada\n")
    wait_until(lambda: jobs_on(exporter) == {("0", "7", "ada")}, "the job")
    assert scrape(exporter).labels(JOB)[0]["uuid"] == uuid
