"""The solver against scikit-learn's, with the same objective."""

from __future__ import annotations

import time
import warnings

import pytest
import torch
from planted import planted_acts
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from veriscope.errors import BadSetting
from veriscope.methods import LogisticProbe
from veriscope.methods.fast_logistic import NotConverged


def problem(
    n: int, d: int, classes: int, strength: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Correlated features of unlike scale and offset, labels from a noisy softmax, and training rows."""
    source = torch.Generator().manual_seed(seed)
    acts = torch.randn(n, d, generator=source) @ torch.randn(d, d, generator=source) / d**0.5
    logits = acts @ torch.randn(d, classes, generator=source) / d**0.5 * strength
    codes = (logits + torch.randn(n, classes, generator=source)).argmax(1)
    return 10 ** torch.linspace(-2, 2, d) * (acts + 3), codes, torch.rand(n, generator=source) < 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "n, d, classes, l2, strength",
    [
        (600, 30, 2, 10.0, 1.0),
        (600, 30, 2, 0.1, 5.0),  # nearly separable, hardly penalised
        (150, 200, 2, 1.0, 1.0),  # more features than examples
        (600, 20, 5, 3.0, 3.0),
        (150, 200, 4, 30.0, 1.0),
    ],
)
def test_coefficients_and_probabilities_agree_with_scikit_learn(
    n: int, d: int, classes: int, l2: float, strength: float, dtype: torch.dtype
) -> None:
    acts, codes, train = problem(n, d, classes, strength)
    acts = acts.to(dtype)

    found = LogisticProbe("x", l2=l2).weights(acts, codes[None], train[None], n_classes=classes)

    assert found.weight.dtype == dtype
    scaler = StandardScaler().fit(acts[train].double().numpy())
    oracle = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=20_000)
    oracle.fit(scaler.transform(acts[train].double().numpy()), codes[train].numpy())
    mine = (found.weight[0].double() * torch.tensor(scaler.scale_)[:, None]).T
    assert (mine - torch.tensor(oracle.coef_)).abs().max() < 1e-3
    score = found.score(acts)[0].double()
    p = torch.cat([-score, score], 1).sigmoid() if classes == 2 else score.softmax(1)
    assert (p - torch.tensor(oracle.predict_proba(scaler.transform(acts.double().numpy())))).abs().max() < 1e-4


def test_each_task_takes_the_penalty_that_suits_it() -> None:
    acts, codes, _ = planted_acts(n=400, d=40, gap=4.0)
    noise = torch.randint(2, (400,), generator=torch.Generator().manual_seed(5))
    train = torch.ones(2, 400, dtype=torch.bool)
    tasks = torch.stack([codes, noise])

    chosen = LogisticProbe("x", l2=(1.0, 1e4)).weights(acts, tasks, train, n_classes=2)
    weak, strong = (LogisticProbe("x", l2=l2).weights(acts, tasks, train, n_classes=2) for l2 in (1.0, 1e4))

    assert torch.allclose(chosen.weight[0], weak.weight[0], atol=1e-3)
    assert torch.allclose(chosen.weight[1], strong.weight[1], atol=1e-3)


def test_features_that_do_not_vary_get_no_weight() -> None:
    acts, codes, _ = planted_acts(n=200, d=6)
    acts[:, 2] = 1234.5
    acts[:, 4] = 0.0

    found = LogisticProbe("x").weights(acts, codes[None], torch.ones(1, 200).bool(), n_classes=2)

    assert found.weight[0, 2] == found.weight[0, 4] == 0
    assert bool(torch.isfinite(found.weight).all())


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_a_class_without_training_rows_leaves_a_finite_proven_fit(classes: int) -> None:
    acts, codes, train = problem(150, 200, classes, 1.0)
    train = train & (codes != 0)

    with warnings.catch_warnings():
        warnings.simplefilter("error", NotConverged)
        found = LogisticProbe("x").weights(acts, codes[None], train[None], n_classes=classes)

    assert bool(torch.isfinite(found.weight).all()) and float(found.bias.abs().max()) < 1e4
    guess = found.score(acts)[0]
    assert not bool(((guess[:, 0] < 0) if classes == 2 else (guess.argmax(1) == 0))[train].any())


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadSetting, match=r"LogisticProbe: l2=0.0 will not do; it must be a positive number or several"):
        LogisticProbe("x", l2=0.0)
    with pytest.raises(BadSetting, match="inner_folds=1"):
        LogisticProbe("x", inner_folds=1)


@pytest.mark.slow
def test_a_hundred_fits_with_their_penalties_chosen_take_seconds() -> None:
    acts, codes, train = problem(1000, 128, 2, 1.0)
    tasks = torch.stack([codes[torch.randperm(1000, generator=torch.Generator().manual_seed(t))] for t in range(100)])

    started = time.process_time()
    LogisticProbe("x").weights(acts, tasks, train.repeat(100, 1), n_classes=2)

    assert time.process_time() - started < 10  # about 0.3 s on a quiet core
