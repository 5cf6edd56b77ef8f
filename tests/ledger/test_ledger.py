"""A ledger only grows, finds every change of its past, and survives many writers and a kill."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from veriscope.errors import LedgerBroken, LedgerUnwritable, NotALedger
from veriscope.ledger import START, Ledger, digest, import_check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of five rows."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for i in range(5):
        ledger.append("note", {"i": i, "said": "first"})
    ledger.close()
    return tmp_path / "ledger.sqlite"


def change(path: Path, *statements: str, drop: bool = True) -> None:
    """Do what someone with an SQLite shell would do: take the triggers off, change, and put them back."""
    with sqlite3.connect(path) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers if drop else []:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        for _, text in triggers if drop else []:
            db.execute(text)
    db.close()


def test_rows_come_back_as_they_were_written(path: Path) -> None:
    ledger = Ledger(path)

    row = ledger.append("card", {"card": "abc", "margin": 0.1, "tags": ["ä", None, True], "n": 1})

    assert (row.seq, row.kind) == (6, "card") and row.time.endswith("+00:00") and row.hash == ledger.head()
    assert ledger.rows()[-1] == row and len(ledger) == 6 and ledger.verify() == 6
    assert [r.seq for r in ledger.rows("note")] == [1, 2, 3, 4, 5]
    assert [r.previous for r in ledger.rows()] == [START, *(r.hash for r in ledger.rows()[:-1])]
    fields = {"seq": 6, "time": row.time, "kind": "card", "body": row.body, "previous": row.previous}
    assert row.hash == digest(fields)


def test_rows_are_chosen_by_top_level_fields_and_their_types(path: Path) -> None:
    ledger = Ledger(path)
    ledger.append("card", {"n": 1, "inner": {"m": 2}})
    ledger.append("card", {"n": True, "inner": {"n": 1}})
    ledger.append("card", {"n": 1.0, "m": None})

    assert [r.seq for r in ledger.rows("card", n=1)] == [6]
    assert [r.seq for r in ledger.rows(n=True)] == [7]
    assert [r.seq for r in ledger.rows("card", m=2)] == []
    assert [r.seq for r in ledger.rows("card", m=None)] == [8]
    assert [r.seq for r in ledger.rows("card", inner={"m": 2}, n=1)] == [6]
    assert [r.seq for r in ledger.rows("note", i=3, said="first")] == [4]
    assert ledger.rows("note", said='fi"rst%') == []


def test_an_empty_ledger_is_whole_and_true() -> None:
    ledger = Ledger.in_memory()

    assert ledger.verify() == 0 and ledger.head() == START and ledger.verify(head=START) == 0 and ledger


def test_a_body_that_is_not_plain_data_leaves_nothing_behind() -> None:
    ledger = Ledger.in_memory()

    with pytest.raises(ValueError, match="only finite numbers"):
        ledger.append("note", {"x": float("nan")})
    with pytest.raises(ValueError, match=r"no kind 'looks'. Did you mean 'look'"):
        ledger.append("looks", {})

    assert len(ledger) == 0


def test_the_same_body_is_appended_once_where_asked() -> None:
    ledger = Ledger.in_memory()

    rows = [ledger.append_once(kind, {"a": 1, "b": x}) for kind in ("try", "card") for x in (1, 1, 2)]

    assert [r.seq for r in rows] == [1, 1, 2, 3, 3, 4]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET body = '{}' WHERE seq = 2",
        "DELETE FROM rows WHERE seq = 5",
        "INSERT OR REPLACE INTO rows SELECT seq, time, kind, '{}', previous, hash FROM rows WHERE seq = 5",
        "REPLACE INTO rows SELECT 6, time, kind, '{}', previous, hash FROM rows WHERE seq = 5",
        "INSERT INTO rows VALUES (9, '', 'note', '{}', 'a', 'b')",
        "UPDATE OR REPLACE rows SET seq = 1 WHERE seq = 2",
    ],
)
def test_sqlite_itself_refuses_to_change_a_row(path: Path, statement: str) -> None:
    """The fourth could append, since its place is right: the chain finds it."""
    try:
        change(path, statement, drop=False)
    except sqlite3.IntegrityError as error:
        assert "a ledger row can" in str(error)
        assert Ledger(path).verify() == 5
    else:
        with pytest.raises(LedgerBroken):
            Ledger(path).verify()


@pytest.mark.parametrize(
    "statement, seq",
    [
        ("UPDATE rows SET body = replace(body, 'first', 'other') WHERE seq = 3", 3),
        ("UPDATE rows SET body = body || ' ' WHERE seq = 3", 3),
        ("UPDATE rows SET body = '{\"x\":NaN}' WHERE seq = 3", 3),
        ("UPDATE rows SET body = 'not json' WHERE seq = 3", 3),
        ("UPDATE rows SET body = CAST(body AS BLOB) || x'ff' WHERE seq = 3", 3),
        ("UPDATE rows SET time = '2020-01-01T00:00:00.000+00:00' WHERE seq = 2", 2),
        ("UPDATE rows SET kind = 'verdict' WHERE seq = 5", 5),
        ("UPDATE rows SET hash = replace(hash, 'a', 'b') WHERE seq = 4", 4),
        ("UPDATE rows SET previous = 'x' WHERE seq = 4", 4),
        ("DELETE FROM rows WHERE seq = 3", 3),
        ("DELETE FROM rows WHERE seq = 1", 1),
        ("UPDATE rows SET seq = seq - 1 WHERE seq > 3 AND (SELECT 1)", 3),
        ("INSERT INTO rows SELECT 6, time, kind, body, 'x', 'y' FROM rows WHERE seq = 5", 6),
    ],
)
def test_every_change_of_the_past_is_found_where_it_was_made(path: Path, statement: str, seq: int) -> None:
    before = ["DELETE FROM rows WHERE seq = 3"] if "seq - 1" in statement else []
    change(path, *before, statement)

    with pytest.raises(LedgerBroken, match="veriscope ledger verify") as caught:
        Ledger(path).verify()

    assert caught.value.seq == seq


def test_two_rows_that_changed_places_are_found(path: Path) -> None:
    swap = "UPDATE rows SET seq = CASE seq WHEN -2 THEN 3 ELSE 2 END WHERE seq IN (-2, -3)"
    change(path, "UPDATE rows SET seq = -seq WHERE seq IN (2, 3)", swap)

    with pytest.raises(LedgerBroken, match="row 2: it does not follow"):
        Ledger(path).verify()


def test_a_cut_end_and_a_rewritten_chain_need_a_head_that_was_noted(path: Path, tmp_path: Path) -> None:
    head = Ledger(path).head()
    change(path, "DELETE FROM rows WHERE seq = 5")
    rewritten = Ledger(tmp_path / "other.sqlite")
    for i in range(5):
        rewritten.append("note", {"i": i, "said": "other"})

    assert Ledger(path).verify() == 4 and rewritten.verify() == 5
    for ledger in (Ledger(path), rewritten):
        with pytest.raises(LedgerBroken, match=f"the head {head[:16]}... is not in the chain"):
            ledger.verify(head=head)


def test_a_head_stays_good_as_the_ledger_grows(path: Path) -> None:
    ledger = Ledger(path)
    head = ledger.head()
    ledger.append("note", {})

    assert ledger.verify(head=head) == 6


@pytest.mark.parametrize("name", ["no_update", "no_delete", "only_append"])
def test_a_missing_or_weakened_trigger_is_found(path: Path, name: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"DROP TRIGGER {name}")
    with pytest.raises(LedgerBroken, match=f"'{name}' of its schema"):
        Ledger(path).verify()

    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TRIGGER {name} BEFORE UPDATE ON rows BEGIN SELECT 1; END")
    with pytest.raises(LedgerBroken, match=f"'{name}' of its schema"):
        Ledger(path).verify()


def test_a_view_in_place_of_the_rows_is_found(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE rows RENAME TO kept")
        db.execute("CREATE VIEW rows AS SELECT * FROM kept WHERE kind = 'note'")

    with pytest.raises(LedgerBroken, match="of its schema"):
        Ledger(path).verify()


def test_a_damaged_file_is_told_and_not_a_crash(path: Path) -> None:
    """Whatever the page holds, rows or an index; a damaged index could hide rows from a question."""
    ledger = Ledger(path)
    for extra in range(30):
        ledger.append("note", {"extra": extra, "fill": "x" * 400})
    ledger.close()
    whole = path.read_bytes()
    assert len(whole) >= 9 * 4096
    for page in range(1, 9):
        damaged = path.with_name(f"damaged-{page}")
        damaged.write_bytes(whole[: page * 4096] + b"\x5a" * 4096 + whole[(page + 1) * 4096 :])

        with pytest.raises(LedgerBroken):
            Ledger(damaged).verify()


def test_what_is_not_a_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("This is no database, however long it may be. " * 40)
    with sqlite3.connect(tmp_path / "other.sqlite") as db:
        db.execute("CREATE TABLE films (name TEXT)")
    (tmp_path / "empty").touch()

    with pytest.raises(NotALedger, match=r"text.txt is not a veriscope ledger"):
        Ledger(tmp_path / "text.txt")
    with pytest.raises(NotALedger, match="with other contents"):
        Ledger(tmp_path / "other.sqlite")
    with pytest.raises(LedgerUnwritable, match=r"its folder is not there .mkdir -p"):
        Ledger(tmp_path / "nowhere" / "l.sqlite")
    with pytest.raises(LedgerUnwritable):
        Ledger(tmp_path)
    with pytest.raises(NotALedger, match="no such file"):
        Ledger(tmp_path / "none.sqlite", read_only=True)
    assert Ledger(tmp_path / "empty").verify() == 0  # killed before its first page was written


def test_a_ledger_for_reading_reads_and_refuses_to_write(path: Path) -> None:
    ledger = Ledger(path, read_only=True)

    assert ledger.verify() == 5 and len(ledger.rows("note", i=2)) == 1
    with pytest.raises(LedgerUnwritable, match="open for reading only"):
        ledger.append("note", {})


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="file permissions work otherwise here")
@pytest.mark.parametrize("mode", [0o644, 0o666], ids=["read-only file", "read-only folder"])
def test_a_ledger_that_may_not_be_written_can_still_be_verified(path: Path, mode: int) -> None:
    folder = Path(tempfile.mkdtemp())  # not below pytest's own folder, which another user may not enter
    user = os.geteuid()
    try:
        copy = Path(shutil.copy(path, folder))
        copy.chmod(mode if user == 0 else mode & 0o444)
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # nothing is read-only for root
        ledger = Ledger(copy)
        n = ledger.verify()
        with pytest.raises(LedgerUnwritable, match="open for reading only"):
            ledger.append("note", {})
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)

    assert n == 5 and ledger.read_only


def test_a_write_that_fails_says_so_and_leaves_the_chain_whole(path: Path) -> None:
    ledger = Ledger(path)
    ledger._db.execute("PRAGMA query_only = ON")  # what a read-only disk looks like

    with pytest.raises(LedgerUnwritable, match=r"readonly database. Nothing was recorded"):
        ledger.append("note", {})

    ledger._db.execute("PRAGMA query_only = OFF")
    assert ledger.append("note", {}).seq == 6 and ledger.verify() == 6


APPEND = """
import sys
from veriscope.ledger import Ledger
ledger = Ledger(sys.argv[1])
for i in range(int(sys.argv[2])):
    row = ledger.append("note", {"i": i, "by": sys.argv[3], "fill": "x" * 500})
    print(row.seq, flush=True)
"""


def start_writer(path: Path, n: int, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", APPEND, str(path), str(n), name], stdout=subprocess.PIPE, text=True)


def test_four_processes_append_to_one_new_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    writers = [start_writer(path, 25, f"p{k}") for k in range(4)]

    seqs = [int(line) for writer in writers for line in writer.communicate(timeout=60)[0].split()]

    assert sorted(seqs) == list(range(1, 101)) and Ledger(path).verify() == 100
    for k in range(4):
        assert [row.body["i"] for row in Ledger(path).rows(by=f"p{k}")] == list(range(25))


def test_threads_share_one_ledger(path: Path) -> None:
    ledger = Ledger(path)
    work: Callable[[], None] = lambda: [ledger.append("note", {"t": i}) for i in range(25)] and None  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ledger.verify() == 105


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_opens_the_file_anew(path: Path) -> None:
    ledger = Ledger(path)
    ledger.append("note", {"by": "parent"})

    child = os.fork()
    if child == 0:
        ledger.append("note", {"by": "child"})
        os._exit(0)
    os.waitpid(child, 0)

    ledger.append("note", {"by": "parent"})
    assert [row.body.get("by") for row in ledger.rows()[5:]] == ["parent", "child", "parent"]
    assert ledger.verify() == 8


def test_a_kill_at_any_moment_leaves_a_whole_chain_and_every_row_that_was_returned(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for wait_s in (0.0, 0.005, 0.02):
        writer = start_writer(path, 100_000, "victim")
        assert writer.stdout is not None
        seen = int(writer.stdout.readline())
        time.sleep(wait_s)
        writer.send_signal(signal.SIGKILL)
        seen = max([seen, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        writer.wait()

        after = Ledger(path)
        assert after.verify() >= seen
        assert after.append("note", {"after": "kill"}).seq == after.verify()
        after.close()


def test_a_ledger_travels_to_another_process_by_its_path(path: Path) -> None:
    ledger = pickle.loads(pickle.dumps(Ledger(path)))

    assert ledger.verify() == 5
    with pytest.raises(TypeError, match="give it a file"):
        pickle.dumps(Ledger.in_memory())


# exported files


def test_an_export_is_checked_without_the_ledger(path: Path, tmp_path: Path) -> None:
    ledger = Ledger(path)
    ledger.append("note", {"said": 'line\u2028separator\nand "quotes"', "x": 0.1})
    out = tmp_path / "ledger.jsonl"

    n = ledger.export(out)

    assert n == import_check(out) == import_check(out, head=ledger.head()) == 6
    assert json.loads(out.read_text().split("\n")[0])["body"] == {"i": 0, "said": "first"}
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


def test_an_export_appears_whole_or_not_at_all(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "ledger.jsonl"
    out.write_text("an older export")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LedgerUnwritable, match="No space left"):
        Ledger(path).export(out)

    assert out.read_text() == "an older export" and [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


@pytest.mark.parametrize(
    "tamper, seq",
    [
        (lambda lines: [*lines[:2], lines[2].replace("first", "other"), *lines[3:]], 3),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: [*lines[:2], lines[2].replace('":', '": '), *lines[3:]], 3),
        (lambda lines: [*lines, "{}"], 6),
        (lambda lines: [*lines, ""], 6),
        (lambda lines: [*lines[:4], lines[4].replace('"seq":5', '"seq":"5"')], 5),
    ],
)
def test_every_change_of_an_export_is_found(
    path: Path, tmp_path: Path, tamper: Callable[[list[str]], list[str]], seq: int
) -> None:
    out = tmp_path / "ledger.jsonl"
    Ledger(path).export(out)
    out.write_text("".join(line + "\n" for line in tamper(out.read_text().split("\n")[:-1])))

    with pytest.raises(LedgerBroken) as caught:
        import_check(out)

    assert caught.value.seq == seq


def test_a_cut_export_is_found(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "ledger.jsonl"
    Ledger(path).export(out)
    head, text = Ledger(path).head(), out.read_text()

    out.write_text(text[:-30])
    with pytest.raises(LedgerBroken, match="cut off"):
        import_check(out)
    out.write_text("\n".join(text.split("\n")[:4]) + "\n")
    assert import_check(out) == 4
    with pytest.raises(LedgerBroken, match="not in the chain"):
        import_check(out, head=head)
    with pytest.raises(NotALedger, match=r"none\.jsonl"):
        import_check(tmp_path / "none.jsonl")
