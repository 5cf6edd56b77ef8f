"""scikit-learn's LogisticRegression (lbfgs, its default), one fit for each site and fold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.inputs import Inputs, objective, probe_data
from benchmarks.worker import Way, serve

PENALTY = 1.0


def ways(workload: str, given: Inputs) -> dict[str, Way]:
    """What scikit-learn does in a workload."""
    if workload != "W5":
        return {}
    data = {site: probe_data(site) for site in range(13)}
    return {"scikit-learn": _fits(data)}


def _fits(data: dict[int, tuple[Tensor, Tensor, Tensor]]) -> Way:
    def run(cells: Sequence[int]) -> dict[int, list[Tensor]]:
        return {site: [_fit(*data[site][:2], train) for train in data[site][2]] for site in cells}

    def show(found: dict[int, list[Tensor]]) -> Tensor:
        rows = []
        for site, fits in found.items():
            x, y, folds = data[site]
            rows.append([objective(x, y, t, w, PENALTY) for t, w in zip(folds, fits, strict=True)])
        return torch.tensor(rows, dtype=torch.float64)

    return Way(run, "peer", "loop", show)


def _fit(x: Tensor, y: Tensor, train: Tensor) -> Tensor:
    fitted = LogisticRegression(C=1 / PENALTY, max_iter=1000).fit(x[train].numpy(), y[train].numpy())
    return torch.from_numpy(np.append(fitted.coef_[0], fitted.intercept_))


if __name__ == "__main__":
    serve(ways, ["scikit-learn", "numpy"])
