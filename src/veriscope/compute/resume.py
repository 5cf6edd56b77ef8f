"""Work that can be killed and taken up again: what was finished is never done twice and never lost."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from veriscope.compute.executors import Executor, Serial

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_resumable(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    key: Callable[[Item], Hashable],
    done: Mapping[Hashable, Result],
    store: Callable[[Hashable, Result], None],
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Apply `function` to the items that are not done, and store each result as soon as it is there.

    Args:
        key: What an item is known by; items with the same key are computed once.
        done: Results of an earlier run, by key.
        store: Called in this process with key and result, in the order in which they are finished.
        executor: Where the work is done; in this process if None.
        progress: Called with (finished, total) at the start and after each result.

    Returns:
        Results in the order of the items.

    Raises:
        ItemFailed, UserError: The function failed on an item; what was finished before is stored.
    """
    keys = [key(item) for item in items]
    waiting = {k: item for k, item in reversed(list(zip(keys, items, strict=True))) if k not in done}
    order = [k for k in dict.fromkeys(keys) if k in waiting]
    found = {k: done[k] for k in keys if k in done}
    total = len(found) + len(order)
    if progress:
        progress(len(found), total)
    for index, result in (executor or Serial()).each(function, [waiting[k] for k in order]):
        store(order[index], result)
        found[order[index]] = result
        if progress:
            progress(len(found), total)
    return [found[k] for k in keys]
