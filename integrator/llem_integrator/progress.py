"""The progress bar on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass


def _nothing(_: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar. While it is hidden, other output can be printed."""

    advance: Callable[[float], None] = _nothing
    hidden: Callable[[], AbstractContextManager[None]] = nullcontext


@contextmanager
def bar(wanted: bool | None, title: str, total: float) -> Iterator[Bar]:
    """A progress bar on stderr, told how much of `total` is done; shown where asked for or on a terminal."""
    if sys.stderr is None or not (sys.stderr.isatty() if wanted is None else wanted):
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    # Standard output is the answer's: it is left as it is.
    shown = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with shown:
        task = shown.add_task(title, total=total)

        @contextmanager
        def hidden() -> Iterator[None]:
            shown.stop()
            try:
                yield
            finally:
                shown.start()

        yield Bar(lambda done: shown.update(task, completed=done), hidden)
