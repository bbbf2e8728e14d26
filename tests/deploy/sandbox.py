"""Run a program under the parts of a systemd unit's sandbox that need no systemd and no root.

python -m tests.deploy.sandbox UNIT COMMAND...: the unit's SystemCallFilter, MemoryDenyWriteExecute and
RestrictAddressFamilies as one seccomp filter, and no new privileges. What is forbidden fails with EPERM.
Source: systemd.exec(5).
"""

import errno
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyseccomp

Unit = dict[str, list[str]]


def load(path: Path) -> Unit:
    """The values of each setting of a unit's file, in its order; an empty one forgets those before."""
    unit: Unit = {}
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            unit[key] = [*unit.get(key, []), value] if value else []
    return unit


def syscalls(names: Sequence[str]) -> set[str]:
    """The calls of these names, of which some (@...) stand for a group."""
    found = {name for name in names if not name.startswith("@")}
    for group in set(names) - found:
        said = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", group],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        members = [line.strip() for line in said.splitlines()[1:] if not line.strip().startswith("#")]
        found |= syscalls([member for member in members if member])
    return found


def allowed(unit: Unit) -> set[str]:
    """What SystemCallFilter leaves: the lists are taken one after the other, those with ~ away."""
    left = syscalls(["@default"])
    for words in unit["SystemCallFilter"]:
        listed = syscalls(words.removeprefix("~").split())
        left = left - listed if words.startswith("~") else left | listed
    return left | {"execve"}


def restrict(unit: Unit) -> None:
    """Put this process, and all that it starts, under the unit's filter."""
    both = mmap.PROT_WRITE | mmap.PROT_EXEC
    families = [getattr(socket, name) for words in unit["RestrictAddressFamilies"] for name in words.split()]
    conditions = {
        "mmap": [
            pyseccomp.Arg(2, pyseccomp.MASKED_EQ, both, some) for some in (0, mmap.PROT_WRITE, mmap.PROT_EXEC)
        ],
        "mprotect": [pyseccomp.Arg(2, pyseccomp.MASKED_EQ, mmap.PROT_EXEC, 0)],
        "pkey_mprotect": [pyseccomp.Arg(2, pyseccomp.MASKED_EQ, mmap.PROT_EXEC, 0)],
        "socket": [pyseccomp.Arg(0, pyseccomp.EQ, family) for family in families],
    }
    if unit["MemoryDenyWriteExecute"] != ["yes"]:
        raise SystemExit("this sandbox is for units with MemoryDenyWriteExecute=yes")
    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ERRNO(errno.EPERM))
    for name in allowed(unit):
        if name not in conditions:
            _allow(rules, name)
        for condition in conditions.get(name, []):
            rules.add_rule(pyseccomp.ALLOW, name, condition)
    rules.load()  # which sets no_new_privs


def _allow(rules: pyseccomp.SyscallFilter, name: str) -> None:
    # Negative are calls of other architectures, and those that libseccomp is too old to know.
    if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
        rules.add_rule(pyseccomp.ALLOW, name)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit("usage: python -m tests.deploy.sandbox UNIT COMMAND...")
    restrict(load(Path(sys.argv[1])))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the caller's own command, without a shell
