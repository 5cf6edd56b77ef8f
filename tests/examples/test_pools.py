"""The split depends on the cluster alone, closed pools stay closed, and every look is counted."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veriscope.errors import LedgerUnwritable, UserError
from veriscope.examples import Example, Examples, Sample, examples, make_example, place, pool_of
from veriscope.ledger import Ledger, count_looks

Names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(str.strip)


def rows_of(clusters: list[str]) -> list[dict[str, Any]]:
    return [{"text": f"{c} {k}", "cluster": c, "z": str(k % 2)} for c in clusters for k in range(2)]


# Worked out with: printf 'veriscope-split-1|%s' NAME | sha256sum | cut -c1-15
KNOWN = {
    "kitchen": "38a092e8c73b2f9",
    "film 12": "10faf7eeef7583a",
    "Zürich": "fe53a49c763dcf2",
    "狗": "49bb614dc3b78bb",
}


@pytest.mark.parametrize("cluster", KNOWN)
def test_the_split_is_the_same_on_every_machine(cluster: str) -> None:
    assert place(cluster) == int(KNOWN[cluster], 16) / 16**15


@settings(deadline=None, derandomize=True)
@given(Names)
def test_the_split_does_not_see_how_a_name_was_typed(name: str) -> None:
    assert place(unicodedata.normalize("NFD", name)) == place(unicodedata.normalize("NFC", name))
    assert 0 <= place(name) < 1


def test_half_of_many_clusters_go_to_each_pool() -> None:
    dev = sum(pool_of(f"c{i}") == "dev" for i in range(2_500))

    assert 1_150 < dev < 1_350  # four standard deviations
    assert 420 < sum(pool_of(f"c{i}", 0.2) == "dev" for i in range(2_500)) < 580


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(Names, unique_by=lambda c: unicodedata.normalize("NFC", c), min_size=1, max_size=8), st.randoms())
def test_order_and_further_rows_move_no_cluster(more: list[str], random: Any) -> None:
    base = [f"base {i}" for i in range(12)]
    more = [c for c in more if c not in base]
    one = examples(rows_of(base), cluster="cluster", label="z")
    mixed = rows_of([*base, *more])
    random.shuffle(mixed)

    two = examples(mixed, cluster="cluster", label="z")

    kept = {unicodedata.normalize("NFC", c) for c in base}
    assert {e.id for e in two.dev if e.cluster in kept} == set(one.dev.ids)
    assert set(two.dev.clusters).isdisjoint(opened(two).clusters)


def test_the_hash_names_the_content_and_not_its_order() -> None:
    rows = rows_of([f"c{i}" for i in range(12)])
    whole = examples(rows, cluster="cluster", label="z")

    assert examples(rows[::-1], cluster="cluster", label="z").hash == whole.hash
    assert examples(rows, cluster="cluster", label="z", name="other").hash == whole.hash
    changed = [rows[0] | {"text": "another"}, *rows[1:]]
    for other in (
        examples(changed, cluster="cluster", label="z"),
        examples([*rows, rows[0]], cluster="cluster", label="z"),
        examples(rows, cluster="cluster"),
        examples(rows, cluster="cluster", label="z", dev_share=0.55),
    ):
        assert other.hash != whole.hash
    assert len(whole.hash) == 64 and all(len(i) == 16 for i in whole.dev.ids)


def test_the_id_covers_everything_that_an_example_says() -> None:
    plain = make_example("text", label="a", cluster="c", answer="x", factors={"k": "v"})
    others = [
        make_example("text ", label="a", cluster="c", answer="x", factors={"k": "v"}),
        make_example("text", label="b", cluster="c", answer="x", factors={"k": "v"}),
        make_example("text", label="a", cluster="d", answer="x", factors={"k": "v"}),
        make_example("text", label="a", cluster="c", foil="x", factors={"k": "v"}),
        make_example("text", label="a", cluster="c", answer="x", factors={"k": "w"}),
    ]

    assert len({e.id for e in [plain, *others]}) == 6
    assert make_example("text", label="Cafe\u0301").label == make_example("text", label="Caf\xe9").label
    assert make_example("Cafe\u0301").text == "Cafe\u0301"  # a model sees the difference
    assert make_example("Cafe\u0301").id != make_example("Caf\xe9").id
    assert make_example("Cafe\u0301").cluster == make_example("caf\xe9 ").cluster


def test_a_closed_pool_shows_its_size_alone() -> None:
    data = examples(rows_of([f"c{i}" for i in range(12)]), cluster="cluster", label="z")

    shown = repr(data.gate)

    assert data.gate.n == 2 * data.gate.n_clusters and f"n={data.gate.n}" in shown
    assert "Example(" not in shown and "Example(" not in repr(data).split("gate=")[1]
    for hidden in ("examples", "texts", "labels", "label_counts", "__iter__", "__len__", "__getitem__"):
        assert not hasattr(data.gate, hidden)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.gate.n = 3  # type: ignore[misc]


def test_every_look_is_written_before_rows_are_handed_out() -> None:
    data = examples(rows_of([f"c{i}" for i in range(12)]), cluster="cluster", label="z", name="toy")
    ledger = Ledger.in_memory()

    first = data.gate.open(by="card one", ledger=ledger)
    again = data.gate.open(by="card one", ledger=ledger)
    data.gate.open(by="card two", ledger=ledger)

    assert first == again and first.pool == "gate" and len(first) == data.gate.n
    bodies = [row.body for row in ledger.rows("look")]
    assert [b["again"] for b in bodies] == [False, True, False]
    assert bodies[0] == {
        "examples": data.hash,
        "name": "toy",
        "pool": "gate",
        "by": "card one",
        "n": data.gate.n,
        "again": False,
    }
    assert count_looks(ledger, examples=data.hash) == 2
    assert count_looks(ledger, examples=data.hash, pool="shift") == 0


def test_a_look_that_cannot_be_written_hands_out_nothing(tmp_path: Any) -> None:
    data = examples(rows_of([f"c{i}" for i in range(12)]), cluster="cluster", label="z")
    Ledger(tmp_path / "l.sqlite").close()

    with pytest.raises(LedgerUnwritable, match="reading only"):
        data.gate.open(by="card", ledger=Ledger(tmp_path / "l.sqlite", read_only=True))
    with pytest.raises(UserError, match="Write the claim down first"):
        data.gate.open(by=" ", ledger=Ledger.in_memory())


def test_the_description_tells_counts_and_what_is_odd() -> None:
    rows = rows_of([f"c{i}" for i in range(12)])
    dev = next(r for r in rows if pool_of(r["cluster"]) == "dev")
    gate = next(r for r in rows if pool_of(r["cluster"]) == "gate")
    odd = [dev | {"text": gate["text"]}, dev, dev, dev | {"z": "1" if dev["z"] == "0" else "0"}]

    clean = examples(rows, cluster="cluster", label="z").describe()
    noisy = examples([*rows, *odd], cluster="cluster", label="z").describe()

    assert "24 examples" in clean and "in dev: 0 " in clean and "(50%)" in clean and "note:" not in clean
    assert "more than once: 1, with 2 further copies" in noisy
    assert "texts in more than one pool, under different clusters: 1 " in noisy
    assert "texts of dev with more than one label: 1" in noisy


def test_the_description_tells_of_labels_alike_and_clusters_shared_with_shift() -> None:
    rows = rows_of([f"c{i}" for i in range(12)])
    spelled = [r | {"z": {"0": "no", "1": "No" if i % 4 == 1 else "no "}[r["z"]]} for i, r in enumerate(rows)]
    shift = [r | {"text": r["text"] + "!", "far": "yes"} for r in rows[:4]]

    assert "differ only in case or spaces" in examples(spelled, cluster="cluster", label="z").describe()
    shared = examples([*rows, *shift], cluster="cluster", label="z", shift={"column": "far", "is": "yes"}).describe()
    assert "clusters of the shift pool that are also in dev or gate: 2" in shared


def test_a_sample_is_filtered_taken_and_relabelled_without_changing() -> None:
    sample = examples(rows_of([f"c{i}" for i in range(12)]), cluster="cluster", label="z").dev

    ones = sample.where(lambda e: e.label == "1")
    swapped = sample.relabel(["x"] * len(sample))

    assert set(ones.labels) == {"1"} and len(ones) == len(sample) // 2 and ones.hash == sample.hash
    assert set(swapped.labels) == {"x"} and swapped.ids == sample.ids and set(sample.labels) == {"0", "1"}
    assert sample.take([1, 0, 0]).texts == [sample.texts[1], sample.texts[0], sample.texts[0]]
    assert not sample.has("answer") and sample.has("label") and not sample.where(lambda e: False).has("label")
    assert [e.id for e in sample] == sample.ids
    with pytest.raises(ValueError, match="1 labels for"):
        sample.relabel(["x"])


def test_an_example_made_by_hand_needs_only_id_and_text() -> None:
    sample = Sample((Example("1", "a"), Example("2", "b", label="x")), "hand", "h", "dev", "z")

    assert sample.texts == ["a", "b"] and hash(sample.examples[0])
    with pytest.raises(UserError, match="have no label"):
        _ = sample.labels


def test_these_rooms_bring_no_torch() -> None:
    code = "import sys, veriscope.examples, veriscope.ledger, veriscope.compute; print('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def opened(data: Examples) -> Sample:
    return data.gate.open(by="card", ledger=Ledger.in_memory())
