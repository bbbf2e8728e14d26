"""Start the measured command, forward signals to it, and wait for its end."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from llem_core.errors import LLEMError

EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
EXIT_SIGNAL: Final = 128
"""Exit codes of the POSIX shell: 128 + N for a command that signal N ended.

Source: POSIX.1, Shell Command Language, "Exit Status for Commands".
"""

SIGNALS: Final = frozenset(
    signal.Signals[f"SIG{name}"]
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "TSTP", "CONT", "CHLD")
)
"""Signals that this process receives with sigtimedwait() while the command runs."""

_LOOK_SECONDS: Final = 1.0
"""How often to check the command without SIGCHLD, which a thread that does not block it could receive."""


Mask = set[signal.Signals | int]


class StartError(LLEMError):
    """The command could not be started; `exit_code` is the shell's code for this."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def block_signals() -> Mask:
    """Block SIGNALS in this thread and in threads that it starts from now on; return the mask before."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS))


def start(command: tuple[str, ...], env: Mapping[str, str], mask: Mask) -> int:
    """Start the command with this signal mask and return its process ID. Raises StartError."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, the kernel drops exit codes
    ignored_by_python = (signal.SIGPIPE, signal.SIGXFSZ)
    try:
        return os.posix_spawnp(command[0], command, env, setsigmask=mask, setsigdef=ignored_by_python)
    except FileNotFoundError as exc:
        raise StartError(f"{command[0]}: command not found", EXIT_NOT_FOUND) from exc
    except OSError as exc:
        raise StartError(f"{command[0]}: {exc.strerror}", EXIT_NOT_EXECUTABLE) from exc


def wait(pid: int) -> int:
    """Forward signals to the command until it ends; return its exit code. SIGNALS must be blocked."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            exit_code = os.waitstatus_to_exitcode(status)
            return exit_code if exit_code >= 0 else EXIT_SIGNAL - exit_code
        received = signal.sigtimedwait(SIGNALS, _LOOK_SECONDS)
        if received is not None and received.si_signo != signal.SIGCHLD:
            _forward(received, pid)


def _forward(received: signal.struct_siginfo, pid: int) -> None:
    """Send the signal to the command, unless the command has received it already.

    A terminal sends Ctrl-C, Ctrl-\\ and Ctrl-Z to both processes, from the kernel: si_code is positive.
    A process sends a signal with kill(2) to this process only: si_code is zero or negative.
    """
    if received.si_code <= 0 and received.si_pid != pid:
        with suppress(PermissionError):  # a command of another user, for example sudo
            os.kill(pid, received.si_signo)
    if received.si_signo == signal.SIGTSTP:
        _stop()


def _stop() -> None:
    """Stop this process as SIGTSTP does by default, so that the shell shows the job as stopped."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    signal.raise_signal(signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
