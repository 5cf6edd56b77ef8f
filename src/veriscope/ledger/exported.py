"""Check a ledger that was exported as JSON Lines, without the file it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from veriscope.errors import LedgerBroken, NotALedger
from veriscope.ledger.book import verify_chain
from veriscope.ledger.canonical import canonical

_FIELDS = {"seq", "time", "kind", "body", "previous", "hash"}


def import_check(path: str | Path, head: str | None = None) -> int:
    """Verify an exported ledger as `Ledger.verify` does.

    Args:
        path: A file written by `Ledger.export`.
        head: A head noted earlier, which must still be in the chain.

    Returns:
        The number of rows.

    Raises:
        LedgerBroken: A row was changed, removed, inserted or moved, or `head` is not found.
        NotALedger: There is no such file, or it is not text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotALedger(str(path), str(error)) from error
    return verify_chain(_raw_rows(text, str(path)), head=head, source=str(path))


def _raw_rows(text: str, source: str) -> Iterator[tuple[Any, ...]]:
    lines = text.split("\n")  # not splitlines: a body may hold other line separators
    if lines[-1]:
        raise LedgerBroken(len(lines), "the last line has no end: the file was cut off", source)
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            if set(row) != _FIELDS or canonical(row) != line:
                raise ValueError
        except (ValueError, TypeError):
            raise LedgerBroken(number, "it is not a row that a ledger exports", source) from None
        yield row["seq"], row["time"], row["kind"], canonical(row["body"]), row["previous"], row["hash"]
