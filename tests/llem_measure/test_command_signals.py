"""llem-measure and signals: each reaches the command once, and llem-measure ends after the command."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.fake_nvml import FakeDriver
from tests.llem_measure.child import ROOT
from tests.servers.process import wait_until

PROGRAM = (sys.executable, "-m", "llem_measure.command", "--backend", "nvml", "--")

# Prints the name of each signal, and whether a process or the terminal sent it. SIGTERM: exit code 7.
LISTENER = """
import os, signal
numbers = {getattr(signal, f"SIG{name}") for name in "INT HUP QUIT USR1 USR2 TERM CONT".split()}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("pid", os.getpid(), flush=True)
while True:
    received = signal.sigwaitinfo(numbers)
    name = signal.Signals(received.si_signo).name
    print(name, "from", "a process" if received.si_pid else "the terminal", flush=True)
    if name == "SIGTERM":
        os._exit(7)
"""
COMMAND = (*PROGRAM, sys.executable, "-c", LISTENER)
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "exporter")}


@contextlib.contextmanager
def listening(driver: FakeDriver) -> Iterator["subprocess.Popen[str]"]:
    """Run llem-measure with the listener, in a process group of its own, which is not orphaned."""
    env = {**ENV, **driver.env}
    with subprocess.Popen(
        COMMAND, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_signal_for_llem_measure_is_forwarded_once(steady: FakeDriver) -> None:
    """Signals sent with kill(1) reach the command; llem-measure exits as the command does, and reports."""
    with listening(steady) as process:
        line(process)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
            assert line(process) == f"{number.name} from a process"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "SIGTERM from a process"
        output, report = process.communicate(timeout=60)
        assert (output, process.returncode) == ("", 7)
        assert "total " in report


def test_stop_and_continue(steady: FakeDriver) -> None:
    """SIGTSTP stops the command and llem-measure, SIGCONT continues both."""
    with listening(steady) as process:
        state = Path(f"/proc/{line(process).split()[1]}/stat")
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "the command to stop")
        process.send_signal(signal.SIGCONT)
        assert line(process) == "SIGCONT from a process"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "SIGTERM from a process"
        assert process.wait(60) == 7


def test_the_command_starts_with_the_callers_signals(steady: FakeDriver) -> None:
    """No signal is blocked in the command, and only those are ignored that the caller ignores."""
    script = ("grep", "-E", "SigBlk|SigIgn", "/proc/self/status")
    env = {**ENV, **steady.env}
    masks = []
    for program in ((*PROGRAM, *script), script):
        done = subprocess.run(program, env=env, capture_output=True, text=True, check=True)
        # Signals above 31 are the C library's own.
        masks.append([int(shown.split()[1], 16) & 0x7FFF_FFFF for shown in done.stdout.splitlines()])
    assert masks[0] == masks[1] == [0, masks[1][1]]


class Terminal:
    """A program that leads a session and has a terminal of its own, as a login shell has."""

    def __init__(self, program: tuple[str, ...], env: Mapping[str, str] = ENV) -> None:
        self._terminal, end = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *program], env=env, stdin=end, stdout=end, stderr=end
        )
        os.close(end)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def read_until(self, text: str) -> None:
        """Read what the program prints until it has printed this."""
        while text not in self.text:
            read = self._read()
            assert read, f"the program has ended:\n{self.text}"
            self.text += read

    def end(self) -> int:
        """Wait for the program to end; return its exit code."""
        while read := self._read():
            self.text += read
        os.close(self._terminal)
        return self.process.wait(60)

    def _read(self) -> str:
        try:
            return os.read(self._terminal, 4096).decode(errors="replace")
        except OSError:  # all programs have closed the terminal
            return ""


def test_ctrl_c_reaches_the_command_once(steady: FakeDriver) -> None:
    """A terminal sends SIGINT to both processes, and llem-measure does not send it again."""
    program = tuple("auto" if part == "nvml" else part for part in COMMAND)  # with the threads of libraries
    terminal = Terminal(program, {**ENV, **steady.env})
    terminal.read_until("pid ")
    # llem-measure is stopped until the command has received them: two pending signals would count as one.
    terminal.process.send_signal(signal.SIGSTOP)
    for key, name in (("\x03", "SIGINT"), ("\x1c", "SIGQUIT")):
        terminal.type(key)
        terminal.read_until(f"{name} from the terminal")
    terminal.process.send_signal(signal.SIGCONT)
    terminal.read_until("SIGCONT from a process")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 7
    assert "SIGINT from a process" not in terminal.text
    assert "SIGQUIT from a process" not in terminal.text
    assert "backend zeus" in terminal.text


def test_ctrl_z_stops_the_job() -> None:
    """Ctrl-Z gives the terminal back to the shell, and fg continues the command."""
    script = '"$@"; echo "stopped $?"; fg >/dev/null; echo "ended $?"'
    command = ("sh", "-c", "echo begun; read line; exit 5")
    terminal = Terminal(("bash", "-m", "-c", script, "bash", *PROGRAM, *command))
    terminal.read_until("begun")
    terminal.type("\x1a")
    terminal.read_until(f"stopped {128 + signal.SIGTSTP}")
    terminal.type("\n")
    terminal.read_until("ended 5")
    assert terminal.end() == 0


def test_ctrl_c_before_the_command_starts_ends_llem_measure(steady: FakeDriver) -> None:
    """While llem-measure waits for a driver that hangs, Ctrl-C ends it with exit code 130."""
    steady.gpus[0].hung = True
    calls = steady.calls()
    with subprocess.Popen(COMMAND, env={**ENV, **steady.env}, stdout=subprocess.PIPE) as process:
        wait_until(lambda: steady.calls() != calls, "a call that hangs")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert (output, process.returncode) == (b"", 130)


def test_the_exit_code_is_known_where_the_caller_ignores_sigchld() -> None:
    """A program that ignores SIGCHLD, as some daemons do, starts llem-measure: the exit code is kept."""
    ignore = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    script = f"{ignore}; os.execv(sys.argv[1], sys.argv[1:])"
    program = (sys.executable, "-c", script, *PROGRAM, "sh", "-c", "exit 4")
    done = subprocess.run(program, env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
