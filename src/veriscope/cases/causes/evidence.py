"""What every detecting test is given: the case's texts and answers, and cheap further ones, each run once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.cases.changes import Changes, merged
from veriscope.cases.transcript import Chars, read, spells
from veriscope.cases.units import Unit, content_words
from veriscope.errors import BadPrompt, NotRun
from veriscope.subjects.endings import Ending, continuations
from veriscope.subjects.sweep import logits_of

FORESEEN = 2.0  # nats: a sentence that costs less follows from those before it, so it asks nothing by itself
OPEN = 0.7  # nats: a word that costs less says nothing that the model did not foresee
VARIED = 10  # questions of the same kind about other things
LEAST_MATCH = 2  # tokens before the earlier words that are those before the strange ones
OTHERS = 4  # other words that could answer
LEAST_REPLY, LONGEST_REPLY = 8, 256  # tokens of a reply by which it can be said whose it is
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Said:
    """What the model says behind one changed context.

    Attributes:
        same: Whether the most likely continuation is still the strange span.
        right: Whether it is what was expected; None where nothing was said about that.
        word: The most likely token in the place where strange and expected words part (else the first one).
        nats: Log-probability of the strange span.
    """

    same: bool
    right: bool | None
    word: str
    nats: float

    @property
    def mended(self) -> bool:
        """The strange words are gone; where it is known what was expected, that is said instead."""
        return not self.same if self.right is None else self.right


class Evidence:
    """One case under test.

    Attributes:
        changes, subject: As in the case.
        expected: What the user says that the strange words should have been; empty if they did not.
        context: The text before the strange span.
        strange: Its words.
    """

    def __init__(self, changes: Changes, expected: Sequence[str] = (), seed: int = 0) -> None:
        self.changes, self.subject, self.seed = changes, changes.subject, seed
        self.transcript = changes.transcript
        self.context = self.transcript.context
        self.strange = self.transcript.text[slice(*self.transcript.span)].strip()
        self.expected = tuple(one.strip() for one in expected if one.strip())
        self._others = [self._parting(word) for word in self.expected]

    # ---- answers

    @property
    def told(self) -> bool:
        return bool(self.expected)

    @property
    def as_expected(self) -> bool:
        """Whether the strange words are what the user expected."""
        return self.strange in self.expected

    @property
    def marked(self) -> bool:
        """Whether somebody called the words strange; else they are the least expected ones."""
        return self.transcript.strange.found != "least expected"

    @property
    def reply(self) -> int:
        """First token of what the assistant says in the strange words' turn."""
        turn, stop = self.transcript.turns[self.transcript.strange.turn], self.transcript.target[0]
        return max(1, min(self.transcript.tokens_of(turn)[0], stop)) if turn is not None else stop

    @cached_property
    def foreign(self) -> float | None:
        """How far the rest of the reply costs more than words drawn from this model would, in standard deviations.

        Each token's nats are held against their mean and variance under the model in that very place, so the sum of
        what is over is near normal if the model drew the reply at temperature 1, and below 0 if it drew at a lower one.

        Returns:
            None where fewer than 8 tokens stand beside the strange ones.
        """
        seen, strange = self.transcript, self.transcript.strange
        text = seen.text + seen.log.turns[strange.turn].text[strange.end :]
        ids, chars = read(self.subject, text, seen.special)
        first, stop = self.reply, min(len(ids), self.subject.context or len(ids), self.reply + LONGEST_REPLY)
        rest = [n for n in range(first, stop) if chars[n][1] <= seen.span[0] or chars[n][0] >= seen.span[1]]
        last = f"blocks.{self.subject.n_blocks - 1}.resid_post"
        if len(rest) < LEAST_REPLY or last not in self.subject.sites:
            return None
        watch = _Rows(last)
        found = self.changes.endings.run([(ids[:first], ids[first:stop])], watch)[0]
        hidden = torch.stack([watch.seen[n - 1] for n in rest])
        with torch.no_grad():
            nats = -logits_of(self.subject._engine, hidden, None).double().log_softmax(-1)  # type: ignore[arg-type]
        mean, square = ((nats.neg().exp() * nats**power).nan_to_num(0.0).sum(-1) for power in (1, 2))
        cost = -found.nats.double()[torch.tensor(rest) - first]
        spread = float((square - mean**2).clamp_min(0).sum().sqrt())
        return float((cost - mean).sum()) / spread if spread > 0 else None

    @property
    def among_others(self) -> bool:
        """Whether the reply says anything beside the strange words."""
        strange = self.transcript.strange
        text = self.transcript.log.turns[strange.turn].text
        return bool(text[: strange.start].strip() or text[strange.end :].strip())

    @cached_property
    def base(self) -> Said:
        return self.ask([self.context])[0]  # type: ignore[return-value]

    def ask(self, contexts: Sequence[str]) -> list[Said | None]:
        """What is said behind each context; None for one that the model can't read."""
        read_as = [self._read(text) for text in contexts]
        known = [ids for ids in read_as if ids is not None]
        found = iter(self.changes.run(known))
        return [None if ids is None else self._said(next(found)) for ids in read_as]

    def mended(self, contexts: Sequence[str]) -> tuple[int, int]:
        """How many of the contexts mend the answer, of those that could be read."""
        said = [one for one in self.ask(contexts) if one is not None]
        return sum(one.mended for one in said), len(said)

    def says(self, context: str) -> str:
        """The most likely next token, as text; empty where the context can't be read."""
        said = self.ask([context])[0]
        return said.word if said is not None else ""

    def table(self, sentences: Sequence[str], questions: Sequence[str]) -> list[list[str]]:
        """What is said to each question behind each sentence; empty where it can't be read."""
        said = self.ask([f"{sentence} {question}".strip() for question in questions for sentence in sentences])
        words = ["" if one is None else one.word for one in said]
        return [words[n : n + len(sentences)] for n in range(0, len(words), len(sentences))]

    def first_token(self, word: str) -> int | None:
        """The token in the place where a word in the strange span's place parts from it."""
        parting = self._parting(word)
        return parting[1] if parting else None

    def would_say(self, context: str, word: str) -> bool | None:
        """Whether behind this context a given word is the most likely one."""
        ids, parting = self._read(context), self._parting(word)
        if ids is None or parting is None:
            return None
        return _begins(self.changes.run([ids])[0], self.transcript.ending, parting)

    def _said(self, ending: Ending) -> Said:
        strange = self.transcript.ending
        right = None
        if self.told:
            right = any(_begins(ending, strange, one) for one in self._others if one is not None)
        place = self._others[0][0] if self._others and self._others[0] else 0
        word = self.subject.reader.decode([int(ending.best[place])]).strip()
        return Said(ending.changed(strange) is None, right, word, ending.total)

    def _parting(self, word: str) -> tuple[int, int] | None:
        """Place and token where a word in the strange span's place parts from it; None where it does not."""
        text, (start, _) = self.transcript.text, self.transcript.span
        lead = text[start:][: len(text[start:]) - len(text[start:].lstrip())]
        try:
            ids = read(self.subject, text[:start] + lead + word, self.transcript.special)[0]
        except BadPrompt:
            return None
        mine = ids[len(self.transcript.before) :]
        for place, (one, other) in enumerate(zip(mine, self.transcript.ending, strict=False)):
            if one != other:
                return place, one
        return None

    def _read(self, context: str) -> tuple[int, ...] | None:
        try:
            ids = self.changes._read(context)
        except BadPrompt:
            return None
        return ids if self.changes.fits(ids) else None

    def stands(self, word: str, span: Chars | None = None) -> Chars | None:
        """Where a word stands in the context, or in a stretch of it, as a word of its own."""
        start, end = span or (0, len(self.context))
        found = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)").search(self.context, start, end)
        return found.span() if found else None

    # ---- texts

    @cached_property
    def parts(self) -> tuple[Unit, ...]:
        """Sentences and system lines, in the order of the text."""
        return tuple(sorted(self.changes.parts, key=lambda unit: unit.spans[0]))

    @cached_property
    def core(self) -> int:
        """Where the question begins: the last sentence that does not follow from those before it."""
        first = 0
        for unit in reversed(self.parts):
            first = unit.spans[0][0]
            if self.surprise(unit.spans[0]) > FORESEEN:
                return first
        return first

    @cached_property
    def earlier(self) -> tuple[int, int]:
        """How many of the tokens before the strange word stand before it elsewhere too, and the best place of those."""
        ids, word = self.transcript.before, self.transcript.ending[0]
        best, place = 0, -1
        for at, token in enumerate(ids):
            length = 0
            while token == word and length < at and ids[at - 1 - length] == ids[-1 - length]:
                length += 1
            if length > best:
                best, place = length, at
        return best, place

    @property
    def question(self) -> str:
        return self.context[self.core :]

    @cached_property
    def beside(self) -> tuple[Unit, ...]:
        """Sentences before the question."""
        return tuple(unit for unit in self.parts if unit.spans[0][1] <= self.core)

    def without(self, spans: Iterable[Chars]) -> str:
        """The context without stretches, and without the white space behind them."""
        cuts = [self.changes._with_space(span) for span in spans]
        return self.transcript.edited([(a, b, "") for a, b in merged(cuts)])

    def put(self, span: Chars, words: str) -> str:
        """The context with other words in the place of a stretch."""
        return self.transcript.edited([(*span, words)])

    def inserted(self, place: int, words: str) -> str:
        return self.transcript.edited([(place, place, f"{words} ")])

    def words(self, span: Chars) -> list[Chars]:
        """Words within a stretch: letters only."""
        found = _WORD.finditer(self.context[slice(*span)])
        return [(span[0] + one.start(), span[0] + one.end()) for one in found]

    def shares(self, span: Chars, other: str) -> set[str]:
        """Content words of a stretch that another text has too."""
        return set(content_words(self.context[slice(*span)])) & set(content_words(other))

    def plain(self, count: int, size: int, key: int) -> list[str]:
        """Neutral statements, nearest in size first: no questions and no labels, which would speak to the model."""
        neutral = self.changes.neutral
        if isinstance(neutral, NotRun):
            return []
        taken = {self.strange, *self.expected}
        pool = [one for one in neutral.sentences
                if not re.search(r"[?:>]", one) and not taken & set(one.split()) and len(one.split()) > 2]  # fmt: skip
        rng = np.random.default_rng([self.seed, key])
        order = rng.permutation(len(pool)).tolist()
        near = sorted(order, key=lambda n: abs(len(pool[n].split()) - size))
        return [pool[n] for n in near[:count]]

    # ---- the model's own words

    @cached_property
    def token_nats(self) -> Float[np.ndarray, "token"]:
        """Log-probability of each token of the context; 0 for the first, which nothing tells."""
        return self._nats(self.transcript.before)

    def nats_of(self, context: str) -> Float[np.ndarray, "token"]:
        """The same of another context; nothing for one that can't be read."""
        return self._nats(self._read(context) or ())

    def _nats(self, ids: Sequence[int]) -> Float[np.ndarray, "token"]:
        if len(ids) < 2:
            return np.zeros(len(ids))
        found = self.changes.endings.run([(ids[:1], ids[1:])])[0]
        return np.concatenate([[0.0], found.nats.double().cpu().numpy()])

    def surprise(self, span: Chars) -> float:
        """Nats that the tokens of a stretch cost together."""
        return -float(self.token_nats[slice(*self.transcript.tokens_of(span))].sum())

    @cached_property
    def questions(self) -> tuple[str, ...]:
        """The question about other things: each word of it that the model did not foresee exchanged for its like."""
        start, question = self.core, self.question
        long = [span for span in self.words((start, len(self.context))) if span[1] - span[0] > 2]
        spans = [span for span in long if self.surprise(span) > OPEN and self.token_of(self.context[slice(*span)])]
        out = []
        for a, b in spans:
            each = -(-VARIED // len(spans))
            out += [
                question[: a - start] + other + question[b - start :]
                for other in self.neighbours(self.context[a:b], each)
            ]
        return tuple(out[:: max(1, len(out) // VARIED)][:VARIED])

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Other words that could answer: what was expected, and what is said to the question about other things."""
        said = [one.word for one in self.ask(self.questions) if one is not None]
        usual = [word for word in dict.fromkeys(said) if word.isalpha() and word != self.strange]
        return tuple(dict.fromkeys([*self.expected, *sorted(usual, key=lambda word: -said.count(word))]))[:OTHERS]

    def neighbours(self, word: str, count: int) -> list[str]:
        """Words most like a word by their embedding, where both are one token: same kind, other meaning."""
        table = self.embedding
        ids = self.token_of(word)
        if table is None or ids is None:
            return []
        near = torch.nn.functional.cosine_similarity(table, table[ids][None])
        out: list[str] = []
        for other in near.argsort(descending=True)[1:].tolist():
            text = self.subject.reader.decode([other]).strip()
            if text.isalpha() and text.lower() != word.lower() and self.token_of(text) is not None:
                out.append(text)
                if len(out) == count:
                    break
        return out

    def foreseen(self, span: Chars, count: int) -> list[str]:
        """Words that the model itself would put in a place; those of like embedding where nothing stands before.

        None of them stands in the context or is the strange or the expected word.
        """
        before, old = self.context[: span[0]], self.context[slice(*span)]
        taken = {*re.findall(r"\S+", self.context), self.strange, *self.expected, old}
        found = self.lens([before.rstrip()]) if before.strip() else NotRun("nothing stands before")
        if isinstance(found, NotRun):
            return [word for word in self.neighbours(old, 4 * count) if word not in taken][:count]
        out: list[str] = []
        for token in found[0, -1].argsort(descending=True)[: 30 * count].tolist():
            text = self.subject.reader.decode([token]).strip()
            if text.isalpha() and len(text) > 2 and text not in taken and text not in out:
                out.append(text)
        return out[:count]

    def token_of(self, word: str) -> int | None:
        """The token of a word that is one token where it stands in a text."""
        try:
            ids = self.subject.reader.encode_bare(f"{self.subject.reader.join}{word}")
        except BadPrompt:
            return None
        unknown = getattr(self.subject.reader.tokenizer, "unk_token_id", None)
        return int(ids[0]) if len(ids) == 1 and ids[0] != unknown else None

    @cached_property
    def embedding(self) -> Float[Tensor, "vocab d_model"] | None:
        module: Any = self.subject._engine.embedding
        return None if module is None else module.weight.detach().float()

    def mentions(self, word: str) -> list[str]:
        """Sentences that mention a word and do nothing with it, as far as the tokenizer can spell them."""
        forms = ("the word {w} .", "{w} .", "someone said {w} .", "The word {w}.", "Someone said {w}.")
        return [text for form in forms if spells(self.subject, text := form.format(w=word))]

    def drawn(self, before: str, count: int, tokens: int) -> list[str]:
        """What the model itself goes on with behind a text, at temperature 1."""
        ids = self._read(before)
        if ids is None:
            return []
        found, _ = continuations(self.subject, [ids], tokens=tokens, draws=count, seed=self.seed)
        return [self.subject.reader.decode(one).strip() for one in found[0][1:]]

    def lens(self, contexts: Sequence[str]) -> Float[Tensor, "context block vocab"] | NotRun:
        """Log-probabilities that final norm and unembedding read behind each block, where the answer is due.

        The logit lens (interpreting GPT: the logit lens, 2020, nostalgebraist).
        """
        ids = [self._read(text) for text in contexts]
        if any(one is None for one in ids):
            return NotRun("one of the texts can't be read")
        watch = _Last([f"blocks.{n}.resid_post" for n in range(self.subject.n_blocks)], [len(one or ()) for one in ids])
        if not watch.sites or any(site not in self.subject.sites for site in watch.sites):
            return NotRun("the model has no residual stream that is known")
        self.changes.run([one for one in ids if one is not None], watch)
        hidden = torch.stack([torch.stack([watch.seen[site, n] for site in watch.sites]) for n in range(len(ids))])
        with torch.no_grad():
            flat = logits_of(self.subject._engine, hidden.flatten(0, 1), None)  # type: ignore[arg-type]
        return flat.float().log_softmax(-1).unflatten(0, hidden.shape[:2])


class _Rows:
    """Keeps what stands at a site, by position."""

    def __init__(self, site: str) -> None:
        self.sites = [site]
        self.seen: dict[int, Tensor] = {}

    def see(self, site: str, acts: Tensor, text: Tensor, position: Tensor) -> None:
        self.seen.update(zip(position.tolist(), acts, strict=True))


class _Last:
    """Keeps what stands at some sites where the strange span's first token is due."""

    def __init__(self, sites: Sequence[str], lengths: Sequence[int]) -> None:
        self.sites, self.lengths = sites, torch.tensor(lengths)
        self.seen: dict[tuple[str, int], Tensor] = {}

    def see(self, site: str, acts: Tensor, text: Tensor, position: Tensor) -> None:
        here = (position.cpu() == self.lengths[text.cpu()] - 1).nonzero().flatten().tolist()
        for row in here:
            self.seen[site, int(text[row])] = acts[row]


def _begins(ending: Ending, strange: Sequence[int], parting: tuple[int, int]) -> bool:
    """Whether the most likely words begin like another word that parts from the strange ones at a place."""
    place, token = parting
    best = ending.best.tolist()
    return best[:place] == list(strange[:place]) and best[place] == token
