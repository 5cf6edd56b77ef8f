"""A progress bar that shows itself only to a person who has waited for two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE_S = 2.0


@contextmanager
def waiting(what: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Count work that is told of, and draw a bar on stderr once it has taken two seconds.

    Args:
        what: Words beside the bar.
        total: Edited prompts in all. Those that no edit can change are not told of, so a bar may end early.
        shown: False counts nothing.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task, done, begun, drawn = bar.add_task(what, total=total), 0, time.monotonic(), False

    def told(count: int) -> None:
        nonlocal done, drawn
        done += count
        if shown and not drawn and time.monotonic() - begun > PATIENCE_S:
            bar.start()
            drawn = True
        if drawn:
            bar.update(task, completed=done)

    try:
        yield told
    finally:
        if drawn:
            bar.stop()
