"""Questions that trials and reports put to a ledger, and the ledger that is in use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from veriscope.ledger.book import Ledger, Row
from veriscope.ledger.canonical import canonical

_used: ContextVar[Ledger | None] = ContextVar("veriscope_ledger", default=None)
_defaults: dict[str, Ledger] = {}  # by the value of VERISCOPE_LEDGER
_defaults_lock = threading.Lock()


def current() -> Ledger:
    """The ledger in use: the one of the innermost `use`, else the file $VERISCOPE_LEDGER, else one in memory.

    A `use` holds for this thread and for what it awaits. A thread started by hand gets the default, so hand it the
    ledger and let it call `use` itself.
    """
    chosen = _used.get()
    if chosen is not None:
        return chosen
    path = os.environ.get("VERISCOPE_LEDGER") or ":memory:"
    with _defaults_lock:
        if path not in _defaults:
            _defaults[path] = Ledger(path)
        return _defaults[path]


@contextmanager
def use(ledger: Ledger) -> Iterator[Ledger]:
    """Make `ledger` the current one inside a `with` block."""
    token = _used.set(ledger)
    try:
        yield ledger
    finally:
        _used.reset(token)


def tried(body: Mapping[str, Any]) -> None:
    """Record in the current ledger that something was tried, once: the same body again adds nothing.

    Args:
        body: Plain data with at least `examples` (their hash) and `variable`, by which `count_tries` counts.

    Raises:
        ValueError: One of these two is missing.
    """
    missing = [name for name in ("examples", "variable") if name not in body]
    if missing:
        raise ValueError(f"a try must name its {' and '.join(missing)}, or it would never be counted")
    current().append_once("try", body)


def count_tries(ledger: Ledger, *, examples: str, of: str) -> int:
    """How many different things were tried on these examples (their hash) for this variable."""
    return len({canonical(row.body) for row in ledger.rows("try", examples=examples, variable=of)})


def count_looks(ledger: Ledger, *, examples: str, pool: str = "gate") -> int:
    """How many different cards have opened this pool. Opening it again for the same card is the same look."""
    return len({row.body["by"] for row in ledger.rows("look", examples=examples, pool=pool)})


def early_looks(ledger: Ledger) -> list[Row]:
    """Looks whose card (a `card` row with this hash in its field `hash`) was not written before them."""
    written = {row.body.get("hash"): row.seq for row in reversed(ledger.rows("card"))}
    return [row for row in ledger.rows("look") if written.get(row.body["by"], row.seq + 1) > row.seq]


def evidence_for(ledger: Ledger, card: str, gate: str, seed: int) -> Row | None:
    """The latest evidence row for a gate of a card at a seed: what a trial that was killed need not do again."""
    found = ledger.rows("evidence", card=card, gate=gate, seed=seed)
    return found[-1] if found else None


@cache
def versions() -> dict[str, str]:
    """What ran: Python, the class of machine, and the installed versions that numbers depend on. Imports none of them.

    Holds no host name, user name or path. A package that is not installed has no entry.
    """
    found = {"python": platform.python_version(), "machine": f"{platform.system()}-{platform.machine()}"}
    for package in ("veriscope", "numpy", "scipy", "torch", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
