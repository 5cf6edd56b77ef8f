"""C3 NECESSARY on small nets whose truth is known: read, not read, breaking everything, doubled."""

from __future__ import annotations

import dataclasses
import pkgutil
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from veriscope.claims.battery import LoweredMargin, with_margins
from veriscope.claims.necessary import Necessary
from veriscope.errors import MissingField, UserError
from veriscope.examples import Examples, examples
from veriscope.findings import Change, Origin, Part, Parts
from veriscope.ledger import Ledger, use
from veriscope.methods import LEACE, ContrastAddition, MeanDifference
from veriscope.methods.leace import erasure
from veriscope.subjects import Subject, WordReader, load
from veriscope.trials import removal
from veriscope.trials.decide import Decision, decide
from veriscope.trials.evidence import Estimate, GateResult
from veriscope.trials.judge import Effort
from veriscope.trials.necessary import FEW, SCREEN, Bench, _above_rounding, _among_others, _lost_at
from veriscope.trials.removal import (
    Draws,
    Rows,
    Subspace,
    behave,
    behaves,
    donors,
    gaps,
    matched_subspaces,
    random_parts,
    rows_of,
    run_intact,
    variance_removed,
)
from veriscope.trials.trial import trial

KEYS, PAIRS, NOISE, NEXT, BIG, WIDTH = 400, 60, 60, 5, 6, 24
VOCAB = [
    *(f"a{i}" for i in range(KEYS)),
    *(f"b{i}" for i in range(PAIRS)),
    *(f"n{i}" for i in range(NOISE)),
    *(f"q{i}" for i in range(NEXT)),
    "yes",
    "no",
]
ID = {w: i for i, w in enumerate(VOCAB)}
Z, Y = 0, 1  # features: z is what the answer follows, y is written as strongly and read by nothing
CODE, LARGE = slice(2, 2 + NEXT), slice(2 + NEXT, 2 + NEXT + BIG)
EFFORT = Effort(draws=5, twins=2, random=20, folds=3)


class Bed(nn.Module):
    """Words add up their features; the head turns z into yes or no and the last word's code into the next q.

    `kind`: "plain"; "gate": z's size also opens all logits; "massive": the answer fades when any of six large
    directions is touched; "or": two branches carry z and either is enough; "backup": the second branch steps in only
    when the first has lost z.
    """

    def __init__(self, kind: str = "plain", rotated: bool = True) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.kind = kind
        table = 0.15 * torch.randn(len(VOCAB), WIDTH, generator=rng)
        signs = torch.randint(2, (KEYS, BIG), generator=rng) * 2.0 - 1
        for word, i in ID.items():
            number = int(word[1:]) if word[1:].isdigit() else 0
            if word[0] == "a":
                table[i, Z] = 1.0 if number % 2 else -1.0
                if kind == "massive":
                    table[i, LARGE] = 4 * signs[number]
            if word[0] == "b":
                table[i, Y] = 1.0 if number % 2 else -1.0
        self.large = signs
        codes = torch.zeros(len(VOCAB), WIDTH)
        codes[torch.arange(len(VOCAB)), 2 + torch.arange(len(VOCAB)) % NEXT] = 1.5
        self.embed = nn.Embedding.from_pretrained(table)
        self.code = nn.Embedding.from_pretrained(codes)
        turn = (
            torch.linalg.qr(torch.randn(4, WIDTH, WIDTH, generator=rng))[0]
            if rotated
            else torch.eye(WIDTH).repeat(4, 1, 1)
        )
        self.turn = nn.Parameter(turn)
        self.residual = nn.Identity()
        self.branch = nn.ModuleList(nn.Identity() for _ in range(4))
        self.head = nn.Identity()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        words = self.embed(input_ids).cumsum(1) + self.code(input_ids)
        h = self.residual(words @ self.turn[0]) @ self.turn[0].T
        if self.kind in ("or", "backup"):
            h = words
            first = (self.branch[0](words @ self.turn[0]) @ self.turn[0].T)[..., Z]
            asleep = (1 - first.abs()).clamp_min(0) if self.kind == "backup" else torch.ones_like(first)
            second = (self.branch[1](asleep[..., None] * words @ self.turn[1]) @ self.turn[1].T)[..., Z]
            for spare in (2, 3):
                h = h + 0.0 * self.branch[spare](words @ self.turn[spare])
            signal = torch.tanh(2.5 * (first + second))
        else:
            signal = h[..., Z]
        if self.kind == "massive":
            signal = signal * torch.sigmoid(6 * (h[..., LARGE].abs() - 3.2)).prod(-1)
        logits = torch.zeros(*input_ids.shape, len(VOCAB))
        logits[..., ID["yes"]], logits[..., ID["no"]] = 3 * signal, -3 * signal
        logits[..., ID["q0"] : ID["q0"] + NEXT] = 3 * h[..., CODE]
        if self.kind == "gate":
            logits = logits * h[..., Z : Z + 1].abs().clamp_max(1)
        return self.head(logits)


@cache
def subject(kind: str = "plain", rotated: bool = True) -> Subject:
    return load(Bed(kind, rotated), tokenizer=WordReader(VOCAB), name=f"bed-{kind}")


@cache
def rows(variable: str, n: int = 1_000, shift: bool = False) -> Examples:
    rng, signs = np.random.default_rng(0), Bed("massive").large
    out = []
    for item in range(n):
        a, b = int(rng.integers(KEYS)), int(rng.integers(PAIRS))
        if variable == "tied" and rng.random() < 0.7:  # y goes with z in 85 of 100 texts
            b = b - b % 2 + a % 2
        words = [f"a{a}", f"b{b}", *(f"n{i}" for i in rng.integers(0, NOISE, 2))]
        text = " ".join(words[i] for i in rng.permutation(4))
        answer = "yes" if a % 2 else "no"
        values = {"z": a % 2, "y": b % 2, "tied": b % 2, "most of z": a % 2, "large": int(signs[a, 0] > 0)}
        label = int(rng.integers(2)) if variable == "null" else values[variable]
        if variable == "most of z" and rng.random() < 0.3:  # what is asked for is a coin there, whatever the model says
            answer = ("yes", "no")[int(rng.integers(2))]
        elsewhere = shift and item % 4 == 0
        if elsewhere:  # the answer follows something else there
            answer = ("yes", "no")[item // 4 % 2]
        out.append({"text": text, "v": str(label), "key": f"key {a}", "answer": answer, "where": str(elsewhere),
                    "foil": "no" if answer == "yes" else "yes"})  # fmt: skip
    return examples(out, text="text", label="v", cluster="key", answer="answer", foil="foil", name=f"bed-{variable}",
                    factors=[], shift={"column": "where", "is": ["True"]} if shift else None)  # fmt: skip


def tried(claim: Necessary, who: Subject) -> tuple[Decision, dict[str, GateResult]]:
    """Every gate of the battery, as a trial runs them, without the card."""
    bench = Bench(claim, who, claim.on.dev, 0, EFFORT)
    ledger = Ledger.in_memory()
    bench.gate = claim.on.gate.open(by="test", ledger=ledger)
    bench.shift = claim.on.shift.open(by="test", ledger=ledger) if claim.on.shift else None
    battery = with_margins(claim.battery, claim.margins)
    results = [pkgutil.resolve_name(spec.run)(bench, spec) for spec in battery]
    return decide(battery, results), {r.gate: r for r in results}


def without(gate: str, claim: Necessary, results: dict[str, GateResult]) -> str:
    """The word that would have been given without one gate."""
    kept = [r for r in results.values() if r.gate != gate]
    return decide(claim.battery, kept).word


def erased(who: Subject, on: Examples, site: str = "residual") -> Change:
    with use(Ledger.in_memory()):
        return LEACE(site=site).fit(who, on.dev)


def parts_of(who: Subject, on: Examples, *names: str) -> Parts:
    origin = Origin("tests:named", {}, who.hash, on.hash, "v", names[0], "last", 0, 1)
    universe = tuple(Part(f"branch.{i}") for i in range(4))
    return Parts(tuple(Part(n) for n in names), (1.0,) * len(names), universe, origin)


def outcomes(results: dict[str, GateResult]) -> dict[str, str]:
    return {gate: r.outcome for gate, r in results.items()}


# ---- true and false claims --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotated", [False, True])
def test_a_feature_that_the_head_reads_is_necessary(rotated: bool) -> None:
    who, on = subject("plain", rotated), rows("z")

    verdict = trial(Necessary(erased(who, on), of="v", on=on), subject=who, ledger=Ledger.in_memory(), effort=EFFORT)

    assert verdict.word == "SUPPORTED", verdict.sentence
    assert verdict.level == 3


def test_a_direction_that_carries_all_of_the_variable_is_as_good_as_leace() -> None:
    who, on = subject(), rows("z")
    with use(Ledger.in_memory()):
        finding = MeanDifference(site="residual", whiten=True).fit(who, on.dev)

    decision, results = tried(Necessary(finding, of="v", on=on), who)

    assert results["g2"].outcome == "pass" and results["g3"].outcome == "pass", outcomes(results)
    assert decision.word in ("SUPPORTED", "REFUTED")  # whether it carries all is for g1 to say
    assert (decision.word == "SUPPORTED") == (results["g1"].outcome == "pass")


def test_a_decodable_but_unused_variable_is_refuted() -> None:
    who, on = subject(), rows("y")

    decision, results = tried(Necessary(erased(who, on), of="v", on=on), who)

    assert results["g1"].outcome == "pass"  # it is there, and it was removed
    assert results["g2"].outcome == "fail"
    assert results["f7"].outcome == "quiet"
    assert decision.word == "REFUTED"


def test_an_unread_variable_that_goes_with_a_used_one_has_no_part_of_its_own() -> None:
    who, on = subject(), rows("tied", 1_600)
    claim = Necessary(erased(who, on), of="v", on=on)

    decision, results = tried(claim, who)

    assert results["g2"].outcome == "pass"  # the used one's part is taken along, and that costs
    assert decision.word != "SUPPORTED" and results["g10"].outcome in ("fail", "unclear"), outcomes(results)
    assert without("g10", claim, results) == "SUPPORTED", outcomes(results)


def test_a_used_variable_that_goes_with_the_answer_in_part_keeps_its_own_part() -> None:
    who, on = subject(), rows("most of z", 1_600)

    _, results = tried(Necessary(erased(who, on), of="v", on=on), who)

    assert results["g10"].outcome == "pass", results["g10"].note
    assert "differ in" in results["g10"].note


def test_what_float32_leaves_of_an_erased_component_is_not_read() -> None:
    rng = torch.Generator().manual_seed(0)
    z, small = torch.randn(500, generator=rng), 1e-3 * torch.randn(500, generator=rng)
    acts = 5.0 + z[:, None] * 1e-7 * torch.randn(16, generator=rng) + small[:, None] * torch.eye(16)[3]

    left, _ = _above_rounding(acts, acts)

    codes = (z > 0).double()
    gap = left[codes == 1].double().mean(0) - left[codes == 0].double().mean(0)
    assert float(left.double().std(0)[3]) == pytest.approx(1e-3, rel=0.1)  # what is small, but real, stays
    assert float((gap.abs() / left.double().std(0).clamp_min(1e-9)).max()) < 0.3


def test_words_that_give_the_answer_are_not_among_what_is_lost_elsewhere() -> None:
    who, on = subject(), rows("z", 240)
    bench = Bench(Necessary(erased(who, on), of="v", on=on), who, on.dev, 0, EFFORT)
    before = torch.randn(3, len(VOCAB), generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[:, ID["yes"]] += 7.0

    same = _among_others(bench, before)[:, ID["n3"]] - _among_others(bench, after)[:, ID["n3"]]

    assert float(same.abs().max()) < 1e-6
    assert float((before.log_softmax(-1) - after.log_softmax(-1))[:, ID["n3"]].min()) > 0.1  # it would be


def test_nothing_there_to_remove_fails_the_first_gate() -> None:
    who, on = subject(), rows("null")

    _, results = tried(Necessary(erased(who, on), of="v", on=on), who)

    assert results["g1"].outcome == "fail" and "nothing was there" in results["g1"].note


def test_a_removal_that_breaks_everything_is_refuted_by_specificity_alone() -> None:
    who, on = subject("gate"), rows("z")
    claim = Necessary(erased(who, on), of="v", on=on)

    decision, results = tried(claim, who)

    assert decision.word == "REFUTED" and results["g4"].outcome == "fail", outcomes(results)
    assert without("g4", claim, results) == "SUPPORTED"


def test_one_large_direction_among_many_is_refuted_by_removals_of_its_size() -> None:
    who, on = subject("massive"), rows("large")
    claim = Necessary(erased(who, on), of="v", on=on)

    decision, results = tried(claim, who)

    raw = results["g2"].raw
    assert decision.word == "REFUTED" and results["g2"].outcome == "fail", outcomes(results)
    assert isinstance(raw, Estimate) and raw.low > 0.1  # removing it does hurt: only the matched removals tell


def test_a_direction_that_leaves_the_variable_readable_did_not_remove_it() -> None:
    who, on = subject(), rows("z")
    with use(Ledger.in_memory()):
        finding = MeanDifference(site="residual").fit(who, on.dev)
    askew = finding.weight + 0.5 * finding.weight.norm() * torch.nn.functional.normalize(
        torch.randn(finding.weight.shape, generator=torch.Generator().manual_seed(1)), dim=0
    )
    claim = Necessary(dataclasses.replace(finding, weight=askew), of="v", on=on)

    decision, results = tried(claim, who)

    assert decision.word == "REFUTED" and results["g1"].outcome == "fail"
    assert "LEACE" in results["g1"].note
    assert without("g1", claim, results) == "SUPPORTED", outcomes(results)


@pytest.mark.parametrize("kind", ["or", "backup"])
def test_either_of_two_is_dispensable_alone_and_the_verdict_says_so(kind: str) -> None:
    who, on = subject(kind), rows("z")

    decision, results = tried(Necessary(erased(who, on, "branch.0"), of="v", on=on), who)

    assert decision.word == "CONDITIONAL", outcomes(results)
    assert "branch.1" in results["f7"].note
    assert results["g2"].outcome == "unclear" and "redundant" in results["g2"].note


@pytest.mark.parametrize("kind", ["or", "backup"])
def test_both_of_two_claimed_together_are_necessary(kind: str) -> None:
    who, on = subject(kind), rows("z")

    both, results = tried(Necessary(parts_of(who, on, "branch.0", "branch.1"), of="v", on=on), who)

    assert both.word == "SUPPORTED", outcomes(results)
    assert results["g1"].outcome == "printed"


@pytest.mark.parametrize("part, word", [("branch.0", "CONDITIONAL"), ("branch.2", "REFUTED")])
def test_one_of_two_parts_is_redundant_and_an_idle_one_is_refuted(part: str, word: str) -> None:
    who, on = subject("or"), rows("z")

    decision, results = tried(Necessary(parts_of(who, on, part), of="v", on=on), who)

    assert decision.word == word, outcomes(results)


def test_a_shift_pool_where_it_does_not_hold_refutes() -> None:
    who, on = subject(), rows("z", 1_600, shift=True)

    decision, results = tried(Necessary(erased(who, on), of="v", on=on), who)

    assert results["g2"].outcome == "pass"
    assert results["f8"].outcome == "fired" and decision.word == "REFUTED"


def test_a_model_without_the_behaviour_is_invalid() -> None:
    who, on = subject(), rows("z")
    swapped = [{"text": e.text, "v": e.label, "key": e.cluster, "answer": e.foil, "foil": e.answer} for e in
               (*on.dev.examples, *on.gate.open(by="test", ledger=Ledger.in_memory()).examples)]  # fmt: skip
    wrong = examples(swapped, text="text", label="v", cluster="key", answer="answer", foil="foil", name="swapped")

    verdict = trial(
        Necessary(erased(who, wrong), of="v", on=wrong), subject=who, ledger=Ledger.in_memory(), effort=EFFORT
    )

    assert verdict.word == "INVALID"


# ---- rows without a foil, all positions -------------------------------------------------------------------------


def test_without_foils_the_log_probability_of_the_answer_counts_and_all_positions_can_be_erased() -> None:
    who, on = subject(), rows("z")
    dev = on.dev.take(range(60))
    no_foil = dataclasses.replace(dev, examples=tuple(dataclasses.replace(e, foil=None) for e in dev.examples))
    everywhere = dataclasses.replace(erased(who, on), position="all")

    scores = run_intact(who, rows_of(who, no_foil, "last", range(60)), ["residual"]).scores
    decision, results = tried(Necessary(everywhere, of="v", on=on), who)

    assert np.allclose(scores.gap, scores.logp)
    assert results["g2"].outcome == "pass" and results["g5"].outcome == "pass", outcomes(results)
    assert decision.word in ("SUPPORTED", "INCONCLUSIVE")


# ---- the parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3])
def test_random_removals_match_in_rank_and_variance_and_leave_the_claimed_coordinates_alone(rank: int) -> None:
    rng = torch.Generator().manual_seed(rank)
    acts = torch.randn(500, 30, generator=rng) * torch.linspace(0.2, 2, 30)
    basis = torch.linalg.qr(torch.randn(30, rank, generator=rng))[0]
    cut = Subspace("s", basis, basis.T, acts.mean(0))

    drawn = matched_subspaces(acts, cut, 20, seed=0)

    assert isinstance(drawn, Draws)
    target = variance_removed(acts, cut)
    for r in drawn.removals:
        assert isinstance(r, Subspace) and r.rank == rank
        assert abs(variance_removed(acts, r) / target - 1) < 0.05
        assert float((cut.right @ r.left).abs().max()) < 1e-4


def test_random_removals_take_nothing_that_goes_with_the_erased_variable() -> None:
    rng = torch.Generator().manual_seed(0)
    label = torch.randint(2, (2_000,), generator=rng)
    acts = torch.randn(2_000, 12, generator=rng) @ torch.randn(12, 12, generator=rng) + 2.0 * label[:, None]
    left, right, centre = erasure(acts, label, 2)

    drawn = matched_subspaces(acts, Subspace("s", left, right, centre), 20, seed=0)

    assert isinstance(drawn, Draws)
    z = label.float() - label.float().mean()
    taken = torch.cat([acts @ r.left for r in drawn.removals if isinstance(r, Subspace)], 1)
    assert float((z @ (taken - taken.mean(0)) / (z.norm() * (taken - taken.mean(0)).norm(dim=0))).abs().max()) < 1e-3


def test_a_direction_larger_than_all_others_is_met_by_more_of_them() -> None:
    acts = torch.randn(500, 10, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0] + [1.8] * 9)
    first = torch.eye(10)[:, :1]

    drawn = matched_subspaces(acts, Subspace("s", first, first.T, acts.mean(0)), 20, seed=0)

    assert isinstance(drawn, Draws) and drawn.variance_share > 0.95
    assert all(2 <= r.rank <= 4 for r in drawn.removals if isinstance(r, Subspace))
    assert "filled up" in drawn.note


def test_random_parts_are_of_the_same_type_and_size_and_not_the_claimed_ones() -> None:
    who, on = subject("or"), rows("z")
    finding = parts_of(who, on, "branch.0", "branch.1")
    intact = run_intact(who, rows_of(who, on.dev, "last", range(30)), [f"branch.{i}" for i in range(4)])

    drawn = random_parts(finding, intact, 10, seed=0)

    assert isinstance(drawn, Draws) and [set(r.sites) for r in drawn.removals] == [{"branch.2", "branch.3"}]


def test_donors_come_from_another_cluster_and_label() -> None:
    who, on = subject(), rows("z")
    some = rows_of(who, on.dev, "last", range(100))

    donor = donors(some, seed=0, other_label=True)

    assert all(some.labels[i] != some.labels[j] for i, j in enumerate(donor.tolist()))
    assert all(some.clusters[i] != some.clusters[j] for i, j in enumerate(donor.tolist()))


def tiny_gpt2() -> Subject:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(VOCAB), n_positions=16, n_embd=32, n_layer=3, n_head=4)
    return load(GPT2LMHeadModel(config).eval(), tokenizer=WordReader(VOCAB), name="tiny")


@pytest.mark.parametrize("with_foils", [True, False])
@pytest.mark.parametrize("at", ["last", "all", torch.tensor([1, 3, 0])], ids=["last", "all", "each its own"])
def test_many_removals_at_once_give_what_a_whole_run_of_each_gives(
    at: str | torch.Tensor, with_foils: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = tiny_gpt2()
    texts = ("a1 b2 n3", "a7 n1 n2 n3 b4", "n5 a9")
    yes, no = (torch.full((3,), ID[w]) for w in ("yes", "no"))
    some = Rows((0, 1, 2), texts, texts, ("0", "1", "1"), at, yes, no if with_foils else torch.full((3,), -1))
    basis = torch.linalg.qr(torch.randn(32, 2))[0]
    cut = Subspace("blocks.1.resid_post", basis, basis.T, torch.ones(32))
    given = run_intact(who, some, cut.sites).acts
    runs = [(), *(cut.edits(kind, at, given) for kind in ("mean", "resample", "zero"))]
    monkeypatch.setattr(removal, "AT_ONCE", 2 * 4 * len(VOCAB))  # two rows of four runs at a time

    few, whole = gaps(who, some, runs), behaves(who, some, runs)

    slow = [behave(who, some, edits) for edits in runs]
    assert np.allclose(few, [s.gap for s in slow], atol=1e-5) and np.ptp(few, axis=0).min() > 1e-3
    assert np.allclose([s.logp for s in whole], [s.logp for s in slow], atol=1e-5)
    assert gaps(who, some, []).shape == (0, 3)


@pytest.mark.parametrize("everywhere", [False, True])
def test_what_a_removal_costs_elsewhere_is_read_just_behind_it(everywhere: bool) -> None:
    who, on = tiny_gpt2(), rows("z", 240)
    with use(Ledger.in_memory()):
        finding = LEACE(site="blocks.0.resid_post").fit(who, on.dev)
    bench = Bench(Necessary(dataclasses.replace(finding, position="all" if everywhere else "last"), of="v", on=on),
                  who, on.dev, 0, EFFORT)  # fmt: skip
    texts, places = ["a1 b2 n3 q1", "a7 n1 n2 n3 b4"], [(1, 2, ID["n3"], -1.0), (0, 1, ID["n3"], 0.0), (1, 3, 5, -2.0)]

    lost = _lost_at(bench, texts, places)

    for (i, p, token, before), found in zip(places, lost, strict=True):
        edits = bench.removal.edits("mean", "all" if everywhere else p)
        logits = who.run([texts[i]], edits=edits, logits="all").logits
        assert logits is not None
        logits[..., [ID["yes"], ID["no"]]] = -torch.inf  # the claim's own answers are not among what may come next
        assert abs(before - float(logits[0, p].log_softmax(-1)[token]) - found) < 1e-5


def test_random_removals_are_run_on_all_items_where_they_can_be_replayed() -> None:
    who, bed, on = tiny_gpt2(), subject(), rows("z", 600)
    benches = []
    for one, site in ((who, "blocks.0.resid_post"), (bed, "residual")):
        claim = Necessary(erased(one, on, site), of="v", on=on)
        benches.append(Bench(claim, one, on.dev, 0, EFFORT))
        benches[-1].gate = on.gate.open(by="test", ledger=Ledger.in_memory())
    replayed, plain = benches

    assert replayed.cheap and len(replayed.few.rows) == len(replayed.items.rows) > FEW
    assert not plain.cheap and len(plain.few.rows) == FEW and len(plain.small(SCREEN).rows) == SCREEN


# ---- messages ---------------------------------------------------------------------------------------------------


def test_what_can_be_refused_is_refused_in_words() -> None:
    who, on = subject(), rows("z")
    finding = erased(who, on)

    with pytest.raises(UserError, match="removes nothing"), use(Ledger.in_memory()):
        Necessary(ContrastAddition(site="residual").fit(who, on.dev), of="v", on=on)
    with pytest.raises(UserError, match="claim more"):
        Necessary(finding, of="v", on=on, smallest_effect=0.05)
    with pytest.raises(LoweredMargin):
        with_margins(Necessary(finding, of="v", on=on, smallest_effect=0.3).battery, {"g2": 0.2})
    bare = examples(
        [{"text": f"a{i} b{i % 60}", "v": str(i % 2)} for i in range(400)], text="text", label="v", name="bare"
    )
    with pytest.raises(MissingField):
        Bench(Necessary(erased(who, bare), of="v", on=bare), who, bare.dev, 0, EFFORT).dev_estimate()


def test_an_advantage_that_is_claimed_makes_the_rival_a_gate() -> None:
    who, on = subject(), rows("z")

    roles = {
        a: {s.gate: s.role for s in Necessary(erased(who, on), of="v", on=on, advantage=a).battery}
        for a in (True, False)
    }

    assert roles[True]["r9"] == "gate" and roles[False]["r9"] == "rival"
