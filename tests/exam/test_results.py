"""The result file and the pages written from it: development and final parts stay apart, nothing is typed by hand."""

from __future__ import annotations

import json
import math
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made import BATTERY, an_exam, outcome

from veriscope.errors import NotRun, UserError
from veriscope.exam.curves import measured, svg
from veriscope.exam.keep import BATTERIES, Outcome
from veriscope.exam.pages import PAGES, PICTURE, TABLES, filled, parts, said, shown, write
from veriscope.exam.results import check_frozen, judged_by, merged, packaged, part, read, record
from veriscope.trials import rates
from veriscope.trials.evidence import Estimate, GateResult
from veriscope.trials.rates import FARTHEST, Confidence, error_rates, evidence_score, exam_results

ROOT = Path(__file__).parents[2]


def final_exam(n: int = 20) -> list[Outcome]:
    return [replace(o, seed=o.seed + 100, engine_seed=o.seed + 100) for o in an_exam(n)]


def test_the_figures_of_an_exam_worked_by_hand() -> None:
    found = part(an_exam(20), date="2026-01-01")

    assert (found["false_supported"], found["false_n"], found["missed"], found["true_n"]) == (0, 60, 1, 20)
    assert found["false_bound"] == pytest.approx(1 - 0.05 ** (1 / 60))
    assert found["bed"] == "the bed made" and found["overstated_n"] == 0
    assert found["inconclusive"] == 1 and found["decided_n"] == 100  # the small true ones are not clearly true
    assert found["auroc"] == 1.0 and found["brier"] < 0.05 and 0 < found["log_score"] < 0.3
    assert found["sensitivity"]["found_at"] == pytest.approx(2 ** (0.8 / 0.95))  # from 0 at 1 to 0.95 at 2
    assert found["cost"] == {"cpu_seconds": 1.5, "passes": 300, "whole_seconds": 0.0}
    assert "not_run" in found["flips"]
    by_trap = {r["trap"]: r for r in found["rivals"]}
    assert by_trap["breaks all else"]["veriscope"] == 0 and by_trap["breaks all else"]["shipped checks"] == 20
    assert by_trap["twin does it too"]["common practice"] == 20 and by_trap["coin"]["common practice"] == 0


def test_overstated_claims_stand_beside_the_false_ones_and_are_not_among_them() -> None:
    found = part([*an_exam(5), *(outcome(False, "F3", "too large", i) for i in range(5))], date="")

    assert (found["false_supported"], found["false_n"]) == (0, 15)
    assert (found["overstated_supported"], found["overstated_n"]) == (5, 5)
    assert "5 of 5" in said(found)["overstated claims supported"]


def test_flips_are_counted_from_further_engine_seeds() -> None:
    again = [replace(o, engine_seed=o.seed + 7, word="INCONCLUSIVE") for o in an_exam(2) if o.grade == "T1x4"]

    found = part([*an_exam(2), *again], date="")

    assert found["flips"] == {"claims": 2, "changed": 2, "rate": 1.0, "to_supported": 2}
    assert found["false_n"] == 6


def test_an_exam_with_nothing_to_tell_apart_is_refused() -> None:
    with pytest.raises(UserError, match="0 true ones"):
        part([o for o in an_exam(2) if not o.truth], date="")


def test_development_and_final_parts_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(UserError, match="no development part"):
        record(path, final_exam(), final=True, date="2026-01-02")

    dev = record(path, an_exam(20), final=False, date="2026-01-01")["C9"]["dev"]
    both = record(path, final_exam(10), final=True, date="2026-01-02")["C9"]

    assert both["dev"] == dev == read(path)["C9"]["dev"]
    assert (both["dev"]["false_n"], both["final"]["false_n"]) == (60, 30)
    assert both["final"]["confidence"] == both["dev"]["confidence"]  # frozen, not fitted again
    assert merged(both, "C1", "dev", {"x": 1})["C1"] == {"dev": {"x": 1}}


def test_final_claims_are_not_spent_under_other_margins(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    record(path, an_exam(5), final=False, date="")
    harder = tuple(replace(s, margin=0.2) if s.gate == "g2" else s for s in BATTERY)

    with pytest.raises(UserError, match=r"no longer those that were frozen \(g2\)"):
        record(path, [replace(o, battery=harder) for o in final_exam(5)], final=True, date="")


def test_final_claims_are_refused_before_any_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(UserError, match="C2 has no development part"):
        check_frozen(path, ("C2",))

    battery = pkgutil.resolve_name("veriscope.claims.mediates:BATTERY")
    margins = {s.gate: s.margin for s in battery if s.margin is not None}
    frozen = {"confidence": {}, "margins": margins, "judged_by": judged_by("C2", battery)}

    def written(**changed: Any) -> Path:
        path.write_text(json.dumps({"C2": {"dev": {**frozen, **changed}}}), encoding="utf-8")
        return path

    assert check_frozen(written(), ("C2",)) == []
    with pytest.raises(UserError, match=r"no longer those that were frozen \(g5\)"):
        check_frozen(written(margins={**margins, "g5": 0.7}), ("C2",))
    other = {**frozen["judged_by"], "gates": {**frozen["judged_by"]["gates"], "g1": "other", "g99": "gone"}}
    with pytest.raises(UserError, match=r"battery of C2 is no longer .*\(g1, g99 added, dropped or changed\)"):
        check_frozen(written(judged_by=other), ("C2",))
    assert check_frozen(written(judged_by={**frozen["judged_by"], "code": "older"}), ("C2",)) == ["C2"]


def test_words_of_a_gate_are_no_part_of_what_judges_and_its_rule_is() -> None:
    def changed(**fields: Any) -> bool:
        other = [replace(s, **fields) if s.gate == "g2" else s for s in BATTERY]
        return judged_by("C9", other) != judged_by("C9", BATTERY)

    assert not changed(title="other words", asks="more?") and not changed(margin=0.3)  # margins are kept in full
    assert changed(role="diagnostic") and changed(run="elsewhere:gate") and changed(if_fired="CONDITIONAL")


def test_final_claims_say_whether_the_code_was_the_frozen_one(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    record(path, an_exam(5), final=False, date="")

    assert record(path, final_exam(5), final=True, date="")["C9"]["final"]["judged_by"]["as_frozen"] is True
    assert "as frozen" in TABLES["versions"](read(path))


# --- what a verdict prints


@pytest.fixture
def on_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A result file of one type in the place of the package's."""
    path = tmp_path / "results.json"
    record(path, an_exam(20), final=False, date="2026-01-01")
    monkeypatch.setattr(rates, "exam_results", lambda: read(path))
    return path


def test_a_verdict_prints_development_rates_as_such_until_there_are_final_ones(on_file: Path) -> None:
    line = error_rates("C9 MADE UP")

    assert "On the bed made (development claims, no final exam yet, 2026-01-01)" in line
    assert "supported 0 of 60 false claims (at most 4.9%) and missed 1 of 20 true ones" in line
    assert "multiplies the odds by at least 12" in line and "confidence" not in line

    record(on_file, final_exam(10), final=True, date="2026-01-02")
    assert "(final claims, 2026-01-02)" in error_rates("C9 MADE UP") and "0 of 30" in error_rates("C9 MADE UP")
    assert "have not been measured yet" in error_rates("C8 NEVER")


@pytest.mark.usefixtures("on_file")
def test_a_verdict_on_fewer_clusters_than_were_examined_says_so() -> None:
    one = outcome(True, "T0")
    few = [
        replace(g, estimate=Estimate(0.5, 0.45, 0.55, 100, 49)) if g.gate == "i0" else g  # one fewer than the exam's
        for g in one.gates
    ]

    assert "hardly measured" not in error_rates("C9", BATTERY, one.gates)
    assert "had 50 clusters or more in their instrument check, this one 49:" in error_rates("C9", BATTERY, few)


@pytest.mark.usefixtures("on_file")
def test_a_verdict_states_a_confidence_from_its_gates() -> None:
    true, false = outcome(True, "T1x4"), outcome(False, "F2", g3=0.3)

    high, low = (float(error_rates("C9", o.battery, o.gates).split()[-1].rstrip(".")) for o in (true, false))

    assert high > 0.85 and low < 0.15


def test_a_false_support_names_its_worst_kind(on_file: Path) -> None:
    supported = [outcome(False, "F2", "slips through", i) for i in range(4)]
    record(on_file, [*an_exam(20), *supported], final=False, date="2026-01-03")

    assert "Worst kind: slips through, 4 of 4." in error_rates("C9")


def gap(value: float, margin: float, tenth: float) -> float:
    """A gate's distance by hand: its gap over standard error and a tenth of its margin, at most 10 either way."""
    width = ((0.05 / 1.6449) ** 2 + tenth**2) ** 0.5
    return 10 * math.tanh((value - margin) / width / 10)


FAR, SHARE = gap(0.5, 0.1, 0.01), gap(0.95, 0.8, 0.02)  # as `made` has them: 8.5 and 3.9


@pytest.mark.parametrize(
    "values, distances",
    [
        ({}, [FAR, FAR, SHARE]),  # a share that must be high is counted in tenths of its distance to 1
        ({"g1": 0.2}, [gap(0.2, 0.1, 0.01), FAR, SHARE]),  # 3.0: 0.1 beyond, with a standard error of 0.03
        ({"g3": 0.75}, [FAR, FAR, gap(0.75, 0.8, 0.02)]),  # -1.4
        ({"g1": 0.0, "g2": 0.0}, [gap(0.0, 0.1, 0.01)] * 2 + [SHARE]),  # two as weak: log(2) less than one
        ({"f4": "fired"}, [FAR, FAR, SHARE, -FARTHEST]),
        ({"r5": -9.0}, [FAR, FAR, SHARE]),  # a rival does not decide
    ],
)
def test_the_evidence_score_by_hand(values: dict[str, Any], distances: list[float]) -> None:
    one = outcome(True, "T0", **values)

    score = evidence_score(one.battery, one.gates)

    assert score == pytest.approx(-math.log(sum(math.exp(-d) for d in distances)), rel=1e-3)
    assert min(distances) - math.log(len(distances)) <= score <= min(distances)


def test_a_gate_left_open_beyond_its_margin_counts_for_nothing() -> None:
    one = outcome(False, "F1", "learnt from more", g2=0.3)
    gates = tuple(replace(r, outcome="unclear") if r.gate == "g2" else r for r in one.gates)

    assert evidence_score(one.battery, gates) < 0.1 < evidence_score(one.battery, one.gates)


def test_behind_a_failed_instrument_nothing_was_learnt_and_no_confidence_is_stated(on_file: Path) -> None:
    one = outcome(True, "T0", i0=0.0)

    assert evidence_score(one.battery, one.gates) == 0.0
    assert "Stated confidence" not in error_rates("C9", one.battery, one.gates)
    assert "Stated confidence" in error_rates("C9", one.battery, outcome(True, "T0").gates)


def test_exact_estimates_are_told_apart_by_their_margins() -> None:
    def exact(value: float) -> list[GateResult]:
        return [
            replace(g, estimate=Estimate(value, value, value, 9, 9)) if g.gate == "g1" else g
            for g in outcome(True, "T0").gates
        ]

    scores = [evidence_score(BATTERY, exact(value)) for value in (-0.5, 0.0, 0.05, 0.11, 0.2, 0.3)]

    assert scores == sorted(scores) and len(set(scores)) == len(scores)
    assert scores[2] < 0 < scores[3]


def test_a_gate_that_fails_without_an_estimate_counts_as_failed() -> None:
    gates = [
        replace(g, outcome="fail", estimate=NotRun("x")) if g.gate == "g3" else g for g in outcome(True, "T0").gates
    ]

    assert evidence_score(BATTERY, gates) == pytest.approx(-FARTHEST, abs=1e-3)


@pytest.mark.parametrize("made_of_it", ["CONDITIONAL", "UNDERDETERMINED", "INVALID"])
def test_a_falsifier_that_qualifies_caps_the_score_at_nothing_shown(made_of_it: str) -> None:
    one = outcome(True, "T0", f4="fired")
    battery = tuple(replace(s, if_fired=made_of_it) if s.gate == "f4" else s for s in one.battery)

    assert evidence_score(battery, one.gates) == pytest.approx(0.0, abs=0.03) and evidence_score(battery, one.gates) < 0


def test_stated_confidence_never_says_more_than_its_claims_can_show() -> None:
    assert Confidence(0.0, 100.0, 58).of(9.0) == pytest.approx(59 / 60)
    assert Confidence(0.0, 100.0, 58).of(-9.0) == pytest.approx(1 / 60)


# --- the package's own file and the pages


def test_the_packages_margins_are_those_that_were_examined() -> None:
    for claim_type, _, found in parts(exam_results()):
        module = f"veriscope.claims.{BATTERIES[claim_type]}"
        battery = {s.gate: s.margin for s in pkgutil.resolve_name(f"{module}:BATTERY") if s.margin is not None}
        assert found.get("margins", battery) == battery, f"{claim_type}: margins changed since its exam"


def test_the_packages_rows_add_up_to_its_headlines() -> None:
    for *_, found in parts(exam_results()):
        false = [r for r in found["rows"] if not r["truth"] and r["grade"] in ("F0", "F1", "F2")]
        assert sum(r["n"] for r in false) == found["false_n"]
        assert sum(r["supported"] for r in false) == found["false_supported"]


def test_every_gate_of_the_exam_on_file_carries_weight() -> None:
    for claim_type, _, found in shown(exam_results()):
        idle = [m["gate"] for m in found["mutations"] if not m["trap"] and not m["chooses"]]
        assert idle == [], f"{claim_type}: plant what {idle} are there for, or drop them"


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_are_those_that_the_results_write(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    assert filled(text, exam_results()) == text, "run: veriscope exam --write-docs"
    assert "<!-- exam: headlines -->" in text


def test_the_curves_are_those_that_the_results_draw() -> None:
    found, path = measured(shown(exam_results())), ROOT / PICTURE

    assert path.is_file() == bool(found)
    assert not found or path.read_text(encoding="utf-8") == svg(found), "run: veriscope exam --write-docs"


def test_the_packages_file_is_the_one_that_final_claims_are_held_to_by_default() -> None:
    assert read(packaged()) == exam_results()


def test_every_table_is_on_the_page_a_sceptic_reads() -> None:
    text = (ROOT / "docs/exam.md").read_text(encoding="utf-8")

    assert all(f"<!-- exam: {name} -->" in text for name in TABLES)


def test_pages_are_written_from_results_and_final_claims_take_their_place(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    marks = "".join(f"<!-- exam: {name} -->\nold\n<!-- end -->\n" for name in TABLES)
    for page in PAGES:
        (tmp_path / page).write_text(marks, encoding="utf-8")
    path = tmp_path / "results.json"
    record(path, an_exam(20), final=False, date="2026-01-01")
    results = record(path, final_exam(10), final=True, date="2026-01-02")

    write(tmp_path, results)

    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "old" not in text and "C9, final claims, 2026-01-02" in text and "0 of 30 (at most 9.5%)" in text
    assert "| C9 | false: twin does it too | F1 | 0 of 10 | 10 of 10 | 0 of 10 |" in text
    assert "| C9 | false | 30 | 0 (0%) | 20 (67%) | 10 (33%) |" in text
    assert "| C9 | true, twice the smallest effect | 10 | 9 (90%) | 10 (100%) | 10 (100%) |" in text
    assert "| C9 | g2 twins | F1 twin does it too | 0 to 10 of 10 | 20 | 10 F1 |" in text
    assert "| C9 | true: twice | T1x2 | made | missed in 1 of 10 (1 INCONCLUSIVE) |" in text
    picture = ElementTree.fromstring((tmp_path / "docs/exam-curves.svg").read_text(encoding="utf-8"))
    assert "C9: 0 of 10 at 1 times, 9 of 10 at 2 times, 10 of 10 at 4 times" in "".join(picture.itertext())
    assert "2026-01-01" in text  # both parts are in the table of versions
    assert filled(text, results) == text
    assert json.loads(path.read_text(encoding="utf-8")) == results


def test_an_unknown_table_and_a_folder_without_pages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no exam table 'nonsense'"):
        filled("<!-- exam: nonsense -->\n<!-- end -->", {})
    with pytest.raises(UserError, match=r"no docs/exam.md in .*project's own folder"):
        write(tmp_path, {})
