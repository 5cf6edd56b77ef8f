"""What grows from kept keys and values is what a whole run gives, at a smaller cost."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import pytest
import torch

import veriscope
from veriscope.cases import stems
from veriscope.cases.stems import Stems
from veriscope.subjects import Subject
from veriscope.subjects.endings import Endings, continuations
from veriscope.zoo import town

TEXT = (
    "two birds sing . the coin is in the garden . the cup is in the attic . the day is long . the sky is grey . "
    "the coin is in the garden . two birds sing . the cup is in the attic . in which room is the coin ? answer :"
)
ENDING = "garden . the day"
WIDE = 4  # tokens of a sentence that is cut out


@cache
def subject() -> Subject:
    return veriscope.load(town.folder("town"))


@cache
def base() -> tuple[int, ...]:
    return tuple(subject().tokens([TEXT])[0])


def cut(*places: int) -> tuple[int, ...]:
    """The text without some stretches."""
    return tuple(token for n, token in enumerate(base()) if not any(p <= n < p + WIDE for p in places))


def ending() -> list[int]:
    return list(subject().reader.encode_bare(ENDING))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a common beginning however short it is."""
    monkeypatch.setattr(stems, "WORTH", 2)


def agree(found: list, plain: list) -> None:  # type: ignore[type-arg]
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one.nats, other.nats, atol=1e-5, rtol=1e-5)
        assert one.best.tolist() == other.best.tolist()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("most", [0, 2**29])
def test_pairs_that_grow_from_singles_say_what_whole_runs_say(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(stems, "MOST", most)
    places = [2, 10, 18, 26, 34]
    singles = [(cut(a), ending()) for a in places]
    pairs = [(cut(a, b), ending()) for a, b in combinations(places, 2)]
    grown, plain = (kind(subject(), [*base(), *ending()[:-1]]) for kind in (Stems, Endings))

    alone, both = grown.run(singles, keep=range(len(singles))), grown.run(pairs)

    agree([*alone, *both], plain.run([*singles, *pairs]))
    if most:
        assert grown.passes < plain.passes - 1
    else:
        assert grown.passes == pytest.approx(plain.passes)


@pytest.mark.usefixtures("eager")
def test_texts_that_nobody_kept_grow_from_one_another() -> None:
    texts = [(cut(2, *more), ending()) for more in ((), (30,), (20,), (20, 30), (12, 30))]
    grown, plain = (kind(subject(), [*base(), *ending()[:-1]]) for kind in (Stems, Endings))

    found = grown.run(texts)

    agree(found, plain.run(texts))
    assert grown.passes < plain.passes - 1 and grown.cost(texts) == pytest.approx(plain.cost(texts))


def test_a_watch_is_shown_every_row_behind_the_base_text_whatever_was_kept() -> None:
    seen: list[tuple[int, int]] = []

    class Rows:
        sites = ("blocks.1.resid_post",)

        def see(self, site: str, acts: torch.Tensor, text: torch.Tensor, position: torch.Tensor) -> None:
            seen.extend(zip(text.tolist(), position.tolist(), strict=True))

    grown = Stems(subject(), [*base(), *ending()[:-1]])
    grown.run([(cut(2), ending())], keep=[0])

    grown.run([(cut(2, 20), ending()), (cut(30), ending())], Rows())

    long = len(base()) + len(ending()) - 1
    first = [min(p for t, p in seen if t == text) for text in (0, 1)]
    assert first[0] <= 4 and 28 <= first[1] <= 34
    assert sum(t == 0 for t, _ in seen) == long - 2 * WIDE - first[0]


def test_continuations_are_those_of_running_each_context_whole() -> None:
    contexts = [base(), cut(10), cut(2, 20)]
    settings = {"tokens": 6, "draws": 40, "seed": 3}
    grown = Stems(subject(), [*base(), *ending()[:-1]])

    found = grown.continued(contexts, **settings)

    plain, _ = continuations(subject(), contexts, **settings)  # type: ignore[arg-type]
    assert [said[0] for said in found] == [said[0] for said in plain]
    assert all(len(said) == 41 for said in found) and found == grown.continued(contexts, **settings)
    for own, other in zip(found, plain, strict=True):
        first = [[ids[0] for ids in said[1:] if ids] for said in (own, other)]
        top = max(set(first[1]), key=first[1].count)
        assert abs(first[0].count(top) - first[1].count(top)) <= 16  # of 40: four standard errors of the difference


def test_what_is_forgotten_is_run_again() -> None:
    grown = Stems(subject(), [*base(), *ending()[:-1]])
    grown.run([(cut(2), ending()), (cut(10), ending())], keep=[0, 1])
    pair = [(cut(2, 30), ending())]
    kept = grown.cost(pair)

    grown.forget(but=[cut(10)])

    assert grown.cost(pair) > kept + 0.4
