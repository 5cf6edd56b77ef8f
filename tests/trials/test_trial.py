"""One card through its trial: what was tried is counted, looks are counted, verdicts can be decided again."""

from __future__ import annotations

from typing import Any

import pytest

from veriscope.claims.represents import BATTERY, Represents
from veriscope.errors import UserError
from veriscope.examples import examples
from veriscope.ledger import Ledger, use
from veriscope.methods import MeanDifference
from veriscope.subjects import Subject
from veriscope.trials.evidence import Verdict, from_plain
from veriscope.trials.judge import Effort
from veriscope.trials.trial import decide_again, trial
from veriscope.zoo.planted import LEAKED, USED, Planted

SMALL = Effort(draws=3, twins=2, random=4, folds=3, search=64)
BED = Planted(seed=2, bits=0.3, rows=1_500)
FAINT = Planted(seed=2, bits=0.1, rows=500)


@pytest.fixture(scope="module")
def subjects() -> dict[Planted, Subject]:
    return {bed: bed.subject() for bed in (BED, FAINT)}


def tried(subject: Subject, bed: Planted, variable: str, ledger: Ledger, **given: Any) -> Verdict:
    data = bed.examples(variable)
    seeds = given.pop("seeds", 1)
    effort = given.pop("effort", SMALL)
    with use(ledger):
        findings = [MeanDifference(site="residual", seed=seed).fit(subject, data.dev) for seed in range(seeds)]
        claim = Represents(findings[0], of=variable, on=data, **given)
        return trial(claim, subject=subject, ledger=ledger, effort=effort)


@pytest.fixture
def without_slow_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Represents, "battery", tuple(s for s in BATTERY if s.gate not in ("g4", "r9")))


@pytest.mark.parametrize(
    "word, bed, variable, given",
    [
        ("SUPPORTED", BED, USED, {}),
        ("REFUTED", BED, LEAKED, {}),
        ("INVALID", BED, USED, {"margins": {"i0": 0.95}}),
        ("INCONCLUSIVE", FAINT, USED, {"smallest_effect": 0.015}),
    ],
)
@pytest.mark.usefixtures("without_slow_gates")
def test_a_verdict_is_decided_again_from_the_ledger_alone(
    subjects: dict[Planted, Subject], word: str, bed: Planted, variable: str, given: dict[str, Any]
) -> None:
    ledger = Ledger.in_memory()

    verdict = tried(subjects[bed], bed, variable, ledger, **given)

    assert verdict.word == word
    assert decide_again(ledger, verdict.card) == [verdict]
    assert from_plain(Verdict, ledger.rows("verdict")[0].body["verdict"]) == verdict
    assert len(ledger.rows("look")) == (word in ("SUPPORTED", "REFUTED"))


@pytest.mark.usefixtures("without_slow_gates")
def test_a_leak_in_the_input_is_refuted_by_the_twins_and_a_second_effort_keeps_its_own_evidence(
    subjects: dict[Planted, Subject],
) -> None:
    ledger = Ledger.in_memory()
    first = tried(subjects[BED], BED, LEAKED, ledger)
    second = tried(subjects[BED], BED, LEAKED, ledger, effort=Effort(draws=2, twins=1, random=4, folds=3, search=64))

    assert first.card == second.card and first != second
    assert "dead salmon" in first.sentence
    assert decide_again(ledger, first.card) == [first, second]


@pytest.mark.usefixtures("without_slow_gates")
def test_every_seed_tried_counts_and_so_does_every_look(subjects: dict[Planted, Subject]) -> None:
    ledger = Ledger.in_memory()
    searched = tried(subjects[BED], BED, USED, ledger, seeds=5)
    other = tried(subjects[BED], BED, USED, ledger, name="said otherwise")

    card = ledger.rows("card", hash=searched.card)[0].body["card"]
    assert searched.tries == card["search"] == 5 and "Tried before: 5." in searched.sentence
    assert (searched.looks, other.looks) == (1, 2)
    assert decide_again(ledger, searched.card) == [searched]


def test_every_direction_of_a_search_counts(subjects: dict[Planted, Subject]) -> None:
    from veriscope.claims.card import UNSTATED
    from veriscope.methods.searched_direction import SearchedDirection
    from veriscope.trials.trial import write_card

    ledger, data = Ledger.in_memory(), BED.examples(USED)
    with use(ledger):
        finding = SearchedDirection(site="residual", count=30).fit(subjects[BED], data.dev)

    assert write_card(Represents(finding, of=USED, on=data), subjects[BED], ledger, UNSTATED).search == 30


def test_a_finding_of_another_model_and_an_unknown_card_are_refused(subjects: dict[Planted, Subject]) -> None:
    data = BED.examples(USED)
    with use(Ledger.in_memory()) as ledger:
        finding = MeanDifference(site="residual").fit(subjects[BED], data.dev)
        with pytest.raises(UserError, match="Fit it again on this subject"):
            trial(Represents(finding, of=USED, on=data), subject=subjects[FAINT], ledger=ledger)
        assert not ledger.rows("card")

    with pytest.raises(UserError, match="The ledger holds no card abc"):
        decide_again(ledger, "abc")


def test_a_finding_that_learnt_from_the_gate_pool_is_refused_before_it_is_opened(
    subjects: dict[Planted, Subject],
) -> None:
    ledger, data = Ledger.in_memory(), BED.examples(USED)
    rows = [
        {"text": e.text, "v": e.label, "cell": e.cluster} for e in (*data.dev.examples, *data.gate._sample.examples)
    ]
    wider = examples(rows, label="v", cluster="cell", dev_share=0.8)
    opened = data.gate.open(by="a card", ledger=ledger)

    for learnt in (wider.dev, opened):
        finding = MeanDifference(site="residual").fit(subjects[BED], learnt)
        with pytest.raises(UserError, match=r"learnt from \d+% of the texts in the gate pool .* Fit it on `data.dev`"):
            trial(Represents(finding, of=USED, on=data), subject=subjects[BED], ledger=ledger, effort=SMALL)
    assert not ledger.rows("card")
