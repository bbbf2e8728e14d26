"""The progress bar on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar. `hidden()` hides it while other output is printed."""

    advance: Callable[[float], None] = lambda _: None
    hidden: Callable[[], AbstractContextManager[None]] = nullcontext


@contextmanager
def bar(wanted: bool | None, title: str, total: float) -> Iterator[Bar]:
    """Show a progress bar if it is wanted, or if `wanted` is None and standard error is a terminal."""
    if sys.stderr is None or not (sys.stderr.isatty() if wanted is None else wanted):
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    # Standard output belongs to the results and is not redirected.
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
