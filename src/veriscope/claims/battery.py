"""What a gate asks, written down before it is run: a battery is a plain list of these.

The function that runs a gate is named by its import path, so that claims know nothing of trials and someone
else's claim type needs no table to be entered in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from veriscope.errors import UserError

Role = Literal["instrument", "gate", "falsifier", "diagnostic", "rival"]


@dataclass(frozen=True)
class GateSpec:
    """One line of a battery.

    Attributes:
        level: Evidence level (1-4) that needs this gate; a claim states the highest level whose gates all passed.
        margin: What the one-sided 95% bound must be beyond. None where nothing is tested.
        better: "higher" asks that the lower bound exceed the margin, "lower" that the upper bound stay short of it.
        run: Import path of the function `(bench, spec) -> GateResult`.
        if_fired: What a fired falsifier makes of the claim.
    """

    gate: str
    title: str
    asks: str
    role: Role
    unit: str
    run: str
    level: int = 2
    margin: float | None = None
    better: Literal["higher", "lower"] = "higher"
    if_fired: str = "REFUTED"


class LoweredMargin(UserError):
    """A card that asks less than the battery's own margin."""

    def __init__(self, gate: str, wanted: float, default: float) -> None:
        super().__init__(
            f"Gate {gate} has margin {default:g}; a card may raise it but {wanted:g} asks for less. "
            f"Leave it out, or claim less."
        )


def with_margins(battery: tuple[GateSpec, ...], margins: Mapping[str, float]) -> tuple[GateSpec, ...]:
    """Apply a card's own margins, which may only make a gate harder to pass.

    Raises:
        LoweredMargin: A margin that would make the gate easier.
        UserError: A gate that the battery does not have, or one without a margin.
    """
    known = {spec.gate: spec for spec in battery}
    for gate, wanted in margins.items():
        spec = known.get(gate)
        if spec is None or spec.margin is None:
            tested = ", ".join(s.gate for s in battery if s.margin is not None)
            raise UserError(f"There is no margin to set for '{gate}'. Gates with a margin: {tested}.")
        if (wanted < spec.margin) == (spec.better == "higher") and wanted != spec.margin:
            raise LoweredMargin(gate, wanted, spec.margin)
    return tuple(replace(s, margin=margins.get(s.gate, s.margin)) for s in battery)


def sized(battery: tuple[GateSpec, ...], gates: Sequence[str], claimed: float) -> tuple[GateSpec, ...]:
    """The battery with these gates held to the effect that a claim claims, where it claims more than their margin."""
    return tuple(replace(s, margin=max(claimed, s.margin or 0.0)) if s.gate in gates else s for s in battery)
