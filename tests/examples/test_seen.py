"""What was learnt from is noticed again: exactly for small sets, as a share for large ones."""

from __future__ import annotations

import pytest

from veriscope.errors import UserError
from veriscope.examples.seen import KEPT, share_seen, sketch


def test_a_small_set_is_known_again_exactly() -> None:
    held = sketch([f"text {i}" for i in range(100)])

    assert share_seen(held, ["text 3", "TEXT  4 ", "text 100", "text"]) == 0.5
    assert share_seen(held, [f"text {i}" for i in range(100, 300)]) == 0
    assert share_seen("", ["text 3"]) == share_seen(held, []) == 0


def test_of_a_large_set_the_share_is_known_from_a_short_sketch() -> None:
    held = sketch([f"text {i}" for i in range(20_000)])

    assert len(held) < 14_000 and len(held) == len(sketch([f"text {i}" for i in range(KEPT)]))
    assert share_seen(held, [f"text {i}" for i in range(18_000, 22_000)]) == pytest.approx(0.5, abs=0.1)
    assert share_seen(held, [f"text {i}" for i in range(20_000, 24_000)]) == 0


def test_what_is_no_sketch_is_refused() -> None:
    with pytest.raises(UserError, match="Fit it again"):
        share_seen("not base 64!", ["text"])
