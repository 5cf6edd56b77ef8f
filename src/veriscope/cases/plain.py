"""Cases as JSON and back: any of this package's frozen values, by their declared types."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from veriscope.errors import NotRun
from veriscope.trials.evidence import to_plain

_UNIONS = (typing.Union, types.UnionType)


def plain(value: Any) -> Any:
    """As JSON has it; what is not a number there (infinities, NaN) is null."""
    return _finite(to_plain(value))


def made(kind: Any, data: Any) -> Any:
    """Rebuild a value of a declared type from `plain`'s output.

    Raises:
        TypeError, KeyError, ValueError: It is not of that type; whoever keeps cases takes that as not kept.
    """
    if isinstance(data, Mapping) and set(data) == {"not_run"}:
        return NotRun(data["not_run"])
    origin, given = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        return made(_fitting(given, data), data)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        given_in = [field.name for field in fields(kind) if field.init]  # others follow from these
        return kind(**{name: made(hints[name], data[name]) for name in given_in})
    if origin is tuple:
        each = given[:1] * len(data) if given[1:] == (Ellipsis,) else given
        return tuple(made(one, value) for one, value in zip(each, data, strict=True))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(data, Mapping):
        return {key: made(given[1], value) for key, value in data.items()}
    return tuple(data) if origin is not None and isinstance(data, list) else data


def _fitting(kinds: Sequence[Any], data: Any) -> Any:
    """The member of a union that data can be one of."""
    for kind in kinds:
        origin = typing.get_origin(kind) or kind
        if data is None and kind is type(None):
            return kind
        if isinstance(data, list) and origin is tuple:
            given = typing.get_args(kind)
            if given[1:] == (Ellipsis,) or len(given) == len(data):
                return kind
        if isinstance(data, Mapping) and (is_dataclass(kind) or origin in (dict, Mapping)):
            return kind
        if kind in (str, bool, int, float) and type(data) is kind:
            return kind
    return Any


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
