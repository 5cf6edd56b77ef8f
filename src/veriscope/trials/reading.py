"""How much a reading tells, in bits: the one measure behind C1, used for claims and controls alike.

Usable information (Xu, A Theory of Usable Information under Computational Constraints, 2020): entropy of the
variable under the dev frequencies minus the cross-entropy of the calibrated reader, on clusters never seen.
Calibration is cross-fitted on dev, so an over-confident reader is not punished for scale and a control gets
the very same treatment as the claim.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.methods.bits import platt
from veriscope.methods.linear import Linear, held_out_scores
from veriscope.trials.statistics import Array


def crossfit_bits(
    method: Any,
    dev: Float[Tensor, "example d"],
    dev_codes: Int[Tensor, "task example"],
    fold: Int[Tensor, "example"],
    gate: Float[Tensor, "item d"],
    gate_codes: Int[Tensor, "task item"],
    n_classes: int,
    *,
    seed: int = 0,
    frozen: Float[Tensor, "item k"] | None = None,
) -> Float[Tensor, "task item"]:
    """Usable bits of each gate item, for each of several labellings of the same activations.

    The reader of the gate items is fitted on all of dev; its calibration on dev items held out by fold.

    Args:
        method: Linear method with `weights(acts, codes, train, n_classes=, seed=)`.
        frozen: Gate scores of a reading fitted earlier, used in place of the refitted one (single task).

    Returns:
        log2 of (probability given to the true class / its dev frequency), one value an item.
    """
    held_out = held_out_scores(method, dev, dev_codes, fold, n_classes=n_classes, seed=seed)
    if frozen is None:
        everyone = torch.ones_like(dev_codes, dtype=torch.bool)
        fitted: Linear = method.weights(dev, dev_codes, everyone, n_classes=n_classes, seed=seed)
        scores = fitted.score(gate)
    else:
        scores = frozen[None]
    return bits_of(held_out, dev_codes, scores, gate_codes, n_classes)


def bits_of(
    dev_scores: Float[Tensor, "task example k"],
    dev_codes: Int[Tensor, "task example"],
    gate_scores: Float[Tensor, "task item k"],
    gate_codes: Int[Tensor, "task item"],
    n_classes: int,
) -> Float[Tensor, "task item"]:
    """Calibrate on held-out dev scores and give each gate item's bits over the dev frequencies."""
    calibration = platt(dev_scores, dev_codes, n_classes)
    return calibration.log2_prob(gate_scores.double(), gate_codes) - calibration.prior_log2_prob(gate_codes)


def as_array(values: Tensor) -> Array:
    """A torch tensor as float64 numpy."""
    return values.detach().double().cpu().numpy()
