"""Numbers for a plan and words for a person."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veriscope.compute import duration, estimate, free_memory, measure, size


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 ms"),
        (0.35, "350 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
        (86399, "1 d"),
        (200_000, "2 d 8 h"),
        (10_000_000, "115 d 18 h"),
        (-42, "-42 s"),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@settings(deadline=None, derandomize=True)
@given(st.floats(0, 1e9))
def test_a_duration_never_says_sixty(seconds: float) -> None:
    assert not any(f"{n} {unit}" in duration(seconds).split("d ") for n, unit in ((60, "s"), (60, "min"), (24, "h")))


@pytest.mark.parametrize(
    "n_bytes, words",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**3 - 1, "1.0 GiB"),
        (7 * 1024**5, "7.0 PiB"),
    ],
)
def test_a_size_in_words(n_bytes: int, words: str) -> None:
    assert size(n_bytes) == words


def test_an_estimate_shares_the_items_out() -> None:
    assert estimate(2.0, 10) == 20.0 and estimate(2.0, 10, workers=4) == 6.0 and estimate(2.0, 0) == 0.0


def test_free_memory_is_positive_and_within_a_containers_limit(tmp_path: Path) -> None:
    assert free_memory() > 2**20

    for name, text in {"max": "1000", "current": "900", "stat": "anon 1\ninactive_file 300\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert measure._group_available(str(tmp_path)) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert measure._group_available(str(tmp_path)) is None
    assert measure._group_available(str(tmp_path / "none")) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5 kB\n")
    assert measure._linux_available(str(tmp_path / "meminfo")) == 5120
