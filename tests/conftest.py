"""What all tests share. Nothing of veriscope is imported here before the shape checks are installed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

# One thread for each test process, set before anything loads torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

import shapes

shapes.install("veriscope")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and texts; a test that wants it is skipped where there is none."""
    folder = Path(os.environ.get("VERISCOPE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real models and texts are not at {folder}; name their folder in VERISCOPE_DATA")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hold torch to one thread, without being the one that loads it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1 and os.environ["OMP_NUM_THREADS"] == "1":
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of the most slow tests: several processes then end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
