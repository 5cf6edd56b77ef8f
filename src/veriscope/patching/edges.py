"""Edge attribution patching: scores of all edges between the parts of a model from a few passes, beside their error.

An edge's effect is that of direct edge patching: its receiver reads the residual stream with this one sender's
contribution taken from the other run, everybody else reads it as it is, and what the receiver then does goes on. A
score estimates it as (sender's other contribution - its own) times the gradient at the receiver's input, where the
input is the stream before the receiver's norm: the norm is part of the receiver and is not frozen, in the score (to
first order) as in the exact effect.

Sources: "Attribution Patching Outperforms Automated Circuit Discovery" (2023) for EAP; "Have Faith in Faithfulness"
(2024) for EAP-IG, whose gradient is averaged while the embedding goes from the one run's to the other's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from veriscope.errors import NotAvailable, NotRun
from veriscope.patching import heatmap
from veriscope.patching.attribution import TOKENS_AT_ONCE, slices
from veriscope.patching.gaps import Asked, BadChoice, Pairs, couple, measured, share, share_estimate, wide
from veriscope.patching.miss import Miss, draw, miss_of
from veriscope.patching.parts import READ, Apart, Node, tell_apart
from veriscope.patching.slopes import Slopes, in_parts, one_batch, slopes
from veriscope.patching.waiting import waiting
from veriscope.subjects import Edit, Resample, Subject, Variant
from veriscope.subjects.attention import attending
from veriscope.subjects.replay import Base, run_base
from veriscope.subjects.taps import Enough
from veriscope.subjects.transformer import hook
from veriscope.trials.evidence import Estimate

_NUMBERS_AT_ONCE = 2**26  # of the senders' differences that are held: 256 MiB in float32
_OFF = 1e-3  # relative difference of two ways to one gradient from which parts are not where they were thought to be

Edge = tuple[int, int]  # indices of sender and receiver


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """Scores of all edges, beside their error against direct edge patching.

    Attributes:
        senders, receivers: The axes of `scores_logits`.
        exists: Which pairs are edges; the score of any other is 0 and means nothing.
        clean, corrupt: Logit differences of the unedited runs.
        scores_logits: Estimated change of each pair's logit difference: 280 kB a pair in a model like GPT-2 small.
        error: On edges drawn at random from all of them: what holds for the scores as a whole.
        error_at_top: On the edges with the strongest scores: what holds for the ones that are looked at.
        steps: Points of the integral (0: the gradient at the run patched into).
        clusters: Which pairs are resampled together.
    """

    senders: tuple[Node, ...]
    receivers: tuple[Node, ...]
    exists: Bool[Tensor, "sender receiver"]
    direction: str
    clean: Float[Tensor, "pair"]
    corrupt: Float[Tensor, "pair"]
    scores_logits: Float[Tensor, "pair sender receiver"]
    error: Miss
    error_at_top: Miss
    steps: int
    clusters: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.exists.sum())

    @property
    def base(self) -> Float[Tensor, "pair"]:
        """Logit differences of the runs patched into."""
        return self.clean if self.direction == "noising" else self.corrupt

    @property
    def other(self) -> Float[Tensor, "pair"]:
        return self.corrupt if self.direction == "noising" else self.clean

    @property
    def scores(self) -> Float[Tensor, "sender receiver"]:
        """Estimated normalised effects: 0 = as the run patched into, 1 = as the other run."""
        return self.scores_logits.mean(0) / (self.other - self.base).mean()

    def score(self, sender: str, receiver: str) -> float:
        """Estimated normalised effect of one edge, named as in the table: ("blocks.0.heads.z[3]", "blocks.1.mlp").

        Raises:
            BadChoice: There is no such edge.
        """
        return float(self.scores[self._find(sender, receiver)])

    def estimate(self, sender: str, receiver: str) -> Estimate:
        """The same with bounds, pairs resampled by cluster. They say nothing of the approximation's own error."""
        i, j = self._find(sender, receiver)
        return share_estimate(self.base + self.scores_logits[:, i, j], self.base, self.other, self.clusters)

    def top(self, k: int = 10) -> list[dict[str, Any]]:
        """The k strongest edges: `sender`, `receiver`, `score`, and `exact` where it was measured, else NotRun."""
        return [self._row(edge, self.scores) for edge in _strongest(self.scores, self.exists, k)]

    def table(self) -> list[dict[str, Any]]:
        """The same of every edge, in the order in which receivers read."""
        scores = self.scores
        return [self._row((i, j), scores) for j, i in self.exists.T.nonzero().tolist()]

    def plot(self, path: str | Path) -> Path:
        """Write the strongest score between every two groups of parts as a heat map (SVG).

        Groups are the heads of a block, split by what receives (q, k, v), and single parts.
        """
        rows, columns = _groups(self.senders), _groups(self.receivers)
        cells = torch.zeros(len(rows), len(columns))
        scores = torch.where(self.exists, self.scores, 0.0)
        for i, of in enumerate(rows.values()):
            for j, to in enumerate(columns.values()):
                found = scores[of][:, to].flatten()
                cells[i, j] = found[found.abs().argmax()]
        title = f"Strongest edge between groups ({self.direction}, {self._how()})"
        return heatmap.write_table(
            path, list(rows), list(columns), cells, title, f"approximation: {self.error}", "to (from the left)"
        )

    def _find(self, sender: str, receiver: str) -> Edge:
        names = [str(node) for node in self.senders], [str(node) for node in self.receivers]
        for setting, name, known in (("sender", sender, names[0]), ("receiver", receiver, names[1])):
            if name not in known:
                raise BadChoice(setting, name, f"it is one of {', '.join(known[:4])} ... {known[-1]}")
        edge = names[0].index(sender), names[1].index(receiver)
        if not self.exists[edge]:
            raise BadChoice("receiver", receiver, f"it reads before {sender} writes, so there is no edge between them")
        return edge

    def _row(self, edge: Edge, scores: Tensor) -> dict[str, Any]:
        exact: float | None = None
        for found in (self.error, self.error_at_top):
            if edge in found.cells:
                exact = float(found.exact[found.cells.index(edge)])
        known = NotRun("not among the edges that were patched exactly") if exact is None else exact
        return {"sender": str(self.senders[edge[0]]), "receiver": str(self.receivers[edge[1]]),
                "score": float(scores[edge]), "exact": known}  # fmt: skip

    def _how(self) -> str:
        return f"EAP-IG, {self.steps} steps" if self.steps else "EAP"

    def __str__(self) -> str:
        lines = [
            f"{self.direction}, {self._how()}: {len(self):,} edges, {len(self.base)} pairs, logit difference "
            f"{float(self.clean.mean()):.3f} clean, {float(self.corrupt.mean()):.3f} corrupt.",
            f"  error: {self.error}.",
            f"  error at the top: {self.error_at_top}.",
        ]
        for row in self.top(5):
            exact = f", exact {row['exact']:+.3f}" if isinstance(row["exact"], float) else ""
            lines.append(f"  {row['sender']} -> {row['receiver']}: {row['score']:+.3f}{exact}")
        return "\n".join(lines)


def edge_attribution(
    subject: Subject,
    clean: Sequence[str],
    corrupt: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    *,
    steps: int = 0,
    direction: str = "noising",
    sample: int = 50,
    top: int = 10,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
    progress: bool = False,
    keep: str | Path | None = None,
) -> EdgeScores:
    """Score every edge between the parts of a model, and patch some of them exactly to tell the error.

    Args:
        subject: A causal transformer whose parts can be told apart: GPT-2, GPT-NeoX, Llama, Mistral, Qwen, Gemma (1).
        clean, corrupt, answers, foils, clusters, progress, keep: As in `activation_patching`.
        steps: 0 is EAP: one forward and one backward pass. k is EAP-IG: the gradient averaged over k points
            (midpoints) while the embedding goes to the other run's; 5 to 20 do.
        direction: "noising" puts corrupt contributions into clean runs and scores what is needed; "denoising" the
            reverse.
        sample: Edges drawn at random and patched exactly; all, if there are fewer. At least 3.
        top: Edges with the strongest scores that are patched exactly as well. At least 3.
        seed: Of the draw.

    Returns:
        The scores with both errors. Positions are summed over: an edge is patched at every position at once.

    Raises:
        NotAvailable, UnequalPairs, NoGap, BadChoice, BadAnswer, BadPrompt, UnknownSite.
    """
    if steps < 0:
        raise BadChoice("steps", steps, "use 0 for the plain gradient, or a number of points such as 10")
    for setting, count in (("sample", sample), ("top", top)):
        if count < 3:
            raise BadChoice(setting, count, "at least 3 edges, since no score is shown without its error")
    apart = tell_apart(subject)
    into, source = couple(subject, clean, corrupt, answers, foils, direction, clusters, keep)
    pairs = measured(direction, into, source, into.base(), source.base())
    scores = torch.cat(list(_scored(apart, into, source, steps, progress)))
    mean = scores.mean(0) / (pairs.other - pairs.base).mean()
    every = [(i, j) for i, j in apart.exists.nonzero().tolist()]
    drawn = [every[number] for number in draw(sample, len(every), seed)]
    strongest = _strongest(mean, apart.exists, top)
    exact = _exact(apart, pairs, list(dict.fromkeys([*drawn, *strongest])), progress)
    error, at_top = (
        miss_of(tuple(cells), torch.stack([mean[edge] for edge in cells]),
                torch.stack([exact[edge] for edge in cells]), len(every), seed, how)
        for cells, how in ((drawn, "at random"), (strongest, "those with the strongest scores"))
    )  # fmt: skip
    return EdgeScores(
        apart.senders, apart.receivers, apart.exists, direction, pairs.clean, pairs.corrupt, scores, error, at_top,
        steps, into.clusters,
    )  # fmt: skip


def _strongest(scores: Tensor, exists: Tensor, k: int) -> list[Edge]:
    order = torch.where(exists, scores.abs(), -1.0).flatten().argsort(descending=True, stable=True)
    wide = scores.shape[1]
    return [(number // wide, number % wide) for number in order[: min(k, int(exists.sum()))].tolist()]


def _groups(nodes: Sequence[Node]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for number, node in enumerate(nodes):
        several = node.kind in ("head", *READ)
        found[f"{node.block}.{node.kind}" if several or node.kind == "mlp" else node.kind].append(number)
    return found


# ---- scores


def _scored(
    apart: Apart, into: Asked, source: Asked, steps: int, progress: bool
) -> Iterator[Float[Tensor, "pair sender receiver"]]:
    """Scores of some pairs at a time, from memory that does not grow with the number of pairs or of edges."""
    tokens = max(1, _NUMBERS_AT_ONCE // (len(apart.senders) * int(apart.subject.d_model or 1)))
    with waiting("scoring edges", len(into), progress) as told:
        for rows in slices(into.lengths, min(tokens, TOKENS_AT_ONCE)):
            near, far = into.some(rows), source.some(rows)

            def make(near: Asked = near, far: Asked = far) -> dict[str, Tensor]:
                return {"scores": _of_some(apart, near, far, steps)}

            tokens_of = apart.subject.tokens
            question = ("edges", tokens_of(near.texts), tokens_of(far.texts), near.tokens, steps)
            found = make() if into.kept is None else into.kept.once(question, make)[0]
            told(len(near))
            yield found["scores"]


def _of_some(apart: Apart, near: Asked, far: Asked, steps: int) -> Float[Tensor, "pair sender receiver"]:
    ways, embedded = _differences(apart, near, far)
    size, longest = len(near), int(near.lengths.max())
    flat = ways.transpose(0, 1).flatten(2)
    points = [(step + 0.5) / steps for step in range(steps)] or [0.0]
    table = torch.zeros(size, len(apart.senders), len(apart.receivers), device=flat.device, dtype=flat.dtype)
    for few in in_parts(points, TOKENS_AT_ONCE // (size * longest)):
        moved = {"embed": torch.cat([embedded + a * ways[0] for a in few])} if steps else None
        found = _gradients(apart, near.some(slice(0, size), len(few)), moved)
        for columns, gradient in _at_inputs(apart, found):
            seen = apart.seen(apart.receivers[columns.start])
            steep = gradient.unflatten(1, (len(few), size)).sum(1).flatten(2)
            table[:, :seen, columns] += flat[:, :seen] @ steep.permute(1, 2, 0)
    return wide(table / len(points))


def _differences(
    apart: Apart, near: Asked, far: Asked
) -> tuple[Float[Tensor, "sender pair token d_model"], Float[Tensor, "pair token d_model"]]:
    """What each sender writes into the stream in the other run, less what it writes in its own; and own embeddings."""
    names = [f"blocks.{block}.{tail}" for block in range(apart.n_blocks) for tail in ("heads.z", "mlp_out")]
    own, other = (apart.subject.run(asked.texts, read=["embed", *names]) for asked in (near, far))
    parts = [(other["embed"] - own["embed"])[None]]
    for block in range(apart.n_blocks):
        z, mlp = f"blocks.{block}.heads.z", f"blocks.{block}.mlp_out"
        parts.append(torch.einsum("nthe,hed->hntd", other[z] - own[z], apart.writes(block)))
        parts.append((other[mlp] - own[mlp])[None])
    return torch.cat(parts), own["embed"]


def _gradients(apart: Apart, asked: Asked, moved: Mapping[str, Tensor] | None) -> Slopes:
    """Gradients at all norms' inputs, each for what goes through this norm only, and at all projections' outputs."""

    def hooks(caught: dict[str, Tensor]) -> list[Any]:
        def before(name: str) -> Any:
            def catch(_: Any, args: Any) -> Any:
                # another name for the same numbers: the graph's way through the norm apart from the way past it
                caught[name] = args[0].view_as(args[0])
                return (caught[name], *args[1:])

            return catch

        def behind(name: str) -> Any:
            return lambda _, args, output: caught.__setitem__(name, output)

        handles: list[Any] = []
        for block in range(apart.n_blocks):
            for of in ("attention", "mlp"):
                handles.append(apart.norm(block, of).register_forward_pre_hook(before(f"{block}.{of}")))
            for number, module in enumerate(apart.projections(block)):
                handles.append(module.register_forward_hook(behind(f"{block}.{number}")))
        return handles

    return slopes(asked, [f"blocks.{apart.n_blocks - 1}.resid_post"], fixed=moved, hooks=hooks)


def _at_inputs(apart: Apart, found: Slopes) -> Iterator[tuple[slice, Float[Tensor, "receiver text token d_model"]]]:
    """Gradient at the input of each receiver, of a block's queries, keys, values, MLP at a time, and their columns."""
    first = 0
    for block in range(apart.n_blocks):
        stream, whole = found.extra[f"{block}.attention"]
        total = torch.zeros_like(whole)
        for part in READ:
            number, weight = apart.through(block, part)
            made = apart.split(block, part, found.extra[f"{block}.{number}"][1])
            normed = torch.einsum("nthe,dhe->hntd", made, weight)
            gradient = _back_through(apart.norm(block, "attention"), stream, normed)
            total += gradient.sum(0)
            yield slice(first, first + len(gradient)), gradient
            first += len(gradient)
        if bool((total - whole).abs().max() > _OFF * whole.abs().max()):
            raise NotAvailable(
                f"The heads of {apart.subject.name} can't be told apart: what flows into queries, keys and values of "
                f"block {block} does not add up to what flows into its attention. Please report this model."
            )
        yield slice(first, first + 1), found.extra[f"{block}.mlp"][1][None]
        first += 1
    yield slice(first, first + 1), found.slopes[0][None]


def _back_through(
    norm: Any, stream: Float[Tensor, "text token d_model"], slope: Float[Tensor, "head text token d_model"]
) -> Float[Tensor, "head text token d_model"]:
    """Gradients behind a norm as gradients before it, for several at once."""
    with torch.enable_grad():
        leaf = stream.expand(len(slope), *stream.shape).detach().requires_grad_()
        return torch.autograd.grad(norm(leaf), leaf, slope)[0]


# ---- exact effects


def _exact(apart: Apart, pairs: Pairs, edges: Sequence[Edge], progress: bool) -> dict[Edge, Tensor]:
    """Direct edge patching: normalised effects of edges."""
    edits = _edits(apart, pairs, edges)
    variants = (Variant((edit,)) for edit in edits)
    gaps = pairs.into.gaps(variants, len(edges), progress, "checking edges")
    return dict(zip(edges, share(gaps, pairs.base, pairs.other), strict=True))


@torch.no_grad()
def _edits(apart: Apart, pairs: Pairs, edges: Sequence[Edge]) -> list[Edit]:
    """What each receiver does when it reads one sender's other contribution, to be put where it does it."""
    values: dict[Edge, list[Tensor]] = defaultdict(list)
    tokens = max(1, _NUMBERS_AT_ONCE // (len(apart.senders) * int(apart.subject.d_model or 1)))
    for rows in slices(pairs.into.lengths, min(tokens, TOKENS_AT_ONCE)):
        near, far = pairs.into.some(rows), pairs.source.some(rows)
        for edge, value in _received(apart, near, _differences(apart, near, far)[0], edges):
            values[edge].append(value)
    longest = int(pairs.into.lengths.max())
    out = []
    for edge in edges:
        receiver = apart.receivers[edge[1]]
        site = {"mlp": f"blocks.{receiver.block}.mlp_out", "logits": f"blocks.{apart.n_blocks - 1}.resid_post"}.get(
            receiver.kind, f"blocks.{receiver.block}.heads.{receiver.kind}"
        )
        whole = torch.cat([_padded(value, longest) for value in values[edge]])
        units = (receiver.unit,) if receiver.kind in READ else None
        out.append(Edit(site, Resample(whole), units=units))
    return out


def _received(
    apart: Apart, near: Asked, ways: Float[Tensor, "sender pair token d_model"], edges: Iterable[Edge]
) -> Iterator[tuple[Edge, Float[Tensor, "pair token *inner"]]]:
    """What receivers make of the stream with one sender's contribution exchanged, all positions at once."""
    engine = apart.engine
    batch = one_batch(near, engine)
    back = batch.rows.argsort()
    mixed = {apart.receivers[j].block for _, j in edges if apart.receivers[j].kind == "mlp"}
    base = run_base(engine, batch, mixed)
    apart.subject.passes += len(near)
    known: dict[tuple[int, int], dict[str, Tensor]] = {}
    for i, j in edges:
        receiver = apart.receivers[j]
        way = ways[i][batch.rows]
        if receiver.kind == "logits":
            yield (i, j), (base.inputs[apart.n_blocks] + way)[back]
        elif receiver.kind == "mlp":
            yield (i, j), _mlp(apart, base, receiver.block, base.inputs[receiver.block] + way)[back]
        else:
            at = (i, receiver.block)
            if at not in known:
                known = {at: _attention(apart, base, receiver.block, base.inputs[receiver.block] + way)}
            yield (i, j), known[at][receiver.kind][:, :, [receiver.unit]][back]


def _attention(apart: Apart, base: Base, block: int, stream: Tensor) -> dict[str, Float[Tensor, "row token head d"]]:
    """Queries, keys and values of a block that reads this stream; nothing behind them is run."""
    caught: dict[str, Tensor] = {}

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        caught.update(zip(READ, (part.transpose(1, 2) for part in (q, k, v)), strict=True))
        raise Enough

    try:
        with attending(attend), apart.engine.fused():
            apart.engine.blocks[block](stream, **base.given[block])
    except Enough:
        pass
    return caught


def _mlp(apart: Apart, base: Base, block: int, stream: Tensor) -> Float[Tensor, "row token d_model"]:
    """Output of the MLP of a block that reads this stream, while attention writes what it wrote in the base run."""
    grab = _Grab()
    handle = hook(*apart.engine.spots[f"blocks.{block}.mlp_out"], "mlp_out", grab)
    try:
        with attending(lambda *rest: base.mixed[block]), apart.engine.fused():
            apart.engine.blocks[block](stream, **base.given[block])
    except Enough:
        pass
    finally:
        handle.remove()
    assert grab.held is not None
    return grab.held


class _Grab:
    """Keeps the one tensor that it is told of, and ends the pass."""

    held: Tensor | None = None

    def reach(self, name: str, h: Tensor, slot: int | None = None) -> Tensor:
        self.held = h
        raise Enough


def _padded(value: Float[Tensor, "pair token *inner"], longest: int) -> Tensor:
    pads = [0, 0] * (value.ndim - 2) + [0, longest - value.shape[1]]
    return torch.nn.functional.pad(value, pads)
