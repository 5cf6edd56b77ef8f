"""C4 STEERS on a small net whose every direction has a known effect."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from veriscope.claims.steers import BATTERY, Steers
from veriscope.errors import UserError
from veriscope.examples import Examples, examples
from veriscope.findings import Change, Origin
from veriscope.ledger import Ledger, use
from veriscope.methods import MeanDifference
from veriscope.subjects import Subject, WordReader, load
from veriscope.trials.decide import decide
from veriscope.trials.doses import NATS, Neutral, Steering, Words, _scored, against_tokens, choose_doses, repetition
from veriscope.trials.evidence import Verdict, from_plain, to_plain
from veriscope.trials.judge import Effort
from veriscope.trials.statistics import Resampler
from veriscope.trials.steers import FINALISTS, Bench, random_edits, writer
from veriscope.trials.trial import trial
from veriscope.zoo import modes

FILLERS = [f"w{i}" for i in range(60)]
MOODS, PARITIES, TEMPLATES = ("rainy", "sunny"), ("p0", "p1"), ("tA", "tB")
GOOD, BAD = ("good", "great"), ("bad", "poor")
VOCAB = [*FILLERS, *MOODS, *PARITIES, *TEMPLATES, "feels", *GOOD, *BAD]
ID = {word: i for i, word in enumerate(VOCAB)}
V = len(VOCAB)
PARTS = ("mood", "parity", "template", "temperature", "half", "trained", "costly", "writer", "foil", "bump", "relevant")
DIM = {name: V + i for i, name in enumerate(PARTS)}
TARGETS = {"sunny": GOOD, "rainy": BAD}
IDLE = 400  # parts that do nothing, so that a random direction does little
WIDTH = V + len(PARTS) + IDLE
EFFORT = Effort(draws=5, twins=2, random=30, folds=3)
FEWER = {"DEAR": 16, "AFFORDED": 4, "SCREENED_PLAIN": 16}  # random directions that are run, as few as the effort's


class Bed(nn.Module):
    """Each filler calls the next one; behind "feels" come mood words. Every part of the residual does one thing.

    `residual` holds the token's own place and, summed over the prompt so far, mood, parity and template; the other
    parts are 0 until something is added there. `kind` is "plain", "fragile" (any push breaks it), "sharp" (sure
    of the bad words) or "locked".
    """

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.kind = kind
        self.embed = nn.Embedding(V, WIDTH)
        self.residual = nn.Identity()
        calls, noise = torch.zeros(V, V), torch.randn(V, generator=rng)
        for i in range(len(FILLERS)):
            calls[i, (i + 1) % len(FILLERS)] = 7.0
        for word in (*MOODS, *PARITIES, *TEMPLATES, *GOOD, *BAD):
            calls[ID[word], int(torch.randint(len(FILLERS), (1,), generator=rng))] = 7.0
        calls[ID["feels"]] = torch.linspace(0, 4, V)[torch.randperm(V, generator=rng)]
        worse = 6.0 * (kind == "sharp")
        calls[ID["feels"], [ID[w] for w in (*GOOD, *BAD)]] = torch.tensor([2.5, 2.0, 3.5 + worse, 3.0 + worse])
        self.calls, self.noise = nn.Parameter(calls), nn.Parameter(noise)
        with torch.no_grad():
            self.embed.weight.zero_()
            self.embed.weight[:, :V] = torch.eye(V)
            for name, pair in (("mood", MOODS), ("parity", PARITIES), ("template", TEMPLATES)):
                for word, value in zip(pair, (-1.0, 1.0), strict=True):
                    self.embed.weight[ID[word], DIM[name]] = value

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        r = self.residual(torch.cat([x[..., :V], x[..., V:].cumsum(1)], -1))
        part = {name: r[..., i] for name, i in DIM.items()}
        here = (input_ids == ID["feels"]).float()
        good, bad = self._side(GOOD), self._side(BAD)
        logits = r[..., :V] @ self.calls
        push = part["mood"] * here
        push = push + part["half"] * here * torch.where(part["parity"] > 0, 1.5, -1.0)
        push = push + part["trained"] * here * (part["template"] < 0).float()
        push = push + part["relevant"] * here * (part["parity"] > 0).float() * 2
        push = push + part["bump"].clamp(max=1) * here * 3 - (part["bump"] - 1).clamp(min=0) * here * 0.6
        push = push + part["costly"] * here * 2
        logits = logits + push[..., None] * (good - bad)
        logits = logits + (part["costly"] * (1 - here))[..., None] * self.noise * 3
        logits = logits + part["writer"][..., None] * 3 * self._side(GOOD[:1])
        logits = logits - part["foil"][..., None] * here[..., None] * 3 * bad
        if self.kind == "fragile":
            far = (r[..., :V].square().sum(-1) - 1).square() + r[..., V + 3 :].square().sum(-1)
            logits = logits + (here * 3 * torch.tanh(8 * far))[..., None] * (good - bad)
        if self.kind == "locked":
            from_input = self.calls[input_ids] + x[..., DIM["mood"]].cumsum(1)[..., None] * (good - bad)
            return torch.where(here[..., None] > 0, from_input, logits)
        return logits * torch.exp(-part["temperature"])[..., None]

    @staticmethod
    def _side(words: tuple[str, ...]) -> torch.Tensor:
        return torch.zeros(V).index_fill(0, torch.tensor([ID[w] for w in words]), 1.0)


def rows(n: int = 700, seed: int = 0, odd: float = 0.6) -> list[dict]:
    """Prompts of 100 clusters; parity is p1 in a share `odd` of them, and 100 rows come in the other template."""
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        mood, shifted = MOODS[i % 2], i >= n - 100
        parity = PARTIES_OF[int(rng.random() < odd)]
        fill = " ".join(FILLERS[j] for j in rng.integers(0, 60, 4))
        text = f"{TEMPLATES[shifted]} {fill} {mood} {FILLERS[int(rng.integers(60))]} {parity} feels"
        cluster = f"s{i % 30}" if shifted else f"c{i // 6}"
        out.append({"text": text, "mood": mood, "group": cluster, "pool": "shift" if shifted else "in", "side": parity})
    return out


PARTIES_OF = PARITIES


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in FEWER.items():
        monkeypatch.setattr(f"veriscope.trials.steers.{name}", count)


@pytest.fixture(scope="module")
def data() -> Examples:
    return examples(rows(), text="text", label="mood", cluster="group", factors=["side"],
                    shift={"column": "pool", "is": ["shift"]}, name="moods")  # fmt: skip


@pytest.fixture(scope="module")
def subject() -> Subject:
    return bed("plain")


def bed(kind: str) -> Subject:
    torch.manual_seed(0)
    return load(Bed(kind).eval().requires_grad_(False), tokenizer=WordReader(VOCAB), name=f"bed-{kind}")


def along(subject: Subject, data: Examples, **parts: float) -> Change:
    """A change that adds to the named parts of the residual."""
    vector = torch.zeros(WIDTH)
    for name, value in parts.items():
        vector[DIM[name]] = value
    return change(subject, data, vector)


def change(subject: Subject, data: Examples, vector: torch.Tensor) -> Change:
    origin = Origin("MeanDifference", {"site": "residual"}, subject.hash, data.hash, "mood", "residual", "last", 0, 1)
    return Change("add", "residual", "last", origin, vector=vector, toward="sunny")


def claim(finding, data: Examples, **rest) -> Steers:
    return Steers(finding, toward="sunny", of="mood", on=data, **{"targets": TARGETS, "at": "all", **rest})


def tried(finding, subject: Subject, data: Examples, **rest) -> Verdict:
    return trial(claim(finding, data, **rest), subject=subject, ledger=Ledger.in_memory(), effort=EFFORT)


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {g.gate: g.outcome for g in verdict.gates}


def failing(verdict: Verdict) -> set[str]:
    """Gates and falsifiers that speak against the claim."""
    return {g.gate for g in verdict.gates if g.outcome in ("fail", "fired", "unclear", "not run")}


def gate(verdict: Verdict, name: str):
    return next(g for g in verdict.gates if g.gate == name)


def without(verdict: Verdict, drop: set[str]) -> str:
    """What the battery would have said without some of its lines."""
    return decide(BATTERY, [g for g in verdict.gates if g.gate not in drop]).word


def push(size: float) -> torch.Tensor:
    return size * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def true_verdict(subject, data) -> Verdict:
    return tried(along(subject, data, mood=2.0), subject, data)


# ---- the true are supported


def test_every_line_of_the_battery_is_run_and_kept_as_plain_data(true_verdict):
    assert [g.gate for g in true_verdict.gates] == [s.gate for s in BATTERY]
    assert from_plain(Verdict, json.loads(json.dumps(to_plain(true_verdict), allow_nan=False))) == true_verdict
    assert true_verdict.word == "SUPPORTED" and "added, shifts the target" in true_verdict.sentence


@pytest.mark.parametrize(
    "parts, more",
    [
        ({"mood": 2.0}, {"at": "last"}),
        ({"mood": 0.3}, {}),  # small but clean
        ({"relevant": 2.0}, {}),  # works only where it is relevant
        ({"mood": -2.0}, {"doses": (-2.0, -1.0, -0.5)}),  # works when subtracted
        ({"mood": 2.0}, {"targets": {"sunny": "good", "rainy": "bad"}}),
    ],
)
def test_a_true_steering_direction_is_supported(subject, data, parts, more):
    verdict = tried(along(subject, data, **parts), subject, data, **more)

    assert (verdict.word, verdict.level) == ("SUPPORTED", 3), verdict.sentence
    assert gate(verdict, "g4").estimate.value == 0


def test_a_fitted_reading_is_supported_and_no_better_than_a_logit_bias(subject, data):
    reading = MeanDifference(site="residual").fit(subject, data.dev)

    plain, bold = tried(reading, subject, data), tried(reading, subject, data, advantage=True)

    assert plain.word == "SUPPORTED" and not plain.advantage  # 48 clusters are too few to show parity to 0.05
    assert bold.word == "REFUTED" and failing(bold) & {"g1", "g2", "g3", "g4", "g5", "g6"} == {"g6"}


def test_a_vector_made_for_the_other_class_is_subtracted(subject, data):
    other = dataclasses.replace(along(subject, data, mood=-2.0), toward="rainy")

    bench = Bench(claim(other, data), subject, data.dev, effort=EFFORT)

    assert torch.equal(bench.unit, along(subject, data, mood=2.0).vector)


# ---- the false are refuted, each by the gates that are there for it


TRAPS = {
    "suppresses the foil only": ({"foil": 1.0}, {}, {"g10"}),
    "changes the temperature": ({"temperature": 1.0}, {"doses": (0.25, 0.5)}, {"g2", "g3", "g5", "g10"}),
    "writes one token": ({"writer": 1.0}, {"doses": (0.25, 0.5)}, {"g2", "g10"}),
    "opposite on two prompts in five": ({"half": 2.0}, {}, {"g4"}),
    "works in the training templates only": ({"trained": 2.0}, {}, {"f7"}),
    "costs more than it may": ({"costly": 1.0}, {"doses": (1.0,)}, {"g5"}),
    "rises and then falls": ({"bump": 2.0}, {"doses": (0.25, 0.5, 1.0)}, {"g1"}),
    "claims too much": ({"mood": 2.0}, {"smallest_effect": 20.0}, {"g1", "g2", "g3", "g10"}),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_refuted_by_the_gates_that_are_there_for_it(subject, data, trap):
    parts, more, by = TRAPS[trap]

    verdict = tried(along(subject, data, **parts), subject, data, **more)

    assert verdict.word == "REFUTED", verdict.sentence
    assert failing(verdict) <= {*by, "r6"}, outcomes(verdict)
    assert without(verdict, by) == "SUPPORTED", "the gates named carry the weight alone"


def test_every_deciding_gate_has_a_trap_that_no_other_holds_back():
    """So a gate that is forced to pass makes a test of its own fail; g2's and g3's have beds of their own below."""
    alone = {next(iter(by)) for _, _, by in TRAPS.values() if len(by) == 1}

    assert alone | {"g2", "g3"} == {s.gate for s in BATTERY if s.role in ("gate", "falsifier")}


def test_a_random_push_that_breaks_the_behaviour_does_no_more_than_other_random_pushes(data):
    fragile = bed("fragile")

    verdict = tried(change(fragile, data, push(0.1)), fragile, data)

    assert verdict.word == "REFUTED" and outcomes(verdict)["g2"] == "fail"
    assert outcomes(verdict)["g1"] == "pass" and gate(verdict, "g2").strongest == "random vector"
    assert without(verdict, {"g2"}) == "SUPPORTED"


def test_a_true_effect_under_the_smallest_one_that_temperature_makes_up_for_is_refuted(data):
    sharp = bed("sharp")

    verdict = tried(along(sharp, data, temperature=1.0, mood=1.8), sharp, data, doses=(0.1,))

    assert verdict.word == "REFUTED" and failing(verdict) - {"r6"} == {"g3"}, outcomes(verdict)
    assert gate(verdict, "g1").estimate.value > 1 > 0.4 > gate(verdict, "g3").estimate.value > 0.25
    assert without(verdict, {"g3"}) == "SUPPORTED"


def test_the_vector_of_another_concept_does_not_steer(subject, data):
    verdict = tried(along(subject, data, parity=2.0), subject, data)

    assert verdict.word == "REFUTED" and outcomes(verdict)["g1"] == "fail"


def test_a_random_direction_is_refuted(subject, data):
    assert tried(change(subject, data, push(0.1)), subject, data).word == "REFUTED"


def test_a_vector_made_from_shuffled_labels_does_no_more_than_other_shuffles(subject, data):
    shuffled = data.dev.relabel(list(np.random.default_rng(1).permutation(data.dev.labels)))
    reading = MeanDifference(site="residual").fit(subject, shuffled)

    verdict = tried(reading, subject, data)

    assert verdict.word != "SUPPORTED"


def test_a_behaviour_that_is_decided_in_the_input_is_called_locked(data):
    locked = bed("locked")

    verdict = tried(along(locked, data, mood=2.0), locked, data)

    assert verdict.word == "INVALID"
    assert gate(verdict, "i0").note.startswith("locked")


def test_prompts_that_want_different_words_do_not_make_the_instrument_fail(subject):
    mixed = [r | dict(zip(("answer", "foil"), ("good", "bad") if i % 4 < 2 else ("bad", "good"), strict=True))
             for i, r in enumerate(rows(400))]  # fmt: skip
    data = examples(mixed, text="text", label="mood", cluster="group", answer="answer", foil="foil", name="mixed")

    verdict = tried(along(subject, data, mood=2.0), subject, data, targets={})

    assert outcomes(verdict)["i0"] == "pass" and "own gradient" in gate(verdict, "i0").note
    assert verdict.word == "REFUTED" and outcomes(verdict)["g4"] == "fail"


# ---- what the gates print


def test_the_working_dose_is_chosen_on_dev_and_neutral_halves_share_no_text(subject, data):
    bench = Bench(claim(along(subject, data, costly=0.4), data), subject, data.dev, effort=EFFORT)

    choosing, testing = bench.neutral

    assert bench.gate is None and not set(choosing.texts) & set(testing.texts)
    assert bench.dose.fits and bench.dose.value < max(bench.doses)
    assert bench.dose.used[bench.dose.tried.index(bench.dose.value)] <= 0.8 < bench.dose.used[-1]


def test_where_no_dose_fits_the_smallest_is_tested_and_said_to_be_too_dear(subject, data):
    verdict = tried(along(subject, data, costly=1.0), subject, data, doses=(1.0, 2.0))

    assert outcomes(verdict)["g5"] == "fail" and "no dose was shown to be within" in gate(verdict, "g5").note
    assert "NO dose" in gate(verdict, "g1").note and gate(verdict, "g5").margin == 1.0


def test_the_curve_goes_to_both_sides_with_that_of_a_random_edit(true_verdict):
    series = gate(true_verdict, "g1").series

    assert series["dose"][0] < 0 and 0.0 in series["dose"] and len(series["dose"]) == len(series["value"])
    assert series["value"][0] < 0 < series["value"][-1]
    assert len(series["dose, random"]) == len(series["value, random"])


def test_what_is_left_beside_tokens_as_likely_is_in_the_units_of_the_claim(true_verdict):
    effect, beyond = gate(true_verdict, "g1").estimate.value, gate(true_verdict, "g3")

    (control,) = beyond.controls

    assert beyond.estimate.value == pytest.approx(effect - control.estimate.value, abs=1e-5)
    assert beyond.raw.value == pytest.approx(effect, abs=1e-5)
    assert gate(true_verdict, "g10").estimate.value == pytest.approx(effect / 2, rel=0.05)


def test_given_neutral_text_is_used_in_place_of_the_subjects_own(subject, data):
    given = tuple(f"w{i} w{i + 1} w{i + 2} w{i + 3} w{i + 4}" for i in range(50))

    bench = Bench(claim(along(subject, data, mood=2.0), data, neutral=given), subject, data.dev)

    assert set(bench.neutral[0].texts) | set(bench.neutral[1].texts) == set(given)


def test_neutral_text_that_comes_often_counts_often_and_stays_in_one_half(subject, data):
    given = tuple(f"w{i} w{i + 1} w{i + 2} w{i + 3} w{i + 4}" for i in range(20) for _ in range(1 + i % 3))

    halves = Bench(claim(along(subject, data, mood=2.0), data, neutral=given), subject, data.dev).neutral

    assert Counter(t for half in halves for t in half.texts) == Counter(given)
    assert not set(halves[0].texts) & set(halves[1].texts)
    assert [half.different for half in halves] == [10, 10]


def test_what_steering_costs_on_the_subjects_own_text_is_the_mean_over_many_texts():
    rng = torch.Generator().manual_seed(0)
    plain, steered = torch.randn(1, 12, generator=rng), torch.randn(1, 12, generator=rng)
    drawn = torch.multinomial(plain.softmax(-1)[0], 100_000, replacement=True, generator=rng)

    known = _scored(steered, drawn[:1], plain)[0]
    drawn_ones = _scored(steered.expand(len(drawn), -1), drawn, None)

    assert known == pytest.approx(drawn_ones.mean(0), abs=4 * drawn_ones.std(0).max() / len(drawn) ** 0.5)


def test_own_text_costs_nothing_without_a_vector_and_never_less_with_one(subject, data):
    bench = Bench(claim(along(subject, data, costly=0.2), data), subject, data.dev)

    neutral = bench.neutral[0]

    assert neutral.own and np.allclose(neutral.cost(None), 0)
    assert (neutral.cost(bench.unit) > -1e-6).all() and neutral.cost(bench.unit)[:, 0].mean() > 0.01


@pytest.mark.parametrize("at", ["all", "last"])
def test_a_vector_on_own_text_costs_the_divergence_of_the_next_token(subject, data, at):
    texts = ("tA w1 w2 w3 w4 w5 w6 w7", "tB w9 w8 w7 w6 w5 w4")
    vector = along(subject, data, costly=0.3).vector
    everywhere = Steering(subject, "residual", "all").edits(vector)  # the bed's costly part does not look back

    cost = Neutral(Steering(subject, "residual", at), texts, own=True).cost(vector)[:, 0]

    for text, mean in zip(texts, cost, strict=True):
        p, q = (subject.run([text], edits=e, logits="all").logits[0].log_softmax(-1) for e in ([], everywhere))
        apart = (p.exp() * (p - q)).sum(-1)[: len(text.split()) - 1]
        assert float(apart.min()) - 1e-5 <= mean <= float(apart.max()) + 1e-5
        assert at == "last" or mean == pytest.approx(float(apart.mean()), abs=1e-5)


def test_too_little_neutral_text_is_refused(subject, data):
    bench = Bench(claim(along(subject, data, mood=2.0), data, neutral=("w1 w2 w3",)), subject, data.dev)

    with pytest.raises(UserError, match="too few to measure side effects"):
        bench.neutral  # noqa: B018


def test_the_words_are_read_from_the_answers_where_the_label_decides_them(subject):
    answered = [r | {"answer": "good" if r["mood"] == "sunny" else "bad", "foil": "w1"} for r in rows(200)]
    data = examples(answered, text="text", label="mood", cluster="group", answer="answer", foil="foil", name="answered")

    bench = Bench(claim(along(subject, data, mood=2.0), data, targets={}), subject, data.dev)

    assert bench.words == {"sunny": ("good",), "rainy": ("bad",)}
    assert bench.prompts(data.dev).words.target.unique().tolist() == [ID["good"]]


def test_a_writer_does_all_of_it_behind_the_last_block():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=V, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    model = load(GPT2LMHeadModel(config).eval(), tokenizer=WordReader(VOCAB), name="tiny")
    data = examples(rows(300), text="text", label="mood", cluster="group", name="moods")
    origin = Origin("MeanDifference", {"site": "blocks.0.resid_post"}, model.hash, data.hash, "mood", "", "last", 0, 1)
    head = model.module.lm_head.weight.detach()
    vector = 20 * (head[ID["good"]] - head[ID["bad"]])
    made = Change("add", "blocks.0.resid_post", "last", origin, vector=vector, toward="sunny")
    bench = Bench(claim(made, data, targets={"sunny": "good", "rainy": "bad"}), model, data.dev, effort=EFFORT)
    bench.gate = data.gate.open(by="test", ledger=Ledger.in_memory())

    found = writer(bench, BATTERY[-1])

    assert found.estimate.value > 0.8 and "a WRITER" in found.note and "cosine" in found.note


# ---- the parts


def test_a_change_of_temperature_leaves_nothing_beyond_the_control_tokens():
    base = torch.randn(50, 200, generator=torch.Generator().manual_seed(0)) * 3
    base[:, 0] += 12  # the target is likelier than any control

    hot, up = base * 0.5, base.clone()
    up[:, :1] += 2.0
    ids = torch.zeros(50, 1, dtype=torch.long)
    taken = torch.tensor([[0, 1]]).expand(50, 2)
    by_heat, by_word = against_tokens(base, hot, ids, taken), against_tokens(base, up, ids, taken)

    assert (by_heat.change - by_heat.control).abs().max() < 1e-3 < by_heat.change.abs().min()
    assert torch.allclose(by_word.change - by_word.control, torch.tensor(2.0))


def test_propensity_is_a_difference_of_means_over_the_words_there_are():
    logits = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    words = Words(torch.tensor([[2, 3]]), torch.tensor([[0, -1]]))

    assert words.propensity(logits).tolist() == [5.0]


def test_prompts_are_spread_over_clusters_before_any_comes_twice(subject, data):
    bench = Bench(claim(along(subject, data, mood=2.0), data), subject, data.dev)
    whole = bench.prompts(data.dev)

    few = whole.spread(10, seed=0)

    assert len(few) == 10 == few.sample.n_clusters
    assert few.sample.ids == whole.spread(10, seed=0).sample.ids
    one, other = few.halves()
    assert not set(one.sample.clusters) & set(other.sample.clusters)


def test_many_vectors_at_once_give_what_each_gives_alone(subject, data):
    bench = Bench(claim(along(subject, data, mood=2.0), data), subject, data.dev)
    prompts = bench.prompts(data.dev).spread(7, 0)
    vectors = [push(0.1), bench.unit, torch.stack([push(0.1 * i) for i in range(7)])]

    together = bench.steering.shifts(prompts, vectors)
    base, steered = bench.steering.beside(prompts.sample.texts, vectors[2])

    runs = [subject.run(prompts.sample.texts, edits=bench.steering.edits(v), logits="last") for v in (None, *vectors)]
    logits = [run.logits for run in runs]
    plain = [prompts.words.propensity(x) - prompts.words.propensity(logits[0]) for x in logits[1:]]
    assert torch.allclose(together, torch.stack(plain), atol=1e-5) and together.abs().mean() > 0.1
    assert torch.allclose(base, logits[0], atol=1e-5) and torch.allclose(steered, logits[3], atol=1e-5)


def test_several_of_the_strongest_edits_of_each_family_reach_the_gate(subject, data):
    bench = Bench(claim(along(subject, data, mood=2.0), data), subject, data.dev, effort=Effort(draws=6, random=20))
    bench.gate = data.gate.open(by="test", ledger=Ledger.in_memory())
    spec = next(s for s in bench.claim.battery if s.gate == "g2")

    result = random_edits(bench, spec)

    families = Counter(control.family for control in bench.controls)
    assert families["random vector"] == families["shuffled-label vector"] == FINALISTS
    few = bench.gate_prompts.take(bench.few)
    moved = bench.steering.shifts(few, [c.vector * c.dose.value for c in bench.controls]).mean(1)
    most = {f: max(float(m) for c, m in zip(bench.controls, moved, strict=True) if c.family == f) for f in families}
    listed = {control.name: control.estimate.value for control in result.controls}
    assert listed == pytest.approx({family: max(value, 0.0) for family, value in most.items()}, abs=1e-5)


def test_the_gradient_is_the_slope_at_dose_zero(subject, data):
    bench = Bench(claim(along(subject, data, mood=2.0), data), subject, data.dev)
    prompts = bench.prompts(data.dev).spread(5, 0)
    step = 1e-2 * push(1.0) / push(1.0).norm()

    slope = bench.steering.gradient(prompts) @ step

    assert torch.allclose(slope, bench.steering.shifts(prompts, step[None])[0], atol=2e-3)


def test_a_dose_found_by_halving_is_the_one_found_step_by_step(subject, data):
    steering = Steering(subject, "residual", "all")
    neutral = Neutral(steering, tuple(f"tA w{i} w{i + 1} w{i + 2} w{i + 3} w{i + 4} w{i + 5}" for i in range(40)))
    vector = along(subject, data, costly=1.0).vector
    doses = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

    (slow, other), (fast, _) = (choose_doses(neutral, [vector, 2 * vector], doses, 80, quick=q) for q in (False, True))

    assert slow.value == fast.value and doses[0] < slow.value < doses[-1]
    assert other.value < slow.value and other == choose_doses(neutral, [2 * vector], doses, 80)[0]


class Costs(Neutral):
    """Neutral texts that cost `mean` of the cross-entropy budget a unit dose, give or take ten budgets."""

    def __init__(self, mean: float, texts: int) -> None:
        drawn = np.random.default_rng(0).normal(size=texts)
        self.__dict__.update(each=10 * (drawn - drawn.mean()) + mean)

    def cost(self, vector: torch.Tensor | None) -> np.ndarray:
        return np.stack([NATS * float(vector) * self.each, np.zeros(len(self.each))], 1)

    @property
    def shared(self) -> bool:
        return False

    @property
    def draws(self) -> Resampler:
        return Resampler(tuple(map(str, range(len(self.each)))), 0, draws=500)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("mean", "texts", "value", "fits"),
    [(0.1, 10_000, 2.0, True), (0.1, 100, 4.0, False), (0.3, 100, 2.0, False), (5.0, 100, 1.0, False)],
    ids=["plenty of texts", "few texts, cheap", "few texts, dearer", "too dear at every dose"],
)
def test_with_too_few_texts_the_mean_cost_chooses_the_dose(mean, texts, value, fits, quick):
    (dose,) = choose_doses(Costs(mean, texts), [torch.ones(1)], (1.0, 2.0, 4.0), later=texts, quick=quick)

    assert (dose.value, dose.fits) == (value, fits)


def test_repetition_counts_runs_of_three_words():
    assert repetition(["a b c d e"]) == 0
    assert repetition(["a b c a b c"]) == pytest.approx(1 / 4)


# ---- errors


@pytest.mark.parametrize(
    "more, message",
    [
        ({"at": 3}, "'all' or at the 'last' position only"),
        ({"doses": (0.0,)}, "at least one dose other than 0"),
        ({"targets": {"rainy": "bad"}}, "`targets` has no word for it, only for rainy"),
    ],
)
def test_a_claim_that_cannot_be_tested_is_refused(subject, data, more, message):
    with pytest.raises(UserError, match=message):
        claim(along(subject, data, mood=2.0), data, **more)


def test_a_model_that_looks_both_ways_is_refused_before_anything_is_opened(data):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = load(
        BertForMaskedLM(BertConfig(vocab_size=V, **sizes)).eval(), tokenizer=WordReader(VOCAB), name="both-ways"
    )
    site, ledger = "blocks.0.resid_post", Ledger.in_memory()
    origin = Origin("MeanDifference", {"site": site}, bert.hash, data.hash, "mood", site, "last", 0, 1)
    made = claim(Change("add", site, "last", origin, vector=torch.ones(32), toward="sunny"), data)

    with pytest.raises(UserError, match=r"both-ways sees what stands behind a token.*reads from left to right"):
        trial(made, subject=bert, ledger=ledger, effort=EFFORT)

    assert not ledger.rows("look") and not ledger.rows("evidence")


def test_an_erasure_cannot_steer(subject, data):
    erased = MeanDifference(site="residual").fit(subject, data.dev).as_change("erase")

    with pytest.raises(UserError, match="C3 NECESSARY"):
        claim(erased, data)


@pytest.mark.parametrize(
    "targets, message", [({}, "has no `answer` and `foil`"), ({"sunny": "good", "rainy": "good"}, "the same token")]
)
def test_a_claim_without_words_says_how_to_name_them(subject, data, targets, message):
    bench = Bench(claim(along(subject, data, mood=2.0), data, targets=targets), subject, data.dev)

    with pytest.raises(UserError, match=message) as told:
        bench.dev_prompts  # noqa: B018
    assert "targets={'sunny': 'its word'" in str(told.value)


def test_the_statement_and_the_card_say_what_is_added_where(subject, data):
    made = claim(along(subject, data, mood=2.0), data, at=None, smallest_effect=1.0)

    assert made.place == "last" and "the last position" in made.statement and "at least 1 logits" in made.statement
    assert made.fields["targets"] == {"sunny": ["good", "great"], "rainy": ["bad", "poor"]}
    held = {s.gate: s.margin for s in made.battery}
    assert (held["g1"], held["g2"], held["g3"], held["g10"]) == (1.0, 1.0, 1.0, 0.25)
    usual = {s.gate: s.margin for s in claim(made.finding, data).battery}
    assert (usual["g1"], usual["g2"], usual["g3"], usual["g10"]) == (0.5, 0.5, 0.5, 0.125)


def test_a_random_direction_is_refuted_where_others_as_strong_keep_within_the_budget_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()  # the whole effort
    settings = {"how": "random", "fragile": True, "seed": 700_014}  # the strongest others cost too much at any dose
    claim, subject = modes.steers(**settings)

    with use(Ledger.in_memory()) as ledger:
        verdict = trial(claim, subject=subject, ledger=ledger, seed=700_014)

    assert verdict.word == "REFUTED"
    assert next(g.outcome for g in verdict.gates if g.gate == "g2") == "fail"
