"""C2 on small networks whose mechanism is written down: true mediators pass, each known-false kind is refused.

All share one body: words are summed into a residual stream (the site), and a head reads it. What differs is where the
variable is written, what the head reads, and what goes round the site on a bypass.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from veriscope.claims.mediates import BATTERY, Mediates
from veriscope.errors import MissingField, UserError
from veriscope.examples import Examples, Sample, examples
from veriscope.findings import Reading
from veriscope.ledger import Ledger, use
from veriscope.methods import MeanDifference
from veriscope.subjects import SetTo, Subject, WordReader, load
from veriscope.trials.decide import decide
from veriscope.trials.evidence import Verdict
from veriscope.trials.interchange import (
    Pairs,
    balanced_rows,
    check_tokens,
    hits_among,
    independent_labels,
    readable_part,
    readable_span,
    thin,
)
from veriscope.trials.judge import Effort
from veriscope.trials.mediates import PLAIN, REPLAYED, Bench, rivals_of, strongest_on_dev
from veriscope.trials.trial import trial

D, TEMPLATES, NOUNS, NOISE, FILLERS = 32, 80, 24, 150, 60
VOCAB = [
    *(f"t{i}" for i in range(TEMPLATES)), *(f"p{i}" for i in range(NOUNS)), *(f"n{i}" for i in range(NOISE)),
    *(f"w{i}" for i in range(4)), *(f"f{i}" for i in range(FILLERS)), "yes", "no", "maybe",
]  # fmt: skip
WORD = {word: i for i, word in enumerate(VOCAB)}
QUICK = Effort(draws=8, twins=2, random=20)


def axes(seed: int = 0) -> Tensor:
    """Orthonormal directions, none along a coordinate."""
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(seed)))[0]


class Net(nn.Module):
    """Words summed up to each position; `writes` are what noun and w words add, `reads` what tokens get from it."""

    def __init__(
        self,
        writes: Callable[[str], Tensor | None],
        reads: dict[str, Tensor],
        bypass: dict[str, float] | None = None,
        bend: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        noise: float = 0.25,
    ) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(len(VOCAB), D)
        self.side = nn.Embedding(len(VOCAB), 1)
        self.residual = nn.Identity()
        self.head = nn.Linear(D, len(VOCAB), bias=False)
        self.side_head = nn.Linear(1, len(VOCAB), bias=False)
        self.bend = bend or (lambda h: h)
        with torch.no_grad():
            self.embed.weight.zero_()
            self.head.weight.copy_(0.05 * torch.randn(len(VOCAB), D, generator=rng))
            self.side.weight.zero_()
            self.side_head.weight.zero_()
            for word, i in WORD.items():
                if word[0] in "nt" and word[1:].isdigit():
                    self.embed.weight[i] = noise * torch.randn(D, generator=rng)
                written = writes(word)
                if written is not None:
                    self.embed.weight[i] += written
                if bypass and word[0] == "p":
                    self.side.weight[i] = 1.0 if int(word[1:]) % 2 else -1.0
            for word, direction in reads.items():
                self.head.weight[WORD[word]] += direction
            for word, gain in (bypass or {}).items():
                self.side_head.weight[WORD[word]] = gain

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.residual(self.embed(input_ids).cumsum(1))
        return self.head(self.bend(h)) + self.side_head(self.side(input_ids).cumsum(1))


def noun_sign(word: str) -> float | None:
    """The variable: odd nouns are 1, even ones 0."""
    return None if word[0] != "p" or not word[1:].isdigit() else (1.0 if int(word[1:]) % 2 else -1.0)


def along(direction: Tensor) -> Callable[[str], Tensor | None]:
    return lambda word: None if noun_sign(word) is None else 1.5 * noun_sign(word) * direction


def opposed(direction: Tensor, gain: float = 2.0) -> dict[str, Tensor]:
    return {"yes": gain * direction, "no": -gain * direction}


def rows_of(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Sentences `template noise noun w noise`, the source with a noun of the other kind and all else the same."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        t, a, b, z, w = (int(rng.integers(k)) for k in (TEMPLATES, NOISE, NOISE, 2, 2))
        noun, other = 2 * int(rng.integers(NOUNS // 2)) + z, 2 * int(rng.integers(NOUNS // 2)) + 1 - z
        row = {
            "text": f"t{t} n{a} p{noun} w{w} n{b}", "source": f"t{t} n{a} p{other} w{w} n{b}", "z": str(z),
            "answer": "yes" if z else "no", "expected": "no" if z else "yes", "template": f"t{t}", "w": f"w{w}",
        }  # fmt: skip
        rows.append(row)
    return rows


def _with(text: str, place: int, word: str) -> str:
    parts = text.split()
    parts[place] = word
    return " ".join(parts)


def loaded_rows(rows: Sequence[dict[str, str]], factors: Sequence[str] = ("w",), **more: Any) -> Examples:
    return examples(rows, label="z", cluster="template", answer="answer", source_text="source", expected="expected",
                    factors=list(factors), **more)  # fmt: skip


@cache
def pairs_of(n: int = 560) -> Examples:
    return loaded_rows(rows_of(n))


def open_net(module: nn.Module, name: str = "tiny") -> Subject:
    return load(module, tokenizer=WordReader(VOCAB), name=name)


def put_on_trial(
    subject: Subject, data: Examples, weight: Tensor | None = None, method: Any = None, **fields: Any
) -> Verdict:
    """Fit, replace the weights by a planted direction if one is given, and try the claim."""
    with use(Ledger.in_memory()):
        finding = (method or MeanDifference(site="residual")).fit(subject, data.dev)
        if weight is not None:
            if weight.shape[1] > 1:  # several columns belong to several classes and are centred
                weight = torch.cat([weight, -weight.sum(1, keepdim=True)], 1)
            k = weight.shape[1]
            names = finding.classes if k == 1 else tuple(str(i) for i in range(k))
            finding = dataclasses.replace(finding, weight=weight, bias=torch.zeros(k), classes=names, gaps=(0.0,) * k)
        claim = Mediates(finding, of="z", on=data, **fields)
        return trial(claim, subject=subject, ledger=Ledger.in_memory(), effort=QUICK)


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {r.gate: r.outcome for r in verdict.gates}


def failing(verdict: Verdict) -> set[str]:
    """Gates that refute and falsifiers that fired."""
    return {r.gate for r in verdict.gates if (r.role == "gate" and r.outcome == "fail") or r.outcome == "fired"}


@pytest.fixture(scope="module")
def data() -> Examples:
    return pairs_of()


def test_true_mediator_is_supported(data: Examples) -> None:
    u = axes()[:, 0]

    verdict = put_on_trial(open_net(Net(along(u), opposed(u))), data)

    assert verdict.word == "SUPPORTED" and verdict.level == 3, verdict.sentence
    assert outcomes(verdict)["f8"] == "quiet" and outcomes(verdict)["f9"] == "quiet"


def test_true_mediator_with_a_part_that_nothing_reads(data: Examples) -> None:
    """Its null-space part is no fault: the part that is read carries the variable by nature (Wu 2024)."""
    u, unread = axes()[:, 0], axes()[:, 1]
    net = Net(along(u + unread), opposed(u))
    net.head.weight.data -= (net.head.weight.data @ unread)[:, None] * unread

    verdict = put_on_trial(open_net(net), data)

    assert verdict.word == "SUPPORTED", verdict.sentence


def test_true_mediator_through_a_negative_component(data: Examples) -> None:
    """The variable only ever lowers one token, against a constant that holds it up."""
    u = axes()[:, 0]
    net = Net(lambda word: 3 * u if noun_sign(word) == -1 else None, {"yes": -3.0 * u})
    net.side.weight.data[[WORD[w] for w in VOCAB if w[0] == "p"]] = 1.0
    net.side_head.weight.data[WORD["yes"]] = 4.5

    verdict = put_on_trial(open_net(net), data)

    assert verdict.word == "SUPPORTED", verdict.sentence


def test_true_two_dimensional_mediator() -> None:
    """Three values at the corners of a triangle: no single direction carries them."""
    a, b = axes()[:, 0], axes()[:, 1]
    corners = [a, -0.5 * a + 0.87 * b, -0.5 * a - 0.87 * b]
    words = ("yes", "no", "maybe")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(700):
        t, n, z, step = (int(rng.integers(k)) for k in (TEMPLATES, NOISE, 3, 2))
        other = (z + 1 + step) % 3
        noun, source = (3 * int(rng.integers(NOUNS // 3)) + v for v in (z, other))
        rows.append({"text": f"t{t} n{n} p{noun}", "source": f"t{t} n{n} p{source}", "z": str(z), "template": f"t{t}",
                     "answer": words[z], "expected": words[other]})  # fmt: skip
    data = examples(rows, label="z", cluster="template", answer="answer", source_text="source", expected="expected")
    net = Net(
        lambda word: 2.0 * corners[int(word[1:]) % 3] if noun_sign(word) else None,
        {word: 2.0 * corner for word, corner in zip(words, corners, strict=True)},
    )

    plane = put_on_trial(open_net(net), data)
    one_direction = put_on_trial(open_net(net), data, weight=torch.stack([a, 2 * a], 1))

    assert plane.word == "SUPPORTED", plane.sentence
    assert one_direction.word != "SUPPORTED"


# --- traps: each false claim, and the gate without which it would be supported ----------------------------


def only_one_answer() -> Verdict:
    """g1: every pair expects yes, so saying yes would do."""
    u = axes()[:, 0]
    rows = [r for r in rows_of(800) if r["expected"] == "yes"]
    for r in (r for r in rows_of(800) if r["expected"] == "no"):  # the other value, in isolation pairs only
        rows.append({**r, "source": _with(r["text"], 1, "n0"), "expected": r["answer"]})
    return put_on_trial(open_net(Net(along(u), opposed(u))), loaded_rows(rows))


def wide_subspace() -> Verdict:
    """g2: an alignment that is free enough fits anything; 20 random dimensions of 32 move the answer as well."""
    u = axes()[:, 0]
    wide = torch.cat([u[:, None], torch.randn(D, 19, generator=torch.Generator().manual_seed(1))], 1)
    return put_on_trial(open_net(Net(along(u), opposed(u))), pairs_of(), weight=wide)


def nothing_learnt() -> Verdict:
    """g3: nothing of the mechanism is a weight, so a random-weight twin has it too."""
    u = axes()[:, 0]
    net = Net(along(u), opposed(u))
    for part in (net.embed, net.head, net.side, net.side_head):
        kept = part.weight.detach().clone()
        del part.weight
        part.register_buffer("weight", kept)
    net.spare = nn.Linear(2, 2)
    return put_on_trial(open_net(net), pairs_of())


def dormant_net(gain: float = 6.0) -> tuple[Net, Tensor]:
    """A carrier that nothing reads, a reader that nothing writes to, and a bypass that carries the behaviour."""
    carrier, reader = axes()[:, 0], axes()[:, 1]
    net = Net(along(carrier), {}, bypass={"yes": 2.0, "no": -2.0})
    net.head.weight.data -= (net.head.weight.data @ carrier)[:, None] * carrier
    net.embed.weight.data -= (net.embed.weight.data @ reader)[:, None] * reader
    net.embed.weight.data += 0.3 * torch.randn(len(VOCAB), 1, generator=torch.Generator().manual_seed(5)) * reader
    net.head.weight.data[WORD["yes"]] += gain * reader
    net.head.weight.data[WORD["no"]] -= gain * reader
    return net, (carrier + reader)[:, None]


@cache
def dormant_path() -> Verdict:
    """g4: the direction joins the carrier with the reader; the reader's own noise keeps the swap on distribution."""
    net, weight = dormant_net()
    net.side_head.weight.data *= 4.0
    net.head.weight.data[[WORD["yes"], WORD["no"]]] *= 1.5
    return put_on_trial(open_net(net), pairs_of(), weight=weight)


def plane_of_two_variables() -> Verdict:
    """g5: the answer turns on both z and w; the plane holds both, so swapping it for z's sake changes w's share."""
    return put_on_trial(*product_net(), weight=axes()[:, :2])


def product_net() -> tuple[Subject, Examples]:
    """Yes where z and w agree."""
    u, v, out = axes()[:, 0], axes()[:, 1], axes()[:, 2]

    def writes(word: str) -> Tensor | None:
        if word in ("w0", "w1"):
            return (1.5 if word == "w1" else -1.5) * v
        return along(u)(word)

    def bend(h: Tensor) -> Tensor:
        return h + 2.0 * torch.tanh((h @ u)[..., None]) * torch.tanh((h @ v)[..., None]) * out

    rows = []
    for r in rows_of(560):
        agree = r["z"] == r["w"][1]
        rows.append({**r, "answer": "yes" if agree else "no", "expected": "no" if agree else "yes"})
    return open_net(Net(writes, opposed(out), bend=bend)), loaded_rows(rows, factors=[])


def class_of_words() -> Verdict:
    """g6: the direction moves yes against no, and thirty other words with each."""
    u = axes()[:, 0]
    reads = opposed(u) | {f"f{i}": 2.0 * u if i % 2 else -2.0 * u for i in range(FILLERS)}
    return put_on_trial(open_net(Net(along(u), reads)), pairs_of())


KINDS = ((0, False), (1, True), (2, True), (1, False), (2, False), (0, False))  # of nouns: value, and whether copied


def one_way() -> Verdict:
    """g7: behind an OR, putting the value in works, taking it out does not, because a copy stands beside it."""
    first, second = axes()[:, [0, 1]], axes()[:, [2, 3]]  # for each of two values, its direction and its copy's
    outs = axes()[:, [4, 5]]

    def writes(word: str) -> Tensor | None:
        if noun_sign(word) is None:
            return None
        z, copied = KINDS[int(word[1:]) % 6]
        signs = [torch.tensor([1.0 if z == v else -1.0, 1.0 if z == v and copied else -1.0]) for v in (1, 2)]
        return 1.5 * (first @ signs[0] + second @ signs[1])

    def bend(h: Tensor) -> Tensor:
        either = torch.stack([torch.tanh(3 * (h @ pair)).amax(-1) for pair in (first, second)], -1)
        return h - (h @ outs) @ outs.T + 2.0 * either @ outs.T

    net = Net(writes, {"yes": 2 * outs[:, 0], "maybe": 2 * outs[:, 1]}, bend=bend)
    net.side.weight.data[[WORD[w] for w in VOCAB if w[0] == "p"]] = 1.0
    net.side_head.weight.data[WORD["no"]] = 1.0
    weight = torch.stack([first[:, 0], second[:, 0]], 1)
    return put_on_trial(open_net(net), one_way_pairs(), weight=weight)


def one_way_pairs(n: int = 900) -> Examples:
    """Interchange pairs whose base always has the value 0, beside isolation pairs of the other values."""
    rng = np.random.default_rng(0)
    words, rows = ("no", "yes", "maybe"), []
    for i in range(n):
        t, a, b = (int(rng.integers(k)) for k in (TEMPLATES, NOISE, NOISE))
        alike = [(1, 3), (2, 4), (3, 1), (4, 2)][int(rng.integers(4))]
        base, source = (0, 1 + int(rng.integers(2))) if i % 3 else alike
        noun, other = (6 * int(rng.integers(NOUNS // 6)) + kind for kind in (base, source))
        rows.append({
            "text": f"t{t} n{a} p{noun} n{b}", "source": f"t{t} n{a} p{other} n{b}", "template": f"t{t}",
            "z": str(KINDS[base][0]), "answer": words[KINDS[base][0]], "expected": words[KINDS[source][0]],
            "pair": "interchange" if i % 3 else "isolation",
        })  # fmt: skip
    return loaded_rows(rows, factors=["pair"])


def rival_goes_along() -> Verdict:
    """f8: w is what the head reads; z goes along with it in nine rows of ten, and in every pair."""
    u, v = axes()[:, 0], axes()[:, 1]

    def writes(word: str) -> Tensor | None:
        if word in ("w0", "w1"):
            return (1.5 if word == "w1" else -1.5) * v
        return along(0.3 * u)(word)

    rng, rows = np.random.default_rng(0), []
    for r in rows_of(900):
        w = int(r["z"]) if rng.random() < 0.9 else 1 - int(r["z"])
        text, source = _with(r["text"], 3, f"w{w}"), _with(r["source"], 3, f"w{1 - w}")
        answers = {"answer": "yes" if w else "no", "expected": "no" if w else "yes"}
        rows.append({**r, "text": text, "source": source, "w": f"w{w}", **answers})
    return put_on_trial(open_net(Net(writes, opposed(v))), loaded_rows(rows), rivals=("w",))


TRAPS: dict[str, Callable[[], Verdict]] = {
    "g1": only_one_answer, "g2": wide_subspace, "g3": nothing_learnt, "g4": dormant_path,
    "g5": plane_of_two_variables, "g6": class_of_words, "g7": one_way, "f8": rival_goes_along,
}  # fmt: skip


@pytest.mark.parametrize("gate", TRAPS)
def test_trap_is_caught_and_would_slip_through_without_its_gate(gate: str) -> None:
    verdict = TRAPS[gate]()

    assert verdict.word == ("UNDERDETERMINED" if gate == "f8" else "REFUTED"), verdict.sentence
    assert failing(verdict) == {gate}
    rest = [s for s in BATTERY if s.gate != gate]
    assert decide(rest, [r for r in verdict.gates if r.gate != gate]).word == "SUPPORTED"


def test_every_gate_that_can_refute_has_a_trap() -> None:
    assert {s.gate for s in BATTERY if s.role == "gate"} <= set(TRAPS)


def test_one_variable_of_two_is_supported_where_the_plane_of_both_is_not() -> None:
    assert put_on_trial(*product_net(), weight=axes()[:, :1]).word == "SUPPORTED"


def test_numbers_of_the_dormant_triad() -> None:
    """The toy of Makelov 2023: a strong subspace at a site that does nothing as a whole."""
    triad = next(r for r in dormant_path().gates if r.gate == "g4")
    numbers = {c.name: c.estimate.value for c in triad.controls if c.estimate}

    assert abs(numbers["E of the whole site"]) < 0.1 < 0.4 < numbers["E of the subspace"]
    assert abs(numbers["E of the readable part"]) < 0.1
    assert numbers["R2 of the variable, readable part"] < 0.1


@pytest.mark.parametrize("where", ["unread copy", "nothing there"])
def test_variable_computed_elsewhere(data: Examples, where: str) -> None:
    """A bypass carries the behaviour; the site holds a copy that nothing reads, or not even that."""
    u = axes()[:, 0]
    net = Net(along(u) if where == "unread copy" else lambda word: None, {}, bypass={"yes": 2.0, "no": -2.0})
    net.head.weight.data -= (net.head.weight.data @ u)[:, None] * u

    verdict = put_on_trial(open_net(net), data)

    assert verdict.word == "REFUTED", verdict.sentence
    assert {"g1", "g2"} <= failing(verdict)


def test_temperature_direction(data: Examples) -> None:
    """A direction that only sharpens or flattens all logits moves no answer."""
    u, heat = axes()[:, 0], axes()[:, 1]

    def bend(h: Tensor) -> Tensor:
        return h * torch.exp(0.5 * (h @ heat))[..., None]

    net = Net(lambda w: None if noun_sign(w) is None else noun_sign(w) * (1.5 * u + heat), opposed(u), bend=bend)

    verdict = put_on_trial(open_net(net), data, weight=heat[:, None])

    assert "g1" in failing(verdict) and verdict.word in ("REFUTED", "INVALID"), verdict.sentence


def test_model_without_the_behaviour_is_invalid(data: Examples) -> None:
    verdict = put_on_trial(open_net(Net(along(axes()[:, 0]), {})), data)

    assert verdict.word == "INVALID"
    assert "lacks the behaviour" in verdict.gates[0].note


def test_push_far_off_distribution_is_invalid(data: Examples) -> None:
    """The swap wakes a reader that no text wakes."""
    net, weight = dormant_net()
    reader = axes()[:, 1]
    net.embed.weight.data -= (net.embed.weight.data @ reader)[:, None] * reader

    verdict = put_on_trial(open_net(net), data, weight=weight)

    assert verdict.word == "INVALID" and outcomes(verdict)["f9"] == "fired", verdict.sentence


def test_shift_pool_on_which_it_is_lost(data: Examples) -> None:
    """Where w3 stands the head's reading is turned round, and the shift pool is full of w3."""
    u, turn = axes()[:, 0], axes()[:, 1]

    def writes(word: str) -> Tensor | None:
        return 3.0 * turn if word == "w3" else -3.0 * turn if word in ("w0", "w1") else along(u)(word)

    def bend(h: Tensor) -> Tensor:
        turned = torch.sigmoid(4 * (h @ turn))[..., None]
        return h - 2 * turned * (h @ u)[..., None] * u

    moved = [{**r, "text": _with(r["text"], 3, "w3"), "source": _with(r["source"], 3, "w3"), "domain": "far"}
             for r in rows_of(200, seed=3)]  # fmt: skip
    rows = [{**r, "domain": "near"} for r in rows_of(700)] + moved
    data = loaded_rows(rows, factors=[], shift={"column": "domain", "is": ["far"]})

    verdict = put_on_trial(open_net(Net(writes, opposed(u), bend=bend)), data)

    assert verdict.word == "REFUTED" and failing(verdict) == {"f11"}, verdict.sentence


# --- a method that trains through the model --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trained:
    """Stands for a search that has `fit` only: it counts its own fits and needs no `weights`."""

    site: str = "residual"
    position: str = "last"
    seed: int = 0

    def fit(self, subject: Subject, sample: Sample) -> Reading:
        found = MeanDifference(site=self.site).fit(subject, sample)
        return dataclasses.replace(found, origin=dataclasses.replace(found.origin, method=f"{__name__}:Trained",
                                                                     settings={"site": self.site}))  # fmt: skip


def test_method_with_fit_only_gets_the_same_controls_and_leaves_no_tries(data: Examples) -> None:
    u = axes()[:, 0]
    ledger = Ledger.in_memory()
    with use(ledger):
        verdict = put_on_trial(open_net(Net(along(u), opposed(u))), data, method=Trained())

    assert verdict.word == "SUPPORTED", verdict.sentence
    assert verdict.tries == 0


# --- parts -----------------------------------------------------------------------------------------------


def test_position_named_by_a_column_is_found_in_both_texts() -> None:
    """The noun stands at another place in the source; `source_noun` says which noun."""
    u = axes()[:, 0]
    rows = [{**r, "noun": r["text"].split()[2], "source_noun": r["source"].split()[2],
             "source": " ".join(np.roll(r["source"].split(), 1))} for r in rows_of(50)]  # fmt: skip
    data = loaded_rows(rows, factors=["noun", "source_noun"])
    pairs = Pairs(open_net(Net(along(u), opposed(u))), data.dev, "embed", "noun")

    assert torch.equal(torch.as_tensor(pairs.at), torch.full((len(pairs),), 2))
    assert torch.equal(torch.as_tensor(pairs.source_at), torch.full((len(pairs),), 3))


def test_swap_of_a_subspace_by_hand(data: Examples) -> None:
    u = axes()[:, 0]
    pairs = Pairs(open_net(Net(along(u), opposed(u))), data.dev.take(range(8)), "residual", "last")
    basis = axes()[:, :3]

    values = pairs.swapped(basis)
    together = pairs.many([basis, axes()[:, 5:6]], torch.arange(len(VOCAB)))

    assert torch.allclose(values @ basis, pairs.source_acts @ basis, atol=1e-5)
    assert torch.allclose(values @ axes()[:, 3:], pairs.base_acts @ axes()[:, 3:], atol=1e-5)
    assert torch.allclose(together[0], pairs.set_to(values), atol=1e-5)
    assert torch.allclose(pairs.swapped(None), pairs.source_acts)
    head = pairs.subject.module.head.weight.detach()  # the head is linear, so slopes are its rows
    assert torch.allclose(pairs.gradients(values), head[pairs.expected] - head[pairs.answer], atol=1e-4)


def tiny_gpt2() -> Subject:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(VOCAB), n_positions=16, n_embd=D, n_layer=3, n_head=4, initializer_range=0.3)
    return load(GPT2LMHeadModel(config).eval(), tokenizer=WordReader(VOCAB), name="tiny")


@pytest.mark.parametrize("reverse", [False, True])
def test_swaps_and_pushes_replayed_together_are_what_a_run_of_each_gives(data: Examples, reverse: bool) -> None:
    pairs = Pairs(tiny_gpt2(), data.dev.take(range(6)), "blocks.1.resid_post", 2)
    ids = torch.arange(len(VOCAB))
    bases = [axes()[:, :3], None, axes()[:, :0]]

    together = pairs.many(bases, ids)
    effects = pairs.effects(bases)
    pushes = pairs.shifts([SetTo(pairs.swapped(axes()[:, :5], reverse)), SetTo(pairs.base_acts)], reverse)

    set_to = [pairs.set_to(pairs.swapped(basis)) for basis in bases]
    assert torch.allclose(together, torch.stack(set_to), atol=1e-5)
    assert torch.allclose(pairs.many(bases[:1], ids[3:5]), together[:1, :, 3:5], atol=1e-5)  # one alone is run plainly
    assert torch.allclose(effects, torch.stack([pairs.preference(x) for x in set_to]) - pairs.wanted, atol=1e-5)
    assert effects[0].abs().mean() > 1e-2 and effects[2].abs().max() < 1e-6
    clean = (pairs.source if reverse else pairs.base).logits
    there = pairs.preference(pairs.set_to(pairs.swapped(axes()[:, :5], reverse), reverse)) - pairs.preference(clean)
    assert torch.allclose(pushes[0], there, atol=1e-5)


def test_controls_are_searched_more_widely_where_edits_are_replayed(data: Examples) -> None:
    benches = []
    for who, site in ((tiny_gpt2(), "blocks.1.resid_post"), (open_net(Net(along(axes()[:, 0]), {})), "residual")):
        with use(Ledger.in_memory()):
            claim = Mediates(MeanDifference(site=site).fit(who, data.dev), of="z", on=data)
        benches.append(Bench(claim, who, data.dev, effort=QUICK))
    replayed = benches[0]
    bases = [axes(seed)[:, :4] for seed in range(20)]

    found = {bench.search: strongest_on_dev(bench, bases) for bench in benches}

    assert [len(strongest) for strongest in (found[REPLAYED], found[PLAIN])] == [5, 1]
    pairs, ids = replayed.screen(REPLAYED.pairs), replayed.dev_candidates
    of_all = hits_among(pairs, pairs.many(bases, ids), ids).mean(1)
    of_found = hits_among(pairs, pairs.many(found[REPLAYED], ids), ids).mean(1)
    assert of_found.tolist() == sorted(of_all, reverse=True)[:5] and of_all.max() > of_all.min()


def test_redrawn_labels_tell_nothing_about_the_true_ones() -> None:
    codes = torch.tensor([0] * 60 + [1] * 30)

    drawn = independent_labels(codes, 10, seed=0)

    for draw in drawn:
        assert abs(float(draw[:60].double().mean()) - 1 / 3) < 0.05
        assert abs(float(draw[60:].double().mean()) - 1 / 3) < 0.05
    assert len({tuple(draw.tolist()) for draw in drawn}) == 10


def test_balanced_rows_part_a_rival_from_the_label() -> None:
    labels, column = ["a"] * 50 + ["b"] * 50, ["x"] * 40 + ["y"] * 10 + ["x"] * 5 + ["y"] * 45

    rows = balanced_rows(column, labels, seed=0).tolist()
    inseparable = balanced_rows(labels, labels, seed=0)

    cells = Counter((z, c) for z, c, kept in zip(labels, column, rows, strict=True) if kept)
    assert cells == {("a", "x"): 10, ("a", "y"): 10, ("b", "x"): 5, ("b", "y"): 5}
    assert inseparable.all()


def test_readable_part_keeps_what_gradients_span() -> None:
    slopes = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) @ axes()[:, :2].T

    span = readable_span(slopes)
    half = readable_part(axes()[:, [1]] + axes()[:, [7]], span)

    assert span.shape == (D, 2) and torch.allclose(half.abs(), axes()[:, [1]].abs(), atol=1e-4)
    assert readable_part(axes()[:, [7]], span).shape[1] == 0
    assert readable_span(torch.zeros(4, D)).shape == (D, 0)


def test_thin_takes_every_cluster_before_any_twice() -> None:
    clusters = ["a"] * 10 + ["b", "c"]

    assert {clusters[i] for i in thin(clusters, 3, seed=0)} == {"a", "b", "c"}
    assert thin(clusters, 99, seed=0) == list(range(12))


def test_rivals_are_drawn_but_never_the_label_under_another_name(data: Examples) -> None:
    u = axes()[:, 0]
    rows = [{**r, "alias": "odd" if r["z"] == "1" else "even", "noun": r["text"].split()[2]} for r in rows_of(700)]
    many = loaded_rows(rows, factors=["alias", "noun", "w"])
    subject = open_net(Net(along(u), opposed(u)))
    with use(Ledger.in_memory()):
        claim = Mediates(MeanDifference(site="residual").fit(subject, many.dev), of="z", on=many, rivals=("alias",))

    assert rivals_of(Bench(claim, subject, many.dev)) == ["w"]


# --- what the claimant can mend ----------------------------------------------------------------------------


def test_messages(data: Examples) -> None:
    u = axes()[:, 0]
    subject = open_net(Net(along(u), opposed(u)))
    unpaired = examples(rows_of(200), label="z", cluster="template", answer="answer")
    constant = loaded_rows([{**r, "only": "one"} for r in rows_of(200)], factors=["only"])
    with use(Ledger.in_memory()):
        finding = MeanDifference(site="residual").fit(subject, data.dev)

    with pytest.raises(MissingField, match="source_text="):
        Mediates(finding, of="z", on=unpaired)
    with pytest.raises(UserError, match="spans no subspace"):
        Mediates(dataclasses.replace(finding, weight=torch.zeros(D, 1)), of="z", on=data)
    with pytest.raises(UserError, match="rival 'only' has one value"):
        Mediates(finding, of="z", on=constant, rivals=("only",))
    same = data.dev.take([0, 1])
    clash = dataclasses.replace(same, examples=tuple(dataclasses.replace(e, expected=f"{e.answer} f1") for e in same))
    with pytest.raises(UserError, match="begin with the same token"):
        check_tokens(Pairs(subject, clash, "residual", "last"))


def test_an_advantage_that_is_claimed_can_be_refuted(data: Examples) -> None:
    u = axes()[:, 0]
    net = Net(along(u), opposed(u), bypass={"yes": 1.0, "no": -1.0})

    bold = put_on_trial(open_net(net), data, advantage=True)

    assert bold.word != "SUPPORTED" and outcomes(bold)["r10"] != "pass", bold.sentence
    assert failing(bold) <= {"r10"}
