"""Bed R1: compiled networks do what the programs say, on every text of a length, and so do swaps inside them."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from veriscope.errors import UserError
from veriscope.zoo.programs import ProgramBed, compile_program, interchange_accuracy, interpret, self_test
from veriscope.zoo.programs.library import PROGRAMS, source
from veriscope.zoo.programs.rasp import Value

SMALL = {name: ProgramBed(name, seed=5, size="small", rotated=True, texts=80) for name in PROGRAMS}


def said(bed: ProgramBed, texts: list[tuple[str, ...]]) -> list[str]:
    ids = torch.tensor([[bed.full.words.index(w) for w in words] for words in texts])
    with torch.no_grad():
        best = bed.compiled.network(ids)[:, -1].argmax(-1)
    return [bed.full.words[i] for i in best.tolist()]


def in_plain_python(name: str, symbols: tuple[str, ...], query: str) -> str:
    """The program written once more, without steps: what neither interpreter nor compiler can be wrong about alike."""
    if name == "reverse":
        return symbols[-int(query[1:])]
    if name == "histogram":
        return f"n{min(symbols.count(query[1:]), 3)}"
    if name == "sort":
        return sorted(symbols)[int(query[1:]) - 1]
    if name == "fraction":
        return f"f{symbols.count('a')}"
    if name == "dyck":
        heights = list(itertools.accumulate(1 if s == "(" else -1 for s in symbols))
        return "no" if min(heights) < 0 else "yes" if heights[-1] == 0 else "open"
    most = max(symbols.count(s) for s in symbols)
    full = {s: [i for i, t in enumerate(symbols) if t == s][most - 1] for s in symbols if symbols.count(s) == most}
    return min(full, key=lambda s: full[s])


LENGTHS = {"reverse": 4, "histogram": 4, "sort": 4, "fraction": 5, "dyck": 6, "most_frequent": 4}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_text_is_answered_as_the_program_answers_it(name: str) -> None:
    bed, n = SMALL[name], LENGTHS[name]
    if name == "sort":
        inner = list(itertools.permutations(bed.source.symbols, n))
    else:
        inner = list(itertools.product(bed.source.symbols, repeat=n))
    for number, query in enumerate(bed.source.queries):
        texts = [(f"^{number}", *symbols, query) for symbols in inner]

        answers = said(bed, texts)

        assert answers == [in_plain_python(name, symbols, query) for symbols in inner]
        few = range(0, len(texts), 17)
        assert all(interpret(bed.full, texts[i])["answer"][-1] == answers[i] for i in few)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_variable_stands_where_it_was_put(name: str) -> None:
    bed = SMALL[name]
    items = [i for i in bed.items if len(i.words) == len(bed.items[0].words)][:12]
    streams = dict.fromkeys(("resid_pre", *(bed.site(s.name) for s in bed.source.steps)))

    for site in streams:
        acts = bed.subject().run([i.text for i in items], read=[site])[site]
        for step in bed.source.steps:
            if bed.site(step.name) == site:
                here = acts @ bed.compiled.subspace(step.name)
                for row, item in enumerate(items):
                    for place, value in enumerate(item.run[step.name]):
                        wanted = torch.tensor(coded(step.values, value))
                        if value is not None:
                            assert torch.allclose(here[row, place], wanted, atol=1e-4), (step.name, item.text, place)


def coded(values: tuple[Value, ...], value: Value) -> list[float]:
    return [float(v == value) for v in values] if values else [float(value or 0.0)]


HARD: list[dict[str, object]] = [
    {"program": "reverse", "noise": 0.03},
    {"program": "histogram", "how": "either"},
    {"program": "sort", "how": "either", "late": True},
    {"program": "fraction", "how": "average", "weight": 0.5},
    {"program": "dyck", "idle": 2},
    {"program": "most_frequent", "how": "average", "weight": 0.4, "late": True},
    {"program": "reverse", "how": "route", "weight": 0.5, "late": True, "forget": True},
]


@pytest.mark.parametrize("settings", HARD, ids=str)
def test_truth_holds_on_the_weights(settings: dict[str, object]) -> None:
    bed = ProgramBed(**settings, seed=len(settings), size="small", rotated=True, texts=100)  # type: ignore[arg-type]

    found = self_test(bed, pairs=60)

    assert found["exact"] > 0.99
    for fact in bed.truth:
        iia = found[f"mediates {fact.variable} {fact.site}"]
        drop = found[f"necessary {fact.variable} {fact.site}"]
        if not (bed.how == "either" and bed.late):  # there a swap of one copy ends in a tie
            assert (iia > 0.25) == fact.mediates, fact
        assert (drop > 0.2) == fact.necessary, fact
        if bed.how == "single" and bed.noise == 0:
            assert iia in (0.0, 1.0), fact


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_share_of_texts_in_which_a_copy_is_read_is_its_interchange_accuracy(share: float) -> None:
    bed = ProgramBed("reverse", seed=2, size="small", how="route", late=True, weight=share, rotated=True, texts=250)

    pairs = [(a, b) for a, b in itertools.pairwise(bed.items) if a.last("token") != b.last("token")]
    bases, sources = zip(*pairs, strict=True)

    site, own = bed.site("token"), bed.compiled.subspace("token")
    found = interchange_accuracy(bed, site, own, bases, sources, [str(b.last("answer")) for b in sources])

    assert found == pytest.approx(share, abs=0.09)


def test_what_is_forgotten_can_be_read_no_more_by_a_linear_reader() -> None:
    bed = ProgramBed("reverse", seed=4, idle=3, forget=True, rotated=True, texts=400)
    label = torch.tensor([str(i.last("idle0.0")) in bed.source.symbols[3:] for i in bed.items]).double() * 2 - 1
    share = {}

    for site in (bed.site("idle0.0"), bed.site("forget")):
        acts = bed.subject().acts([i.text for i in bed.items], site, "last").double()
        acts = torch.cat([acts, torch.ones(len(acts), 1).double()], 1)
        ridge = acts[:250].T @ acts[:250] + 0.1 * torch.eye(acts.shape[1]).double()
        score = acts[250:] @ torch.linalg.solve(ridge, acts[:250].T @ label[:250])
        share[site] = float(((score > 0) == (label[250:] > 0)).double().mean())

    assert share[bed.site("idle0.0")] == 1.0
    assert share[bed.site("forget")] < 0.7
    told = {(f.variable, f.site): f.represents for f in bed.truth}
    assert told["idle0.0", bed.site("idle0.0")] and not told.get(("idle0.0", bed.site("forget")), False)


def test_reading_an_idle_head_makes_the_self_test_say_so() -> None:
    bed = dataclasses.replace(SMALL["reverse"])
    name, site = "idle0.0", bed.site("token")
    assert self_test(bed)[f"mediates {name} {site}"] == 0.0

    answer, idle = bed.compiled.subspace("answer"), bed.compiled.subspace(name)
    with torch.no_grad():  # the unembedding now listens to the idle head, louder than to the answer
        bed.compiled.network.unembed.weight += 20 * (bed.compiled.network.unembed.weight @ answer[:, :4]) @ idle.T
    again = self_test(bed)

    assert again[f"mediates {name} {site}"] > 0.9
    assert again["exact"] < 0.6


def test_swapping_a_random_subspace_of_the_same_size_does_nothing() -> None:
    bed = SMALL["reverse"]
    site, own = bed.site("token"), bed.compiled.subspace("token")
    random = torch.linalg.qr(torch.randn(own.shape, generator=torch.Generator().manual_seed(0))).Q
    pairs = [(a, b) for a, b in itertools.pairwise(bed.items) if a.last("token") != b.last("token")]
    bases, sources = [a for a, _ in pairs], [b for _, b in pairs]
    expected = [str(b.last("answer")) for b in sources]

    assert interchange_accuracy(bed, site, own, bases, sources, expected) == 1.0
    assert interchange_accuracy(bed, site, random, bases, sources, expected) < 0.1


@pytest.mark.parametrize("name", PROGRAMS)
def test_three_sizes_differ_in_words_length_and_width(name: str) -> None:
    beds = [ProgramBed(name, size=size) for size in ("small", "medium", "large")]

    words, widths = zip(*(bed.compiled.network.embed.weight.shape for bed in beds), strict=True)

    assert [bed.full.longest for bed in beds] == sorted({bed.full.longest for bed in beds})
    assert list(widths) == sorted(widths) and list(words) == sorted(words)
    assert name == "dyck" or len(set(widths)) + len(set(words)) > 3  # there are two brackets, whatever the length


def test_too_narrow_a_stream_and_unknown_names_say_what_to_type() -> None:
    with pytest.raises(UserError, match="Give width="):
        compile_program(SMALL["reverse"].full, 16)
    with pytest.raises(UserError, match="Did you mean 'reverse'"):
        source("revers")
    with pytest.raises(UserError, match="Known: small, medium, large"):
        source("reverse", "huge")
    with pytest.raises(UserError, match="late copies are made of heads"):
        _ = ProgramBed("dyck", how="either", late=True).full
