"""Whatever is timed gives the same numbers: by hand, with a hook and through veriscope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import inputs
from benchmarks.peers import ours, plain
from benchmarks.worker import NotHere, Way
from benchmarks.workloads import TOKENS, WORKLOADS
from safetensors.torch import load_file

CELLS = {"W1": [0, 5], "W2": [0, 16, 179], "W3": [0, 143], "W4": [0, 13, 19], "W9": [0, 7, 499]}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> inputs.Inputs:
    """A narrow model with a small vocabulary, of as many layers and heads."""
    patch = pytest.MonkeyPatch()
    patch.setitem(inputs.SHAPES, "gpt2", (96, 12, 12, inputs.COMMON))
    made = inputs.write(tmp_path_factory.mktemp("inputs") / "here")
    patch.undo()
    return made


def shown(way: Way, cells: list[int]) -> torch.Tensor:
    found = way.run(cells)
    return way.show(found) if way.show else found


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "W5"])
def test_all_agree_with_the_reference(name: str, given: inputs.Inputs) -> None:
    cells = CELLS.get(name, [0, 1])
    ways = {**plain.ways(name, given), **ours.ways(name, given)}
    reference = shown(ways[WORKLOADS[name].reference], cells)

    found = {who: shown(way, cells) for who, way in ways.items() if way.kind in ("tuned", "ours")}

    assert reference.std() > 1e-4 and "veriscope" in found
    for who, theirs in found.items():
        assert torch.allclose(theirs, reference, atol=2e-5), who


def test_inputs_are_written_once(given: inputs.Inputs) -> None:
    before = (given.folder / "inputs.safetensors").stat().st_mtime_ns

    again = inputs.write(given.folder)

    assert (again.folder / "inputs.safetensors").stat().st_mtime_ns == before
    assert load_file(again.folder / "inputs.safetensors").keys() == given.tensors.keys()


def test_an_objective_is_that_of_scikit_learn() -> None:
    from benchmarks.peers.scikit_learn import PENALTY, _fit

    make = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=make)
    y, train = (x[:, 0] > 0.3).long(), torch.arange(200) < 150
    best = _fit(x, y, train)

    value = inputs.objective(x, y, train, best, PENALTY)

    for coordinate in range(5):
        for step in (-0.05, 0.05):
            moved = best.clone()
            moved[coordinate] += step
            assert inputs.objective(x, y, train, moved, PENALTY) > value


def test_probes_wait_for_the_fast_solver(given: inputs.Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(ours.importlib, "import_module", absent)

    with pytest.raises(NotHere, match="fast_logistic"):
        ours.ways("W5", given)


def test_every_workload_says_what_it_needs() -> None:
    for work in WORKLOADS.values():
        assert work.goal.peer and work.cells_of("loop", 1) and work.cells_of("loop", 4)
    assert TOKENS[0] != TOKENS[1] and Path(plain.__file__).exists()
