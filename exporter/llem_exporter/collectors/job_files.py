"""Job files, in which a scheduler's prolog writes down the jobs of each GPU.

A file is named UUID, or UUID.ANYTHING so that each of several jobs can have its own file. Its lines are
`key=value`, and each `job_id=` starts another job. Whoever can write to the directory is not trusted: only
regular files are opened, and the limits below apply.
"""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from llem_core.errors import ConfigError, LLEMError

MAX_BYTES: Final = 16_384
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


_Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _JobFile:
    """A file as it was read last."""

    version: _Version | None
    jobs: tuple[Job, ...] = ()
    problem: str = ""
    complete: bool = True


class JobFiles:
    """The job files of a directory. A file that has not changed is not read again."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._known: dict[str, _JobFile] = {}

    def read(self, uuids: Collection[str]) -> Listing:
        """Return the jobs of the GPUs with these UUIDs (lower case). Raises ConfigError for the directory.

        A file whose last line does not end in a newline may still be being written. Its jobs count once the
        file is unchanged at the next call.
        """
        try:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return self._read(directory, uuids)
            finally:
                os.close(directory)
        except OSError as exc:
            self._known.clear()
            reason = exc.strerror or exc
            raise ConfigError(f"cannot read the directory {self._directory!r}: {reason}") from exc

    def _read(self, directory: int, uuids: Collection[str]) -> Listing:
        problems: list[str] = []
        with os.scandir(directory) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
        if len(names) > MAX_ENTRIES:
            problems.append(f"found more than {MAX_ENTRIES} directory entries; the others were not read")
        of_gpus = ((name.partition(".")[0].lower(), name) for name in names)
        named = sorted((uuid, name) for uuid, name in of_gpus if uuid in uuids)
        if len(named) > MAX_FILES:
            problems.append(f"found {len(named)} job files; only the first {MAX_FILES} were read")
        files: dict[str, _JobFile] = {}
        for uuid, name in named[:MAX_FILES]:
            if file := _read_file(directory, name, uuid, self._known.get(name)):
                files[name] = file
        self._known = files
        # repr(): a file's name may contain newlines or invalid UTF-8.
        problems += [f"{name!r}: {file.problem}" for name, file in files.items() if file.problem]
        jobs = sorted({job for file in files.values() if file.complete for job in file.jobs})
        if len(jobs) > MAX_JOBS:
            problems.insert(0, f"found {len(jobs)} jobs; only the first {MAX_JOBS} are published")
        return Listing(tuple(jobs[:MAX_JOBS]), tuple(problems))


def parse(text: str, uuid: str) -> tuple[Job, ...]:
    """Return the jobs of a file's text in the order of its lines. Raises JobFileError.

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


def _read_file(directory: int, name: str, uuid: str, known: _JobFile | None) -> _JobFile | None:
    """Return a file's jobs, or None if the file is gone."""
    try:
        # Check the type before opening: opening a device file can have effects.
        version = _version(os.stat(name, dir_fd=directory, follow_symlinks=False))
        if known is not None and known.version == version:
            return replace(known, complete=True)
        version, content = _content(directory, name)
        return _JobFile(version, parse(content.decode(), uuid), complete=content.endswith(b"\n"))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as exc:
        reason = f"byte {exc.start} is not UTF-8"
    except JobFileError as exc:
        reason = str(exc)
    except OSError as exc:
        reason = f"cannot be read: {exc.strerror}"
    return _JobFile(None, problem=reason)


def _content(directory: int, name: str) -> tuple[_Version, bytes]:
    """Return a regular file's version and its bytes. Raises JobFileError and OSError."""
    with open(name, "rb", opener=lambda path, _: os.open(path, _OPEN_FLAGS, dir_fd=directory)) as file:
        version = _version(os.fstat(file.fileno()))
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise JobFileError(f"larger than {MAX_BYTES} bytes")
    return version, content


def _version(status: os.stat_result) -> _Version:
    """Return what changes when a file is written to or replaced. Raises JobFileError."""
    if not stat.S_ISREG(status.st_mode):
        raise JobFileError("not a regular file")
    return status.st_ino, status.st_size, status.st_ctime_ns, status.st_mtime_ns
