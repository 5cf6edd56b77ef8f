"""Pairs differ where asked, agree where asked, predict the right answer and never carry content across pools."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veriscope.errors import BadRows, MissingField, NoPairs, UnknownColumn, UserError
from veriscope.examples import examples, pairs, pool_of

COLOURS = ("red", "blue", "green")
PLACES = ("kitchen", "garden")


def colour_rows(n_boxes: int = 20, seed: int = 0) -> list[dict[str, Any]]:
    """The answer is the colour; the place and the box are irrelevant."""
    rows = [
        {
            "text": f"Box {b} in the {place} is {c}. Its colour:",
            "colour": c,
            "place": place,
            "answer": f" {c}",
            "box": b,
        }
        for b in range(n_boxes)
        for c in COLOURS
        for place in PLACES
    ]
    random.Random(seed).shuffle(rows)
    return rows


def by_text(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["text"]: row for row in rows}


def test_interchange_differs_in_vary_and_agrees_in_hold() -> None:
    rows = colour_rows()
    known = by_text(rows)

    found = pairs(rows, vary="colour", hold=["place"], seed=0, cluster="box")

    assert len(found) == len(rows)
    for pair in found:
        source = known[pair["source"]]
        assert source["colour"] != pair["colour"] and source["place"] == pair["place"]
        assert pair["expected"] == source["answer"] != pair["answer"] and pair["pair"] == "interchange"


def test_isolation_agrees_in_vary_and_predicts_no_change() -> None:
    rows = colour_rows()
    known = by_text(rows)

    found = pairs(rows, vary="colour", hold=["place"], seed=0, isolate=True, cluster="box")

    isolation = [pair for pair in found if pair["pair"] == "isolation"]
    assert len(isolation) == len(rows) and len(found) == 2 * len(rows)
    for pair in isolation:
        source = known[pair["source"]]
        assert source["colour"] == pair["colour"] and source["place"] != pair["place"]
        assert pair["expected"] == pair["answer"]
    without_hold = pairs(rows, vary="colour", seed=0, isolate=True, cluster="box")
    assert all(p["source"] != p["text"] for p in without_hold)
    assert sum(p["pair"] == "isolation" for p in without_hold) == len(rows)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(["box", "cluster"]), st.sampled_from([0.3, 0.5, 0.7]))
def test_no_text_is_in_two_pools(seed: int, cluster: str, share: float) -> None:
    rows = colour_rows(seed=seed)

    found = pairs(rows, vary="colour", seed=seed, isolate=True, cluster=cluster, dev_share=share)

    data = examples(found, answer="answer", cluster=cluster, source_text="source", expected="expected", dev_share=share)
    gate = data.gate.open(by="card", ledger=_Book())
    assert not data.warnings
    assert {*data.dev.texts, *data.dev.sources}.isdisjoint({*gate.texts, *gate.sources})
    assert set(data.dev.factor("pair")) == {"interchange", "isolation"}


def test_another_share_at_loading_is_noticed() -> None:
    found = pairs(colour_rows(), vary="colour", seed=0, cluster="box", dev_share=0.3)

    data = examples(found, answer="answer", cluster="box", source_text="source", expected="expected", dev_share=0.6)

    assert any("more than one pool" in note for note in data.warnings)


def test_the_draw_depends_on_content_and_seed_and_not_on_order() -> None:
    rows = colour_rows()

    one = pairs(rows, vary="colour", seed=0, cluster="box")
    two = pairs(rows[::-1], vary="colour", seed=0, cluster="box")
    other = pairs(rows, vary="colour", seed=1, cluster="box")

    assert one == two[::-1]
    assert sum(a["source"] != b["source"] for a, b in zip(one, other, strict=True)) > len(rows) / 2


def test_partners_are_drawn_evenly() -> None:
    rows = colour_rows(60)

    found = pairs(rows, vary="colour", hold=["place"], seed=0, cluster="box")

    reds = [pair["expected"] for pair in found if pair["colour"] == "red"]
    assert 0.35 < reds.count(" blue") / len(reds) < 0.65


def test_a_sample_gives_a_sample_of_its_own_pool() -> None:
    data = examples(colour_rows(), label="colour", answer="answer", cluster="box")

    found = pairs(data.dev, vary="colour", hold=["place"], seed=0, isolate=True)

    assert found.hash == data.hash and found.pool == "dev" and len(found) == 2 * len(data.dev)
    assert set(found.sources) <= set(data.dev.texts)
    assert found.factor("pair")[:2] == ["interchange", "isolation"] and len(set(found.ids)) == len(found)
    assert found.expected[1] == found.answers[1] and found.expected[0] != found.answers[0]
    with pytest.raises(MissingField, match='answer="column"'):
        pairs(examples(colour_rows(), cluster="box").dev, vary="colour", seed=0)


def test_rows_without_a_partner_are_counted_and_none_at_all_is_refused() -> None:
    rows = [*colour_rows(), {"text": "odd", "colour": "red", "place": "attic", "answer": " red", "box": 1}]

    with pytest.warns(UserWarning, match="1 of 121 rows have no partner"):
        found = pairs(rows, vary="colour", hold=["place"], seed=0, cluster="box")
    assert len(found) == 120
    with pytest.raises(NoPairs, match="differs in 'colour' and agrees in text"):
        pairs(colour_rows(), vary="colour", hold=["text"], seed=0, cluster="box")
    with pytest.raises(NoPairs, match="None of 0 rows"):
        pairs(examples(colour_rows(), answer="answer").dev.where(lambda e: False), vary="colour", seed=0)


def test_a_forgotten_hold_is_told_and_a_complete_one_is_silent() -> None:
    rows = [row | {"answer": f"{row['colour']} {row['place']}"} for row in colour_rows()]

    with pytest.warns(UserWarning, match="several answers in 3 of 3 cases"):
        pairs(rows, vary="colour", seed=0, cluster="box")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs(rows, vary="colour", hold=["place"], seed=0, cluster="box")


def test_a_row_is_never_paired_with_its_own_text() -> None:
    rows = [{"text": f"t{i // 2}", "z": i % 2, "answer": f"a{i % 2}", "cluster": f"c{i // 2}"} for i in range(40)]

    found = pairs(rows, vary="z", seed=0)

    assert all(pair["source"] != pair["text"] for pair in found)
    assert all(pool_of(f"c{p['source'][1:]}") == pool_of(p["cluster"]) for p in found)


def test_wrong_columns_say_what_to_type() -> None:
    rows = colour_rows()

    with pytest.raises(UnknownColumn, match=r"no column 'color'. Did you mean 'colour'"):
        pairs(rows, vary="color", seed=0)
    with pytest.raises(UserError, match="both varied and held"):
        pairs(rows, vary="colour", hold=["colour"], seed=0)
    with pytest.raises(UserError, match="already have a column 'source', which pairs writes"):
        pairs([row | {"source": "web"} for row in rows], vary="colour", seed=0)
    with pytest.raises(BadRows, match="row 2: no 'answer'"):
        pairs([rows[0], {**rows[1], "answer": None}, *rows[2:]], vary="colour", seed=0)


class _Book:
    """The smallest ledger."""

    def append(self, kind: str, body: Any) -> None:
        pass

    def rows(self, kind: str | None = None, **where: Any) -> list[Any]:
        return []
