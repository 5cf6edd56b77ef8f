"""Study files: read whole, refused by name, corrected across claims, resumed without loss."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_study
from veriscope.claims.represents import BATTERY, Represents
from veriscope.errors import NotRun, UserError
from veriscope.ledger import Ledger
from veriscope.studies import BadStudy, across, draft, parse_study, prepare, read_study, run_study
from veriscope.trials.evidence import Verdict
from veriscope.trials.trial import GateTooSmall, corrected, decide_again

pytestmark = pytest.mark.usefixtures("short_battery")
DOCS = Path(__file__).parent.parent / "docs" / "studies.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("study")
    tiny_study.lay_out(where)
    return where


@pytest.fixture(scope="module")
def short_battery() -> Iterator[None]:
    """Without the two slow gates, which no test here is about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Represents, "battery", tuple(s for s in BATTERY if s.gate not in ("g4", "r9")))
        yield


def parsed(what: dict[str, Any] | str, folder: Path = Path(".")) -> Any:
    text = what if isinstance(what, str) else yaml.safe_dump(what, sort_keys=False)
    return parse_study(text, "s.yaml", folder, "s")


def claim(**fields: Any) -> dict[str, Any]:
    return tiny_study.plan(claims=[{"represents": {"finding": "tone", "on": "tones", **fields}}])


def without(part: str, key: str) -> dict[str, Any]:
    whole = tiny_study.plan()
    return {**whole, part: {k: v for k, v in whole[part].items() if k != key}}


ROWS = {"path": "rows.jsonl", "label": "tone", "cluster": "film"}
TWO_TYPES = [{"represents": {"finding": "tone", "on": "tones"}, "mediates": {"finding": "tone", "on": "tones"}}]
BAD: dict[str, tuple[dict[str, Any] | str, str, str]] = {  # what is wrong, the complaint, the mend
    "empty": ("", "it holds no keys", "Begin with `subject:`"),
    "not yaml": ("subject: [a\nclaims: b: c", "it is not valid YAML (line 2", "Mend that line."),
    "a key twice": ("subject: a\nsubject: b", "line 2: the key 'subject' stands twice", "Mend that line."),
    "unknown key": (tiny_study.plan(subjcet="x"), "unknown key 'subjcet'", "Did you mean 'subject'?"),
    "unknown examples key": (
        tiny_study.plan(examples={"tones": {**ROWS, "lable": "tone"}}),
        "unknown key 'examples.tones.lable'",
        "Did you mean 'label'?",
    ),
    "unknown claim key": (
        claim(smalest_effect=0.1),
        "claim 1 (represents) has the unknown key 'smalest_effect'",
        "Did you mean 'smallest_effect'?",
    ),
    "unknown effort": (tiny_study.plan(effort={"twin": 3}), "unknown key 'effort.twin'", "Did you mean 'twins'?"),
    "no effort": (tiny_study.plan(effort={"folds": 1}), "'effort.folds' is 1", "at least 2 folds"),
    "no purpose": ({k: v for k, v in tiny_study.plan().items() if k != "purpose"}, "'purpose' is missing", "Add"),
    "purpose half filled": (without("purpose", "cheaper"), "'purpose.cheaper' is missing", "Add `cheaper:` (what one"),
    "purpose left blank": (tiny_study.plan(purpose={**tiny_study.PURPOSE, "stop": ""}), "'purpose.stop'", "Mend"),
    "no claims": (tiny_study.plan(claims=[]), "'claims': Tuple should have at least 1 item", "Mend that entry."),
    "two types": (tiny_study.plan(claims=TWO_TYPES), "claim 1 has 2 types (represents, mediates)", "split it in two"),
    "two primary outcomes": (claim(primary=["a", "b"]), "claim 1 has 2 primary outcomes", "make a claim of each"),
    "unknown type": (
        tiny_study.plan(claims=[{"represent": {"finding": "tone", "on": "tones"}}]),
        "claim 1 has the unknown type 'represent'",
        "Did you mean 'represents'?",
    ),
    "type that is nowhere": (
        tiny_study.plan(claims=[{"nowhere.at_all:Claim": {"finding": "tone", "on": "tones"}}]),
        "claim 1 has a type that can't be imported",
        "Mend that path.",
    ),
    "unknown finding": (claim(finding="tune"), "claim 1 names finding 'tune'", "Did you mean 'tone'?"),
    "unknown examples": (claim(on="tunes"), "claim 1 names on 'tunes'", "Did you mean 'tones'?"),
    "finding on unknown examples": (
        tiny_study.plan(findings={"tone": {"method": "MeanDifference", "on": "tune", "site": "x"}}, claims=[]),
        "'claims': Tuple",
        "Mend",
    ),
    "finding on nothing": (
        tiny_study.plan(findings={"tone": {"method": "MeanDifference", "site": "x"}}, claims=claim()["claims"]),
        "finding 'tone' is made on 'None', which is not among the examples",
        "Known: tones, coins",
    ),
    "finding without a method": (
        tiny_study.plan(findings={"tone": {"on": "tones", "site": "x"}}, claims=claim()["claims"]),
        "finding 'tone' names no method",
        "Add `method:`",
    ),
    "a field left out": (
        tiny_study.plan(claims=[{"steers": {"finding": "tone", "on": "tones"}}]),
        "claim 1 (steers) lacks 'toward'",
        "Add `toward:` to it.",
    ),
    "a value of another type": (
        claim(smallest_effect="small"),
        "claim 1 (represents): 'smallest_effect' is 'small'",
        "Mend that entry.",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_study_is_refused_with_what_is_wrong_and_the_mend(kind: str) -> None:
    text, complaint, mend = BAD[kind]

    with pytest.raises(BadStudy) as refused:
        parsed(text)

    message = str(refused.value)
    assert message.startswith("s.yaml: ") and complaint in message and mend in message


def test_a_study_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")

    with pytest.raises(BadStudy, match="there is no such file"):
        read_study(tmp_path / "none.yaml")
    with pytest.raises(BadStudy, match="Save it as UTF-8"):
        read_study(tmp_path / "latin.yaml")


def test_on_yes_and_no_are_words_and_true_is_not() -> None:
    text = yaml.safe_dump(tiny_study.plan(), sort_keys=False).replace("'on':", "on:")
    text = text.replace("name: ''", "").replace("harm: none known", "harm: no")
    assert "\n    on: tones" in text

    plan = parsed(text + "\nmode: targeted\n").plan

    assert plan.findings["tone"]["on"] == "tones" and plan.purpose.harm == "no" and plan.mode == "targeted"
    with pytest.raises(BadStudy, match=r"'purpose\.harm'"):
        parsed(text.replace("harm: no", "harm: true"))


def test_the_example_of_the_documentation_is_a_study() -> None:
    block = re.search(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None

    study = parse_study(block[1], "docs", Path("."), "docs")

    assert [next(iter(c)) for c in study.plan.claims] == ["represents", "mediates", "necessary", "steers"]


# what can only be seen once model and rows are there


def refused(folder: Path, what: dict[str, Any]) -> str:
    with pytest.raises(UserError) as complaint:
        draft(parsed(what, folder))
    return str(complaint.value)


def test_a_finding_at_a_site_or_setting_that_is_not_there_is_refused(folder: Path) -> None:
    findings = tiny_study.plan()["findings"]
    astray = {**findings, "tone": {**findings["tone"], "site": "blocks.1.resid_pots"}}
    unset = {**findings, "tone": {**findings["tone"], "sight": "x"}}

    assert "Did you mean 'blocks.1.resid_post'?" in refused(folder, tiny_study.plan(findings=astray))
    assert "MeanDifference has no setting 'sight'. Did you mean 'site'?" in refused(
        folder, tiny_study.plan(findings=unset)
    )


def test_an_effect_of_nothing_and_a_lowered_margin_are_refused(folder: Path) -> None:
    assert "smallest_effect is 0.0; it must be above 0" in refused(folder, claim(smallest_effect=0.0))
    assert "a card may raise it but 0.01 asks for less" in refused(folder, claim(margins={"g2": 0.01}))


def test_a_long_text_is_refused_even_in_the_closed_pool_and_no_look_is_spent(folder: Path) -> None:
    rows = tiny_study.rows()
    for row in rows:
        row["text"] = row["text"] if row["film"] != "film 3" else "n1 " * tiny_study.CONTEXT + "good"
    tiny_study.write_rows(folder / "long.jsonl", rows)
    data = {"tones": {**ROWS, "path": "long.jsonl"}}
    one = tiny_study.plan(
        examples=data, findings={"tone": tiny_study.plan()["findings"]["tone"]}, claims=claim()["claims"]
    )

    message = refused(folder, one)

    assert "takes 25 tokens, but model has a context of 24. Shorten it." in message


def test_a_gate_pool_too_small_is_refused(folder: Path) -> None:
    tiny_study.write_rows(folder / "few.jsonl", tiny_study.rows(120))
    few = tiny_study.plan(
        examples={"tones": {**ROWS, "path": "few.jsonl"}},
        findings={"tone": tiny_study.plan()["findings"]["tone"]},
        claims=claim()["claims"],
    )

    with pytest.raises(GateTooSmall, match=r"needs at least 100 items in 20 clusters\. Add examples of new clusters"):
        draft(parsed(few, folder))


# running


def test_every_site_and_seed_tried_is_counted_and_all_cards_come_before_the_first_look(folder: Path) -> None:
    findings = tiny_study.plan()["findings"]
    more = {**findings, "again": {**findings["tone"], "seed": 1}}  # two sites, as for `tone`
    ledger = Ledger.in_memory()

    ready = prepare(parsed(tiny_study.plan(findings=more), folder), ledger)

    assert [card.search for card in ready.cards] == [4, 1]
    assert not ledger.rows("look") and len(ledger.rows("card")) == 2


class Killed(BaseException):
    """Ends a run where nothing can catch it."""


def test_a_study_stopped_and_gone_on_with_is_the_study_run_through(folder: Path) -> None:
    study, whole, parts = read_study(folder / "study.yaml"), Ledger.in_memory(), Ledger.in_memory()
    through = run_study(study, whole)
    seen: list[str] = []

    def stop(name: str) -> Any:
        def told(gate: str, state: str) -> None:
            seen.append(f"{name} {gate} {state}")
            if state == "running" and sum("running" in s for s in seen) % 7 == 0:
                raise Killed

        return told

    for _ in range(9):
        try:
            resumed = run_study(study, parts, progress=stop)
            break
        except Killed:
            continue
    else:
        pytest.fail("never ended")

    gates = [(r.body["card"], r.body["gate"]) for r in parts.rows("evidence")]
    assert len(gates) == len(set(gates)) == len(whole.rows("evidence"))
    assert [plain(v) for v in resumed.verdicts] == [plain(v) for v in through.verdicts]
    assert any("kept" in s for s in seen) and parts.verify() == len(parts)


def plain(verdict: Verdict) -> tuple[Any, ...]:
    """A verdict without what the clock put into it."""
    return verdict.word, verdict.level, verdict.sentence, verdict.card, verdict.tries, verdict.looks, verdict.p_value


def test_more_tried_between_does_not_rewrite_a_card_whose_pool_was_opened(folder: Path) -> None:
    study, ledger = read_study(folder / "study.yaml"), Ledger.in_memory()
    first = run_study(study, ledger)
    findings = tiny_study.plan()["findings"]
    wider = tiny_study.plan(findings={**findings, "again": {**findings["tone"], "seed": 1}})

    prepare(parsed(wider, folder), ledger)
    second = run_study(study, ledger)

    assert [plain(v) for v in second.verdicts] == [plain(v) for v in first.verdicts]
    assert len(ledger.rows("evidence")) == len({(r.body["card"], r.body["gate"]) for r in ledger.rows("evidence")})


# across claims


def verdict(p: float | None, word: str = "SUPPORTED", card: str = "c") -> Verdict:
    sentence = f"Toy model only: {word} at L2 [C1 REPRESENTS]."
    return Verdict(
        claim="C1 REPRESENTS",
        name=card,
        card=card,
        word=word,  # type: ignore[arg-type]
        level=2,
        useful=False,
        advantage=False,
        sentence=sentence,
        gates=(),
        effect=NotRun("by hand"),
        unit="bits",
        strongest_control="",
        best_rival="",
        not_tested=(),
        looks=1,
        tries=1,
        error_rates="",
        p_value=p,
    )


def test_a_support_that_does_not_hold_against_the_number_of_claims_is_withdrawn() -> None:
    strong = [verdict(1e-6, card=f"s{i}") for i in range(3)]
    lost = [verdict(0.6, "REFUTED", f"r{i}") for i in range(16)]
    weak = verdict(0.04, card="weak")

    settled = across([*strong, weak, *lost])

    assert [v.word for v in settled] == ["SUPPORTED"] * 3 + ["INCONCLUSIVE"] + ["REFUTED"] * 16
    assert settled[3].sentence.startswith("Toy model only: INCONCLUSIVE (not supported) [C1 REPRESENTS].")
    assert "20 were tried together (Benjamini-Hochberg at 0.05)" in settled[3].sentence


def test_alone_or_without_a_p_value_nothing_is_corrected() -> None:
    alone, untested = [verdict(0.04)], [verdict(None), verdict(0.9, "REFUTED", "r")]

    assert across(alone) == alone and across(untested) == untested and across([]) == []


def test_a_corrected_verdict_is_decided_again_from_the_ledger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from veriscope import studies

    monkeypatch.setattr(studies, "_p_values", lambda verdicts: [0.9] * 19 + [v.p_value for v in verdicts])
    monkeypatch.setattr("veriscope.trials.trial.decide", _kindly)
    ledger = Ledger.in_memory()

    outcome = run_study(read_study(folder / "study.yaml"), ledger)

    assert [v.word for v in outcome.verdicts] == ["INCONCLUSIVE", "INCONCLUSIVE"]
    for final in outcome.verdicts:
        before, after = decide_again(ledger, final.card)
        assert before.word == "SUPPORTED" and after == final == corrected(before, [0.9] * 19 + [0.04, 0.04])


def _kindly(battery: Any, results: Any) -> Any:
    from veriscope.trials.decide import Decision

    return Decision("SUPPORTED", 2, False, False, "every gate was passed", "", 0.04)
