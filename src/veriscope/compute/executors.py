"""The same call over many items: in this process, or in several. The serial one is the default and the oracle."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any, Protocol, TypeVar, runtime_checkable

from veriscope.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


class ItemFailed(Exception):
    """A function failed on one item: which one, and the failure's own traceback as text (it may be from elsewhere)."""

    def __init__(self, index: int, item: Any, kind: str, message: str, trace: str = "") -> None:
        self.index, self.item, self.kind, self.message, self.trace = index, item, kind, message, trace
        super().__init__(
            f"item {index} ({_short(item)}) failed with {kind}: {message}" + (f"\n{trace}" if trace else "")
        )


@runtime_checkable
class Executor(Protocol):
    """All that an executor must offer; a cluster's is written the same way."""

    def each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """(index, result) as they come, in any order. Raises ItemFailed, or UserError if the function did."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Results in the order of the items."""


@dataclass(frozen=True)
class Serial:
    """One after the other in this process."""

    def each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        for index, item in enumerate(items):
            yield index, _unwrap(_guarded(function, item), index, item)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        return [result for _, result in self.each(function, items)]


@dataclass(frozen=True)
class Processes:
    """In `n` fresh processes. The function must be importable by name, and items and results picklable.

    Processes are spawned, not forked: a fork of a process with threads (torch has many) can hang. So a script that uses
    this needs the usual `if __name__ == "__main__":`.
    """

    n: int

    def each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        _check_picklable(function)
        if not items:
            return
        workers = max(1, min(self.n, len(items)))
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent) as pool:
            futures: dict[Future[_Outcome], int] = {}
            try:
                for index, item in enumerate(items):
                    futures[pool.submit(_guarded, function, item)] = index
                for future in as_completed(futures):
                    index = futures[future]
                    yield index, _unwrap(_outcome(future), index, items[index])
            finally:
                pool.shutdown(wait=True, cancel_futures=True)  # after a failure: start nothing more

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        found = dict(self.each(function, items))
        return [found[index] for index in range(len(items))]


def _end_with_parent() -> None:
    """End this worker when the process that began it is gone: killed, it can't tell its workers to stop."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@dataclass(frozen=True)
class _Outcome:
    """A result, or a failure as text: an exception with arguments of its own may not survive pickling."""

    value: Any = None
    kind: str = ""
    message: str = ""
    trace: str = ""
    mendable: bool = False


def _guarded(function: Callable[[Any], Any], item: Any) -> _Outcome:
    try:
        return _Outcome(value=function(item))
    except Exception as error:
        trace = traceback.format_exc()
        return _Outcome(None, type(error).__name__, str(error), trace, isinstance(error, UserError))


def _outcome(future: Future[_Outcome]) -> _Outcome:
    try:
        return future.result()
    except Exception as error:  # the process died, or the result can't be pickled
        return _Outcome(None, type(error).__name__, str(error) or "its process ended")


def _unwrap(outcome: _Outcome, index: int, item: Any) -> Any:
    if not outcome.kind:
        return outcome.value
    if outcome.mendable:
        raise UserError(f"{outcome.message} (at item {index}: {_short(item)})")
    raise ItemFailed(index, item, outcome.kind, outcome.message, outcome.trace)


def _check_picklable(function: Callable[..., Any]) -> None:
    try:
        pickle.dumps(function)
    except Exception:
        raise TypeError(
            f"{_short(function)} can't be sent to another process: define it at the top of a module, or use Serial()"
        ) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
