"""C1 on the bed P1: accepts the true, refuses the false, and each gate carries weight."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from veriscope.claims.represents import BATTERY, Represents
from veriscope.ledger import Ledger, use
from veriscope.methods import LogisticProbe, MeanDifference, RandomDirection
from veriscope.methods.linear import Linear
from veriscope.methods.searched_direction import SearchedDirection
from veriscope.subjects import Subject, WordReader, load
from veriscope.trials.decide import decide
from veriscope.trials.evidence import Verdict
from veriscope.trials.judge import Effort
from veriscope.trials.represents import Bench, _control_keys, redraw
from veriscope.trials.trial import trial
from veriscope.zoo.planted import LEAKED, LOCKED, THING_LABEL, UNUSED, USED, Planted

SMALL = Effort(draws=5, twins=2, random=10, folds=3, search=400)
BED = Planted(seed=2, bits=0.3, rows=2_000)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return BED.subject()


def tried(subject: Subject, variable: str, method: object = None, seed: int = 0) -> Verdict:
    method = method or MeanDifference(site="residual")
    data = BED.examples(variable)
    with use(Ledger.in_memory()) as ledger:
        finding = method.fit(subject, data.dev)  # type: ignore[attr-defined]
        return trial(Represents(finding, of=variable, on=data), subject=subject, ledger=ledger, seed=seed, effort=SMALL)


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {g.gate: g.outcome for g in verdict.gates}


@pytest.mark.parametrize("variable, method", [(USED, "mean"), (UNUSED, "logistic")])
def test_a_planted_feature_is_supported_whether_or_not_the_output_uses_it(
    subject: Subject, variable: str, method: str
) -> None:
    made = MeanDifference(site="residual") if method == "mean" else LogisticProbe(site="residual")

    verdict = tried(subject, variable, made)

    assert (verdict.word, verdict.level) == ("SUPPORTED", 2)
    assert "is linearly readable" in verdict.sentence and verdict.sentence.startswith("Toy model only:")
    assert "uses" not in verdict.sentence


def test_a_true_feature_of_which_more_is_claimed_than_is_there_is_refuted(subject: Subject) -> None:
    data = BED.examples(USED)
    finding = MeanDifference(site="residual").fit(subject, data.dev)
    claim = Represents(finding, of=USED, on=data, smallest_effect=2 * BED.bits)

    with use(Ledger.in_memory()) as ledger:
        verdict = trial(claim, subject=subject, ledger=ledger, effort=SMALL)

    assert verdict.word == "REFUTED"
    assert {outcomes(verdict)[g] for g in ("g2", "g3", "g4", "g5")} == {"fail"}


@pytest.mark.parametrize(
    "variable, by",  # the gates without which the falsehood would have slipped through, all removed together
    [("null", {"g2", "g3", "g4", "g5"}), (LEAKED, {"g3", "g4"}), ("memorised", {"g2", "g3", "g4"})],
)
def test_a_planted_falsehood_is_refuted_by_the_gates_that_are_there_for_it(
    subject: Subject, variable: str, by: set[str]
) -> None:
    verdict = tried(subject, variable)

    kept = [g for g in verdict.gates if g.gate not in by]
    mutated = decide([s for s in BATTERY if s.gate not in by], kept)
    assert verdict.word == "REFUTED" and "not supported" in verdict.sentence
    assert {g for g, o in outcomes(verdict).items() if o == "fail"} <= by
    assert mutated.word != "REFUTED"


def test_the_best_of_many_random_directions_fails_only_against_as_hard_a_search(subject: Subject) -> None:
    verdict = tried(subject, USED, SearchedDirection(site="residual", count=300))

    assert verdict.word == "REFUTED" and verdict.tries >= 300
    assert outcomes(verdict)["g5"] == "fail"
    without = [g for g in verdict.gates if g.gate != "g5"]
    assert "fail" not in {g.outcome for g in without if g.role == "gate"}


class Dead(nn.Module):
    """A network whose inner site is the same whatever it reads."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed, self.residual, self.head = nn.Embedding(size, 8), nn.Identity(), nn.Linear(8, size)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.residual(0 * self.embed(ids) + 1))


def test_a_site_at_which_nothing_could_be_found_gives_invalid_and_leaves_the_gate_pool_closed() -> None:
    dead, data = load(Dead(len(BED.vocab)), tokenizer=WordReader(list(BED.vocab)), name="dead"), BED.examples(USED)

    with use(Ledger.in_memory()) as ledger:
        finding = MeanDifference(site="residual").fit(dead, data.dev)
        verdict = trial(Represents(finding, of=USED, on=data), subject=dead, ledger=ledger, effort=SMALL)

    assert verdict.word == "INVALID" and "the instrument, not the claim, failed" in verdict.sentence
    assert not ledger.rows("look")


@dataclasses.dataclass(frozen=True)
class Remembered(LogisticProbe):
    """A probe that was fitted once and is handed out again whatever the labels are, as a saved direction is."""

    def weights(self, acts, codes, train, *, n_classes, seed=0):  # type: ignore[no-untyped-def]
        if "first" not in KEPT:
            KEPT["first"] = super().weights(acts, codes, train, n_classes=n_classes, seed=seed)
        first, tasks = KEPT["first"], len(codes)
        return Linear(first.weight[:1].repeat(tasks, 1, 1), first.bias[:1].repeat(tasks, 1))


KEPT: dict[str, Linear] = {}


def test_a_direction_that_hears_no_labels_is_held_against_controls_that_do() -> None:
    KEPT.clear()
    bed = Planted(seed=4, rows=2_000, things=32)
    subject, data = bed.subject(), bed.examples(THING_LABEL)

    with use(Ledger.in_memory()) as ledger:
        finding = Remembered(site="residual").fit(subject, data.dev)
        verdict = trial(Represents(finding, of=THING_LABEL, on=data), subject=subject, ledger=ledger, effort=SMALL)

    found = {g.gate: g for g in verdict.gates}
    assert verdict.word != "SUPPORTED" and found["g2"].outcome != "pass"
    assert {found[g].outcome for g in ("i0", "g3", "g4", "g5")} == {"pass"}
    assert found["g2"].strongest == "redrawn per factor thing, LogisticProbe"
    own = next(c.estimate for c in found["g2"].controls if c.name == "redrawn per factor thing, Remembered")
    assert own.value < 0.05  # which alone would have let it pass


LOPSIDED = [("wired", {"wired": True, "bits": 0.2}, {"g3"}), (THING_LABEL, {"things": 32}, {"g2"})]


def lopsided(variable: str, dials: dict, fitted_on: int | None = None) -> Verdict:
    """A claim that learnt from nine times the texts that its controls have."""
    bed = Planted(seed=1, rows=3_600, **dials)
    (learnt, data), subject = bed.lopsided(variable), bed.subject()
    with use(Ledger.in_memory()) as ledger:
        finding = LogisticProbe(site="residual").fit(subject, learnt.dev)
        if fitted_on is not None:
            origin = dataclasses.replace(finding.origin, fitted_on=fitted_on)
            finding = dataclasses.replace(finding, origin=origin)
        claim = Represents(finding, of=variable, on=data)
        return trial(claim, subject=subject, ledger=ledger, effort=dataclasses.replace(SMALL, draws=20, twins=5))


@pytest.mark.parametrize("variable, dials, by", LOPSIDED)
def test_a_claim_that_learnt_from_more_texts_than_its_controls_is_left_open(
    variable: str, dials: dict, by: set[str]
) -> None:
    verdict = lopsided(variable, dials)

    found = {g.gate: g for g in verdict.gates}
    assert verdict.word == "INCONCLUSIVE" and found["i0"].outcome == "pass"
    assert all(found[g].outcome == "unclear" for g in ("g2", "g3", "g4"))
    assert re.match(r"its controls learnt from 1\d\d dev texts, the finding from 1,6\d\d; ", found["g2"].note)
    unsaid = {g.gate: g for g in lopsided(variable, dials, fitted_on=0).gates}
    assert all(unsaid[g].outcome == "unclear" for g in by)  # by what dev could teach of it alone


@pytest.mark.parametrize("variable, dials", [case[:2] for case in LOPSIDED])
def test_without_counting_texts_such_a_claim_would_be_supported(
    variable: str, dials: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "taught", property(lambda bench: bench.claimed))

    assert lopsided(variable, dials, fitted_on=0).word == "SUPPORTED"


def test_a_random_direction_is_refuted_and_not_called_invalid(subject: Subject) -> None:
    verdict = tried(subject, USED, RandomDirection(site="residual", seed=1))

    assert verdict.word == "REFUTED" and outcomes(verdict)["i0"] == "pass"


def test_a_label_that_two_neighbouring_words_decide_anywhere_is_held_back_by_g4_alone() -> None:
    """The other gates are tried alone on the claims that the mutation table names, in the exam's tests."""
    bed = Planted(seed=5, bits=0.3, rows=2_000, locked="anywhere")
    data, subject = bed.examples(LOCKED), bed.subject()

    with use(Ledger.in_memory()) as ledger:
        finding = LogisticProbe(site="residual").fit(subject, data.dev)
        verdict = trial(Represents(finding, of=LOCKED, on=data), subject=subject, ledger=ledger, effort=SMALL)

    forced = [dataclasses.replace(g, outcome="pass") if g.gate == "g4" else g for g in verdict.gates]
    assert verdict.word != "SUPPORTED" and bed.truth()[LOCKED]["represents"] is False
    assert decide(BATTERY, forced).word == "SUPPORTED"  # so this fails if the gate is broken


def test_what_redraws_labels_names_many_things_and_is_not_the_token_again(subject: Subject) -> None:
    bed = Planted(seed=2, bits=0.3, rows=600, things=32)
    data = bed.examples(THING_LABEL)
    with use(Ledger.in_memory()) as ledger:
        finding = MeanDifference(site="residual").fit(bed.subject(), data.dev)
        bench = Bench(Represents(finding, of=THING_LABEL, on=data), bed.subject(), data.dev)
        gate = data.gate.open(by="test", ledger=ledger)

    keys = _control_keys(bench, data.dev, gate)

    assert list(keys) == ["type", "context", "factor thing", "item"]  # the factor "type" is the token that is read


def test_an_underpowered_claim_is_inconclusive_and_not_opened(subject: Subject) -> None:
    bed = Planted(seed=2, bits=0.02, rows=260)
    data, subject = bed.examples(USED), bed.subject()
    with use(Ledger.in_memory()) as ledger:
        finding = MeanDifference(site="residual").fit(subject, data.dev)
        verdict = trial(Represents(finding, of=USED, on=data), subject=subject, ledger=ledger, effort=SMALL)

    assert verdict.word == "INCONCLUSIVE" and not ledger.rows("look")
    assert "more gate items needed" in verdict.sentence


def test_redrawn_labels_hang_on_the_key_as_much_as_the_real_ones_do() -> None:
    rng = np.random.default_rng(0)
    keys = [f"k{i}" for i in rng.integers(0, 40, 2_000)]
    by_key = torch.tensor([int(k[1:]) % 2 for k in keys])
    coins = torch.as_tensor(rng.integers(0, 2, 2_000))

    remembered, gate = redraw((keys, keys), by_key, 2, 10, (0,))
    free, _ = redraw((keys, keys), coins, 2, 10, (0,))

    assert (remembered == gate).float().mean() > 0.97  # a function of the key, in dev and gate alike
    assert all(_spread(labels, keys) < 0.02 for labels in free)  # coins stay coins


def _spread(labels: torch.Tensor, keys: list[str]) -> float:
    """Variance between keys of the share of ones, beyond what coins give."""
    codes = np.unique(keys, return_inverse=True)[1]
    size = np.bincount(codes)
    share = np.bincount(codes, labels.numpy()) / size
    return float(((share - share.mean()) ** 2).mean() - (0.25 / size).mean())
