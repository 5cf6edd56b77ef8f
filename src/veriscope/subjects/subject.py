"""A model under study, with its reader: run it, read it, change it, continue prompts, make its twins."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import BadAnswer, BadPrompt, BadRead, NotAvailable, NotRun, UnknownSite
from veriscope.subjects import generation
from veriscope.subjects.edits import Edit
from veriscope.subjects.engines import engine_of
from veriscope.subjects.hashing import hash_of
from veriscope.subjects.known import remember
from veriscope.subjects.modules import PlainModule, device_of
from veriscope.subjects.plan import Batch, Plan, plan
from veriscope.subjects.reader import Reader
from veriscope.subjects.run import Run, execute
from veriscope.subjects.sites import At, Read, Site, settle
from veriscope.subjects.sweep import Sweep, Swept, Variant, check_replay, logits_of, plan_sweep, rows_at_once, why_not
from veriscope.subjects.taps import Tap, Taps
from veriscope.subjects.transformer import Transformer
from veriscope.subjects.twins import twin_of
from veriscope.subjects.variations import common, run_variations
from veriscope.subjects.where import HasExamples, end_of, field_of, last_tokens

_PLANS_KEPT = 8
WORTH_SHARING = 0.25  # of all tokens: below that, running a base text as well gains nothing


class Subject:
    """A model and its reader, opened with `veriscope.load`.

    Attributes:
        name: What it is called in records.
        reader: Its tokenizer.
        passes: Prompts that went through the model so far, generation steps counted singly: the cost of a study.
    """

    def __init__(self, name: str, engine: Transformer | PlainModule, reader: Reader) -> None:
        self.name, self.reader, self.passes = name, reader, 0
        self._engine = engine
        self._rows = engine.embedding.num_embeddings if engine.embedding is not None else None
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()

    def __repr__(self) -> str:
        return f"Subject({self.name!r}, {len(self.sites)} sites, {self.n_blocks} blocks)"

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) of configuration and weights, computed when first asked for."""
        return remember(self, hash_of(self._engine.module))

    @cached_property
    def n_parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(p.numel() for p in self._engine.module.parameters())

    @property
    def module(self) -> torch.nn.Module:
        return self._engine.module

    @property
    def sites(self) -> Mapping[str, Site]:
        """Every site that holds, in the order in which a run reaches them."""
        return self._engine.sites

    @property
    def refused(self) -> Mapping[str, str]:
        """Sites that do not exist here or failed their check, with the reason."""
        return self._engine.refused

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt; None where no limit is known."""
        return self._engine.context

    @property
    def d_model(self) -> int | None:
        return self._engine.d_model

    @property
    def n_blocks(self) -> int:
        """Number of transformer blocks; 0 for a module of no known family."""
        return len(self._engine.blocks)

    @property
    def causal(self) -> bool:
        """Whether a position sees only what stands before it."""
        return self._engine.causal

    @property
    def has_logits(self) -> bool:
        return self._engine.has_logits

    @property
    def vocab_size(self) -> int | None:
        """Number of logits; without logits, of token ids."""
        site = self.sites.get("logits")
        return site.width if site is not None else self.reader.vocab_size

    @property
    def device(self) -> torch.device:
        return device_of(self.module)

    def site(self, name: str) -> Site:
        """A site by its name.

        Raises:
            UnknownSite: With the reason if it was refused at load, or the nearest name.
        """
        if name not in self.sites:
            raise UnknownSite(name, self.name, list(self.sites), self.refused.get(name, ""))
        return self.sites[name]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens as the tokenizer adds them.

        Raises:
            BadPrompt: A text is empty or longer than the context.
        """
        for number, text in enumerate(texts):
            if not text.strip():
                raise BadPrompt(f"Prompt {number} is empty: leave it out or give it a text.")
        tokens, limit = self.reader.encode(texts), self.context
        for number, ids in enumerate(tokens):
            if not ids:
                raise BadPrompt(f"Prompt {number} '{texts[number][:40]}' has no tokens.")
            if limit is not None and len(ids) > limit:
                raise self._too_long(number, texts[number], len(ids))
            if self._rows is not None and max(ids) >= self._rows:
                raise BadPrompt(
                    f"Prompt {number} '{texts[number][:40]}' has token {max(ids)} ({self.reader.token(max(ids))}), but "
                    f"{self.name} embeds only {self._rows}: tokenizer and model do not belong together."
                )
        return tokens

    def run(
        self,
        texts: Sequence[str],
        *,
        read: Sequence[Read | str] = (),
        edits: Sequence[Edit] = (),
        logits: str | None = None,
        batch_tokens: int | None = None,
        grad: bool = False,
    ) -> Run:
        """Run prompts through the model.

        Args:
            texts: The prompts, in any order and of any length: padding never changes a result.
            read: What to keep; a bare site name means all positions. Nothing else is kept, and nothing behind the
                last read is computed if no logits are asked for.
            edits: What to change. Several on one site apply in this order, and reads of that site come after them.
            logits: "last" token's, "all", or None.
            batch_tokens: Most token slots in one batch; None takes what suits the device.
            grad: Keep the graph; it begins at the embedding.

        Raises:
            UnknownSite, BadPosition, BadEdit, BadRead, BadPrompt, NotAvailable.
        """
        if isinstance(texts, str):
            raise BadPrompt("run takes a list of prompts: put the text into [ ].")
        if logits not in (None, "last", "all"):
            raise BadRead(f"logits='{logits}': use 'last', 'all' or None.")
        reads = [Read(entry) if isinstance(entry, str) else entry for entry in read]
        for name in (*(entry.site for entry in reads), *(edit.site for edit in edits)):
            self.site(name)
        todo = self._plan(texts, batch_tokens)
        return self._execute(todo, reads, edits, logits, grad)

    def sweep(
        self,
        texts: Sequence[str],
        edits: Sequence[Variant | Edit | Sequence[Edit]],
        *,
        read: Sequence[Read] = (),
        tokens: Int[Tensor, "example token"] | None = None,
        memory: int | None = None,
        told: Callable[[int], None] | None = None,
    ) -> Swept:
        """Many independent edits of the same prompts: one base run, then only what each edit can change.

        Agrees with a `run` for each edit; where replay does not apply that is what happens (`plan_sweep(...).explain()`
        says which).

        Args:
            texts: The prompts.
            edits: One entry for each edited run: an edit, several that hold at once, or a `Variant`.
            read: What else to keep, each at one position of each prompt or at all of them.
            tokens: Ids whose logits are kept for each prompt; None keeps all of them.
            memory: Bytes that may be used; None is half of what is free.
            told: Called with the number of edited prompts just finished, for a progress bar.

        Raises:
            UnknownSite, BadPosition, BadEdit, BadRead, BadPrompt, NotAvailable, TooLarge: before anything runs.
        """
        planned = self.plan_sweep(texts, edits, read=read, tokens=tokens, memory=memory)
        planned.told = told
        swept = planned.run()
        self.passes += round(planned.cost)
        return swept

    def plan_sweep(
        self,
        texts: Sequence[str],
        edits: Sequence[Variant | Edit | Sequence[Edit]],
        *,
        read: Sequence[Read] = (),
        tokens: Int[Tensor, "example token"] | None = None,
        memory: int | None = None,
    ) -> Sweep:
        """A sweep that is checked and planned and can be explained, see `sweep`."""
        return plan_sweep(
            self._engine, self._plan(texts, None), edits, read=read, tokens=tokens, memory=memory, site=self.site
        )

    def variations(
        self, base: str, texts: Sequence[str], *, read: Sequence[str] = (), lengths: Sequence[int] | None = None
    ) -> Run:
        """Run texts that begin like a base text; what they share with it is run once.

        Agrees with `run(texts, read=[Read(site, "last") ...], logits="last")`, which is what happens where positions
        see what stands behind them, and where little is shared.

        Args:
            base: The text that the others were made from by leaving out, putting in or changing something.
            texts: The others.
            read: Sites to keep at each text's last token.
            lengths: How many tokens of each text to run, from its start on; all by default.

        Raises:
            UnknownSite, BadPrompt, BadRead.
        """
        reads = [Read(site, "last") for site in read]
        for one in reads:
            self.site(one.site)
        tokens, first = self._beginnings(texts, lengths), self.tokens([base])[0]
        engine = self._engine
        check_replay(engine)
        alike = sum(common(first, ids) for ids in tokens) / sum(map(len, tokens))
        if alike < WORTH_SHARING or why_not(engine, (), reads) or not isinstance(engine, Transformer):
            return self._execute(self._batches(tokens), reads, (), "last" if self.has_logits else None)
        changed = sum(len(ids) - common(first, ids) for ids in tokens)
        with torch.no_grad(), engine.packing.used(changed):
            end, kept, cost = run_variations(engine, first, tokens, reads, rows_at_once(self.device), engine.fill)
            logits = logits_of(engine, end, None)
        self.passes += round(cost)
        ends = torch.tensor([len(ids) for ids in tokens], device=self.device)
        mask = torch.arange(int(ends.max()), device=self.device) < ends[:, None]
        return Run(tuple(zip(reads, kept, strict=True)), mask, logits)

    def _beginnings(self, texts: Sequence[str], lengths: Sequence[int] | None) -> list[list[int]]:
        tokens = self.tokens(texts)
        if lengths is None:
            return tokens
        if len(lengths) != len(tokens) or not all(1 <= n <= len(ids) for n, ids in zip(lengths, tokens, strict=False)):
            raise BadRead(f"lengths: give one for each of the {len(tokens)} texts, from 1 to the text's tokens.")
        return [ids[:n] for ids, n in zip(tokens, lengths, strict=True)]

    def acts(self, texts: Sequence[str], site: str, at: At = "last") -> Float[Tensor, "example width"]:
        """One site at one position of each prompt, heads side by side: (example, site.size)."""
        if isinstance(at, str) and at == "all" and self.site(site).has_positions:
            raise BadRead(f"acts takes one position of each prompt; for all of {site} use run(..., read=['{site}']).")
        read = Read(site, at)
        return self.run(texts, read=[read])[read].flatten(1)

    def generate(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: int,
        edits: Sequence[Edit] = (),
        temperature: float = 0.0,
        seed: int = 0,
        batch_tokens: int | None = None,
    ) -> list[str]:
        """The new text behind each prompt, without the prompt.

        Args:
            texts: The prompts.
            max_new_tokens: Most tokens added to each; the model's end token stops earlier.
            edits: at="all" holds for the prompt and for new tokens, any other position for the prompt.
            temperature: 0 takes the most likely token.
            seed: Of the draws, if temperature > 0.
            batch_tokens: Most prompt slots in one batch; None takes what suits the device.
        """
        new = self.generate_ids(
            texts,
            max_new_tokens=max_new_tokens,
            edits=edits,
            temperature=temperature,
            seed=seed,
            batch_tokens=batch_tokens,
        )
        return [self._new_text(ids, added) for ids, added in zip(self.tokens(texts), new, strict=True)]

    def generate_ids(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: int,
        edits: Sequence[Edit] = (),
        temperature: float = 0.0,
        seed: int = 0,
        batch_tokens: int | None = None,
    ) -> list[list[int]]:
        """Like `generate`, but the new token ids."""
        if not self.has_logits or not self.causal:
            why = self.refused.get("logits", "it sees what stands behind a position, so it can't continue a prompt")
            raise NotAvailable(f"{self.name} does not generate: {why}.")
        for edit in edits:
            self.site(edit.site)
        tokens = self.tokens(texts)
        for number, ids in enumerate(tokens):
            longest = len(ids) + max_new_tokens - 1
            if self.context is not None and longest > self.context:
                raise self._too_long(number, texts[number], longest)
        new, passed = generation.generate(
            self._engine,
            tokens,
            max_new_tokens=max_new_tokens,
            edits=edits,
            temperature=temperature,
            seed=seed,
            stop=self._stop_ids(),
            batch_tokens=batch_tokens or self._batch_tokens,
            fill=self._engine.fill,
            site=self._engine.sites,
        )
        self.passes += passed
        return new

    def where(self, position: str | int, sample: HasExamples) -> At:
        """A position in every example of a sample.

        Args:
            position: "last", "first", "all" or a number, which pass through; else the name of a factor or field: the
                last token of the last occurrence of its text (whole words first) in each example's text.

        Raises:
            BadPosition: The field is unknown, or its text does not occur in a prompt.
        """
        if isinstance(position, int) or position in ("last", "first", "all"):
            return position
        if position.lstrip("-").isdigit():
            return int(position)
        texts = [example.text for example in sample.examples]
        ends = [end_of(field_of(example, position), example.text) for example in sample.examples]
        return torch.tensor(last_tokens(self.reader, texts, ends))

    def answer_ids(self, texts: Sequence[str], answers: Sequence[str]) -> Int[Tensor, "example"]:
        """First token of each answer as it goes on from its prompt.

        The prompt's tokens must begin the tokens of prompt and answer together (joined by `reader.join` unless
        white space is there already); where they do not, an answer that is one token by itself is taken as that.

        Raises:
            BadAnswer: Neither holds.
        """
        if len(texts) != len(answers):
            raise BadAnswer(f"{len(answers)} answers for {len(texts)} prompts: give one for each.")
        if not self.causal:
            return torch.tensor([self._alone(text, answer) for text, answer in zip(texts, answers, strict=True)])
        whole = [self._joined(text, answer) for text, answer in zip(texts, answers, strict=True)]
        before, after = self.tokens(texts), self.reader.encode(whole)
        found = []
        for text, answer, ids, longer in zip(texts, answers, before, after, strict=True):
            goes_on = len(longer) > len(ids) and longer[: len(ids)] == ids
            found.append(longer[len(ids)] if goes_on else self._alone(text, answer))
        return torch.tensor(found)

    def type_at(self, texts: Sequence[str], at: At) -> list[str]:
        """The token, as the vocabulary spells it, at one position of each prompt."""
        tokens = self.tokens(texts)
        index = settle(at, torch.tensor([len(ids) for ids in tokens])).index
        if index is None:
            raise BadRead("type_at takes one position of each prompt, not all of them.")
        return [self.reader.token(ids[place]) for ids, place in zip(tokens, index.tolist(), strict=True)]

    def embedding(self, texts: Sequence[str]) -> Float[Tensor, "example width"] | NotRun:
        """Rows of the token embedding, the model not run: their mean, and beside it the last token's.

        Returns:
            (example, 2 d_model), or NotRun for a module without an embedding.
        """
        table = self._engine.embedding
        if table is None:
            return NotRun(f"{self.name} has no token embedding")
        rows = [table.weight.detach()[torch.tensor(ids, device=self.device)] for ids in self.tokens(texts)]
        return torch.stack([torch.cat([words.mean(0), words[-1]]) for words in rows])

    def gradient(
        self,
        texts: Sequence[str],
        site: str,
        at: At,
        answer_ids: Int[Tensor, "example"],
        foil_ids: Int[Tensor, "example"],
        *,
        batch_tokens: int | None = None,
    ) -> Float[Tensor, "example width"]:
        """d (logit of answer - logit of foil at the last token) / d (site at one position), heads side by side.

        Other positions of the site are held as they are.
        """
        todo = self._plan(texts, batch_tokens)
        place = settle(at, todo.lengths.cpu()).index if self.site(site).has_positions else None
        if place is None and self.site(site).has_positions:
            raise BadRead(f"gradient takes one position of each prompt at {site}.")
        place = None if place is None else place.to(self.device)
        answer_ids, foil_ids = answer_ids.to(self.device), foil_ids.to(self.device)
        parts: list[tuple[Tensor, Tensor]] = []
        leaf = _Leaf(place)
        taps = Taps({site: Tap(self.site(site), change=leaf)})
        with torch.no_grad(), self._engine.installed(taps):
            for batch in todo.batches:
                try:
                    logits = self._engine.run(batch, taps, "last")
                    assert logits is not None
                    rows = torch.arange(len(batch), device=logits.device)
                    gap = logits[rows, answer_ids[batch.rows]] - logits[rows, foil_ids[batch.rows]]
                    (slope,) = torch.autograd.grad(gap.sum(), leaf.held())
                finally:
                    torch.set_grad_enabled(False)  # the leaf switched it on in the middle of the pass
                parts.append((batch.rows, slope.flatten(1)))
        self.passes += len(todo)
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return torch.cat([slope for _, slope in parts])[order]

    def twin(self, kind: str, seed: int = 0) -> Subject:
        """The same architecture with nothing to find: "random" or "permuted" weights, see `twins.py`."""
        module = twin_of(self.module, kind, seed)
        return Subject(
            f"{self.name} ({kind} twin, seed {seed})", engine_of(module, self.reader.vocab_size), self.reader
        )

    def _too_long(self, number: int, text: str, length: int) -> BadPrompt:
        return BadPrompt(
            f"Prompt {number} '{text[:40]}...' takes {length} tokens, but {self.name} has a context of "
            f"{self.context}. Shorten it."
        )

    @property
    def _batch_tokens(self) -> int:
        """On a CPU small batches stay in the cache and hold little padding; an accelerator wants to be filled."""
        return 1024 if self.device.type == "cpu" else 16384

    def _plan(self, texts: Sequence[str], batch_tokens: int | None) -> Plan:
        """The batches of a list of prompts; the last few lists are remembered, since trials run them many times."""
        batch_tokens = batch_tokens or self._batch_tokens
        key = (tuple(texts), batch_tokens, self._engine.equal_lengths, self.device)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        todo = self._batches(self.tokens(texts), batch_tokens)
        self._plans[key] = todo
        if len(self._plans) > _PLANS_KEPT:
            self._plans.popitem(last=False)
        return todo

    def _batches(self, tokens: Sequence[list[int]], batch_tokens: int | None = None) -> Plan:
        if not tokens:
            raise BadPrompt("There are no prompts to run.")
        return plan(
            tokens,
            batch_tokens=batch_tokens or self._batch_tokens,
            fill=self._engine.fill,
            equal_lengths=self._engine.equal_lengths,
            device=self.device,
        )

    def _execute(
        self, todo: Plan, reads: Sequence[Read], edits: Sequence[Edit], logits: str | None, grad: bool = False
    ) -> Run:
        run, passed = execute(
            self._engine, todo, reads=reads, edits=edits, logits=logits, grad=grad, site=self._engine.sites
        )
        self.passes += passed
        return run

    def _joined(self, text: str, answer: str) -> str:
        spaced = answer[:1].isspace() or text[-1:].isspace()
        return text + answer if spaced else text + self.reader.join + answer

    def _alone(self, text: str, answer: str) -> int:
        for spelled in (answer, answer.strip()):
            ids = [token for token in self.reader.encode_bare(spelled) if token not in self.reader.special]
            if len(ids) == 1:
                return ids[0]
        raise BadAnswer(
            f"'{answer}' does not go on from '...{text[-40:]}' with a token of its own: together they are cut in "
            f"another way than the prompt alone, and by itself '{answer}' is not one token. "
            f"Leave out white space at the end of the prompt, or choose another answer."
        )

    def _stop_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        found: set[int] = set()
        sources = (getattr(self.module, "generation_config", None), self._engine.config, self.reader.tokenizer)
        for source in sources:
            ends = getattr(source, "eos_token_id", None)
            found.update(ends if isinstance(ends, list | tuple) else [ends] if ends is not None else [])
        return frozenset(int(token) for token in found)

    def _new_text(self, ids: Sequence[int], added: Sequence[int]) -> str:
        whole, before = self.reader.decode([*ids, *added]), self.reader.decode(ids)
        return whole[len(before) :] if whole.startswith(before) else self.reader.decode(added)


class _Leaf:
    """Puts a leaf of the graph into a site, at one position of each prompt, and starts the graph there."""

    def __init__(self, place: Tensor | None) -> None:
        self.place = place
        self.value: Tensor | None = None

    def __call__(self, h: Tensor, batch: Batch) -> Tensor:
        torch.set_grad_enabled(True)
        rows = torch.arange(len(batch), device=h.device)
        where = self.place[batch.rows] if self.place is not None else torch.zeros_like(rows)
        self.value = h.detach()[rows, where].requires_grad_()
        return h.detach().index_put((rows, where), self.value)

    def held(self) -> Tensor:
        assert self.value is not None
        return self.value
