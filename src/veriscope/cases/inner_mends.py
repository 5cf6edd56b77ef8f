"""Mends inside the model: a direction erased, a part silenced, a matrix or an embedding changed, a short training.

Weights are changed in a copy only. Every mend has a control: a random one of the same kind and size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from veriscope.cases.mends import Asking, Mend, Words
from veriscope.cases.prompt_mends import attempted, without, worth
from veriscope.cases.side_effects import LARGE_NATS, Held, divergence
from veriscope.cases.units import Unit
from veriscope.errors import BadPrompt, NotRun
from veriscope.subjects import Add, At, Edit, Erase, Mean, Read, Subject, load
from veriscope.subjects.plan import plan
from veriscope.subjects.run import execute
from veriscope.subjects.transformer import Transformer

BLOCKS = 4  # at most: where a direction is looked for
DOSES = (1.0, 2.0)  # 1 takes away what stands along a direction, 2 turns it round
PLACES = 6  # blocks and positions at which a matrix is changed
STEPS, RATE, FURTHEST = 25, 0.5, 4.0  # of Adam, in units of what the MLP writes there; longest change, likewise
RIDGE = 0.02  # of the mean variance of keys
RATES = (3e-4, 1e-3, 3e-3)
TRAINED = 12  # steps at each rate
KEPT_AT_ONCE = 8  # held-out logs beside each step
NEIGHBOURS = 8
SURE = -0.1  # nats of the wanted answer at which a change is enough


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a mend inside the model is made from.

    Attributes:
        asking: The case.
        near: Its text, and that text with irrelevant words before it.
        wanted: Tokens of the answer that is to be given.
        held: Held-out logs by which doses are chosen.
    """

    asking: Asking
    near: tuple[Words, ...]
    wanted: tuple[int, ...]
    held: Held

    def texts(self) -> list[list[int]]:
        return [self.asking.plain.read(words) for words in self.near]


def chosen(asking: Asking, mends: Iterator[Mend], held: Held | None, tokens: int) -> tuple[Mend, int] | NotRun:
    """The best of several doses or places, and how many were tried.

    Those that change held-out answers by no more than 0.05 nats a token go before the others, then by `worth`. No
    further one is tried when that many tokens went through the model.
    """
    best: tuple[tuple[float, ...], Mend] | None = None
    tried, start = 0, asking.passes
    for mend in mends:
        tried += 1
        outcome = attempted(asking, mend)
        if outcome is None:
            continue
        right, gone, *more = worth(outcome, asking.before)
        apart = divergence(asking, mend, held) if held is not None and (right or gone) else 0.0
        score = (right, gone, float(apart <= LARGE_NATS), -apart, *more)
        if best is None or score > best[0]:
            best = score, mend
        if (asking.passes - start) * asking.length > tokens:
            break
    return (best[1], tried) if best is not None else NotRun("nothing of this kind can be done to this text")


# ---- activations


def erased(asking: Asking, near: Sequence[Words], units: Sequence[Unit]) -> Iterator[Mend]:
    """The direction that units move the last token along, brought back to where it is without them.

    The gap of means, projected out around the mean without the units (Null It Out, 2020, for the projection).
    """
    subject, cut = asking.subject, without(asking, units)
    try:
        texts = [asking.plain.read(words) for words in near], [cut.read(words) for words in near]
    except BadPrompt:
        return
    for block in _spread(subject.n_blocks, BLOCKS):
        site = f"blocks.{block}.resid_post"
        if site not in subject.sites:
            continue
        having, lacking = (_acts(asking, some, site, "last") for some in texts)
        gap = (having - lacking).mean(0)
        if float(gap.norm()) == 0:
            continue
        for dose in DOSES:
            edit = _erase(site, gap, lacking.mean(0), dose)
            noise = torch.randn(len(gap), generator=torch.Generator().manual_seed(asking.seed)).to(gap)
            other = _erase(site, noise, lacking.mean(0), dose)
            what = f"{'take away' if dose == 1 else 'turn round'} in block {block} what {units[0].name} adds there"
            yield Mend(what, "activations", subject, edits=(edit,), control=partial(
                Mend, "a random direction", "activations", subject, edits=(other,)
            ))  # fmt: skip


def _erase(site: str, gap: Tensor, origin: Tensor, dose: float) -> Edit:
    unit = gap / gap.norm()
    return Edit(site, Erase(dose * unit[:, None], unit[None, :], origin))


def silenced(lesson: Lesson) -> Iterator[Mend]:
    """What one MLP or attention writes replaced by its mean, then single heads of the attention that does most.

    Mean ablation as in Interpretability in the Wild, 2022.
    """
    asking, subject = lesson.asking, lesson.asking.subject
    texts = [asking.plain.read(words) for words in lesson.held.words]
    strongest: tuple[float, int] | None = None
    for block in reversed(range(subject.n_blocks)):
        for part in ("mlp_out", "attn_out"):
            site = f"blocks.{block}.{part}"
            if site not in subject.sites:
                continue
            mend = _silence(asking, texts, site, None)
            outcome = attempted(asking, mend)
            if outcome is not None and part == "attn_out":
                strongest = max(strongest or (-1e9, block), (-outcome.nats, block))
            yield mend
    if strongest is not None and (site := f"blocks.{strongest[1]}.heads.z") in subject.sites:
        for head in range(subject.site(site).units or 1):
            yield _silence(asking, texts, site, head)


def _silence(asking: Asking, texts: Sequence[Sequence[int]], site: str, head: int | None) -> Mend:
    """The mean over ordinary texts in the place of a part; the control does so in another block."""
    subject, (_, block, part) = asking.subject, site.split(".", 2)
    name = f"head {head} of block {block}" if head is not None else f"the {part.split('_')[0]} of block {block}"
    others = [other for other in subject.sites if other.split(".", 2)[-1] == part and other != site]

    def edit(where: str) -> Edit:
        mean = _acts(asking, texts, where, "all").mean(0)
        if head is None:
            return Edit(where, Mean(mean))
        return Edit(where, Mean(mean.unflatten(0, (subject.site(where).units or 1, -1))[head]), units=(head,))

    def control() -> Mend:
        return Mend("another block's", "activations", subject, edits=(edit(others[asking.seed % len(others)]),))

    what = f"silence {name} (its mean in its place)"
    return Mend(what, "activations", subject, edits=(edit(site),), control=control if others else None)


# ---- weights


def rank_one(lesson: Lesson) -> Iterator[Mend]:
    """One MLP matrix changed by rank one, so that the wanted answer is given; places by the gradient of its gain.

    Source: Locating and Editing Factual Associations in GPT, 2022: the change that gives the answer, by gradient, and
    the matrix that makes it at this key and moves ordinary keys least.
    """
    asking, subject = lesson.asking, lesson.asking.subject
    engine: Any = subject._engine
    if not isinstance(engine, Transformer) or engine.family.after_down or engine.family.post_norms:
        return
    for block, back in _places(lesson):
        keys = _acts(asking, lesson.texts(), f"blocks.{block}.mlp.act", -back).mean(0)
        common = _acts(asking, [asking.plain.read(w) for w in lesson.held.words], f"blocks.{block}.mlp.act", "all")
        covariance = common.T @ common / len(common)
        covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=common.device)
        spread = torch.linalg.solve(covariance, keys)
        change = _wish(lesson, block, back)
        noise = torch.randn(len(change), generator=torch.Generator().manual_seed(asking.seed)).to(change)
        noise *= change.norm() / noise.norm()
        name = _name_of(subject, engine.blocks[block].get_submodule(engine.family.down).weight)
        what = f"change the MLP of block {block} by rank one (key: token {back} from the end)"
        matrix, other = (torch.outer(spread / (keys @ spread), one) for one in (change, noise))
        yield Mend(
            what, "weights", _added(subject, name, matrix),
            control=partial(
                _of_weights, "a random change of the same size at the same key", subject, name, other
            ),
        )  # fmt: skip


def _places(lesson: Lesson) -> list[tuple[int, int]]:
    """Blocks and positions, counted from the end, where the MLP's output bears most on wanted less strange."""
    asking, subject = lesson.asking, lesson.asking.subject
    sites = [f"blocks.{n}.mlp_out" for n in range(subject.n_blocks) if f"blocks.{n}.mlp_out" in subject.sites]
    ids = asking.plain.read(asking.words)
    leaves = [torch.zeros(1, len(ids), subject.d_model or 0, device=subject.device, requires_grad=True) for _ in sites]
    edits = [Edit(site, Add(leaf)) for site, leaf in zip(sites, leaves, strict=True)]
    logits = _graph(asking, [[*ids, *lesson.wanted[:-1]]], edits)
    share = logits[0, len(ids) - 1].log_softmax(-1)
    gain = share[lesson.wanted[0]] - share[asking.ending[0]]
    if lesson.wanted[0] == asking.ending[0]:  # they part later
        gain = _of_wanted(logits, [ids], lesson.wanted).sum()
    slopes = torch.autograd.grad(gain, leaves)
    parts, found = asking.changes.parts, []
    first = asking.changes.transcript.tokens_of(parts[0].spans[0])[0] if parts else 0  # special tokens are no key
    for site, slope in zip(sites, slopes, strict=True):
        size = slope[0].norm(dim=-1) * _acts(asking, [ids], site, "all").norm(dim=-1)
        found += [(float(size[n]), int(site.split(".")[1]), len(ids) - n) for n in range(first, len(ids))]
    return [(block, back) for _, block, back in sorted(found, reverse=True)[:PLACES]]


def _wish(lesson: Lesson, block: int, back: int) -> Float[Tensor, "d_model"]:
    """What the MLP should write besides, at one token of every near text, for the wanted answer to be given."""
    asking, site = lesson.asking, f"blocks.{block}.mlp_out"
    texts = lesson.texts()
    size = float(_acts(asking, texts, site, -back).norm(dim=1).mean())
    change = torch.zeros(asking.subject.d_model or 0, device=asking.subject.device, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=RATE / len(change) ** 0.5)
    at = torch.tensor([len(ids) - back for ids in texts])
    whole = [[*ids, *lesson.wanted[:-1]] for ids in texts]
    for _ in range(STEPS):
        logits = _graph(asking, whole, [Edit(site, Add(change * size), at)])
        gain = _of_wanted(logits, texts, lesson.wanted)
        if float(gain.detach().min()) > SURE:
            break
        optimiser.zero_grad()
        (-gain.mean()).backward()
        optimiser.step()
        with torch.no_grad():
            change.mul_(min(1.0, FURTHEST / max(float(change.norm()), 1e-9)))
    return (change * size).detach()


def embedding_moved(asking: Asking, token: int) -> Iterator[Mend]:
    """The embedding of one token moved to those of tokens that the model expects in its place.

    To their mean and from there along its own direction as far as they stand, to the nearest, to their mean, half way.
    """
    subject = asking.subject
    engine: Any = subject._engine
    others = _expected(asking, token, NEIGHBOURS)
    if engine.embedding is None or others is None:
        return
    table = engine.embedding.weight.detach()
    rows = table[others]
    near = rows[(rows - table[token]).norm(dim=1).argmin()]
    middle, own = rows.mean(0), table[token] - table.mean(0)
    own = own / own.norm().clamp_min(1e-9) * (rows - rows.mean(0)).norm(dim=1).mean()
    word, name = subject.reader.token(token), _name_of(subject, engine.embedding.weight)
    goals = (
        ("to a place of its own among", middle + own),
        ("to the nearest of", near),
        ("to the mean of", middle),
        ("half way to the mean of", (middle + table[token]) / 2),
    )
    for how, goal in goals:
        change = torch.zeros_like(table)
        change[token] = goal - table[token]
        noise = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(asking.seed)).to(table)
        other = torch.zeros_like(table)
        other[token] = noise / noise.norm() * change[token].norm()
        yield Mend(
            f"move the embedding of '{word}' {how} {NEIGHBOURS} words expected in its place", "weights",
            _added(subject, name, change),
            control=partial(_of_weights, "the same embedding moved as far at random", subject, name, other),
        )  # fmt: skip


def expected_words(asking: Asking, token: int, count: int) -> list[str]:
    """Words that the model expects in the place of a token."""
    others = _expected(asking, token, count)
    return [] if others is None else [asking.subject.reader.decode([n]).strip() for n in others.tolist()]


def _expected(asking: Asking, token: int, count: int) -> Int[Tensor, "token"] | None:
    """Tokens that the model expects in the place of another one, likeliest first; None where it stands nowhere."""
    ids = asking.plain.read(asking.words)
    if token not in ids[1:]:
        return None
    place = ids.index(token, 1)
    row = asking.run(asking.plain, [(ids[:place], ids[place : place + 1])])[0][0].clone()
    row[[token, *asking.subject.reader.special]] = -torch.inf
    return row.topk(count).indices


def strangest_token(asking: Asking, ids: Sequence[int]) -> int | None:
    """Of some tokens the one whose embedding is least like that of others: nearest to the mean of all, in norm.

    Tokens never trained stay where they began (Fishing for Magikarp, 2024): their distance from the mean is unusual.
    """
    engine: Any = asking.subject._engine
    some = [token for token in dict.fromkeys(ids) if token not in asking.subject.reader.special]
    if engine.embedding is None or not some:
        return None
    table = engine.embedding.weight.detach().float()
    far = (table - table.mean(0)).norm(dim=1)
    score = (far - far.median()).abs() / (far - far.median()).abs().median().clamp_min(1e-9)
    return max(some, key=lambda token: float(score[token]))


# ---- training


def fine_tuned(lesson: Lesson) -> Iterator[Mend]:
    """All weights trained for a few steps: near texts get the wanted answer, held-out ones keep theirs.

    The control is trained for as many steps on the answers that are given already.
    """
    for rate in RATES:
        subject = _trained(lesson, rate, lesson.wanted)
        if subject is None:
            continue
        yield Mend(
            f"train on {len(lesson.near)} lines for at most {TRAINED} steps at rate {rate:g}", "training", subject,
            control=partial(_trained_as_it_is, lesson, rate),
        )  # fmt: skip


def _trained_as_it_is(lesson: Lesson, rate: float) -> Mend:
    tuned = _trained(lesson, rate, tuple(lesson.asking.ending), stop=False) or lesson.asking.subject
    return Mend("as many steps on the answers that are given already", "training", tuned)


def _trained(lesson: Lesson, rate: float, wanted: Sequence[int], stop: bool = True) -> Subject | None:
    """A trained copy; None where training ran off to numbers that are none."""
    asking, held = lesson.asking, lesson.held
    tuned = _copy(asking.subject, [name for name, _ in asking.subject.module.named_parameters()])
    weights = [w for w in tuned.module.parameters() if w.is_floating_point()]
    for weight in weights:
        weight.requires_grad_(True)
    optimiser, source = torch.optim.Adam(weights, lr=rate), torch.Generator().manual_seed(asking.seed)
    texts = lesson.texts()
    others = [(asking.plain.read(w), list(a)) for w, a in zip(held.words, held.answers, strict=True)]
    was = asking.run(asking.plain, others)
    for _ in range(TRAINED):
        rows = torch.randperm(len(others), generator=source)[:KEPT_AT_ONCE].tolist()
        logits = _graph(asking, [[*ids, *wanted[:-1]] for ids in texts], (), tuned)
        gain = _of_wanted(logits, texts, wanted)
        if stop and float(gain.detach().min()) > SURE:
            break
        now = _graph(asking, [[*others[n][0], *others[n][1][:-1]] for n in rows], (), tuned)
        kept = [_kl(was[n], now[place], others[n]) for place, n in enumerate(rows)]
        loss = -gain.mean() + torch.stack(kept).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for weight in weights:
        weight.requires_grad_(False)
        weight.grad = None
    return tuned if all(bool(weight.isfinite().all()) for weight in weights) else None


def _kl(was: Tensor, logits: Float[Tensor, "position vocab"], text: tuple[list[int], list[int]]) -> Float[Tensor, ""]:
    ids, answer = text
    now = logits[len(ids) - 1 : len(ids) + len(answer) - 1].log_softmax(-1)
    return functional.kl_div(now, was, log_target=True, reduction="batchmean")


# ---- what all of these need


def _graph(
    asking: Asking, texts: Sequence[Sequence[int]], edits: Sequence[Edit], subject: Subject | None = None
) -> Float[Tensor, "text position vocab"]:
    """Logits with the graph to take gradients through; charged as one pass forward and two back."""
    subject = subject or asking.subject
    engine: Any = subject._engine
    asking.passes += 3 * sum(map(len, texts)) / asking.length
    todo = plan(texts, batch_tokens=len(texts) * max(map(len, texts)), fill=engine.fill, device=subject.device)
    run, _ = execute(engine, todo, reads=(), edits=edits, logits="all", grad=True, site=engine.sites)
    assert run.logits is not None
    return run.logits.float()


def _of_wanted(
    logits: Float[Tensor, "text position vocab"], texts: Sequence[Sequence[int]], wanted: Sequence[int]
) -> Float[Tensor, "text"]:
    """Log-probability of the wanted answer behind each text, with the graph."""
    answer = torch.tensor(list(wanted), device=logits.device)
    return torch.stack([
        logits[row, len(ids) - 1 : len(ids) - 1 + len(wanted)].log_softmax(-1).gather(1, answer[:, None]).sum()
        for row, ids in enumerate(texts)
    ])  # fmt: skip


def _acts(asking: Asking, texts: Sequence[Sequence[int]], site: str, at: At) -> Float[Tensor, "row width"]:
    """One site, heads side by side: at one position of each text, or at all positions of all of them."""
    subject = asking.subject
    engine: Any = subject._engine
    asking.passes += sum(map(len, texts)) / asking.length
    todo = plan(texts, batch_tokens=1024, fill=engine.fill, device=subject.device)
    read = Read(site, at)
    run, _ = execute(engine, todo, reads=[read], edits=(), logits=None, grad=False, site=engine.sites)
    if at != "all":
        return run[read].flatten(1).float()
    return run[read][run.mask].flatten(1).float()


def _copy(subject: Subject, names: Sequence[str]) -> Subject:
    """The same model with weights of its own where they are named; all others are shared with the subject."""
    shared: dict[int, Any] = {id(w): w for name, w in subject.module.named_parameters() if name not in set(names)}
    return load(
        copy.deepcopy(subject.module, shared), tokenizer=subject.reader.tokenizer, name=f"{subject.name} (mended copy)"
    )


def _added(subject: Subject, name: str, change: Tensor) -> Subject:
    """A copy with something added to one weight; a change laid out the other way round is turned."""
    copied = _copy(subject, [name])
    weight = copied.module.get_parameter(name)
    inner = copied.module.get_submodule(name.rpartition(".")[0])
    with torch.no_grad():
        weight.add_((change.T if isinstance(inner, nn.Linear) else change).to(weight))
    return copied


def _of_weights(what: str, subject: Subject, name: str, change: Tensor) -> Mend:
    """A change of one weight, made when it is asked for: each holds a copy of the model."""
    return Mend(what, "weights", _added(subject, name, change))


def _name_of(subject: Subject, weight: Tensor | nn.Module) -> str:
    return next(name for name, own in subject.module.named_parameters() if own is weight)


def _spread(count: int, most: int) -> list[int]:
    """Blocks from the first to the last, evenly."""
    return sorted({round(n * (count - 1) / max(1, min(most, count) - 1)) for n in range(min(most, count))})
