"""Which texts something was learnt from, in a short string: enough to notice them among others later.

The smallest hashes of a set are a fair sample of it that another set's texts can be looked up in (Broder, On the
Resemblance and Containment of Documents, 1997). Up to `KEPT` texts the answer is exact.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from veriscope.errors import UserError
from veriscope.examples.sample import text_cluster

KEPT = 2_048
_BYTES = 5  # of a hash: two different texts of a million are taken for one less than once


def sketch(texts: Iterable[str]) -> str:
    """The smallest hashes of these texts, ASCII; texts that differ in case or spacing only are the same."""
    smallest = sorted({_hash(text) for text in texts})[:KEPT]
    return base64.b64encode(b"".join(n.to_bytes(_BYTES, "big") for n in smallest)).decode("ascii")


def share_seen(sketched: str, texts: Sequence[str]) -> float:
    """Share of these texts that the sketched ones hold: exact up to `KEPT` of them, else of those within its reach.

    Raises:
        UserError: It is no sketch.
    """
    try:
        raw = base64.b64decode(sketched, validate=True)
    except ValueError:
        raise UserError("What a finding learnt from can't be read (`origin.seen`). Fit it again.") from None
    held = {int.from_bytes(raw[i : i + _BYTES], "big") for i in range(0, len(raw), _BYTES)}
    reach = max(held) if len(held) >= KEPT else 256**_BYTES
    within = [n for n in map(_hash, texts) if n <= reach]
    return sum(n in held for n in within) / len(within) if within else 0.0


def _hash(text: str) -> int:
    return int(text_cluster(text)[: 2 * _BYTES], 16)
