"""A case from end to end: the planted cause stands first, what was kept is used again, and each part owns its gaps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from veriscope.cases import Depth, Log, log_of, read_logs
from veriscope.cases import case as module
from veriscope.cases.case import Case, Options, begin, expected, finish, work
from veriscope.cases.logs import BadLog
from veriscope.cases.models import NoModel, model_of
from veriscope.cases.plain import made, plain
from veriscope.cases.side_effects import Share
from veriscope.errors import NotRun, UserError
from veriscope.report.case_page import page
from veriscope.report.case_terminal import short
from veriscope.report.case_words import headline, strongest, untested

EXAMPLES = Path(__file__).parents[2] / "examples" / "cases"
QUICK = Options(repair=False, depth=Depth(floor=4, strongest=3, shown=1, draws=2, tokens=3), shapley_passes=4.0)


def example(name: str) -> Log:
    return read_logs(EXAMPLES / f"{name}.json")[0]


@pytest.fixture(scope="module")
def trigger() -> Case:
    log = example("trigger_phrase")
    return work(log, model_of(log), options=QUICK)


def test_what_was_planted_is_the_strongest_outside_cause(trigger: Case) -> None:
    found = strongest(trigger)

    assert found is not None and trigger.outside.unit(found.units[0]).text == "silver owl at noon ."
    assert found.nats < -5 and found.above_floor is True
    assert trigger.expected == ("false",)


def test_a_case_is_plain_data_there_and_back(trigger: Case) -> None:
    text = json.dumps(plain(trigger), allow_nan=False)

    again: Case = made(Case, json.loads(text))

    assert again.outside == trigger.outside and again.cruxes == trigger.cruxes and again.shapley == trigger.shapley
    assert plain(again) == plain(trigger)


def test_a_share_of_held_out_logs_comes_back_with_its_bounds() -> None:
    share = Share(3, 8)

    assert made(Share | NotRun, json.loads(json.dumps(plain(share)))) == share


def test_what_was_kept_is_used_again_and_a_torn_file_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trigger: Case
) -> None:
    log = example("trigger_phrase")
    runs: list[str] = []
    real = module.outside

    def counted(*words: Any, **settings: Any) -> Any:
        runs.append("run")
        return real(*words, **settings)

    monkeypatch.setattr(module, "outside", counted)
    first = work(log, model_of(log), options=QUICK, keep=tmp_path)
    second = work(log, model_of(log), options=replace(QUICK, patience=2.0), keep=tmp_path)

    assert module.patient(replace(QUICK, patience=2.0)).work == 2 * module.patient(QUICK).work
    assert runs == ["run"] and plain(first.outside) == plain(second.outside) == plain(trigger.outside)

    (held,) = tmp_path.rglob("outside.json")
    held.write_text(held.read_text()[:100])
    work(log, model_of(log), options=QUICK, keep=tmp_path)
    work(log, model_of(log), options=replace(QUICK, seed=1), keep=tmp_path)

    assert len(runs) == 3 and len(list(tmp_path.iterdir())) == 2


def test_a_log_opens_only_what_is_of_the_zoo() -> None:
    said = {"prompt": "two birds sing .", "completion": " two"}
    named: list[Any] = ["gpt-4", "/etc", {"path": "os:system", "settings": {"command": "true"}}, None]
    named.append({"path": "veriscope.zoo.incidents.models:pkgutil", "settings": {}})

    for model in named:
        with pytest.raises(NoModel, match="--model FOLDER"):
            model_of(log_of({**said, "model": model}))
    with pytest.raises(UserError, match="can't be made of"):
        model_of(log_of({**said, "model": {"path": "veriscope.zoo.incidents.models:rounded", "settings": {"x": 1}}}))

    assert model_of(log_of({**said, "model": "town"})).name == "town"


def test_a_log_says_what_was_expected() -> None:
    said = {"prompt": "two birds sing .", "completion": " two"}

    assert log_of({**said, "expected": "one"}).expected == ("one",)
    assert log_of({**said, "expected": ["one", " "]}).expected == ("one",)
    with pytest.raises(BadLog, match="expected"):
        log_of({**said, "expected": 3})


def test_the_plan_counts_what_will_be_run(trigger: Case) -> None:
    log = example("trigger_phrase")

    plan = expected(begin(log, model_of(log)))

    assert plan.tokens == len(trigger.transcript.ids) and plan.units == len(trigger.outside.units)
    assert plan.seconds > 0


def test_what_is_as_expected_is_foretold_to_take_no_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_one_pass", lambda changes: 1.0)
    log = example("clean")
    changes = begin(log, model_of(log))

    short = expected(changes).seconds
    long = expected(changes, Options(expected=("something else",))).seconds

    assert long - short == pytest.approx(module.CAUSES + module.REPAIRS / module.SHORT)


def test_nothing_before_the_span_but_one_word_still_makes_a_page() -> None:
    log = log_of({"prompt": "two", "completion": " birds sing .", "strange": "birds"})

    case = work(log, model_of(log, "town"), options=QUICK)

    assert "birds" in page(case) and short(case)


@pytest.mark.parametrize("name", ["clean", "lost_context"])
def test_each_example_gets_a_page_and_says_what_was_not_tested(name: str) -> None:
    log = example(name)
    changes = begin(log, model_of(log))

    case = finish(changes, QUICK)
    text = page(case)

    assert text.count("<section") == 8 and "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert headline(case).startswith("Toy model only.")
    assert any("epair" in line for line in untested(case)) == isinstance(case.repairs, NotRun)
