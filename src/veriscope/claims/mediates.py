"""C2 MEDIATES: setting a subspace to its value in another run moves the answer as the high-level model predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from veriscope.claims.battery import GateSpec, sized
from veriscope.errors import UserError
from veriscope.examples import Examples
from veriscope.findings import Reading

_RUN = "veriscope.trials.mediates:"

BATTERY: tuple[GateSpec, ...] = (
    GateSpec(
        "i0",
        "behaviour present",
        "does the model itself give the right answer on both runs of a pair?",
        "instrument",
        "share",
        _RUN + "behaviour",
        level=0,
        margin=0.6,
    ),
    GateSpec(
        "g1",
        "held-out pairs",
        "does the swap give the predicted answer on clusters never seen, beyond chance?",
        "gate",
        "IIA",
        _RUN + "held_out",
        level=1,
        margin=0.10,
    ),
    GateSpec(
        "g2",
        "search-matched subspace",
        "does it beat the best subspace of the same size that the same search finds where there is nothing to find?",
        "gate",
        "IIA",
        _RUN + "search_matched",
        margin=0.10,
    ),
    GateSpec(
        "g3",
        "twins",
        "does it beat the same fit on random-weight and weight-permuted twins?",
        "gate",
        "IIA",
        _RUN + "twins",
        margin=0.10,
    ),
    GateSpec(
        "g4",
        "dormant path",
        "does the swap work through a part that is read downstream and carries the variable naturally, within "
        "natural values, and no better than swapping the whole site?",
        "gate",
        "slack",
        _RUN + "dormancy",
        level=3,
        margin=0.0,
    ),
    GateSpec(
        "g5",
        "isolation",
        "is the answer left alone when only other things differ?",
        "gate",
        "share",
        _RUN + "isolation",
        level=3,
        margin=0.8,
    ),
    GateSpec(
        "g6",
        "control tokens",
        "does the predicted token rise more than tokens that were about as likely?",
        "gate",
        "share of the clean range",
        _RUN + "control_tokens",
        level=3,
        margin=0.10,
    ),
    GateSpec(
        "g7",
        "both directions",
        "do noising and denoising both beat random pushes of equal size?",
        "gate",
        "share of the clean range",
        _RUN + "both_directions",
        level=3,
        margin=0.10,
    ),
    GateSpec(
        "f8",
        "rival variable",
        "does the subspace of another variable do as well?",
        "falsifier",
        "IIA",
        _RUN + "rival_variable",
        margin=0.10,
        if_fired="UNDERDETERMINED",
    ),
    GateSpec(
        "r10",
        "swapping the prompt",
        "does the swap inside do better than running the other prompt?",
        "rival",
        "IIA",
        _RUN + "swapping_the_prompt",
        level=4,
        margin=0.0,
    ),
    GateSpec(
        "f11", "shift", "is more than half of it lost on another distribution?", "falsifier", "IIA", _RUN + "shift"
    ),
)


@dataclass(frozen=True)
class Mediates:
    """On interchange pairs, swapping the finding's subspace moves the answer to what its variable predicts.

    The rows of `on` are pairs: `text` with `answer`, `source` (the text whose value is put in) and `expected` (the
    answer predicted then; see `veriscope.examples.pairs`). Rows whose `expected` is their `answer` test isolation.
    Two factors are read where present: `source_answer`, if the source text itself is answered by something else than
    `expected`, and `source_<column>`, if `finding.position` names a column whose text differs in the source.

    Args:
        finding: A reading fitted on the dev pool only; its `basis` at its site and position is what is swapped.
        of: The variable's name: the label column of `on`, which holds its value in `text`.
        on: Pairs whose gate pool has not been opened for this card.
        rivals: Factor columns whose subspace might do as well; the engine draws others by its seed.
        smallest_effect: Excess interchange accuracy (a share of pairs) worth claiming.
        margins: Margins of single gates, if higher than the battery's own.
        advantage: Claim that the swap does better than running the other prompt, so that r10 can refute it.

    Raises:
        MissingField: The examples have no source, expected answer, answer or label.
        UserError: The finding spans nothing, or a rival is no factor of the examples.
    """

    finding: Reading
    of: str
    on: Examples
    name: str = ""
    rivals: tuple[str, ...] = ()
    smallest_effect: float = 0.10
    margins: Mapping[str, float] = field(default_factory=dict)
    scope: str = ""
    advantage: bool = False

    type: ClassVar[str] = "C2 MEDIATES"
    unit: ClassVar[str] = "IIA"
    metric: ClassVar[str] = (
        "interchange intervention accuracy: share of held-out pairs whose highest candidate answer is the predicted one"
    )
    bench: ClassVar[str] = _RUN + "Bench"
    family: ClassVar[str] = "linear subspace"
    ablations: ClassVar[tuple[str, ...]] = ("interchange, into the base", "interchange, into the source")
    falsifier: ClassVar[str] = (
        "the subspace of a rival variable does as well (f8), or less than half of the accuracy on the shift pool (f11)"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "the pairs differ in what the columns say they differ in",
        "the variable's effect passes this site and position through a linear subspace",
        "the candidates are the answers that occur in the examples",
    )
    stressed: ClassVar[str] = "the effect passes through this subspace: readable part alone, whole site, both ways"

    def __post_init__(self) -> None:
        dev = self.on.dev
        assert dev.sources and dev.expected and dev.answers and dev.labels  # each raises MissingField if it has gaps
        if self.finding.basis.shape[1] == 0:
            raise UserError(
                f"Claim '{self.name or self.of}': the finding's weights are all zero, so it spans no "
                f"subspace to swap. Fit it on examples in which '{self.of}' can be read."
            )
        for rival in self.rivals:
            if len(set(dev.factor(rival))) < 2:
                raise UserError(
                    f"Claim '{self.name or self.of}': rival '{rival}' has one value only in dev, so no "
                    f"subspace can be fitted to it. Name another, or leave it out."
                )

    @property
    def battery(self) -> tuple[GateSpec, ...]:
        """The gates, accuracies held to the effect that is claimed; r10 can refute if an advantage is claimed."""
        gates = sized(BATTERY, ("g1", "g2", "g3"), self.smallest_effect)
        if not self.advantage:
            return gates
        return tuple(dataclasses.replace(s, role="gate") if s.role == "rival" else s for s in gates)

    @property
    def statement(self) -> str:
        """The claim in words."""
        rank, reader = self.finding.basis.shape[1], self.finding.origin.method.rsplit(":", 1)[-1]
        return (
            f"At {self.finding.site}, position {self.finding.position}, setting the {rank}-dimensional subspace of "
            f"{reader} to its value in another run moves the answer to what '{self.of}' predicts, on at least "
            f"{self.smallest_effect:g} more of the pairs than searched subspaces and twins, and leaves other answers "
            f"alone."
        )

    @property
    def fields(self) -> dict[str, Any]:
        """What this claim type adds to the card."""
        return {"rivals": list(self.rivals), "rank": self.finding.basis.shape[1], "advantage": self.advantage}
