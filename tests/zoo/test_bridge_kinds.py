"""The truth of each kind in the bridging beds, by plain runs of the network with no code of a trial."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from veriscope.claims.mediates import Mediates
from veriscope.claims.necessary import Necessary
from veriscope.claims.steers import Steers
from veriscope.exam.planting import Planting
from veriscope.examples import Example
from veriscope.findings import Change
from veriscope.ledger import Ledger
from veriscope.subjects import Subject
from veriscope.zoo.bridge import plantings
from veriscope.zoo.bridge.bed import USED, Bridge
from veriscope.zoo.bridge.plant import Anatomy, adding, endings, pushed, run
from veriscope.zoo.planted_effects import as_varied
from veriscope.zoo.planted_information import bits_of_gap

Built = tuple[Any, Subject, Bridge]


# All kinds take ten minutes (VERISCOPE_EVERY_KIND=1); else the first kind of each of these is tried.
EVERY = bool(os.environ.get("VERISCOPE_EVERY_KIND"))
FIRST = {
    ("C1", "T1x2", "town"), ("C1", "F0", "town"), ("C2", "T1x2", "town"), ("C2", "T0", "stories260k"),
    ("C2", "F1", "town"), ("C3", "T1x2", "town"), ("C4", "T1x2", "town"),
}  # fmt: skip


def kinds(claim_type: str, *grades: str, final: bool = False) -> list[Any]:
    """A claim of each kind, in each model that it is planted in; or of the few kinds that are always tried."""
    found, seen = [], set()
    for p in plantings(claim_type, 2, seed=90, final=final):
        place = (claim_type, p.grade, str(dict(p.settings)["model"]))
        wanted = (place, p.trap) not in seen if EVERY else place in FIRST and place not in seen
        if p.grade.startswith(grades or ("F", "T")) and wanted:
            found.append(pytest.param(p, id=f"{'final-' * final}{p.grade}-{p.trap}-{place[2]}"))
        seen |= {place, (place, p.trap)}
    return found + (kinds(claim_type, *grades, final=True) if EVERY and not final else [])


@pytest.fixture(scope="module")
def build() -> Iterator[Callable[..., Built]]:
    """Builds a claim as the exam does, on as many rows as asked for, and its bed; a bed is planted once."""
    kept: dict[Bridge, Bridge] = {}
    used: list[Bridge] = []

    def once(**dials: Any) -> Bridge:
        bed = Bridge(**dials)
        used.append(kept.setdefault(bed, bed))
        return used[-1]

    def built(planting: Planting, **other: Any) -> Built:
        claim, subject = pkgutil.resolve_name(planting.build)(**{**dict(planting.settings), **other})
        return claim, subject, used[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("veriscope.zoo.bridge.Bridge", once)
        yield built


def block_of(site: str) -> int:
    """The block whose output a residual site is."""
    _, number, name = site.split(".")
    return int(number) - (name == "resid_pre")


def held_out(claim: Any) -> list[Example]:
    return list(claim.on.gate.open(by="test", ledger=Ledger.in_memory()).examples)


# ---- C1: what a claim's own reading tells on texts that it was not fitted on


def told(score: Tensor, value: Tensor) -> float:
    """Bits of a score whose two classes are Gaussian."""
    gap = (score[value].mean() - score[~value].mean()) / (score[value].var() / 2 + score[~value].var() / 2).sqrt()
    return bits_of_gap(abs(float(gap)))


@pytest.mark.parametrize("planting", [p for p in kinds("C1") if dict(p.values[0].settings)["variable"] == USED])
def test_a_reading_has_as_many_bits_as_were_planted_and_a_false_one_next_to_none(
    planting: Planting, build: Callable[..., Built]
) -> None:
    claim, _, bed = build(planting, **({"rows": 400} if "bits" not in dict(planting.settings) else {}))
    ids = bed.ids([text for text, _, _ in bed.language.texts(3_000, bed.seed + 9_000_000, bed.final)])
    h = run(bed.anatomy, ids, upto=bed.block).stream[block_of(claim.finding.site)]

    found = told(claim.finding.score(h)[:, 0], bed.value(bed.carried(ids)[1], USED))

    if planting.truth:
        assert found == pytest.approx(dict(planting.settings)["bits"], rel=0.35)
    else:
        assert found < 0.025


@pytest.mark.parametrize("planting", [p for p in kinds("C1") if dict(p.values[0].settings)["variable"] != USED])
def test_a_label_that_is_not_planted_is_a_coin_of_the_text_or_of_one_word_in_it(
    planting: Planting, build: Callable[..., Built]
) -> None:
    claim, subject, bed = build(planting, rows=400)
    rows = held_out(claim)
    labels = [row.label for row in rows]

    if planting.grade == "F0":
        ids = [list(row) for row in subject.tokens([row.text for row in rows])]
        h = run(bed.anatomy, ids, upto=bed.block).stream[bed.block]
        assert told(claim.finding.score(h)[:, 0], torch.tensor([label == "1" for label in labels])) < 0.025
    else:
        names = [
            next(w.strip(",.") for w in r.text.split() if w.strip(",.") in bed.language.words["first"]) for r in rows
        ]
        assert len(set(zip(names, labels, strict=True))) == len(set(names)) and len(set(labels)) == 2


# ---- C2: what a swap does


def gained(claim: Mediates, subject: Subject) -> float:
    """Share of held-out pairs with another answer that the swap gives the expected one, beyond the best constant's."""
    rows = [e for e in held_out(claim) if e.expected != e.answer]
    base, source = ([list(r) for r in subject.tokens([getattr(e, text) for e in rows])] for text in ("text", "source"))
    anatomy, block = Anatomy.of(subject.module), block_of(claim.finding.site)
    here, there = (run(anatomy, ids, upto=block).stream[block] for ids in (base, source))
    basis = claim.finding.basis
    after = run(anatomy, base, (block, adding((there - here) @ basis @ basis.T))).final
    up, down = read(subject, [e.expected for e in rows]), read(subject, [e.answer for e in rows])
    share = max(float((up == word).all(1).double().mean()) for word in up.unique(dim=0))
    return float(((after * (up - down)).sum(1) > 0).double().mean()) - max(0.5, share)


@pytest.mark.parametrize("planting", kinds("C2"))
def test_what_a_swap_does_is_as_the_kind_says(planting: Planting, build: Callable[..., Built]) -> None:
    claim, subject, _ = build(planting, rows=400 if "excess" not in dict(planting.settings) else 1_200)

    found = gained(claim, subject)

    if planting.grade == "F3":
        assert found < claim.smallest_effect / 2 + 0.1
    elif "excess" in dict(planting.settings):
        assert found == pytest.approx(dict(planting.settings)["excess"], abs=0.08)  # of a few hundred pairs
    else:
        assert found > claim.smallest_effect + 0.1 if planting.truth else found < claim.smallest_effect - 0.05


# ---- C3: what a removal costs


REMOVED_ON = 250


def beyond(claim: Necessary, subject: Subject, draws: int = 20) -> float:
    """What the removal costs beyond 95% of random ones that vary as much, in shares of another input's whole site."""
    rows = held_out(claim)
    ids = [list(r) for r in subject.tokens([e.text for e in rows])]
    anatomy, block = Anatomy.of(subject.module), block_of(claim.finding.site)
    intact = run(anatomy, ids)
    h, slope = intact.stream[block], read(subject, [e.answer for e in rows]) - read(subject, [e.foil for e in rows])
    x, centre = h - h.mean(0), h.mean(0)
    finding = claim.finding if isinstance(claim.finding, Change) else claim.finding.as_change("erase")
    taken = x @ finding.right.T @ finding.left.T

    def lost(step: Tensor) -> float:
        after = run(anatomy, ids, (block, adding(step))).final
        return float(((intact.final - after) * slope).sum(1).mean())

    whole = lost(h[torch.randperm(len(h), generator=torch.Generator().manual_seed(1))] - h)
    axis = torch.nn.functional.normalize(finding.left[:, 0], dim=0)
    aside = x - (x @ axis)[:, None] * axis
    others = as_varied(aside, float(taken.square().sum(1).mean()), draws, seed=2)
    removals = [lambda h, d=d: h - ((h - centre) @ d)[:, None] * d for d in others]
    after = endings(anatomy, ids[:REMOVED_ON], block, removals)
    usual = ((intact.final[:REMOVED_ON] - after) * slope[:REMOVED_ON]).sum(2).mean(1)
    return (lost(-taken) - max(0.0, float(torch.quantile(usual, 0.95)))) / whole


@pytest.mark.parametrize("planting", kinds("C3"))
def test_what_a_removal_costs_is_as_the_kind_says(planting: Planting, build: Callable[..., Built]) -> None:
    claim, subject, _ = build(planting, rows=400 if "cost" not in dict(planting.settings) else 1_000)

    found = beyond(claim, subject)

    if planting.grade == "F3":
        assert found < claim.smallest_effect / 2 + 0.1
    elif "cost" in dict(planting.settings):
        assert found == pytest.approx(dict(planting.settings)["cost"], abs=0.05)
    else:
        assert found > claim.smallest_effect + 0.1 if planting.truth else found < claim.smallest_effect - 0.05


def read(subject: Subject, words: list[str]) -> Tensor:
    """The head's rows of answers."""
    head = subject.module.get_output_embeddings().weight.detach()
    tokens = {word: int(subject.answer_ids(["any"], [word])[0]) for word in set(words)}
    return head[[tokens[word] for word in words]]


# ---- C4: what an added vector does to the answer words, beyond random vectors of its length

WORKING = 2.0  # the largest dose, which is the one that sizes are of
BEST = 2.97  # sd: the largest of 200 draws of a Gaussian, either way


def vector_of(claim: Steers, backwards: bool) -> Tensor:
    """The vector of a claim, towards its side."""
    change = claim.finding if isinstance(claim.finding, Change) else claim.finding.as_change("add", "1")
    assert change.vector is not None
    return change.vector.float() * (-1 if backwards else 1)


def added(bed: Bridge, vector: Tensor, variable: str = USED, n: int = 80, draws: int = 400) -> dict[str, Tensor]:
    """Change of each text's answers and of each word of "1" against all tokens; the best random vector's; nats."""
    head = bed.anatomy.module.get_output_embeddings().weight.detach()
    zero, one = ([bed.token(word) for word in group] for group in bed.answers)
    reader = head[one].mean(0) - head[zero].mean(0)
    ids = bed.ids([text for text, _, _ in bed.language.texts(3 * n, bed.seed + 9_000_000, bed.final)])
    value = bed.value(bed.carried(ids)[1], variable)
    ids = [row for row, is_one in zip(ids, value.tolist(), strict=True) if not is_one][:n]
    cut = [row[: 4 + i % (len(row) - 4)] for i, row in enumerate(ids)]

    def after(rows: list[list[int]], push: Tensor) -> Tensor:
        return run(bed.anatomy, rows, (bed.block, lambda h: h + push)).final

    none = torch.zeros_like(vector)
    moved = after(ids, vector) - after(ids, none)
    plain, costs = ((after(cut, push) @ head.T).log_softmax(-1) for push in (none, vector))
    drawn = torch.randn(draws, len(vector), generator=torch.Generator().manual_seed(1))
    drawn = drawn / drawn.norm(dim=1, keepdim=True) * vector.norm()
    before = after(ids[:12], none)
    chance = ((pushed(bed.anatomy, ids[:12], bed.block, drawn) - before) @ reader).mean(1)
    return {
        "answers": moved @ reader,
        "words": (moved @ head[one].T - (moved @ head.T).mean(1, keepdim=True)).mean(0),
        "excess": (moved @ reader).mean() - BEST * chance.square().mean().sqrt(),
        "nats": (plain.exp() * (plain - costs)).sum(-1).mean(),
    }


@pytest.mark.parametrize("planting", kinds("C4", "F0", "F1", "F3", "T"))
def test_an_added_vector_moves_the_answers_beyond_random_ones_as_the_kind_says(
    planting: Planting, build: Callable[..., Built]
) -> None:
    settings = dict(planting.settings)
    claim, _, bed = build(planting, rows=400)

    found = added(bed, WORKING * vector_of(claim, settings.get("made") == "backwards"), settings["variable"])

    excess = float(found["excess"])
    if planting.truth:
        assert excess == pytest.approx(settings["effect"], abs=0.1 + 0.1 * settings["effect"])
        # at half the dose, half of it, and a quarter of the nats: the budget is 0.02, and within it the claim is true
        assert float(found["nats"]) < (0.016 if settings["effect"] / 2 < claim.smallest_effect + 0.2 else 0.05)
    else:
        assert excess < (0.75 * claim.smallest_effect if planting.grade == "F3" else 0.0)


def test_a_direction_that_one_word_reads_moves_no_other_word_of_its_value(build: Callable[..., Built]) -> None:
    planting = next(p for p in plantings("C4", 1, seed=90) if "one word" in p.trap)
    claim, _, bed = build(planting, rows=400)

    words = added(bed, vector_of(claim, False) / 4, draws=2)["words"]

    assert float(words.max()) > 1.5 and float(words.sort().values[:-1].mean()) < 0.1


def test_a_vector_turns_half_of_the_texts_the_other_way(build: Callable[..., Built]) -> None:
    planting = next(p for p in plantings("C4", 1, seed=90) if "other way" in p.trap)
    claim, _, bed = build(planting, rows=400)

    answers = added(bed, WORKING * vector_of(claim, False), n=150, draws=2)["answers"]

    assert 0.35 < float((answers < -0.3).double().mean()) < 0.65
