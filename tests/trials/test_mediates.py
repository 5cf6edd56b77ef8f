"""C2 on small networks whose mechanism is written down: true mediators pass, each known-false kind is refused.

All share the body of bed `swaps`: words are summed into a residual stream (the site), and a head reads it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from veriscope.claims.mediates import Mediates
from veriscope.errors import MissingField, UserError
from veriscope.examples import Examples, Sample, examples
from veriscope.findings import Reading
from veriscope.ledger import Ledger, use
from veriscope.methods import MeanDifference
from veriscope.subjects import SetTo, Subject, WordReader, load
from veriscope.trials.evidence import Verdict
from veriscope.trials.interchange import (
    Clean,
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
from veriscope.trials.mediates import (
    PLAIN,
    REPLAYED,
    Bench,
    both_directions,
    in_natural_range,
    rivals_of,
    share_of_constant,
    strongest_on_dev,
)
from veriscope.trials.statistics import detectable
from veriscope.trials.trial import trial
from veriscope.zoo.swaps import (
    NOISE,
    NOUNS,
    TEMPLATES,
    VOCAB,
    WORD,
    Net,
    Swaps,
    along,
    dormant,
    loaded_rows,
    mediates,
    noun_sign,
    open_net,
    opposed,
    plane_of_two,
    rows_of,
    with_word,
)

D = 32
QUICK = Effort(draws=8, twins=2, random=20)


def axes(seed: int = 0) -> Tensor:
    """Orthonormal directions, none along a coordinate."""
    return Swaps(seed, width=D).axes


@cache
def pairs_of(n: int = 560) -> Examples:
    return loaded_rows(rows_of(n))


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
    assert outcomes(verdict)["f8"] == "quiet"


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
    one_direction = put_on_trial(open_net(net), data, weight=torch.stack([a, 2 * a], 1), smallest_effect=0.3)

    assert plane.word == "SUPPORTED", plane.sentence
    assert one_direction.word == "REFUTED", one_direction.sentence  # it gives half of the pairs, chance a third


# --- false claims: those that one gate alone stands against are in tests/zoo/test_swaps.py ---------------------


@cache
def dormant_trial() -> Verdict:
    claim, subject = mediates("g4", seed=0, rows=560)
    return trial(claim, subject=subject, ledger=Ledger.in_memory(), effort=QUICK)


def test_one_variable_of_two_is_supported_where_the_plane_of_both_is_not() -> None:
    made = plane_of_two(Swaps(rows=560))

    verdict = put_on_trial(open_net(made.net), loaded_rows(made.rows, factors=[]), weight=axes()[:, :1])

    assert verdict.word == "SUPPORTED", verdict.sentence


def numbers_of(verdict: Verdict) -> dict[str, float]:
    """What g4 measured."""
    found = next(r for r in verdict.gates if r.gate == "g4")
    return {c.name: c.estimate.value for c in found.controls if c.estimate}


def test_numbers_of_a_dormant_path() -> None:
    """The toy of Makelov 2023: a strong subspace at a site that does nothing as a whole."""
    numbers = numbers_of(dormant_trial())

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


def test_a_reader_that_no_text_wakes_has_no_effect_within_natural_values(data: Examples) -> None:
    net, weight = dormant(Swaps())
    reader = axes()[:, 1]
    net.embed.weight.data -= (net.embed.weight.data @ reader)[:, None] * reader

    verdict = put_on_trial(open_net(net), data, weight=weight)

    numbers = numbers_of(verdict)
    assert numbers["share beyond the 99th percentile of natural distances"] > 0.5
    assert numbers["E within the natural range"] < 0.1 < 0.4 < numbers["E of the subspace"]
    assert verdict.word == "REFUTED" and "g4" in failing(verdict), verdict.sentence


def test_patched_values_are_drawn_back_only_where_no_natural_value_lies(data: Examples) -> None:
    """z varies along one axis and nothing along another; the swap moves both."""
    u, still = axes()[:, 0], axes()[:, 1]
    bench = bench_of(open_net(Net(along(u), opposed(u))), data)
    for pairs in (bench.few, bench.dev_pairs):
        natural = Clean(noun_signs(pairs.rows.texts)[:, None] * u, torch.zeros(len(pairs), len(VOCAB)))
        pairs.__dict__.update(base=natural, source=Clean(-natural.acts, natural.logits))
    bench.__dict__.update(dev_acts=noun_signs(bench.dev.texts)[:, None] * u, basis=((u + still) / 2**0.5)[:, None])

    found, patched = in_natural_range(bench, bench.few), bench.few.swapped(bench.basis)

    assert (found @ still).abs().max() < 0.05 < 0.5 < (patched @ still).abs().min()
    assert torch.allclose(found @ u, patched @ u, atol=1e-4)


def noun_signs(texts: Sequence[str]) -> Tensor:
    return torch.tensor([noun_sign(text.split()[2]) for text in texts])


def test_shift_pool_on_which_it_is_lost(data: Examples) -> None:
    """Where w3 stands the head's reading is turned round, and the shift pool is full of w3."""
    u, turn = axes()[:, 0], axes()[:, 1]

    def writes(word: str) -> Tensor | None:
        return 3.0 * turn if word == "w3" else -3.0 * turn if word in ("w0", "w1") else along(u)(word)

    def bend(h: Tensor) -> Tensor:
        turned = torch.sigmoid(4 * (h @ turn))[..., None]
        return h - 2 * turned * (h @ u)[..., None] * u

    moved = [{**r, "text": with_word(r["text"], 3, "w3"), "source": with_word(r["source"], 3, "w3"), "domain": "far"}
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


# --- what the gates are held against ---------------------------------------------------------------------------


def bench_of(subject: Subject, data: Examples, weight: Tensor | None = None) -> Bench:
    """A bench with its gate pool open."""
    with use(Ledger.in_memory()):
        finding = MeanDifference(site="residual").fit(subject, data.dev)
    if weight is not None:
        finding = dataclasses.replace(finding, weight=weight)
    claim = Mediates(finding, of="z", on=data)
    return Bench(claim, subject, data.dev, effort=QUICK, gate=data.gate.open(by="test", ledger=Ledger.in_memory()))


def test_the_best_constant_is_chosen_on_other_pairs_than_it_is_counted_on() -> None:
    """Of twelve answers that are equally frequent the luckiest of each pool is no better than a twelfth."""
    u, shares, luckiest = axes()[:, 0], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rows = [{**r, "answer": f"f{12 + i % 12}", "expected": f"f{i}"}
                for r, i in zip(rows_of(300, seed), rng.integers(12, size=300).tolist(), strict=True)]  # fmt: skip
        bench = bench_of(open_net(Net(along(u), opposed(u))), loaded_rows(rows))
        for pairs in (bench.dev_pairs, bench.gate_pairs):
            shares.append(share_of_constant(bench, pairs))
            luckiest.append(float(pairs.expected.bincount().max()) / len(pairs))

    assert abs(np.mean(shares) - 1 / 12) < 0.01 < 0.03 < np.mean(luckiest) - 1 / 12


@pytest.mark.parametrize("part", ["loud copy that nothing reads", "none"])
def test_pushes_are_as_large_as_what_is_read_of_the_swap(data: Examples, part: str) -> None:
    """A part that nothing reads makes no push larger, and pushes that cancel their opposites do nothing on average."""
    u, unread = axes()[:, 0], axes()[:, 1]
    net = Net(along(u + (6 * unread if part != "none" else 0 * u)), opposed(u))
    net.head.weight.data -= (net.head.weight.data @ unread)[:, None] * unread
    bench = bench_of(open_net(net), data)

    found = both_directions(bench, next(s for s in bench.claim.battery if s.gate == "g7"))

    pushes = [c.estimate.value for c in found.controls if c.name.startswith("random pushes") and c.estimate]
    assert found.outcome == "pass" and max(pushes) < 0.05


def test_power_is_reckoned_for_the_pairs_that_the_gates_will_look_at() -> None:
    """Many pairs to a cluster tell more than as many clusters of one: the detectable effect says so."""
    u = axes()[:, 0]
    subject = open_net(Net(along(u), opposed(u), noise=1.0))
    few, many = loaded_rows(rows_of(300)), loaded_rows(rows_of(1_500))

    def smallest(data: Examples) -> float:
        bench = bench_of(subject, data)
        return detectable(bench.dev_estimate(), data.gate.n_clusters)

    assert abs(few.gate.n_clusters - many.gate.n_clusters) < 10
    assert smallest(many) < 0.7 * smallest(few)
