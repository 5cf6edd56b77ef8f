"""Erasure against the authors' own code, and its guarantee."""

from __future__ import annotations

import pytest
import torch
from planted import colours, planted_acts, toy

from veriscope.findings import Change
from veriscope.methods import LEACE, LogisticProbe, cluster_folds, held_out_scores
from veriscope.methods.bits import calibrated_bits
from veriscope.methods.leace import erasure


def erased(acts: torch.Tensor, codes: torch.Tensor, classes: int, shrink: bool) -> torch.Tensor:
    left, right, centre = erasure(acts, codes, classes, shrink=shrink)
    assert left.shape[1] < classes
    return acts - (acts - centre) @ right.T @ left.T


@pytest.mark.parametrize("classes", [2, 4])
def test_it_agrees_with_concept_erasure(classes: int) -> None:
    oracle = pytest.importorskip("concept_erasure", reason="the extra 'concept-erasure' is not installed")
    acts, codes, _ = planted_acts(n=500, d=20, classes=classes)
    acts = (acts @ torch.randn(20, 20, generator=torch.Generator().manual_seed(2))).double()

    fitter = oracle.LeaceFitter(20, classes, dtype=torch.float64, shrinkage=False, svd_tol=1e-9)
    fitter.update(acts, torch.nn.functional.one_hot(codes, classes).double())

    mine = erased(acts, codes, classes, shrink=False)
    assert torch.allclose(mine, fitter.eraser(acts), atol=1e-8)


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("n, d, classes", [(400, 16, 2), (400, 16, 5), (60, 100, 3)])
def test_no_linear_reader_is_left_with_anything(n: int, d: int, classes: int, shrink: bool) -> None:
    acts, codes, _ = planted_acts(n=n, d=d, classes=classes, gap=3.0)
    acts = acts.double()
    z = torch.nn.functional.one_hot(codes, classes).double()

    after = erased(acts, codes, classes, shrink)

    def covariance(x: torch.Tensor) -> float:
        return float(((x - x.mean(0)).T @ (z - z.mean(0)) / n).abs().max())

    assert covariance(acts) > 0.05
    assert covariance(after) < 1e-9
    # the best least-squares reader of what is left is the constant
    design = torch.cat([after, torch.ones(n, 1).double()], 1)
    best = design @ torch.linalg.lstsq(design, z, driver="gelsd").solution
    if n > d:
        assert float((best - z.mean(0)).abs().max()) < 1e-6
    assert torch.allclose(after.mean(0), acts.mean(0), atol=1e-9)


def test_what_is_not_linear_can_still_be_read() -> None:
    source = torch.Generator().manual_seed(0)
    acts = torch.randn(2000, 6, generator=source)
    codes = ((acts[:, 0] > 0) ^ (acts[:, 1] > 0)).long()
    fold = cluster_folds([str(i) for i in range(2000)])

    after = erased(acts, codes, 2, shrink=False)

    def bits(features: torch.Tensor) -> float:
        return float(
            calibrated_bits(
                held_out_scores(LogisticProbe("x"), features, codes[None], fold, n_classes=2), codes[None], 2
            )[0]
        )

    assert bits(after) < 0.01
    assert bits(torch.cat([after, after[:, :1] * after[:, 1:2]], 1)) > 0.3


def test_little_else_changes() -> None:
    acts, codes, directions = planted_acts(n=2000, d=20, gap=2.0)
    across = torch.linalg.qr(torch.stack([directions[1] - directions[0], directions[0] + directions[1]], 1)).Q[:, 0]

    moved = erased(acts, codes, 2, shrink=True) - acts

    along = (moved @ across)[:, None] * across
    assert float((moved - along).norm() / moved.norm()) < 0.15


def test_fitting_on_a_subject_gives_a_change_that_hides_the_label() -> None:
    subject, sample = toy(), colours(300)

    found = LEACE("late").fit(subject, sample)
    (edit,) = found.edits()
    run = subject.run(sample.texts, read=["late"], edits=[edit])

    assert isinstance(found, Change) and found.kind == "erase"
    last = run["late"][:, -1].double()
    z = torch.tensor([float(label == "True") for label in sample.labels]).double()
    before = subject.acts(sample.texts, "late").double()
    assert float(((last - last.mean(0)).T @ (z - z.mean())).abs().max()) / 300 < 1e-5
    assert float(((before - before.mean(0)).T @ (z - z.mean())).abs().max()) / 300 > 0.05


def test_of_several_sites_it_takes_the_one_that_tells_most() -> None:
    found = LEACE(("early", "late")).fit(toy(), colours())

    assert (found.site, found.origin.tried) == ("late", 2)
