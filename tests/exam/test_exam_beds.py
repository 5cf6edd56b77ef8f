"""What the beds plant, counted: each claim once."""

from __future__ import annotations

from collections import Counter

import pytest

from veriscope.exam.beds import TYPES, plantings


@pytest.mark.parametrize("final", [False, True])
def test_no_claim_is_planted_twice_under_two_names(final: bool) -> None:
    every = [p for _, p in plantings("all", TYPES, 4, seed=1, final=final, each_kind=True)]

    claims = Counter((p.claim_type, p.build, tuple(sorted(map(str, p.settings)))) for p in every)

    assert len(every) > 500 and [claim for claim, n in claims.items() if n > 1] == []
