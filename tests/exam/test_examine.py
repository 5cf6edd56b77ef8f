"""The exam on the worked example's bed: true is told from false, nothing is run twice, every verdict is counted."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made import an_exam
from rich.console import Console
from typer.testing import CliRunner

from veriscope import cli
from veriscope.errors import NotRun, UserError
from veriscope.exam import examine, rows
from veriscope.exam.again import mutations, without
from veriscope.exam.attempt import Task, attempt
from veriscope.exam.examine import APART, FLIPPED, WORDS, Ahead, first_turn, tasks_of, usual_processes
from veriscope.exam.keep import Outcome
from veriscope.exam.planting import Planting
from veriscope.exam.results import read
from veriscope.exam.terminal import begins, figure_table, mutation_table, table, weak_table
from veriscope.zoo import planted


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def outcomes(kept: Path) -> Iterator[list[Outcome]]:
    """One claim of each kind, tried by whichever test comes first."""
    yield examine("C1", "own_bed", count=1, processes=1, keep=kept)


def printed(shown: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(shown)
    return out.getvalue()


def test_the_worked_example_tells_true_from_false(outcomes: list[Outcome]) -> None:
    assert {o.trap: o.word for o in outcomes} == {
        "a coin": "REFUTED",
        "stands in the input": "REFUTED",
        "planted and read by nothing else": "SUPPORTED",
    }
    for row in rows(outcomes):
        assert row["type"] == "C1" and row["bed"] == "own_bed"
        assert row["n"] == sum(row[word.lower()] for word in WORDS) == 1


def test_other_practice_believes_what_stands_in_the_input(outcomes: list[Outcome]) -> None:
    coin, surface, bit = (o.rivals for o in outcomes)

    assert surface["common practice"] and bit["common practice"] and not coin["common practice"]
    assert surface["interval"] and surface["shuffled labels"] and not coin["shipped checks"]


@pytest.mark.usefixtures("outcomes")
def test_what_was_kept_is_not_run_again(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("veriscope.exam.examine")
    monkeypatch.setattr(module, "attempt", lambda task: pytest.fail("it was run again"))
    told: list[tuple[int, int]] = []

    again = examine("C1", "own_bed", count=1, processes=1, keep=kept, told=lambda *now: told.append(now))

    assert told == [(3, 3)] and [o.word for o in again] == ["REFUTED", "REFUTED", "SUPPORTED"]
    assert all(o.gates and o.battery and o.cpu_seconds > 0 and o.passes > 0 for o in again)


def test_a_killed_exam_loses_only_the_claim_that_was_being_written(
    outcomes: list[Outcome], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (kept / "C1.jsonl").read_text(encoding="utf-8")
    (tmp_path / "C1.jsonl").write_text(text[:-500], encoding="utf-8")
    module, run = importlib.import_module("veriscope.exam.examine"), []
    tried = {o.key: o for o in outcomes}
    monkeypatch.setattr(module, "attempt", lambda task: run.append(task) or tried[task.key])

    again = examine("C1", "own_bed", count=1, processes=1, keep=tmp_path)

    assert len(run) == 1 and len(again) == 3
    assert len(examine("C1", "own_bed", count=1, processes=1, keep=tmp_path)) == 3 and len(run) == 1


@pytest.mark.slow
def test_a_worker_process_comes_to_the_same(outcomes: list[Outcome], tmp_path: Path) -> None:
    other = examine("C1", "own_bed", count=1, grade="T0", processes=2, keep=tmp_path)

    def plain(o: Outcome) -> Outcome:
        return replace(
            o, seconds=0.0, cpu_seconds=0.0, whole_seconds=0.0, gates=tuple(replace(g, seconds=0.0) for g in o.gates)
        )

    assert [plain(o) for o in other] == [plain(outcomes[2])]


def strict(**settings: Any) -> Any:
    """The worked example's claims with an instrument that can't be passed."""
    claim, subject = importlib.import_module("own_bed").build(**settings)
    return replace(claim, margins={"i0": 0.999}), subject


def test_gates_behind_a_failed_instrument_are_run_for_the_mutation_table() -> None:
    settings = (("label", "bit"), ("seed", 1), ("n", 1_500))
    planting = Planting("C1", True, "T0", "instrument too strict", f"{__name__}:strict", settings)

    found = attempt(Task("own_bed", planting, 1, "key", rivals=False))

    assert found.word == "INVALID" and found.rivals == {}
    assert [g.gate for g in found.gates] == [s.gate for s in found.battery]
    assert not any(isinstance(g.estimate, NotRun) for g in found.gates if g.role == "gate")
    assert without(found, "i0") in ("SUPPORTED", "INCONCLUSIVE")  # decided by the others: g5 is close on this net


def test_further_engine_seeds_are_for_the_first_claims_of_each_kind_and_are_not_counted() -> None:
    every = [("planted", p) for p in planted.plantings("C1", FLIPPED + 2, seed=0)]

    tasks = tasks_of(every, flips=3)

    assert len(tasks) == len(every) + 2 * FLIPPED * len(planted.C1_KINDS)
    assert len({t.key for t in tasks}) == len(tasks)
    assert {t.engine_seed - dict(t.planting.settings)["seed"] for t in tasks} == {0, APART, 2 * APART}
    assert [t.rivals for t in tasks] == [t.engine_seed == dict(t.planting.settings)["seed"] for t in tasks]
    flipped = [*an_exam(2), *(replace(o, engine_seed=o.seed + APART) for o in an_exam(2))]
    assert first_turn(flipped) == an_exam(2) and rows(flipped) == rows(an_exam(2))


def test_the_tables_state_the_bound_that_matters_for_each_truth() -> None:
    counts = printed(table(rows(an_exam(60))))

    assert "<= 4.9%" in counts and ">= 95%" in counts
    assert "60 of 60" not in counts
    figures = printed(figure_table(an_exam(60)))
    assert "0 of 180 (at most 1.7%)" in figures and "1 of 60 (at most 7.7%)" in figures
    held = printed(mutation_table(mutations(an_exam(5))))
    assert "carries no weight here" in held and "F1 twin does it too (made)" in held and "5 (5 F1)" in held
    wrong = printed(weak_table([*an_exam(4), *(replace(o, word="SUPPORTED") for o in an_exam(1) if o.grade == "F2")]))
    assert "missed in 1 of 4 (1 INCONCLUSIVE)" in wrong and "supported in" in wrong and "coin" not in wrong


def test_what_lies_ahead_is_told_before_it_begins(outcomes: list[Outcome], kept: Path) -> None:
    told: list[Ahead] = []

    examine("C1", "own_bed", count=1, processes=1, keep=kept, ahead=told.append)

    assert told == [Ahead(0, 3, 1, 0.0)] and begins(told[0]) == "3 claims, all kept from before"
    assert "412 claims to try (8 more are kept from before): about 35 min in 4" in begins(Ahead(412, 8, 4, 34.7))
    assert "how long is not known yet in 1 process." in begins(Ahead(1, 0, 1, None))
    assert 1 <= usual_processes() <= 4


def test_a_log_file_is_told_of_each_tenth_and_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *(60.0 * i for i in range(1, 20))])
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    out = io.StringIO()

    tell = cli._tenths(Console(file=out, width=100))
    for done in (50, 55, 60, 61, 100):  # 50 are kept from before
        tell(done, 100)

    assert out.getvalue().splitlines() == ["60 of 100 claims, about 4 min left", "100 of 100 claims, about 0 min left"]


def test_outcomes_say_how_their_claim_is_made_again(outcomes: list[Outcome]) -> None:
    coin = outcomes[0]

    assert coin.build == "own_bed:build" and dict(coin.settings)["seed"] == coin.seed
    assert coin.whole_seconds >= coin.cpu_seconds > 0


def test_every_planting_has_a_seed_of_its_own() -> None:
    every = planted.plantings("C1", 3, seed=1)

    kinds = [(p.grade, p.trap) for p in every]
    assert len(every) == 3 * len(planted.C1_KINDS) and all(kinds.count(k) == 3 for k in set(kinds))
    assert [dict(p.settings)["seed"] for p in every[:3]] == [100_000, 100_001, 100_002]


# --- the command


def test_the_command_prints_one_list_of_rows(outcomes: list[Outcome], veriscope: Any) -> None:
    out = json.loads(veriscope("--json").stdout)

    assert out == rows(outcomes)
    named = ("type", "truth", "grade", "trap", "n", *map(str.lower, WORDS), "bed", "seconds")
    assert {tuple(row) for row in out} == {named}


@pytest.mark.usefixtures("outcomes")
def test_the_command_decides_again_and_shows_what_each_gate_holds_back(veriscope: Any, tmp_path: Path) -> None:
    assert "without" in veriscope("--mutations").stdout and "dead salmon" in veriscope("--mutations").stdout
    assert {m["gate"] for m in json.loads(veriscope("--mutations", "--json").stdout)} > {"i0", "g2", "g5"}
    assert [r["supported"] for r in json.loads(veriscope("--without", "g2", "--json").stdout)] == [0, 0, 1]
    assert "AUROC of the evidence score" in veriscope().stdout

    veriscope("--results", str(tmp_path / "results.json"))
    assert read(tmp_path / "results.json")["C1"]["dev"]["false_n"] == 2


@pytest.mark.parametrize(
    "words, told",
    [
        (("--without", "g77"), "No deciding gate 'g77'"),
        (("--results", "x.json", "--grade", "F0"), "A result file holds whole exams"),
        (("--grade", "F7"), "Planted there: "),
        (("--only", "C1,C77"), "no claim type 'C77' in the exam"),
        (("--final",), "no development part"),
    ],
)
@pytest.mark.usefixtures("outcomes")
def test_the_command_says_what_to_mend(
    veriscope: Any, words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("veriscope.exam.packaged", lambda: tmp_path / "none.json")
    with pytest.raises(UserError, match=told):
        veriscope(*words)


@pytest.fixture
def veriscope(kept: Path) -> Any:
    """`veriscope exam` on the worked example's bed, in this process, with what is kept."""

    def command(*words: str) -> Any:
        common = ["exam", "--bed", "own_bed", "--only", "C1", "--count", "1", "--processes", "1", "--keep", str(kept)]
        return CliRunner().invoke(cli.app, [*common, *words], catch_exceptions=False)

    return command
