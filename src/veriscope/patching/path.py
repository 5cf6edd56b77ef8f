"""Path patching: the effect of one part that goes through chosen receivers and no other way.

Source: "Interpretability in the Wild" (2022), section 3.1 and appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from veriscope.errors import UnknownSite
from veriscope.patching.gaps import BadChoice, Pairs, gap_of, pair_up, share_estimate
from veriscope.patching.grid import swap_in
from veriscope.subjects import At, Edit, Read, Run, Subject
from veriscope.trials.evidence import Estimate

Sender: TypeAlias = tuple[int, int] | Read | str
"""(block, head), or a site, or a read of some of its units at some position."""


@dataclass(frozen=True, eq=False)
class PathPatched:
    """What a sender's other value did to the logit difference on its way through the receivers.

    Attributes:
        sender, receivers: Where the path begins, and what it goes through.
        clean, corrupt: Logit differences of the unedited runs.
        gaps: Logit difference with the path patched.
        clusters: Which pairs are resampled together.
    """

    sender: Read
    receivers: tuple[Read, ...]
    direction: str
    clean: Float[Tensor, "pair"]
    corrupt: Float[Tensor, "pair"]
    gaps: Float[Tensor, "pair"]
    clusters: tuple[str, ...]

    @property
    def base(self) -> Float[Tensor, "pair"]:
        return self.clean if self.direction == "noising" else self.corrupt

    @property
    def other(self) -> Float[Tensor, "pair"]:
        return self.corrupt if self.direction == "noising" else self.clean

    @property
    def effect(self) -> Estimate:
        """Normalised: 0 = as the run patched into, 1 = as the other run, with bounds."""
        return share_estimate(self.gaps, self.base, self.other, self.clusters)

    @property
    def changes_logits(self) -> Float[Tensor, "pair"]:
        return self.gaps - self.base

    def __str__(self) -> str:
        through = ", ".join(_words(read) for read in self.receivers)
        found = self.effect
        return (
            f"{self.direction} {_words(self.sender)} through {through}: {found.value:+.3f} "
            f"[{found.low:+.3f}, {found.high:+.3f}] of the way, {float(self.changes_logits.mean()):+.3f} logits, "
            f"{len(self.gaps)} pairs"
        )


def path_patching(
    subject: Subject,
    clean: Sequence[str],
    corrupt: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    *,
    sender: Sender,
    receivers: Sequence[Read | str],
    mlps: str = "recomputed",
    direction: str = "noising",
    clusters: Sequence[str] | None = None,
) -> PathPatched:
    """Let a sender's other value reach the receivers directly, and only what they then do differently go on.

    First run: the sender has its value from the other run, and every other head (from its block on) its value from
    the run patched into; the receivers are read. Second run: nothing is changed but the receivers, which have the
    values just read.

    Args:
        subject: A model that gives logits.
        clean, corrupt, answers, foils: As in `activation_patching`.
        sender: (block, head), a site such as "blocks.3.mlp_out", or a `Read` that chooses positions and units.
        receivers: Sites such as "blocks.5.heads.q", or reads of some heads: Read("blocks.5.heads.q", units=(3,)). The
            direct path to the logits is the resid_post of the last block. A receiver that is itself a head's output
            (heads.z, attn_out) is not frozen.
        mlps: "recomputed" counts paths through MLPs as direct, as in the source; "frozen" holds them too.
        direction: "noising" puts corrupt into clean, "denoising" the reverse.
        clusters: Which pairs belong together when bounds are drawn.

    Raises:
        UnequalPairs, NoGap, BadChoice, BadPosition, BadAnswer, BadPrompt, UnknownSite.
    """
    if mlps not in ("recomputed", "frozen"):
        raise BadChoice("mlps", mlps, "use 'recomputed' or 'frozen'")
    if isinstance(receivers, str) or not receivers:
        raise BadChoice("receivers", receivers, "give a list of sites, such as ['blocks.5.heads.q']")
    sent = _sender(subject, sender)
    reached = tuple(Read(one) if isinstance(one, str) else one for one in receivers)
    for one in reached:
        subject.site(one.site)
        _block(one.site, "receivers")
    pairs = pair_up(subject, clean, corrupt, answers, foils, direction, clusters)
    texts, lengths = pairs.into.texts, pairs.into.lengths
    edits = _first_run(subject, pairs, sent, reached, mlps == "frozen")
    whole = [replace(one, at="all", units=None) for one in reached]
    hop = subject.run(texts, read=whole, edits=edits)
    there = [_edit(subject, hop[read], one, one.at, lengths) for read, one in zip(whole, reached, strict=True)]
    logits = subject.run(texts, edits=there, logits="last").logits
    assert logits is not None
    gaps = gap_of(logits.gather(1, pairs.into.tokens.to(logits.device)))
    return PathPatched(sent, reached, direction, pairs.clean, pairs.corrupt, gaps, pairs.into.clusters)


def _first_run(subject: Subject, pairs: Pairs, sent: Read, reached: Sequence[Read], mlps: bool) -> list[Edit]:
    """Everything at its own value from the sender's block on, then the sender at the other run's."""
    parts = ("heads.z", "mlp_out") if mlps else ("heads.z",)
    first = _block(sent.site, "sender")
    held = [Read(f"blocks.{block}.{part}") for block in range(first, subject.n_blocks) for part in parts]
    for read in held:
        subject.site(read.site)
    run = subject.run(pairs.into.texts, read=held)
    edits = [edit for read in held for edit in _freeze(subject, run, read, reached, pairs.into.lengths)]
    whole = replace(sent, at="all", units=None)
    value = subject.run(pairs.source.texts, read=[whole])[whole]
    return [*edits, _edit(subject, value, sent, sent.at, pairs.into.lengths)]


def _freeze(subject: Subject, run: Run, read: Read, reached: Sequence[Read], lengths: Tensor) -> list[Edit]:
    """Hold a site, but for the units of it that are receivers."""
    free: set[int] = set()
    every = set(range(subject.site(read.site).units or 0))
    for one in reached:
        if one.site == read.site or one.site == read.site.replace("heads.z", "attn_out"):
            free |= set(one.units) if one.units is not None and one.site == read.site else every
    if free == every:
        return []
    units = tuple(sorted(every - free)) if free else None
    return [_edit(subject, run[read], replace(read, units=units), "all", lengths)]


def _edit(subject: Subject, acts: Tensor, read: Read, at: At, lengths: Tensor) -> Edit:
    axis = -2 if subject.site(read.site).per_head else -1
    return swap_in(read.site, acts, at, lengths, read.units, axis=axis)


def _sender(subject: Subject, sender: Sender) -> Read:
    if isinstance(sender, tuple):
        block, head = sender
        site = f"blocks.{block}.heads.z"
        if site not in subject.sites and site not in subject.refused:
            raise UnknownSite(site, subject.name, list(subject.sites))
        heads = subject.site(site).units or 0
        if not 0 <= head < heads:
            raise BadChoice("sender", sender, f"{site} has heads 0..{heads - 1}")
        return Read(site, units=(head,))
    sent = Read(sender) if isinstance(sender, str) else sender
    subject.site(sent.site)
    _block(sent.site, "sender")
    return sent


def _block(site: str, setting: str) -> int:
    """The block that a site lies in."""
    if not site.startswith("blocks.") or site.endswith("heads.pattern"):
        raise BadChoice(setting, site, "use a site inside the blocks, such as 'blocks.5.heads.q' or 'blocks.5.mlp_out'")
    return int(site.split(".")[1])


def _words(read: Read) -> str:
    units = "" if read.units is None else f"[{', '.join(map(str, read.units))}]"
    at = "" if isinstance(read.at, str) and read.at == "all" else f" at {read.at}"
    return f"{read.site}{units}{at}"
