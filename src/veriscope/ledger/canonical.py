"""One way to write plain data as text, so that the same data has the same hash on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def canonical(value: Any) -> str:
    """Write plain data as JSON with one spelling: sorted keys, no spaces, floats by `repr`, no escapes for letters.

    Args:
        value: None, bool, int, float, str, and lists, tuples (written as lists) and mappings (with text keys) of these.

    Raises:
        ValueError: NaN, an infinity or half a surrogate pair: JSON has no word for them.
        TypeError: Any other type, or a key that is not text. Both messages say where in the data it stands.
    """
    _check(value, "body")
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical text, as 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Mappings and subclasses of list as what `json` writes; numbers and text pass through."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _check(value: Any, path: str) -> None:
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(
                f"{path} is {value}: a record holds only finite numbers (what was not measured is a NotRun)"
            )
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{path} holds half a surrogate pair, which is not valid text") from None
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}: keys must be text")
            _check(key, f"a key of {path}")
            _check(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check(inner, f"{path}[{index}]")
    else:
        raise TypeError(
            f"{path} is a {type(value).__name__}: a record holds only plain data (text, numbers, lists, maps)"
        )
