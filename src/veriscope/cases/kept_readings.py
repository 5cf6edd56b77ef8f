"""Readings of the user as they are kept: what each reads, which trials it stood, how often it errs; no code, no pickle.

A reading speaks only if its C1 (represents) is SUPPORTED, and is used for a swap inside only where its C4 (steers) is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from veriscope.cases.baselines import TextClassifier
from veriscope.cases.kept_folder import put_folder, read_folder
from veriscope.cases.labelled import Attribute
from veriscope.cases.plain import made, plain
from veriscope.errors import NotRun, UserError
from veriscope.subjects import Subject

SCHEMA = 1
RECORD, TENSORS = "readings.json", "readings.safetensors"


class BadReadings(UserError):
    """A folder that holds no readings that can be used."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"{folder} holds no readings that can be used: {why}. Train them: veriscope readings LABELLED.jsonl "
            f"--model MODEL --out {folder}"
        )


class OtherModel(UserError):
    """Readings of one model that are asked to read another."""

    def __init__(self, folder: Path, trained: str, asked: str) -> None:
        super().__init__(
            f"The readings in {folder} were trained on {trained}, and this is {asked}: what a direction means in one "
            f"model it does not mean in another. Train them on this one: veriscope readings LABELLED.jsonl --model "
            f"MODEL --out ANOTHER_FOLDER"
        )


@dataclass(frozen=True)
class Share:
    """A share that was counted, with its exact two-sided 95% interval (Clopper and Pearson, 1934).

    Attributes:
        hits, n: Of the logs counted.
        low, high: The interval.
    """

    hits: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.hits / self.n


@dataclass(frozen=True)
class Tried:
    """A trial in short.

    Attributes:
        claim: "C1" or "C4".
        word: SUPPORTED, or what else was said.
        stopped: Which gate stopped it, in one sentence; empty where it is SUPPORTED.
        sentence: The whole verdict.
        card: Hash of the claim as it was written down.
    """

    claim: str
    word: str
    stopped: str
    sentence: str
    card: str

    @property
    def supported(self) -> bool:
        return self.word == "SUPPORTED"


@dataclass(frozen=True)
class Push:
    """A vector that moves the model towards one value, as strong as its trial allowed.

    Attributes:
        toward: The value.
        site: Where it is added, at the last token before a reply.
        dose: In gaps between the two classes' means.
        words, foils: First words of a reply that go with the value on dev, and with the other: what C4 was held to.
        steers: The C4 trial.
    """

    toward: str
    site: str
    dose: float
    words: tuple[str, ...]
    foils: tuple[str, ...]
    steers: Tried


@dataclass(frozen=True)
class SpeakerReading:
    """Whether one value of an attribute holds, read at the last token before a reply.

    Attributes:
        attribute: Its name.
        value: What a positive score speaks for.
        rest: What a negative one does: the other value of two, or "not" this one of several.
        site: Where it reads.
        represents: The C1 trial, or why there was none.
        errors: Held-out logs that it reads wrongly.
        pushes: Towards `value`, and of two values towards `rest`: put on trial as C4; or why there was none.
    """

    attribute: str
    value: str
    rest: str
    site: str
    represents: Tried | NotRun
    errors: Share | NotRun
    pushes: tuple[Push, ...] | NotRun

    @property
    def name(self) -> str:
        return f"{self.attribute}={self.value}"

    @property
    def speaks(self) -> bool:
        """Whether it may say what it reads."""
        return isinstance(self.represents, Tried) and self.represents.supported

    @property
    def silence(self) -> str:
        """Why it may not, in one sentence; empty where it may."""
        if self.speaks:
            return ""
        why = self.represents.stopped if isinstance(self.represents, Tried) else self.represents.reason
        return f"'{self.name}' stays silent: {why}."

    def push(self, toward: str) -> Push | NotRun:
        """What may be used to swap the value inside: only what its own trial supported."""
        if isinstance(self.pushes, NotRun):
            return self.pushes
        found = next((one for one in self.pushes if one.toward == toward), None)
        if found is None:
            return NotRun(f"no push towards '{toward}' was made")
        return found if found.steers.supported else NotRun(found.steers.stopped)


@dataclass(frozen=True)
class Contest:
    """Reading inside beside a text classifier and asking the model, on the same held-out logs.

    Attributes:
        attribute: Its name.
        inside, text, asked: Logs told rightly by each.
        over_text, over_asked: Share of right answers, reading less rival, paired by log: value and the two-sided 90%
            interval of a bootstrap over logs.
        sentence: What follows.
    """

    attribute: str
    inside: Share
    text: Share
    asked: Share | NotRun
    over_text: tuple[float, float, float]
    over_asked: tuple[float, float, float] | NotRun
    sentence: str


@dataclass(frozen=True, eq=False)
class Readings:
    """Readings of one model.

    Attributes:
        model, hash: Whose they are.
        logs, held_out: Conversations in all, and those that no fit has seen.
        attributes: What was to be read.
        readings: One a value, or one for two values.
        contests: By attribute; an attribute whose held-out logs stayed closed has none.
        classifiers: The text classifier of each attribute.
        fits: For each reading by name: weights and offset of its log-odds, first those of the reading, then those of
            fits on random halves of the dev logs (delete-half jackknife, Shao and Wu, 1989).
        vectors: For each reading by name and value pushed to: the vector at its dose.
    """

    model: str
    hash: str
    logs: int
    held_out: int
    seed: int
    attributes: tuple[Attribute, ...]
    readings: tuple[SpeakerReading, ...]
    contests: tuple[Contest, ...]
    classifiers: Mapping[str, TextClassifier]
    fits: Mapping[str, Float[Tensor, "fit d_and_1"]]
    vectors: Mapping[str, Float[Tensor, "d"]]

    @property
    def speaking(self) -> tuple[SpeakerReading, ...]:
        return tuple(one for one in self.readings if one.speaks)

    def of(self, attribute: str) -> tuple[SpeakerReading, ...]:
        return tuple(one for one in self.readings if one.attribute == attribute)

    def log_odds(
        self, reading: SpeakerReading, acts: Float[Tensor, "example d"]
    ) -> tuple[Float[Tensor, "example"], Float[Tensor, "fit example"]]:
        """Calibrated log-odds (nats) of the reading's value: the reading's, and those of the fits on halves."""
        fits = self.fits[reading.name].to(acts)
        told = fits[:, :-1] @ acts.T + fits[:, -1:]
        return told[0], told[1:]

    def vector(self, reading: SpeakerReading, push: Push) -> Float[Tensor, "d"]:
        return self.vectors[f"{reading.name} toward {push.toward}"]

    @property
    def digest(self) -> str:
        """sha256 of all of it."""
        out = hashlib.sha256(json.dumps(self._record(), sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            out.update(name.encode() + tensor.numpy().tobytes())
        return out.hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write a folder of two files; one without its JSON holds no readings."""
        return put_folder(folder, (RECORD, TENSORS), self._record(), self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        fits = {f"fits {name}": fits.float().contiguous() for name, fits in self.fits.items()}
        return fits | {f"vector {name}": vector.float().contiguous() for name, vector in self.vectors.items()}

    def _record(self) -> dict[str, Any]:
        names = ("model", "hash", "logs", "held_out", "seed", "attributes", "readings", "contests", "classifiers")
        return {"schema": SCHEMA, **{name: plain(getattr(self, name)) for name in names}}

    @classmethod
    def load(cls, folder: str | Path, subject: Subject) -> Readings:
        """Read a folder back; no code in it is run.

        Raises:
            BadReadings: Something is missing, damaged or of another version.
            OtherModel: They were trained on another model.
        """
        folder = Path(folder).expanduser()
        record, tensors = read_folder(folder, (RECORD, TENSORS), SCHEMA, BadReadings)
        if record.get("hash") != subject.hash:
            raise OtherModel(folder, str(record.get("model")), subject.name)
        try:
            return cls(
                record["model"], record["hash"], record["logs"], record["held_out"], record["seed"],
                made(tuple[Attribute, ...], record["attributes"]),
                made(tuple[SpeakerReading, ...], record["readings"]), made(tuple[Contest, ...], record["contests"]),
                {name: made(TextClassifier, one) for name, one in record["classifiers"].items()},
                {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("fits ")},
                {name[7:]: tensor for name, tensor in tensors.items() if name.startswith("vector ")},
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise BadReadings(folder, f"{RECORD} lacks something ({error})") from error
