"""The measured error of scores: each number on cases worked by hand."""

from __future__ import annotations

import pytest
import torch

from veriscope.errors import NotRun
from veriscope.patching.miss import miss_of


def cells(n: int) -> tuple[tuple[int, int], ...]:
    return tuple((number, 0) for number in range(n))


def test_signs_and_ranks_are_those_of_cells_whose_effect_is_more_than_rounding() -> None:
    exact = torch.tensor([0.4, -0.2, 0.1, 1e-7, -1e-7])
    scored = torch.tensor([0.5, 0.1, 0.2, -1e-8, 1e-6])

    found = miss_of(cells(5), scored, exact, of=90, seed=0)

    assert found.signed == 3 and found.sign.value == pytest.approx(2 / 3)
    assert found.rank == pytest.approx(6.5 / 9.5)  # ranks 5 3 4 1.5 1.5 with 5 1 4 2.5 2.5
    assert found.max_absolute == pytest.approx(0.3) and found.mean_absolute.value == pytest.approx(0.1, abs=1e-6)
    assert found.relative == pytest.approx(0.5 / 0.7, abs=1e-5) and found.large
    assert "sign right in 67% of 3" in str(found) and "5 of 90 cells" in str(found) and str(found).startswith("LARGE")


def test_good_scores_are_not_called_bad() -> None:
    exact = torch.tensor([0.4, -0.2, 0.1, 0.0])

    found = miss_of(cells(4), exact * 1.05, exact, of=4, seed=0)

    assert not found.large and "LARGE" not in str(found) and found.rank == pytest.approx(1.0)
    assert found.sign.value == 1.0


def test_where_there_is_no_effect_nothing_is_said_of_sign_and_rank() -> None:
    found = miss_of(cells(3), torch.tensor([1e-8, 0.0, 0.0]), torch.zeros(3), of=3, seed=0)

    assert all(isinstance(part, NotRun) for part in (found.r, found.rank, found.sign, found.relative))
    assert not found.large and "no sign" in str(found) and "no rank correlation" in str(found)
