"""The record that can only grow: rows in SQLite, each holding the hash of the one before.

Triggers refuse a change of a past row; whoever removes the triggers breaks the chain of hashes, which
`verify` finds. Someone who rewrites the whole chain, or cuts off its end, is found by a head that was
printed elsewhere (each report prints one): `verify(head=...)`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from veriscope.errors import LedgerBroken, LedgerUnwritable, NotALedger, nearest
from veriscope.ledger.canonical import canonical, digest

KINDS = ("study", "card", "look", "try", "evidence", "verdict", "failure", "note")
START = "0" * 64  # what the first row names as the hash before it
WAIT_S = 60.0  # how long a writer waits for the others

_APPLICATION = 0x76736C67  # "vslg" in the file's header: tells a ledger from any other SQLite file
_SCHEMA = {
    "rows": """CREATE TABLE rows (
    seq INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    previous TEXT NOT NULL UNIQUE, hash TEXT NOT NULL UNIQUE)""",
    "rows_kind": "CREATE INDEX rows_kind ON rows (kind)",
    # Tries are looked up by their whole body, and are short.
    "rows_try": "CREATE INDEX rows_try ON rows (body) WHERE kind = 'try'",
    "no_update": "CREATE TRIGGER no_update BEFORE UPDATE ON rows BEGIN "
    "SELECT RAISE(ABORT, 'a ledger row cannot be changed'); END",
    "no_delete": "CREATE TRIGGER no_delete BEFORE DELETE ON rows BEGIN "
    "SELECT RAISE(ABORT, 'a ledger row cannot be deleted'); END",
    # INSERT OR REPLACE deletes without firing the delete trigger, so the place of a new row is checked as well.
    "only_append": "CREATE TRIGGER only_append BEFORE INSERT ON rows "
    "WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM rows) "
    "BEGIN SELECT RAISE(ABORT, 'a ledger row can only be appended'); END",
}
_COLUMNS = "seq, time, kind, body, previous, hash"


@dataclass(frozen=True)
class Row:
    """One line of the record."""

    seq: int  # 1, 2, 3, ... without a gap
    time: str  # UTC, ISO 8601
    kind: str  # one of KINDS
    body: Mapping[str, Any]
    previous: str  # hash of the row before
    hash: str  # of all the above


class Ledger:
    """An append-only, hash-chained record in one SQLite file. Safe for many threads and processes at once."""

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        """Open a ledger, or start one where there is no file yet.

        Args:
            path: The file. Its folder must exist.
            read_only: Open for reading alone. A ledger that may not be written is opened so in any case.

        Raises:
            NotALedger: The file holds something else, or is not there and `read_only` was asked.
            LedgerUnwritable: A new ledger can't be started here.
        """
        self.path = str(path)
        self.read_only = read_only
        self._lock = threading.RLock()
        self._connect()

    @classmethod
    def in_memory(cls) -> Ledger:
        """A ledger that ends with the process."""
        return cls(":memory:")

    def append(self, kind: str, body: Mapping[str, Any]) -> Row:
        """Add a row and return it once it is safely on disk.

        Raises:
            ValueError, TypeError: An unknown kind, or a body that is not plain data (see `canonical`).
            LedgerUnwritable: The file is read-only, locked for a minute, or the disk is full.
        """
        return self._write(kind, body, once=False)

    def append_once(self, kind: str, body: Mapping[str, Any]) -> Row:
        """Like `append`, but return the earlier row where the same kind with the same body is there already."""
        return self._write(kind, body, once=True)

    def rows(self, kind: str | None = None, **where: Any) -> list[Row]:
        """Rows in the order they were written.

        Args:
            kind: Only this kind.
            where: Only rows whose body has these top-level fields with these values (compared as canonical JSON, so
                True is not 1).
        """
        asked = {key: canonical(value) for key, value in where.items()}
        # A top-level field stands literally in the canonical text; a nested one may match too and is dropped below.
        needles = [f"{canonical(key)}:{value}" for key, value in asked.items()]
        tests = ["instr(body, ?)"] * len(needles) + (["kind = ?"] if kind is not None else [])
        found = self._read(tests, [*needles, *([kind] if kind is not None else [])])
        return [row for row in found if all(k in row.body and canonical(row.body[k]) == v for k, v in asked.items())]

    def head(self) -> str:
        """Hash of the last row: print it where it can't be changed, and `verify(head=...)` finds a shortened ledger."""
        with self._lock, self._reading():
            last = self._connection().execute("SELECT hash FROM rows ORDER BY seq DESC LIMIT 1").fetchone()
        return last[0] if last else START

    def verify(self, head: str | None = None) -> int:
        """Compute every hash again.

        Args:
            head: A head noted earlier, which must still be in the chain.

        Returns:
            The number of rows.

        Raises:
            LedgerBroken: A row was changed, removed, inserted or moved, a trigger is gone, or `head` is not found.
        """
        with self._lock, self._reading():
            connection = self._connection()
            raw = connection.execute(f"SELECT {_COLUMNS} FROM rows ORDER BY seq")
            n = verify_chain(raw, head=head, source=self.path)
            sound = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
        if sound != "ok":  # a false index would hide rows from `rows`
            raise LedgerBroken(n, f"SQLite finds its file damaged ({sound})", self.path)
        for name in sorted(_SCHEMA.keys() | found.keys()):
            if _SCHEMA.get(name) != found.get(name):
                change = "was removed" if name not in found else "was altered" if name in _SCHEMA else "was added"
                raise LedgerBroken(n, f"'{name}' of its schema, which lets rows be added alone, {change}", self.path)
        return n

    def export(self, path: str | Path) -> int:
        """Write all rows as JSON Lines (one canonical object a line); the file appears whole or not at all.

        Returns:
            The number of rows written. Check such a file with `import_check`.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8", newline="\n") as out:
                rows = self._read([], [])
                out.writelines(canonical(row_fields(row) | {"hash": row.hash}) + "\n" for row in rows)
                out.flush()
                os.fsync(out.fileno())
            part.replace(target)
        except OSError as error:
            raise LedgerUnwritable(str(target), error.strerror or str(error)) from error
        finally:
            part.unlink(missing_ok=True)
        return len(rows)

    def close(self) -> None:
        """Close the file. Not needed in ordinary use."""
        with self._lock:
            self._db.close()

    def __len__(self) -> int:
        with self._lock, self._reading():
            return self._connection().execute("SELECT COUNT(*) FROM rows").fetchone()[0]

    def __bool__(self) -> bool:
        return True  # an empty ledger is still a ledger: `ledger or current()` must not pass it over

    def __repr__(self) -> str:
        return f"Ledger({self.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path == ":memory:":
            raise TypeError("a ledger in memory can't be sent to another process: give it a file")
        return _reopen, (os.path.abspath(self.path), self.read_only)

    # helpers

    def _write(self, kind: str, body: Mapping[str, Any], once: bool) -> Row:
        if kind not in KINDS:
            raise ValueError(f"the ledger has no kind '{kind}'. {nearest(kind, KINDS)}Kinds: {', '.join(KINDS)}")
        text = canonical(body)  # before the lock: a bad body must not touch the file
        if self.read_only:
            raise LedgerUnwritable(self.path, "it is open for reading only")
        with self._lock, self._transaction() as connection:
            if once:
                same = f"SELECT {_COLUMNS} FROM rows WHERE kind = ? AND body = ? LIMIT 1"
                # The literal lets SQLite use the index that holds tries alone.
                same = same.replace("kind = ?", "kind = 'try' AND kind = ?") if kind == "try" else same
                found = connection.execute(same, (kind, text)).fetchone()
                if found:
                    return _row(found)
            last = connection.execute("SELECT seq, hash FROM rows ORDER BY seq DESC LIMIT 1").fetchone()
            seq, previous = (last[0] + 1, last[1]) if last else (1, START)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            row = Row(seq, now, kind, json.loads(text), previous, "")
            row = Row(seq, now, kind, row.body, previous, digest(row_fields(row)))
            values = (seq, now, kind, text, previous, row.hash)
            connection.execute(f"INSERT INTO rows ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values)
        return row

    def _read(self, tests: list[str], values: list[Any]) -> list[Row]:
        clause = f"WHERE {' AND '.join(tests)}" if tests else ""
        with self._lock, self._reading():
            query = f"SELECT {_COLUMNS} FROM rows {clause} ORDER BY seq"
            return [_row(raw) for raw in self._connection().execute(query, values).fetchall()]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")  # the write lock before the head is read: no two rows share a parent
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise LedgerUnwritable(self.path, str(error)) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # used after `close`: a mistake in the caller, not in the file
        except sqlite3.DatabaseError as error:
            raise LedgerBroken(0, f"SQLite cannot read the file ({error})", self.path) from error

    def _connection(self) -> sqlite3.Connection:
        """The open file; after a fork a new one, since SQLite connections must not cross it."""
        if self._pid != os.getpid() and self.path != ":memory:":
            _left_behind.append(self._db)  # closing it here could drop the parent's files
            self._connect()
        return self._db

    def _connect(self) -> None:
        self._pid = os.getpid()
        try:
            self._db = _open(self.path, self.read_only)
        except LedgerUnwritable as error:
            code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF  # the lower byte is the kind of error
            if code not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or not os.path.isfile(self.path):
                raise
            self._db, self.read_only = _open(self.path, True), True


_left_behind: list[sqlite3.Connection] = []


def row_fields(row: Row) -> dict[str, Any]:
    """What a row's hash covers."""
    return {"seq": row.seq, "time": row.time, "kind": row.kind, "body": row.body, "previous": row.previous}


def verify_chain(raw_rows: Any, *, head: str | None, source: str) -> int:
    """Check an ordered stream of (seq, time, kind, body as canonical text, previous, hash).

    Raises:
        LedgerBroken: At the first row that is not what was written, or if `head` is nowhere in the chain.
    """
    previous, n, found = START, 0, head in (None, START)
    for raw in raw_rows:
        seq, kept = raw[0], raw[5]
        if seq != n + 1:
            raise LedgerBroken(n + 1, f"row {n + 1} is missing or out of order (row {seq} stands there)", source)
        row = _row(raw, source)
        if row.previous != previous:
            raise LedgerBroken(seq, "it does not follow from the row before it", source)
        if not _holds(row, raw[3]):
            raise LedgerBroken(seq, "its time, kind or body is not what was written", source)
        previous, n, found = kept, seq, found or kept == head
    if not found:
        raise LedgerBroken(
            n + 1, f"the head {str(head)[:16]}... is not in the chain: its end was cut off or rewritten", source
        )
    return n


def _holds(row: Row, text: str) -> bool:
    try:
        return canonical(row.body) == text and digest(row_fields(row)) == row.hash
    except ValueError:  # NaN, which `json` reads and no ledger writes
        return False


def _row(raw: tuple[Any, ...], source: str = "the ledger") -> Row:
    seq, moment, kind, text, previous, kept = raw
    try:
        body = json.loads(text)
        if not isinstance(body, dict) or not all(isinstance(v, str) for v in (moment, kind, previous, kept)):
            raise ValueError
    except (ValueError, TypeError):
        raise LedgerBroken(seq, "it is not a row that a ledger writes", source) from None
    return Row(seq, moment, kind, body, previous, kept)


def _open(path: str, read_only: bool) -> sqlite3.Connection:
    """Open or start the file and make sure that it is a ledger."""
    if read_only and not os.path.exists(path):
        raise NotALedger(path, "there is no such file")
    if not Path(path).absolute().parent.is_dir():
        raise LedgerUnwritable(path, f"its folder is not there (mkdir -p {Path(path).parent})")
    try:
        connection = _link(path, read_only)
        found = connection.execute("PRAGMA application_id").fetchone()[0]
        if found == _APPLICATION:
            return connection
        if read_only or connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise NotALedger(path, "it is an SQLite file with other contents")
        _start(connection)
    except sqlite3.OperationalError as error:
        raise LedgerUnwritable(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise NotALedger(path, str(error)) from error
    return connection


def _link(path: str, read_only: bool) -> sqlite3.Connection:
    def connect(target: str, uri: bool) -> sqlite3.Connection:
        db = sqlite3.connect(target, timeout=WAIT_S, isolation_level=None, check_same_thread=False, uri=uri)
        db.text_factory = _text
        db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # opens the file, which `connect` does not
        return db

    if not read_only:
        connection = connect(path, False)
        connection.execute("PRAGMA synchronous = FULL")  # a row that was returned survives a power cut
        return connection
    address = Path(path).absolute().as_uri()
    try:
        return connect(f"{address}?mode=ro", True)
    except sqlite3.OperationalError:
        if os.path.exists(f"{path}-wal"):
            raise
        # In a folder without write permission WAL's shared memory can't be made; without a log none is needed.
        return connect(f"{address}?immutable=1", True)


def _text(raw: bytes) -> str:
    """Text that was damaged must reach `verify`, which finds it, and not stop SQLite half-way."""
    return raw.decode("utf-8", "surrogateescape")


def _start(connection: sqlite3.Connection) -> None:
    """Write the tables, unless another process that opened the same new file was quicker."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError:  # this pragma does not wait for a lock by itself
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            for statement in _SCHEMA.values():
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _reopen(path: str, read_only: bool) -> Ledger:
    return Ledger(path, read_only=read_only)
