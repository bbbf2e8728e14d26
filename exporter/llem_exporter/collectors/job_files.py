"""Job files, in which a scheduler's prolog writes down the jobs of each GPU.

A file is named UUID, or UUID.ANYTHING so that each of several jobs can have its own file. Its lines are
`key=value`, and each `job_id=` starts another job. Whoever can write to the directory is not trusted: only
regular files are opened, and the limits below apply.
"""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Final

from llem_core.errors import ConfigError, LLEMError

MAX_BYTES: Final = 4096
MAX_LINES: Final = 256
"""The maximum size and length of a job file. All files are read every second."""
MAX_VALUE_CHARACTERS: Final = 256
MAX_FILES: Final = 256
"""The maximum number of job files of this node's GPUs."""
MAX_JOBS: Final = 256
"""The maximum number of jobs over all files. Each job is one series."""
MAX_ENTRIES: Final = 10_000
"""The maximum number of directory entries of any kind."""

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """A job on a GPU. `uuid` is in lower case; all fields after `job_id` may be empty."""

    uuid: str
    job_id: str
    user: str = ""
    account: str = ""
    partition: str = ""


_KEYS: Final = ("job_id", "user", "account", "partition")


@dataclass(frozen=True, slots=True)
class Listing:
    """The jobs of a directory, sorted, and why there are not more of them."""

    jobs: tuple[Job, ...] = ()
    problems: tuple[str, ...] = ()


class JobFileError(LLEMError):
    """A job file is rejected. The message is the reason without the file's name."""


def read_jobs(directory: str, uuids: Collection[str]) -> Listing:
    """Return the jobs of the GPUs with these UUIDs (lower case). Raises ConfigError for the directory."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _read_folder(folder, uuids)
        finally:
            os.close(folder)
    except OSError as exc:
        reason = exc.strerror or exc
        raise ConfigError(f"cannot read the directory {directory!r}: {reason}") from exc


def _read_folder(folder: int, uuids: Collection[str]) -> Listing:
    problems: list[str] = []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
    if len(names) > MAX_ENTRIES:
        problems.append(f"found more than {MAX_ENTRIES} directory entries; the others were not read")
    of_gpus = ((name.partition(".")[0].lower(), name) for name in names)
    named = sorted((uuid, name) for uuid, name in of_gpus if uuid in uuids)
    if len(named) > MAX_FILES:
        problems.append(f"found {len(named)} job files; only the first {MAX_FILES} were read")
    found: set[Job] = set()
    # Problems have the repr() of a name, because it may contain newlines or invalid UTF-8.
    for uuid, name in named[:MAX_FILES]:
        try:
            found.update(parse(_text(folder, name), uuid))
        except FileNotFoundError:  # removed since the names were listed
            continue
        except JobFileError as exc:
            problems.append(f"{name!r}: {exc}")
        except OSError as exc:
            problems.append(f"{name!r}: cannot be read: {exc.strerror}")
    jobs = sorted(found)
    if len(jobs) > MAX_JOBS:
        problems.insert(0, f"found {len(jobs)} jobs; only the first {MAX_JOBS} are published")
    return Listing(tuple(jobs[:MAX_JOBS]), tuple(problems))


def _text(folder: int, name: str) -> str:
    """Return the text of a regular file. Raises JobFileError and OSError."""
    # Check the type before opening, too: opening a device file can have effects.
    _refuse_special(os.stat(name, dir_fd=folder, follow_symlinks=False))
    with open(name, "rb", opener=lambda path, _: os.open(path, _OPEN_FLAGS, dir_fd=folder)) as file:
        _refuse_special(os.fstat(file.fileno()))
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise JobFileError(f"larger than {MAX_BYTES} bytes")
    if content and not content.endswith(b"\n"):
        raise JobFileError("the last line has no newline; the file may still be being written")
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise JobFileError(f"byte {exc.start} is not UTF-8") from exc


def _refuse_special(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise JobFileError("not a regular file")


def parse(text: str, uuid: str) -> tuple[Job, ...]:
    """Return the jobs of a file's text in the order of its lines. Raises JobFileError.

    Keys before the first job_id belong to the first job. Unknown keys, empty lines and lines that start with
    # are ignored.
    """
    jobs: list[dict[str, str]] = [{}]
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise JobFileError(f"longer than {MAX_LINES} lines")
    for number, line in enumerate(lines, start=1):
        stripped = line.strip(" \t\r")
        if not stripped or stripped.startswith("#"):
            continue
        key, equals, value = (part.strip(" \t") for part in stripped.partition("="))
        if not equals:
            raise JobFileError(f"line {number} is not key=value")
        if key in _KEYS and (problem := _problem(key, value)):
            raise JobFileError(f"line {number}: {key} {problem}")
        if key == "job_id" and key in jobs[-1]:
            jobs.append({})
        jobs[-1][key] = value
    if "job_id" in jobs[0]:
        return tuple(Job(uuid, *(job.get(key, "") for key in _KEYS)) for job in jobs)
    if "job" in jobs[0]:
        raise JobFileError("write job_id= instead of job=")
    return ()


def _problem(key: str, value: str) -> str:
    """Return why a value cannot be a label, or an empty string."""
    if key == "job_id" and not value:
        return "is empty"
    if len(value) > MAX_VALUE_CHARACTERS:
        return f"is longer than {MAX_VALUE_CHARACTERS} characters"
    return "" if value.isprintable() else "contains unprintable characters"
