"""The command line end to end: one message and status 2 for what the user can mend, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny_study
from veriscope import cli
from veriscope.claims.represents import BATTERY, Represents
from veriscope.ledger import Ledger
from veriscope.trials.trial import decide_again

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    tiny_study.lay_out(folder)
    return folder


@pytest.fixture
def folder(laid_out: Path, tmp_path: Path) -> Path:
    """A folder of its own for each test, with the model and the rows of the module."""
    for name in ("model", "rows.jsonl", "study.yaml"):
        (tmp_path / name).symlink_to(laid_out / name)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`veriscope ...` in this process: status, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("VERISCOPE_LEDGER", raising=False)

    def veriscope(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["veriscope", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return veriscope


def is_one_message(told: tuple[int, str, str]) -> bool:
    status, out, err = told
    return status == 2 and not out.strip() and err.count("veriscope:") == 1 and "Traceback" not in err


# ---- bad input --------------------------------------------------------------------------------------------------

ONE = {"findings": {"tone": tiny_study.plan()["findings"]["tone"]}, "claims": tiny_study.plan()["claims"][:1]}


def one(rows: str = "rows.jsonl", label: str = "tone", **finding: Any) -> dict[str, Any]:
    """A study of one claim."""
    data = {"tones": {"path": rows, "label": label, "cluster": "film"}}
    made = {"tone": {**ONE["findings"]["tone"], **finding}}
    return tiny_study.plan(examples=data, findings=made, claims=ONE["claims"])


def _one_class(folder: Path) -> dict[str, Any]:
    tiny_study.write_rows(folder / "same.jsonl", [{**row, "tone": "up"} for row in tiny_study.rows()])
    return one("same.jsonl")


def _few(folder: Path) -> dict[str, Any]:
    tiny_study.write_rows(folder / "few.jsonl", tiny_study.rows(120))
    return one("few.jsonl")


def _truncated(folder: Path) -> dict[str, Any]:
    broken = folder / "broken"
    broken.mkdir()
    for part in (folder / "model").iterdir():
        whole = part.read_bytes()
        (broken / part.name).write_bytes(whole[: len(whole) // 2] if part.suffix == ".safetensors" else whole)
    return {**one(), "subject": "broken"}


def _long(folder: Path) -> dict[str, Any]:
    rows = tiny_study.rows()
    for row in rows[10:12]:  # one of them is in the closed pool
        row["text"] = "n1 " * tiny_study.CONTEXT + row["text"]
    tiny_study.write_rows(folder / "long.jsonl", rows)
    return one("long.jsonl")


def _broken_row(folder: Path) -> dict[str, Any]:
    tiny_study.write_rows(folder / "torn.jsonl", tiny_study.rows()).open("a").write('{"text": "n1 go')
    return one("torn.jsonl")


BAD_INPUT: dict[str, tuple[Callable[[Path], dict[str, Any] | str], str, str]] = {
    "a site that does not exist": (
        lambda folder: one(site="blocks.7.resid_post"),
        "has no site 'blocks.7.resid_post'",
        "Did you mean",
    ),
    "labels of one class": (_one_class, "takes only 'up'", "Give examples with at least two values"),
    "a pool too small": (_few, "its gate pool has", "Add examples of new clusters"),
    "a truncated safetensors file": (_truncated, "model.safetensors", ""),
    "an unknown key": (lambda folder: {**one(), "fiding": {}}, "unknown key 'fiding'", "Did you mean 'findings'?"),
    "two primary outcomes": (
        lambda folder: {**one(), "claims": [{"represents": {"finding": "tone", "on": "tones", "primary": ["a", "b"]}}]},
        "claim 1 has 2 primary outcomes",
        "make a claim of each",
    ),
    "a prompt longer than the context": (_long, "has a context of 24", "Shorten it"),
    "no purpose": (
        lambda folder: {k: v for k, v in one().items() if k != "purpose"},
        "'purpose' is missing",
        "Add `purpose:`",
    ),
    "a row that is torn": (_broken_row, "line 261", "Correct or remove"),
    "a label column that is not there": (lambda folder: one(label="tune"), "no column 'tune'", "Did you mean 'tone'?"),
    "a position that some text lacks": (lambda folder: one(position="coin"), "does not occur in the prompt", ""),
    "a model that is not there": (lambda folder: {**one(), "subject": "./nowhere"}, "nowhere", ""),
    "a method that is not there": (
        lambda folder: one(method="MeanDiference"),
        "There is no method",
        "Did you mean 'MeanDifference'?",
    ),
    "not YAML": (lambda folder: "subject: [", "not valid YAML", "Mend that line"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_gives_one_message_and_status_2_and_leaves_nothing(kind: str, folder: Path, run: Run) -> None:
    make, complaint, mend = BAD_INPUT[kind]
    what = make(folder)
    (folder / "study.yaml").unlink()
    study = tiny_study.write_study(folder, what)
    before = sorted(folder.rglob("*"))

    told = run("try", study)

    assert is_one_message(told), told
    assert complaint in told[2] and mend in told[2]
    assert sorted(folder.rglob("*")) == before


def test_the_version_is_told_and_no_command_is_asked_for(run: Run) -> None:
    from veriscope import __version__

    assert run("--version")[:2] == (0, f"veriscope {__version__}\n")


def test_a_refused_study_adds_nothing_to_a_ledger_that_is_there(folder: Path, run: Run) -> None:
    shared = folder / "shared.ledger"
    Ledger(shared).close()
    (folder / "study.yaml").unlink()
    study = tiny_study.write_study(folder, one(site="blocks.7.resid_post"))

    assert is_one_message(run("try", study, "--ledger", shared))
    assert len(Ledger(shared, read_only=True)) == 0


def test_a_ledger_that_can_not_be_used_is_told_before_anything_is_run(folder: Path, run: Run) -> None:
    (folder / "notes.txt").write_text("not a ledger, only a few words")

    astray = run("try", folder / "study.yaml", "--ledger", folder / "no" / "such.ledger")
    wrong = run("try", folder / "study.yaml", "--ledger", folder / "notes.txt")

    assert is_one_message(astray) and "there is no folder" in astray[2]
    assert is_one_message(wrong) and "is not a veriscope ledger" in wrong[2]


@pytest.mark.parametrize("words", [("verify",), ("show",), ("export",), ("report",)])
def test_looking_into_a_ledger_that_is_not_there_makes_none(words: tuple[str], tmp_path: Path, run: Run) -> None:
    out = [tmp_path / "out"] if words[0] in ("export", "report") else []

    told = run("ledger", *words, tmp_path / "none.ledger", *out)

    assert is_one_message(told) and not list(tmp_path.iterdir())


# ---- look things up ---------------------------------------------------------------------------------------------


def test_sites_are_listed_for_people_and_for_programs(folder: Path, run: Run) -> None:
    status, table, _ = run("sites", folder / "model")
    _, listed, _ = run("sites", folder / "model", "--json")

    assert status == 0 and "blocks.1.resid_post" in table
    found = {s["site"]: s for s in json.loads(listed)["sites"]}
    assert found["blocks.0.resid_post"]["width"] == 16


def test_the_zoo_says_what_is_known_of_each_model(run: Run) -> None:
    status, out, _ = run("zoo")

    assert status == 0 and "planted (P1)" in out and "every feature" in out


def test_find_keeps_a_finding_and_counts_its_search(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERISCOPE_LEDGER", str(folder / "search.ledger"))
    words = ("--model", folder / "model", "--on", folder / "rows.jsonl", "--label", "tone", "--cluster", "film")

    status, out, _ = run("find", "MeanDifference", *words, "--site", "blocks.*.resid_post", "--out", folder / "kept")
    bad = run("find", "MeanDifference", *words, "--site", "blocks.9.resid_post", "--out", folder / "lost")

    assert status == 0 and "(2 tried)" in out and (folder / "kept").is_dir()
    assert is_one_message(bad) and not (folder / "lost").exists()
    assert len(Ledger(folder / "search.ledger", read_only=True).rows("try")) == 2


def test_a_plan_tells_time_and_memory_and_runs_nothing(folder: Path, run: Run) -> None:
    before = sorted(folder.rglob("*"))

    status, out, _ = run("try", folder / "study.yaml", "--plan")

    assert status == 0 and "GiB" in out and "forward passes" in out and "119 items, 119 clusters" in out
    assert "SUPPORTED" not in out and sorted(folder.rglob("*")) == before


# ---- a whole run, killed and gone on with ---------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import veriscope.ledger.book as book
from veriscope.claims.represents import BATTERY, Represents

Represents.battery = tuple(s for s in BATTERY if s.gate not in ("g4", "r9"))
append, left = book.Ledger.append, [int(sys.argv.pop(1))]

def counted(self, kind, body):
    row = append(self, kind, body)
    left[0] -= kind == "evidence"
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return row

book.Ledger.append = counted
from veriscope.cli import main
main()
"""


@pytest.fixture(scope="module")
def finished(laid_out: Path) -> Iterator[Path]:
    """The study killed in the middle of its second claim, then run again to its end: its ledger."""
    command = [sys.executable, "-c", KILLED, "11", "try", str(laid_out / "study.yaml")]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(Ledger(laid_out / "study.ledger", read_only=True).rows("evidence")) == 11
    assert not (laid_out / "study.html").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Represents, "battery", tuple(s for s in BATTERY if s.gate not in ("g4", "r9")))
        for _ in range(2):  # the second time there is nothing left to do
            patch.setattr(sys, "argv", ["veriscope", "try", str(laid_out / "study.yaml")])
            patch.delenv("VERISCOPE_LEDGER", raising=False)
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code
    yield laid_out / "study.ledger"


def test_a_killed_study_resumes_with_every_gate_run_once(finished: Path) -> None:
    ledger = Ledger(finished, read_only=True)

    gates = [(r.body["card"], r.body["gate"]) for r in ledger.rows("evidence")]

    assert len(gates) == len(set(gates)) == 16 and ledger.verify() == len(ledger)
    assert len(ledger.rows("card")) == len(ledger.rows("verdict")) == 2
    assert "REFUTED" in finished.with_suffix(".html").read_text(encoding="utf-8")


def test_a_resumed_study_comes_to_the_verdicts_of_one_run_through(
    finished: Path, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Represents, "battery", tuple(s for s in BATTERY if s.gate not in ("g4", "r9")))

    status, out, _ = run("try", folder / "study.yaml", "--ledger", folder / "whole.ledger")

    resumed, whole = Ledger(finished, read_only=True), Ledger(folder / "whole.ledger", read_only=True)
    assert status == 0 and "2 of 2 claims not supported" in out and (folder / "whole.html").is_file()
    for a, b in zip(resumed.rows("verdict"), whole.rows("verdict"), strict=True):
        assert a.body["card"] == b.body["card"] and a.body["verdict"]["sentence"] == b.body["verdict"]["sentence"]
        (again,) = decide_again(resumed, a.body["card"])
        assert (again.word, again.sentence) == (a.body["verdict"]["word"], a.body["verdict"]["sentence"])


def test_a_ledger_is_shown_exported_and_reported(finished: Path, tmp_path: Path, run: Run) -> None:
    sound = run("ledger", "verify", finished)
    shown = run("ledger", "show", finished, "--kind", "verdict")
    written = run("ledger", "export", finished, tmp_path / "rows.jsonl")
    page = run("ledger", "report", finished, tmp_path / "page.html")

    assert sound[0] == 0 and "the chain is whole" in sound[1]
    assert shown[0] == 0 and len(shown[1].splitlines()) == 2
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert written[0] == 0 and len(rows) == len(Ledger(finished, read_only=True))
    assert page[0] == 0 and (tmp_path / "page.html").is_file()


def tampered(finished: Path, where: Path) -> tuple[Path, int]:
    """A copy of the ledger in which one verdict was made a better one."""
    copy = where / "tampered.ledger"
    with sqlite3.connect(finished) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        trigger = target.execute("SELECT sql FROM sqlite_master WHERE name = 'no_update'").fetchone()[0]
        target.execute("DROP TRIGGER no_update")
        row = target.execute("SELECT MIN(seq) FROM rows WHERE kind = 'verdict'").fetchone()[0]
        target.execute("UPDATE rows SET body = replace(body, 'REFUTED', 'SUPPORTED') WHERE seq = ?", (row,))
        target.execute(trigger)
    return copy, row


def test_a_changed_row_is_named_and_the_ledger_is_not_gone_on_with(
    finished: Path, folder: Path, tmp_path: Path, run: Run
) -> None:
    copy, row = tampered(finished, tmp_path)

    verified = run("ledger", "verify", copy)
    resumed = run("try", folder / "study.yaml", "--ledger", copy)

    for told in (verified, resumed):
        assert is_one_message(told) and f"is broken at row {row}:" in told[2]


def test_a_shortened_ledger_is_found_by_the_head_that_was_printed(finished: Path, tmp_path: Path, run: Run) -> None:
    head = Ledger(finished, read_only=True).head()
    short = tmp_path / "short.ledger"
    with sqlite3.connect(finished) as source, sqlite3.connect(short) as target:
        source.backup(target)
        trigger = target.execute("SELECT sql FROM sqlite_master WHERE name = 'no_delete'").fetchone()[0]
        target.execute("DROP TRIGGER no_delete")
        target.execute("DELETE FROM rows WHERE seq = (SELECT MAX(seq) FROM rows)")
        target.execute(trigger)

    assert run("ledger", "verify", short)[0] == 0
    assert is_one_message(run("ledger", "verify", short, "--head", head))
