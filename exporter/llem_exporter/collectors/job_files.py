"""Job files: which jobs run on which GPU, as a scheduler's prolog wrote it down.

A file is named by a GPU's UUID, or UUID.ANYTHING so that each of several jobs has its own. It holds
`key=value` lines; each `job=` begins another job. Whoever can write into the directory is not trusted:
only plain files are opened, and what does not fit the bounds below is refused.
"""

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from llem_core.errors import ConfigError, LLEMError

MAX_BYTES: Final = 16_384
MAX_JOBS: Final = 64
"""In one file."""
MAX_VALUE_CHARACTERS: Final = 256
MAX_FILES: Final = 256
"""Of this node's GPUs."""
MAX_PUBLISHED: Final = 256
"""The maximum number of jobs over all files. Each job is one series."""
MAX_ENTRIES: Final = 10_000
"""Of the directory, whatever they are."""

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """What runs on a GPU. `uuid` is in lower case, as UUIDs are compared; `user` may be empty."""

    uuid: str
    job: str
    user: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The jobs of a directory, sorted, and why some of its files are not among them."""

    jobs: tuple[Job, ...] = ()
    refused: tuple[str, ...] = ()


class RefusedError(LLEMError):
    """A job file that cannot be used; the text says why, without the file's name."""


@dataclass(frozen=True, slots=True)
class _Version:
    """A file as it was at one look: another inode, size or time of change is another version."""

    inode: int
    size: int
    changed_ns: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class _Seen:
    version: _Version
    jobs: tuple[Job, ...]
    refused: str
    settled: bool


class JobFiles:
    """The job files of a directory; a file that has not changed is not read again."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._seen: dict[str, _Seen] = {}

    def read(self, uuids: Collection[str]) -> Listing:
        """The jobs of the GPUs of these UUIDs (lower case) now. Raises ConfigError for the directory.

        A file whose last line has no end yet may be half-written: it counts once it is found unchanged.
        """
        try:
            folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return self._read(folder, uuids)
            finally:
                os.close(folder)
        except OSError as exc:
            self._seen.clear()
            reason = exc.strerror or exc
            raise ConfigError(f"the directory {self._directory!r} cannot be read: {reason}") from exc

    def _read(self, folder: int, uuids: Collection[str]) -> Listing:
        refused: list[str] = []
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
        if len(names) > MAX_ENTRIES:
            refused.append(f"over {MAX_ENTRIES} entries, of which some were not looked at")
        ours = sorted((uuid, name) for name in names if (uuid := _uuid_of(name)) in uuids)
        if len(ours) > MAX_FILES:
            refused.append(f"{len(ours)} job files, of which {MAX_FILES} are read")
        seen: dict[str, _Seen] = {}
        for uuid, name in ours[:MAX_FILES]:
            if found := _look(folder, name, uuid, self._seen.get(name)):
                seen[name] = found
                if found.refused:
                    # As repr: a file's name can hold a newline, or be no text at all.
                    refused.append(f"{name!r}: {found.refused}")
        self._seen = seen
        jobs = sorted({job for found in seen.values() if found.settled for job in found.jobs})
        if len(jobs) > MAX_PUBLISHED:
            refused.insert(0, f"found {len(jobs)} jobs; only the first {MAX_PUBLISHED} are published")
        return Listing(tuple(jobs[:MAX_PUBLISHED]), tuple(refused))


def parse(text: str, uuid: str) -> tuple[Job, ...]:
    """The jobs of one file's text, in its order. Raises RefusedError.

    Keys other than job and user are for others, and left out; so are empty lines and those that begin with #.
    """
    jobs: list[dict[str, str]] = []
    before: dict[str, str] = {}
    for number, key, value in _pairs(text):
        if key not in ("job", "user"):
            continue
        _check(value, f"line {number}: {key}")
        if key == "user":
            (jobs[-1] if jobs else before)[key] = value
        elif not value:
            raise RefusedError(f"line {number}: job is empty")
        else:
            jobs.append({"job": value, **({} if jobs else before)})
    if len(jobs) > MAX_JOBS:
        raise RefusedError(f"{len(jobs)} jobs, more than {MAX_JOBS}")
    return tuple(Job(uuid, job["job"], job.get("user", "")) for job in jobs)


def _pairs(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, key and value of each line that has them."""
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if not stripped or stripped.startswith("#"):
            continue
        key, equals, value = stripped.partition("=")
        if not equals:
            raise RefusedError(f"line {number} is not key=value")
        yield number, key.rstrip(), value.lstrip(" \t")


def _check(value: str, what: str) -> None:
    if len(value) > MAX_VALUE_CHARACTERS:
        raise RefusedError(f"{what} is longer than {MAX_VALUE_CHARACTERS} characters")
    if not value.isprintable():
        raise RefusedError(f"{what} has characters that cannot be printed")


def _uuid_of(name: str) -> str:
    """What a file of this name is of: dot-files are of nothing."""
    return name.partition(".")[0].lower()


def _look(folder: int, name: str, uuid: str, before: _Seen | None) -> _Seen | None:
    """What a file holds now; None where it has gone meanwhile."""
    try:
        # Before it is opened: opening a device can set it going, whatever it is opened for.
        version = _version(os.stat(name, dir_fd=folder, follow_symlinks=False))
        if before is not None and before.version == version:
            return _Seen(version, before.jobs, before.refused, settled=True)
        version, content = _content(folder, name)
        return _Seen(version, parse(_text(content), uuid), "", settled=content.endswith(b"\n"))
    except FileNotFoundError:
        return None
    except RefusedError as exc:
        reason = str(exc)
    except OSError as exc:
        reason = f"cannot be read: {exc.strerror}"
    return _Seen(_Version(0, 0, 0, 0), (), reason, settled=True)


def _version(status: os.stat_result) -> _Version:
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError("is no plain file, and is not opened")
    return _Version(status.st_ino, status.st_size, status.st_ctime_ns, status.st_mtime_ns)


def _content(folder: int, name: str) -> tuple[_Version, bytes]:
    """A plain file's bytes, and which version they are of. Raises RefusedError, OSError."""
    file = os.open(name, _FLAGS, dir_fd=folder)
    try:
        version = _version(os.fstat(file))
        content = b"".join(_chunks(file))
    finally:
        os.close(file)
    if len(content) > MAX_BYTES:
        raise RefusedError(f"is larger than {MAX_BYTES} bytes")
    return version, content


def _chunks(file: int) -> Iterable[bytes]:
    left = MAX_BYTES + 1
    while left > 0 and (chunk := os.read(file, left)):
        left -= len(chunk)
        yield chunk


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise RefusedError(f"byte {exc.start} is not UTF-8") from exc
