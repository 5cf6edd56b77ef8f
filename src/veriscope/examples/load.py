"""`examples(...)`: rows of a file turned into examples, checked as a whole and split into pools."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from veriscope.errors import BadRows, CannotRead, MixedTypes, UnknownColumn, UserError, nearest
from veriscope.examples import sample as parts
from veriscope.examples.pools import Examples, split
from veriscope.examples.read import Table, read_table
from veriscope.examples.sample import Example, make_example


def examples(
    source: str | Path | Sequence[Any],
    *,
    text: str = "text",
    label: str | None = None,
    cluster: str | None = None,
    answer: str | None = None,
    foil: str | None = None,
    source_text: str | None = None,
    expected: str | None = None,
    factors: Sequence[str] | None = None,
    shift: Mapping[str, Any] | str | Path | None = None,
    dev_share: float = 0.5,
    name: str | None = None,
    encoding: str = "utf-8",
) -> Examples:
    """Load examples and split them into pools by cluster, the same way on every machine.

    Args:
        source: A file (.jsonl, .json, .csv, .tsv, .parquet) or a list of dicts. All arguments from `text` to `expected`
            name a column of it; a named column must be filled in every row.
        label: Column of the variable. Its values (bool, whole number or text) are kept as text.
        cluster: Column of the unit that is never torn apart: film, template, speaker. Without it a text is its own.
        source_text: Column with the text of the paired run (see `pairs`), kept as `Example.source`.
        factors: Columns to keep as further outside causes; without it every remaining column is kept.
        shift: Rows from another distribution, which make the shift pool: `{"column": "domain", "is": ["news"]}`, or a
            second file with the same columns.
        dev_share: Share of the clusters that may be looked at freely.
        name: What to call the data; else the file's name.
        encoding: Of a text file, if it is not UTF-8.

    Raises:
        BadRows: A row lacks something; the message holds the line numbers and nothing is loaded.
        CannotRead, UnknownColumn, MixedTypes, OneClass, OneClassInPool, UnseenClass, PoolTooSmall: As they say.
    """
    if not 0 < dev_share < 1:
        raise UserError(f"dev_share is {dev_share}, and must lie between 0 and 1: both pools need clusters. Try 0.5")
    named = {"text": text, "label": label, "cluster": cluster, "answer": answer, "foil": foil}
    named |= {"source": source_text, "expected": expected}
    columns = _Columns({k: v for k, v in named.items() if v is not None}, None if factors is None else tuple(factors))
    table = read_table(source, encoding)
    rows, numbered = _build(table, columns)
    shifted: Sequence[Example] = ()
    if isinstance(shift, Mapping):
        rows, shifted = _flagged(table, rows, numbered, shift)
    elif shift is not None:
        shifted, _ = _build(read_table(shift, encoding), columns)
    title = name or (Path(source).stem if isinstance(source, str | Path) else "examples")
    return split(rows, shifted, dev_share=dev_share, title=title, variable=parts.name(label or ""), source=table.source)


@dataclass(frozen=True)
class _Columns:
    """Which column fills which field of an example."""

    named: Mapping[str, str]
    factors: tuple[str, ...] | None

    def check(self, table: Table) -> _Columns:
        """Every asked column must be in some row; a row without it is that row's fault and told with its line."""
        known = table.columns
        for wanted in (*self.named.values(), *(self.factors or ())):
            if wanted not in known:
                raise UnknownColumn(wanted, table.source, known)
        if self.factors is not None:
            return self
        return replace(self, factors=tuple(key for key in known if key not in self.named.values()))


def _build(table: Table, columns: _Columns) -> tuple[list[Example], list[Mapping[str, Any]]]:
    """All rows as examples, or all that is wrong with them."""
    if not table.rows and not table.problems:
        raise CannotRead(table.source, "it holds no rows", "Add examples, one a line, with their column names.")
    if not table.rows:
        raise BadRows(table.source, table.problems, table.unit)
    columns = columns.check(table)
    built: list[Example] = []
    problems = list(table.problems)
    for number, row in table.rows:
        try:
            built.append(_example(row, columns))
        except _BadValue as error:
            problems.append((number, str(error)))
    if problems:
        raise BadRows(table.source, problems, table.unit)
    for key in ("label", "cluster"):
        if key in columns.named:
            _check_one_type(table, columns.named[key])
    return built, [row for _, row in table.rows]


class _BadValue(Exception):
    """Why one row can't be used."""


def _example(row: Mapping[str, Any], columns: _Columns) -> Example:
    fields: dict[str, Any] = {}
    for key, column in columns.named.items():
        if column not in row:
            raise _BadValue(f"no '{column}'")
        fields[key] = _CONVERT[key](row[column], column)
    fields["factors"] = {column: as_factor(row.get(column), column) for column in columns.factors or ()}
    return make_example(**fields)


def _check_one_type(table: Table, column: str) -> None:
    """1, "1" and True would all become the same text: better to ask than to merge them."""
    first: dict[str, str] = {}
    for number, row in table.rows:
        value = row[column]
        kind = "true/false" if isinstance(value, bool) else "text" if isinstance(value, str) else "numbers"
        first.setdefault(kind, f"{table.unit} {number}")
    if len(first) > 1:
        raise MixedTypes(column, table.source, list(first.items()))


def _flagged(
    table: Table, rows: Sequence[Example], raw: Sequence[Mapping[str, Any]], shift: Mapping[str, Any]
) -> tuple[list[Example], list[Example]]:
    """Part the rows by the value of one column."""
    if set(shift) != {"column", "is"}:
        raise UserError(f'shift has the keys {sorted(shift)}. Write: shift={{"column": "domain", "is": ["news"]}}')
    column, asked = shift["column"], shift["is"]
    if column not in table.columns:
        raise UnknownColumn(column, table.source, table.columns)
    found = [as_factor(row.get(column), column) for row in raw]
    values = asked if isinstance(asked, list | tuple | set | frozenset) else [asked]
    wanted = {as_factor(value, column) for value in values}
    for absent in sorted(wanted - set(found)):
        known = sorted(set(found))
        listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise UserError(
            f"No row of {table.source} has '{absent}' in '{column}'. {nearest(absent, known)}It holds: {listed}"
        )
    inside = [e for e, value in zip(rows, found, strict=True) if value not in wanted]
    return inside, [e for e, value in zip(rows, found, strict=True) if value in wanted]


# One value of a row, as the field needs it.


def _missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _whole(value: str, column: str) -> str:
    """Text that can be written down: half a surrogate pair, which JSON lets through, can't."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _BadValue(f"'{column}' holds half a surrogate pair, which is not valid text") from None
    return value


def _text(value: Any, column: str) -> str:
    if _missing(value):
        raise _BadValue(f"'{column}' is empty")
    if not isinstance(value, str):
        raise _BadValue(f"'{column}' is a {type(value).__name__}, where text is needed")
    return _whole(value, column)


def _short(value: Any, column: str) -> str:
    """A label, cluster or continuation: text, a whole number or true/false."""
    if _missing(value):
        raise _BadValue(f"'{column}' is empty")
    if isinstance(value, str):
        return _whole(value, column)
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a whole number that passed through a table with gaps
    if isinstance(value, float):
        raise _BadValue(f"'{column}' is {value}, and must be one of a few values: sort it into classes first")
    raise _BadValue(f"'{column}' is a {type(value).__name__}, where text, a whole number or true/false is needed")


def as_factor(value: Any, column: str) -> str:
    """Any value as text; what is missing is empty."""
    if _missing(value):
        return ""
    if isinstance(value, list | dict):
        return _whole(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str), column)
    return parts.name(_whole(str(value), column))


_CONVERT: dict[str, Callable[[Any, str], str]] = dict.fromkeys(parts.FIELDS, _short) | {"text": _text, "source": _text}
