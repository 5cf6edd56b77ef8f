"""C1 REPRESENTS: a variable can be read off a site, beyond what controls, twins, surface and search explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from veriscope.claims.battery import GateSpec, sized
from veriscope.examples import Examples
from veriscope.findings import Reading

_RUN = "veriscope.trials.represents:"

BATTERY: tuple[GateSpec, ...] = (
    GateSpec(
        "i0",
        "planted feature",
        "is a feature that we planted in the same activations found by a reader of the same family?",
        "instrument",
        "bits",
        _RUN + "planted_feature",
        level=0,
        margin=0.05,
    ),
    GateSpec(
        "d1",
        "held-out clusters",
        "how well can the variable be read on clusters never seen?",
        "diagnostic",
        "bits",
        _RUN + "held_out",
    ),
    GateSpec(
        "g2",
        "control task",
        "does it beat the same probe on labels redrawn per token type, context, named thing and item?",
        "gate",
        "bits",
        _RUN + "control_task",
        margin=0.05,
    ),
    GateSpec(
        "g3",
        "dead salmon",
        "does it beat the same probe on five random-weight twins?",
        "gate",
        "bits",
        _RUN + "dead_salmon",
        margin=0.05,
    ),
    GateSpec(
        "g4",
        "surface baseline",
        "does it beat what can be read off the input itself?",
        "gate",
        "bits",
        _RUN + "surface",
        margin=0.05,
    ),
    GateSpec(
        "g5",
        "search-matched null",
        "does it beat the best of as many random directions, chosen the same way?",
        "gate",
        "bits",
        _RUN + "search_matched",
        margin=0.05,
    ),
    GateSpec(
        "d6",
        "online code",
        "how much shorter than the labels themselves is an online code? (MDL)",
        "diagnostic",
        "ratio",
        _RUN + "online_code",
    ),
    GateSpec(
        "f7", "shift", "is more than half of it lost on another distribution?", "falsifier", "bits", _RUN + "shift"
    ),
    GateSpec(
        "d8",
        "capacity",
        "how much is read with fewer training items?",
        "diagnostic",
        "bits",
        _RUN + "capacity",
    ),
    GateSpec(
        "r9",
        "asking the model",
        "does reading inside beat asking the model (zero- and few-shot)?",
        "rival",
        "bits",
        _RUN + "asking",
        level=4,
        margin=0.0,
    ),
)


@dataclass(frozen=True)
class Represents:
    """On the examples, `finding` reads at least `smallest_effect` bits about `of` beyond every control.

    Args:
        finding: A reading fitted on the dev pool only.
        of: The variable's name: the label column of `on`.
        on: Examples whose gate pool has not been opened for this card.
        smallest_effect: Usable information per item, in bits (0.05 by default), worth claiming.
        margins: Margins of single gates, if higher than the battery's own.
    """

    finding: Reading
    of: str
    on: Examples
    name: str = ""
    smallest_effect: float = 0.05
    margins: Mapping[str, float] = field(default_factory=dict)
    scope: str = ""

    type: ClassVar[str] = "C1 REPRESENTS"
    unit: ClassVar[str] = "bits"
    metric: ClassVar[str] = "usable information about the variable, bits per item, on held-out clusters"
    bench: ClassVar[str] = _RUN + "Bench"
    family: ClassVar[str] = "linear"
    falsifier: ClassVar[str] = "less than half of the gate's bits on the shift pool (f7)"
    effect_gate: ClassVar[str] = "d1"
    assumptions: ClassVar[tuple[str, ...]] = (
        "the examples are drawn from the distribution named in the scope",
        "items of different clusters share nothing that gives the label away",
        "a linear reader of the named family is what is claimed, no more",
    )
    stressed: ClassVar[str] = "clusters share nothing: labels redrawn per token type, context and named thing (g2)"

    @property
    def battery(self) -> tuple[GateSpec, ...]:
        """The gates, every excess held to the effect that is claimed."""
        return sized(BATTERY, ("g2", "g3", "g4", "g5"), self.smallest_effect)

    @property
    def statement(self) -> str:
        """The claim in words."""
        reader = self.finding.origin.method.rsplit(":", 1)[-1]
        return (
            f"At {self.finding.site}, position {self.finding.position}, a linear reader ({reader}) gives at least "
            f"{self.smallest_effect:g} bits about '{self.of}' beyond control labels, random-weight twins, the "
            f"input's surface and search."
        )
