"""Job files, in which a scheduler's prolog writes down the jobs of each GPU.

A file is named UUID, or UUID.ANYTHING so that each of several jobs can have its own file. Its lines are
`key=value`, and each `job_id=` starts another job. Users who can write to the directory are not trusted:
only regular files are read, and the limits below apply.
"""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Final

from llem_core.errors import ConfigError

MAX_BYTES: Final = 4096
"""The maximum size of a job file."""

MAX_ENTRIES: Final = 1000
"""The maximum number of directory entries of any kind. All files are read every second."""

MAX_JOBS: Final = 256
"""The maximum number of jobs over all files. Each job is one series."""

_KEYS: Final = ("job_id", "user", "account", "partition")
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """A job on a GPU. `uuid` is in lower case; all fields after `job_id` may be empty."""

    uuid: str
    job_id: str
    user: str = ""
    account: str = ""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The jobs of a directory, sorted, and why there are not more of them."""

    jobs: tuple[Job, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """The first problem and the number of the others; empty if every file was read."""
        others = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"{self.problems[0]}{others}" if self.problems else ""


def read_jobs(directory: str, uuids: Collection[str]) -> Listing:
    """Return the jobs of the GPUs with these UUIDs (lower case). Raises ConfigError for the directory."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _read_folder(folder, uuids)
        finally:
            os.close(folder)
    except OSError as exc:
        raise ConfigError(f"cannot read the directory {directory!r}: {exc.strerror}") from exc


def _read_folder(folder: int, uuids: Collection[str]) -> Listing:
    problems: list[str] = []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
    if len(names) > MAX_ENTRIES:
        problems.append(
            f"the directory has more than {MAX_ENTRIES} entries; the others were not read. "
            "Remove the files of finished jobs."
        )
    found: set[Job] = set()
    # Problems have the repr() of a name, because it may contain newlines or invalid UTF-8.
    for name in sorted(names[:MAX_ENTRIES]):
        uuid = name.partition(".")[0].lower()
        if uuid not in uuids:
            continue
        try:
            found.update(parse(_text(folder, name), uuid))
        except FileNotFoundError:  # removed since the names were listed
            continue
        except ConfigError as exc:
            problems.append(f"{name!r}: {exc}")
        except OSError as exc:
            problems.append(f"{name!r}: cannot be read: {exc.strerror}")
    jobs = sorted(found)
    if len(jobs) > MAX_JOBS:
        problems.insert(0, f"found {len(jobs)} jobs; only the first {MAX_JOBS} are published")
    return Listing(tuple(jobs[:MAX_JOBS]), tuple(problems))


def _text(folder: int, name: str) -> str:
    """Return the text of a regular file. Raises ConfigError and OSError."""
    # Before it is opened: opening a device may start it.
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise ConfigError("not a regular file")
    with open(name, "rb", opener=lambda path, _: os.open(path, _OPEN_FLAGS, dir_fd=folder)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigError("not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES} bytes")
    if content and not content.endswith(b"\n"):
        raise ConfigError(
            "the last line has no newline. The file is ignored until it is complete. "
            "Write to a temporary file and rename it."
        )
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"byte {exc.start} is not UTF-8") from exc


def parse(text: str, uuid: str) -> tuple[Job, ...]:
    """Return the jobs of a file's text in the order of its lines. Raises ConfigError.

    Keys before the first job_id belong to the first job. Unknown keys, empty lines and lines that start with
    # are ignored.
    """
    jobs: list[dict[str, str]] = [{}]
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if not stripped or stripped.startswith("#"):
            continue
        key, equals, value = (part.strip(" \t") for part in stripped.partition("="))
        if not equals:
            raise ConfigError(f"line {number} is not key=value")
        if key == "job_id" and not value:
            raise ConfigError(f"line {number}: job_id is empty")
        if key in _KEYS and not value.isprintable():
            raise ConfigError(f"line {number}: {key} contains unprintable characters")
        if key == "job_id" and key in jobs[-1]:
            jobs.append({})
        jobs[-1][key] = value
    return tuple(Job(uuid, *(job.get(key, "") for key in _KEYS)) for job in jobs if "job_id" in job)
