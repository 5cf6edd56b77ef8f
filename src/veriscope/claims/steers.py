"""C4 STEERS: adding a vector moves a behaviour, beyond random edits and within a side-effect budget."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from veriscope.claims.battery import GateSpec, sized
from veriscope.errors import UserError
from veriscope.examples import Examples
from veriscope.findings import Change, Reading

_RUN = "veriscope.trials.steers:"
SMALLEST_EFFECT = 0.5  # logits
OWN_SHARE = 0.25  # of the effect claimed, that the target words rise by; where they and the foils share it, it is half
DOSES = (-1.0, -0.25, 0.0, 0.125, 0.25, 0.5, 1.0, 2.0)

BATTERY: tuple[GateSpec, ...] = (
    GateSpec(
        "i0",
        "gradient direction",
        "can the behaviour be moved from this site at all, and is it seen to move?",
        "instrument",
        "logits",
        _RUN + "gradient_direction",
        level=0,
        margin=0.5,
    ),
    GateSpec(
        "g1",
        "dose-response",
        "does the working dose move the target on held-out prompts, and more dose more?",
        "gate",
        "logits",
        _RUN + "dose_response",
        level=1,
        margin=SMALLEST_EFFECT,
    ),
    GateSpec(
        "g2",
        "random edits",
        "does it beat the best random, shuffled-label and other-concept vector?",
        "gate",
        "logits",
        _RUN + "random_edits",
        margin=SMALLEST_EFFECT,
    ),
    GateSpec(
        "g3",
        "control tokens",
        "is the effect there beyond what tokens about as likely do?",
        "gate",
        "logits",
        _RUN + "control_tokens",
        margin=SMALLEST_EFFECT,
    ),
    GateSpec(
        "g4",
        "reliability",
        "on what share of prompts does it move the other way?",
        "gate",
        "share",
        _RUN + "reliability",
        level=3,
        margin=0.25,
        better="lower",
    ),
    GateSpec(
        "g5",
        "side effects",
        "does the working dose stay within the budget on neutral text?",
        "gate",
        "of budget",
        _RUN + "side_effects",
        level=3,
        margin=1.0,
        better="lower",
    ),
    GateSpec(
        "g10",
        "target words",
        "do the target words rise, also without the one that moves most?",
        "gate",
        "logits",
        _RUN + "target_words",
        margin=OWN_SHARE * SMALLEST_EFFECT,
    ),
    GateSpec(
        "r6",
        "best simple control",
        "does it beat a prompt, few shots, a logit bias and fine-tuning?",
        "rival",
        "share",
        _RUN + "simple_control",
        level=4,
        margin=0.0,
    ),
    GateSpec(
        "f7", "shift", "is more than half of it lost on another distribution?", "falsifier", "logits", _RUN + "shift"
    ),
    GateSpec(
        "d8",
        "structural lock",
        "does nothing move the behaviour, even at 3 times the activations' length?",
        "diagnostic",
        "logits",
        _RUN + "lock",
    ),
    GateSpec(
        "d9",
        "writer",
        "is it a vector that writes its token on the output by itself?",
        "diagnostic",
        "share",
        _RUN + "writer",
    ),
)

ADVANTAGE = GateSpec(
    "g6",
    "advantage over simple controls",
    "is it better than the best simple control?",
    "gate",
    "share",
    _RUN + "simple_control",
    level=4,
    margin=0.0,
)


@dataclass(frozen=True)
class Steers:
    """On held-out prompts, adding a dose of the vector moves the behaviour towards `toward`.

    The behaviour, for each prompt: mean logit of the target words minus mean logit of the foil words, at the last
    token. The target words are those of `targets[toward]`, the foil words those of the prompt's own label (else of all
    other classes). Without `targets` they are read from dev: where the label decides the `answer` column (9 in 10
    rows), the answer of a class is its word; otherwise each row's `answer` is its target and its `foil` the foil.
    Prompts are the rows whose label is not `toward`; all rows if there are no labels.

    Several words a class make a stronger claim: a vector that only writes one token can then be told from a
    direction that stands for the class (g10 leaves out the word that moves most).

    What g1 (as it is), g2 (beyond random edits) and g3 (beyond tokens as likely) measure is one quantity, and each is
    held to the effect that is claimed.

    Args:
        finding: A reading (one dose = one gap between its classes) or a change of kind "add" (one dose = its vector).
            A change made towards another class than `toward` is subtracted.
        toward: The class or behaviour that is moved towards.
        of: The variable's name: the label column of `on`.
        on: Examples whose gate pool has not been opened for this card.
        targets: Word of each class, or several: {"happy": "good", "sad": ("bad", "poor")}.
        neutral: Texts that have nothing to do with the claim; the subject writes its own if there are none.
        at: Where the vector is added: "all" positions or the "last" one. By default "last" if the finding was made
            there and "all" otherwise: other positions have no counterpart in neutral text.
        advantage: Also claim to be better than the best prompt, few-shot, logit bias and fine-tuning.
        doses: Multiples of the unit to try; the working dose is the largest positive one within the budget on dev.
            If none is positive the vector is subtracted.
        smallest_effect: In logits, at the working dose.
    """

    finding: Reading | Change
    toward: str
    of: str
    on: Examples
    targets: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    neutral: tuple[str, ...] = ()
    at: str | int | None = None
    advantage: bool = False
    doses: tuple[float, ...] = DOSES
    name: str = ""
    smallest_effect: float = SMALLEST_EFFECT
    margins: Mapping[str, float] = field(default_factory=dict)
    scope: str = ""

    type: ClassVar[str] = "C4 STEERS"
    unit: ClassVar[str] = "logits"
    metric: ClassVar[str] = "change of logit(target) - logit(foil) at the last token, at the working dose"
    bench: ClassVar[str] = _RUN + "Bench"
    family: ClassVar[str] = "one added vector"
    falsifier: ClassVar[str] = "less than half of the gate effect on the shift pool (f7)"
    assumptions: ClassVar[tuple[str, ...]] = (
        "the examples are drawn from the distribution named in the scope",
        "the words named stand for the behaviour; nothing is claimed about free text",
        "the neutral text stands for all other use of the model",
    )
    stressed: ClassVar[str] = (
        "the words stand for the behaviour: control tokens (g3), the target without its first word (g10), the direct "
        "path (d9)"
    )

    def __post_init__(self) -> None:
        if self.at not in (None, "all", "last", -1):
            raise UserError(
                f"Steers(at={self.at!r}): side effects can be measured at 'all' or at the 'last' position only, since "
                f"neutral text has no other position in common with the prompts. Use at='all' or at='last'."
            )
        if isinstance(self.finding, Change) and self.finding.kind != "add":
            raise UserError("Steers needs something to add; this change erases. Put it on trial as C3 NECESSARY.")
        if not any(self.doses):
            raise UserError(f"Steers(doses={self.doses}): name at least one dose other than 0.")
        if self.targets and self.toward not in self.targets:
            known = ", ".join(self.targets)
            raise UserError(f"Steers(toward={self.toward!r}): `targets` has no word for it, only for {known}. Add one.")

    @property
    def battery(self) -> tuple[GateSpec, ...]:
        """The lines of the battery: a larger claimed effect raises g1, g2, g3 and g10, a claimed advantage adds g6."""
        lines = sized(BATTERY, ("g1", "g2", "g3"), self.smallest_effect)
        lines = sized(lines, ("g10",), OWN_SHARE * self.smallest_effect)
        return (*lines, ADVANTAGE) if self.advantage else lines

    @property
    def place(self) -> str:
        """Where the vector is added: "all" or "last"."""
        if self.at is None:
            return "last" if self.finding.position in ("last", -1) else "all"
        return "last" if self.at == -1 else str(self.at)

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The words given for each class, always as a tuple."""
        return {name: (given,) if isinstance(given, str) else tuple(given) for name, given in self.targets.items()}

    @property
    def fields(self) -> dict[str, Any]:
        """What the card keeps beyond the fields that all claim types have."""
        return {
            "toward": self.toward,
            "targets": {name: list(words) for name, words in self.words.items()},
            "at": self.place,
            "advantage": self.advantage,
            "doses": list(self.doses),
            "neutral": hashlib.sha256("\n".join(self.neutral).encode()).hexdigest() if self.neutral else "",
        }

    @property
    def statement(self) -> str:
        """The claim in words."""
        made = self.finding.origin.method.rsplit(":", 1)[-1]
        where = "every position" if self.place == "all" else "the last position"
        than = ", and does better than the best simple control" if self.advantage else ""
        return (
            f"Adding the vector of {made} at {self.finding.site}, {where}, moves the behaviour towards '{self.toward}' "
            f"by at least {self.smallest_effect:g} logits on held-out prompts, more by a larger dose up to the working "
            f"one, beyond random edits of the same length and tokens as likely, within a budget of 0.02 nats and 1 "
            f"point on neutral text{than}."
        )
