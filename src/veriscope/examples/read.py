"""Rows out of files: JSON Lines, a JSON list, CSV, TSV, Parquet, or a Python list. Nothing is interpreted yet."""

from __future__ import annotations

import csv
import difflib
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veriscope.errors import BadRows, CannotRead

READABLE = ".jsonl, .ndjson, .json, .csv, .tsv, .parquet"


@dataclass(frozen=True)
class Table:
    """Rows with the number under which a person finds each, and what is wrong with the others."""

    source: str
    unit: str  # what the numbers count: "line", "row" or "item"
    rows: tuple[tuple[int, Mapping[str, Any]], ...]
    problems: list[tuple[int, str]] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(key for _, row in self.rows for key in row))


def read_table(source: str | Path | Sequence[Any], encoding: str = "utf-8") -> Table:
    """Read rows without judging their values.

    Raises:
        CannotRead: No such file, an unknown kind of file, or one that can't be understood at all.
        BadRows: Bytes that are not in `encoding`.
    """
    if not isinstance(source, str | Path):
        return _from_list(source, "the given list", "row")
    path = Path(source)
    if path.is_dir():
        raise CannotRead(str(path), "it is a folder", f"Name one file in it ({READABLE}).")
    if not path.is_file():
        raise CannotRead(str(path), "there is no such file", _similar_file(path))
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path)
    readers = {".jsonl": _from_json, ".ndjson": _from_json, ".json": _from_json, ".csv": _from_csv, ".tsv": _from_tsv}
    if suffix not in readers:
        raise CannotRead(
            str(path), f"'{suffix}' is not a kind it knows", f"Give the file one of these endings: {READABLE}."
        )
    return readers[suffix](_decode(path, encoding), str(path))


def _similar_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} is not there either."
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1)
    return f"Did you mean '{folder / near[0]}'?" if near else f"Look for it with: ls {folder}"


def _decode(path: Path, encoding: str) -> str:
    raw = path.read_bytes()
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # spreadsheets put a mark in front, which is not part of the first column's name
    try:
        return raw.decode(encoding)
    except LookupError:
        raise CannotRead(
            str(path), f"Python has no encoding '{encoding}'", 'Leave it out, or name one: "latin-1".'
        ) from None
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig")
        bad = [(n, f"not valid {name}") for n, line in enumerate(raw.split(b"\n"), 1) if not _decodes(line, encoding)]
        bad = bad or [(raw[: error.start].count(b"\n") + 1, f"not valid {name}")]
        mend = (
            'Save it as UTF-8 (iconv -f latin1 -t utf-8 FILE), or name its encoding: examples(..., encoding="latin-1")'
        )
        raise BadRows(str(path), bad, mend=mend) from None


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _from_list(items: Any, source: str, unit: str) -> Table:
    rows, problems = [], []
    for number, item in enumerate(items, start=1):
        if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
            rows.append((number, item))
        else:
            problems.append((number, f"a {type(item).__name__}, where an object with named columns is needed"))
    return Table(source, unit, tuple(rows), problems)


def _from_json(text: str, source: str) -> Table:
    if text.lstrip().startswith("["):  # no line of JSON Lines can start so, whatever the file is called
        try:
            return _from_list(json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant), source, "item")
        except json.JSONDecodeError as error:
            raise BadRows(source, [(error.lineno, f"not valid JSON: {error.msg}")]) from None
        except (ValueError, RecursionError) as error:
            raise BadRows(source, [(1, str(error))], unit="list from line") from None
    rows, problems = [], []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: a string may hold other separators
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            problems.append((number, f"not valid JSON: {error.msg} at column {error.colno}"))
        except (ValueError, RecursionError) as error:
            problems.append((number, str(error)))
        else:
            if isinstance(row, dict):
                rows.append((number, row))
            else:
                problems.append((number, f"a {type(row).__name__}, where an object with named columns is needed"))
    return Table(source, "line", tuple(rows), problems)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key '{twice}' stands twice in one object")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not valid JSON: leave the value out, or write null")


def _from_tsv(text: str, source: str) -> Table:
    # Tab-separated files do not quote: a lone quotation mark is part of the text.
    return _from_separated(text, source, {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def _from_csv(text: str, source: str) -> Table:
    return _from_separated(text, source, {"strict": True})


def _from_separated(text: str, source: str, dialect: dict[str, Any]) -> Table:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    problems: list[tuple[int, str]] = []
    header: list[str] = []
    with _long_fields():
        reader = csv.reader(io.StringIO(text, newline=""), **dialect)
        start = 1
        try:
            for cells in reader:
                if not cells:
                    pass  # a blank line
                elif not header:
                    header = _header(cells, source)
                elif len(cells) != len(header):
                    problems.append((start, f"{len(cells)} fields where the header names {len(header)}"))
                else:
                    # A column without a name is the index that some programs write; it says nothing.
                    rows.append((start, {key: cell for key, cell in zip(header, cells, strict=True) if key}))
                start = reader.line_num + 1
        except csv.Error as error:  # where quotation marks went wrong, the rows after can't be told apart
            problems.append((start, f"{error} (reading stopped here)"))
    return Table(source, "line", tuple(rows), problems)


def _header(cells: list[str], source: str) -> list[str]:
    twice = [cell for i, cell in enumerate(cells) if cell and cell in cells[:i]]
    if twice:
        raise CannotRead(source, f"two columns are called '{twice[0]}'", "Rename one of them.")
    return cells


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB a field, which is process-wide, for as long as one file is read."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _from_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CannotRead(str(path), "pyarrow is not installed", "Type: pip install 'veriscope[parquet]'") from None
    try:
        items = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise CannotRead(
            str(path), f"not a Parquet file ({str(error).splitlines()[0]})", "Write the file anew."
        ) from None
    return _from_list(items, str(path), "row")
