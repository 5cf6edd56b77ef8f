"""Asking the model itself, in words, what the label is."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import BadSetting, NotRun, UserError
from veriscope.examples import Example, Sample
from veriscope.methods.bits import Calibration, calibrated_bits, platt
from veriscope.methods.linear import encode
from veriscope.rivals.common import Budget, joined, readable, token_log_probs
from veriscope.subjects import Subject


@dataclass(frozen=True)
class AskModel:
    """Probability that the model gives each label as the continuation of the text and a cue, after `shots` examples.

    The labels themselves are the words asked for. Of the `cues` that the model's vocabulary can spell, the one whose
    answers tell most about `choose_on` dev examples is taken; `calibrate_on` examples then set a temperature and a bias
    for each label (Calibrate Before Use, Zhao 2021). Solved examples are drawn from as many classes and clusters as
    there are, and as many as the context has room for.
    """

    shots: int = 0
    cues: tuple[str, ...] = ("\n{variable} ({classes}):", "\n{variable}:", "")
    choose_on: int = 40
    calibrate_on: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise BadSetting("AskModel", "shots", self.shots, "be 0 or more")

    @property
    def fixed(self) -> bool:
        """With no solved example in the prompt, labels serve only to calibrate."""
        return self.shots == 0

    def fit(self, subject: Subject, sample: Sample) -> AskPredictor | NotRun:
        """Choose the cue and calibrate on dev examples; NotRun says why the model cannot be asked."""
        if not subject.has_logits or not subject.causal:
            return NotRun(f"{subject.name} does not continue a text, so it cannot be asked")
        before = subject.passes
        _, classes = encode(sample)
        solved, rest = self._draw(sample)
        prompts = [p for p in self._prompts(sample, classes, solved) if p.room(subject, sample, classes)]
        if not prompts:
            return NotRun("no cue and label can be spelled in the model's vocabulary within its context")
        text = rest.texts[0] + prompts[0].cue
        if len({tuple(ids) for ids in subject.tokens([joined(subject, text, label) for label in classes])}) < 2:
            return NotRun("the labels read the same to the model: their words are not in its vocabulary")
        try:
            best = prompts[0] if len(prompts) == 1 else self._best(subject, prompts, rest, classes)
            some = _head(rest, self.calibrate_on)
            scores = _columns(label_scores(subject, best.of(subject, some), classes))[None]
        except UserError as why:
            return NotRun(f"the labels cannot be asked for: {why}")
        codes = torch.tensor([[classes.index(str(label)) for label in some.labels]])
        spent = Budget(examples=len(some) + len(best.solved), passes=subject.passes - before, trials=len(prompts))
        return AskPredictor(subject, best, classes, platt(scores, codes, len(classes)), spent)

    def _draw(self, sample: Sample) -> tuple[tuple[Example, ...], Sample]:
        """Solved examples, taking the classes in turn and no cluster twice while others last; and the rest, mixed."""
        mixed = list(sample.examples)
        random.Random(self.seed).shuffle(mixed)
        solved: list[Example] = []
        for _, label in zip(range(self.shots), itertools.cycle(sorted(set(sample.labels))), strict=False):
            mine = [e for e in mixed if e.label == label and e not in solved]
            fresh = [e for e in mine if e.cluster not in {s.cluster for s in solved}]
            solved.extend((fresh or mine)[:1])
        seen = {e.cluster for e in solved}
        rest = [e for e in mixed if e.cluster not in seen] or [e for e in mixed if e not in solved] or mixed
        return tuple(solved), dataclasses.replace(sample, examples=tuple(rest))

    def _prompts(self, sample: Sample, classes: Sequence[str], solved: tuple[Example, ...]) -> list[Prompt]:
        variable = (sample.variable or "label").replace("_", " ")
        filled = [cue.format(variable=variable, classes=" or ".join(classes)) for cue in self.cues]
        return [Prompt(cue, between, solved) for cue in dict.fromkeys(filled) for between in ("\n\n", " ")]

    def _best(self, subject: Subject, prompts: Sequence[Prompt], rest: Sample, classes: tuple[str, ...]) -> Prompt:
        some = _head(rest, self.choose_on)
        codes = torch.tensor([classes.index(str(label)) for label in some.labels])
        scores = [_columns(label_scores(subject, p.of(subject, some), classes)) for p in prompts]
        bits = calibrated_bits(torch.stack(scores), codes.repeat(len(prompts), 1), len(classes))
        return prompts[int(bits.argmax())]


@dataclass(frozen=True)
class Prompt:
    """How an example is put to the model: solved examples, what stands between them, and the cue for the answer."""

    cue: str
    between: str
    solved: tuple[Example, ...]

    def of(self, subject: Subject, sample: Sample) -> list[str]:
        """The prompt of each example, with as many solved ones as there is room for, the same for all."""
        told = self._told(subject, self._kept(subject, [e.text for e in sample.examples]))
        return [told + e.text + self.cue for e in sample.examples]

    def room(self, subject: Subject, sample: Sample, classes: Sequence[str]) -> bool:
        """Whether it can be spelled, with at least one solved example if there should be any.

        Where nothing is solved, what stands between does not matter and only its first form is taken.
        """
        if not self.solved and self.between != "\n\n":
            return False
        longest = max((e.text for e in sample.examples), key=len)
        whole = [joined(subject, longest + self.cue, c) for c in classes]
        if not all(readable(subject, text) for text in whole):
            return False
        return not self.solved or bool(self._kept(subject, [longest]))

    def _told(self, subject: Subject, solved: Sequence[Example]) -> str:
        return "".join(joined(subject, e.text + self.cue, str(e.label)) + self.between for e in solved)

    def _kept(self, subject: Subject, texts: Sequence[str]) -> tuple[Example, ...]:
        """The solved examples that fit before the longest text, leaving room for a label."""
        if not self.solved:
            return ()
        longest = max(texts, key=len)
        for start in range(len(self.solved)):
            kept = self.solved[start:]
            room = self._told(subject, kept[:1])  # as long as a solved example: more than any label needs
            if readable(subject, self._told(subject, kept) + room + longest + self.cue):
                return kept
        return ()


@dataclass(frozen=True)
class AskPredictor:
    """A fitted `AskModel`."""

    subject: Subject
    prompt: Prompt
    classes: tuple[str, ...]
    calibration: Calibration
    spent: Budget

    def probabilities(self, sample: Sample) -> Float[Tensor, "example class"]:
        """Calibrated probability of each label as the model's answer.

        Where text and cue are too long for the context it is how often the label occurred.
        """
        prompts = self.prompt.of(self.subject, sample)
        fits = torch.tensor([readable(self.subject, p) for p in prompts])
        shares = self.calibration.prior.float().repeat(len(prompts), 1)
        if bool(fits.any()):
            asked = [p for p, fit in zip(prompts, fits.tolist(), strict=True) if fit]
            scores = _columns(label_scores(self.subject, asked, self.classes))
            shares[fits] = self.calibration.log2_probs(scores[None])[0].exp2().float()
        return shares


def label_scores(subject: Subject, prompts: Sequence[str], classes: Sequence[str]) -> Float[Tensor, "example class"]:
    """Log-probability (nats) of each label as continuation: of its first token where those differ, else of all.

    Where they begin with the same tokens and all part at one place, of the token there, given those before: what the
    labels share tells nothing between them.
    """
    first = torch.stack([subject.answer_ids(prompts, [c] * len(prompts)) for c in classes], 1)
    if _distinct(first):
        logits = subject.variations(prompts[0], prompts).logits  # the same examples stand before every text
        return _log_probs(logits, first)
    whole = [[joined(subject, p, label) for p in prompts] for label in classes]
    spelled = [subject.tokens(texts) for texts in whole]
    by_prompt = list(zip(*spelled, strict=True))
    shared = [_alike(ids) for ids in by_prompt]
    if all(0 < n < min(map(len, ids)) for n, ids in zip(shared, by_prompt, strict=True)):
        parting = torch.tensor([[label[n] for label in ids] for n, ids in zip(shared, by_prompt, strict=True)])
        if _distinct(parting):
            return _log_probs(subject.variations(whole[0][0], whole[0], lengths=shared).logits, parting)
    return _whole_scores(subject, prompts, whole, spelled)


def _whole_scores(
    subject: Subject, prompts: Sequence[str], whole: Sequence[Sequence[str]], spelled: Sequence[Sequence[Sequence[int]]]
) -> Float[Tensor, "example class"]:
    """Log-probability (nats) of all tokens of each label together; `whole` and `spelled` are by label and prompt."""
    columns = []
    before = [len(ids) for ids in subject.tokens(list(prompts))]
    for texts, after in zip(whole, spelled, strict=True):
        tails = [len(ids) - n for ids, n in zip(after, before, strict=True)]
        found = token_log_probs(subject, texts, tails)
        columns.append(
            torch.stack(
                [
                    logp.gather(1, torch.tensor(ids[-tail:], device=logp.device)[:, None]).sum()
                    for ids, tail, logp in zip(after, tails, found, strict=True)
                ]
            )
        )
    return torch.stack(columns, 1).cpu()


def _log_probs(logits: Tensor | None, ids: Int[Tensor, "example class"]) -> Float[Tensor, "example class"]:
    assert logits is not None
    return torch.log_softmax(logits.float(), -1).gather(1, ids.to(logits.device)).cpu()


def _distinct(ids: Int[Tensor, "example class"]) -> bool:
    return all(len(set(row)) == len(row) for row in ids.tolist())


def _alike(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    columns = zip(*rows, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _columns(scores: Float[Tensor, "example class"]) -> Float[Tensor, "example k"]:
    """Two classes in one column, class 1 against class 0."""
    return scores[:, 1:] - scores[:, :1] if scores.shape[1] == 2 else scores


def _head(sample: Sample, n: int) -> Sample:
    return dataclasses.replace(sample, examples=sample.examples[:n])
