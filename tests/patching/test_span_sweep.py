"""A span whose tokens stand in for one another shows its effect as a whole only; fillers and single objects do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import subject
from tiny_pairs import ASKED, CLEAN, CORRUPT, gaps
from wired import scenes, wired

from veriscope.errors import BadPosition, NotRun
from veriscope.patching import span_sweep
from veriscope.patching.gaps import BadChoice
from veriscope.patching.places import elsewhere, locate
from veriscope.subjects import CharReader, Edit, SetTo, Span, Zero, load

FILLER = "w12 w13 w14"


def swept(how: str = "saturating", signals: int = 3, **more):
    given = scenes(signals)
    spans = {"object": given.pop("object"), "filler": FILLER}
    texts = given.pop("clean")
    if more.pop("ablate", False):
        del given["corrupt"]
    return span_sweep(wired(how), texts, spans=spans, **given, **more)


@pytest.mark.slow
def test_a_span_that_carries_the_effect_is_found_where_no_token_of_it_does() -> None:
    found = swept()

    whole = found.cell("object", "resid_pre", 0)
    assert whole.effect_logits == pytest.approx(-4.0, abs=0.02)
    assert float(whole.singles.abs().max()) < 0.02 and whole.rank == 1 and whole.p <= 0.05
    assert found.excess(whole).low == pytest.approx(4.0, abs=0.05)
    places = [(row["span"], row["part"], row["block"]) for row in found.spread()]
    assert set(places) == {("object", "resid_pre", 0), ("object", "text", None)}
    assert "2 cells beyond random spans and beyond every single token" in str(found)


def test_leaving_the_span_out_of_the_text_says_the_same() -> None:
    found = swept(parts=())

    cell = found.cell("object", "text")
    assert cell.effect_logits == pytest.approx(-4.0, abs=0.02) and float(cell.singles.abs().max()) < 0.02
    assert abs(found.cell("filler", "text").effect_logits) < 0.02 and found.recut == (0, len(found.base) * 208)
    assert [row["span"] for row in found.spread()] == ["object"]


def test_a_span_of_which_one_token_does_it_all_is_not_called_spread() -> None:
    found = swept(signals=1, how="saturating", parts=("resid_pre",), remove=False)

    whole = found.cell("object", "resid_pre", 0)
    assert whole.effect_logits == pytest.approx(-4.0, abs=0.02) and whole.best == 0
    assert float(whole.singles[0].mean()) == pytest.approx(-4.0, abs=0.02)
    assert found.spread() == []


def test_where_tokens_add_up_a_single_one_carries_its_share() -> None:
    found = swept("additive", parts=("resid_pre",), remove=False)

    whole = found.cell("object", "resid_pre", 0)
    assert torch.allclose(whole.singles, torch.tensor(-4.0 / 3), atol=0.02)
    row = found.table()[0]
    assert row["effect"] == pytest.approx(1.0, abs=0.01) and row["best_token_logits"] == pytest.approx(-4 / 3, abs=0.02)


@pytest.mark.slow
def test_fillers_stay_at_the_floor() -> None:
    found = swept(ablate=True)

    for cell in found.cells:
        if cell.span == "filler":
            assert abs(cell.effect_logits) < 0.05 and cell.p > 0.3, cell
    assert "object" in {row["span"] for row in found.spread()}


@pytest.mark.parametrize("how", ["patch", "zero"])
def test_every_cell_is_a_plain_run_with_that_edit(how: str) -> None:
    one = subject("neox")
    corrupt = CORRUPT if how == "patch" else None

    found = span_sweep(one, CLEAN, spans={"it": (3, 8)}, **ASKED, corrupt=corrupt, how=how, remove=False, controls=20)

    base = gaps(one, CLEAN)
    for cell in found.cells:
        site = f"blocks.{cell.block}.{cell.part}"
        way = SetTo(one.run(CORRUPT, read=[site])[site]) if how == "patch" else Zero()
        assert torch.allclose(cell.changes, gaps(one, CLEAN, Edit(site, way, at=Span(1, 3))) - base, atol=1e-5)
        for n in (0, 1):
            plain = gaps(one, CLEAN, Edit(site, way, at=Span(1 + n, 2 + n))) - base
            assert torch.allclose(cell.singles[n], plain, atol=1e-5)
        assert isinstance(cell.floor, NotRun) or len(cell.floor) <= 20


def test_texts_without_a_span_are_plain_runs_of_the_shorter_texts() -> None:
    one = subject("gpt2")

    found = span_sweep(one, CLEAN, spans={"it": (3, 8)}, **ASKED, parts=())

    shorter = tuple(" ".join([*text.split()[:1], *text.split()[3:]]) for text in CLEAN)
    assert torch.allclose(found.cell("it", "text").changes, gaps(one, shorter) - gaps(one, CLEAN), atol=1e-5)


def test_random_spans_are_as_long_and_lie_elsewhere() -> None:
    first, stop, lengths = torch.tensor([2, 5]), torch.tensor([5, 7]), torch.tensor([12, 30])

    drawn = elsewhere((first, stop), lengths, 50, np.random.default_rng(0))

    assert len(drawn) == 50 and len({tuple(one.tolist()) for one in drawn}) > 20
    for starts in drawn:
        for at, a, b, n in zip(starts.tolist(), first.tolist(), stop.tolist(), lengths.tolist(), strict=True):
            assert at >= 0 and at + b - a <= n - 1 and (at + b - a <= a or at >= b)
    few = elsewhere((first[:1], stop[:1]), torch.tensor([10]), 50, np.random.default_rng(0))
    assert [int(one) for one in few] == [5, 6]
    assert elsewhere((first[:1], stop[:1]), torch.tensor([6]), 50, np.random.default_rng(0)) == []


def test_spans_are_found_by_words_by_characters_and_by_sentence() -> None:
    one = subject("gpt2")
    texts = ["w1 w2. w3 w4 w2 w9", "w2 w5. w6 w7 w8 w2"]
    chars = load(one.module, tokenizer=CharReader(tuple("w0123456789. ")), name="chars")

    found = locate(chars, texts, {"two": "w2", "pair": ["w3 w4", (7, 12)]})
    cut = locate(chars, texts, "sentences")

    assert [part.tolist() for part in found["two"]] == [[13, 16], [15, 18]]  # the last time that it occurs
    assert [part.tolist() for part in found["pair"]] == [[7, 7], [12, 12]]
    assert list(cut) == ["sentence 1", "sentence 2"] and [part.tolist() for part in cut["sentence 2"]] == [
        [7, 7],
        [18, 18],
    ]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"how": "patch"}, BadChoice, "'patch' with corrupt"),
        ({"corrupt": CORRUPT, "how": "zero"}, BadChoice, "'patch' with corrupt"),
        ({"controls": 5}, BadChoice, "at least 20 random spans"),
        ({"parts": ("heads.z",)}, BadChoice, "a list of resid_pre"),
        ({"blocks": [3]}, BadChoice, "0..2"),
        ({"spans": {}}, BadPosition, "at least one span"),
        ({"spans": {"it": "w49"}}, BadPosition, "does not occur"),
        ({"spans": {"it": (2, 3)}}, BadPosition, "empty or outside"),
        ({"spans": {"it": ["w4", "w4"]}}, BadPosition, "2 entries for 3 texts"),
        ({"spans": {"it": (0, 14)}, "parts": ()}, BadPosition, "remove=False"),
    ],
)
def test_bad_input_gives_one_error_that_tells_the_mend(changed: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        span_sweep(subject("gpt2"), CLEAN, **{"spans": {"it": (3, 8)}, **ASKED, **changed})


@pytest.mark.data
def test_spans_are_found_among_the_tokens_of_a_real_tokenizer(shared_data) -> None:
    one = load(shared_data / "lm" / "stories260k_hf")
    texts = [
        "Once upon a time, Lily saw a huge red balloon. She smiled.",
        "Tom had a tiny dog. The huge red balloon fell.",
    ]

    found = locate(one, texts, {"thing": "huge red balloon", "it": [(0, 4), (4, 9)]})

    for number, words in enumerate(("Once", "had a")):
        ids = one.tokens(texts)[number]
        for name, wanted in (("thing", "huge red balloon"), ("it", words)):
            first, stop = (int(part[number]) for part in found[name])
            assert one.reader.decode(ids[first:stop]).strip() == wanted
            assert wanted not in one.reader.decode(ids[first + 1 : stop])
            assert wanted not in one.reader.decode(ids[first : stop - 1])
