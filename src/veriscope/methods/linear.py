"""What all linear methods share: the protocol, and how a reading is fitted, chosen among sites and recorded.

A linear method solves many small problems on one matrix of activations at once. Each problem (a task) has its own
labels and its own training rows: every fold, shuffle and control of a trial is a task.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.errors import OneClass, OnePosition, TooFewClusters, UnknownSite
from veriscope.examples import Sample
from veriscope.examples.seen import sketch
from veriscope.findings import Finding, Origin, Reading
from veriscope.ledger import tried
from veriscope.methods.bits import calibrated_bits
from veriscope.subjects import Read, Subject

FOLDS = 5


@dataclass(frozen=True)
class Linear:
    """Linear scores of many tasks: acts @ weight + bias. For two classes one column, and above 0 speaks for class 1."""

    weight: Float[Tensor, "task d k"]
    bias: Float[Tensor, "task k"]

    def score(self, acts: Float[Tensor, "example d"]) -> Float[Tensor, "task example k"]:
        """Scores of the same examples under every task."""
        tasks, d, k = self.weight.shape
        flat = acts @ self.weight.permute(1, 0, 2).reshape(d, tasks * k)
        return flat.reshape(len(acts), tasks, k).permute(1, 0, 2) + self.bias[:, None]


@runtime_checkable
class LinearMethod(Protocol):
    """All that a linear method must offer; there is nothing to inherit and nothing to register.

    It is a frozen dataclass of settings. `site` is a name, a tuple of names, or a glob like "blocks.*.resid_post".
    """

    @property
    def site(self) -> str | tuple[str, ...]: ...

    @property
    def position(self) -> str | int: ...

    @property
    def seed(self) -> int: ...

    def weights(
        self,
        acts: Float[Tensor, "example d"],
        codes: Int[Tensor, "task example"],
        train: Bool[Tensor, "task example"],
        *,
        n_classes: int,
        seed: int = 0,
    ) -> Linear:
        """Solve all tasks together; the same arguments give the same answer."""
        ...

    def fit(self, subject: Subject, sample: Sample) -> Finding:
        """Read the activations, record what was tried, choose the best site, return the frozen finding."""
        ...


def path_of(method: Any) -> str:
    """The import path a method is named by: "veriscope.methods.mean_difference:MeanDifference"."""
    return f"{type(method).__module__}:{type(method).__qualname__}"


def settings_of(method: Any) -> dict[str, Any]:
    """A method's settings, ready for JSON: `method(path_of(m), **settings_of(m)) == m`."""
    return {f.name: _plain(getattr(method, f.name)) for f in dataclasses.fields(method) if f.init}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


# ---- fitting ----------------------------------------------------------------------------------------------------


def fit_reading(method: LinearMethod, subject: Subject, sample: Sample) -> Reading:
    """Fit a linear method on dev examples and freeze the result.

    Where the method names several sites, the one whose scores on held-out clusters (5 folds) tell most bits about the
    label is kept, and then fitted on all examples. Each combination looked at is recorded as a try.

    Raises:
        UnknownSite, OnePosition, OneClass, MissingField; TooFewClusters with several sites and under two clusters.
    """
    sites = expand_sites(subject, method.site)
    codes, classes = encode(sample)
    acts = read(method, subject, sample, sites)
    for site in sites:
        record_try(method, subject, sample, site)
    best = choose_site(method, sample, acts, codes, len(classes))
    here = acts[best]
    everyone = torch.ones(1, len(here), dtype=torch.bool)
    fitted = method.weights(here, codes[None], everyone, n_classes=len(classes), seed=method.seed)
    weight = fitted.weight[0].contiguous()
    return Reading(
        site=best,
        position=method.position,
        weight=weight,
        bias=fitted.bias[0].contiguous(),
        classes=classes,
        centre=here.mean(0),
        origin=origin_of(method, subject, sample, best, looked_at=len(sites)),
        gaps=class_gaps(here, codes, weight, len(classes)),
    )


def expand_sites(subject: Subject, wanted: str | Sequence[str]) -> tuple[str, ...]:
    """The subject's sites that a name, several names or a glob stand for, without repeats."""
    found: dict[str, None] = {}
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        matches = [pattern] if pattern in subject.sites else fnmatch.filter(subject.sites, pattern)
        if not matches:
            raise UnknownSite(pattern, subject.name, list(subject.sites), subject.refused.get(pattern, ""))
        found.update(dict.fromkeys(matches))
    return tuple(found)


def encode(sample: Sample) -> tuple[Int[Tensor, "example"], tuple[str, ...]]:
    """Labels as the indices of their classes, which are sorted as strings; at least two must occur."""
    labels = [str(label) for label in sample.labels]
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise OneClass(sample.variable, classes, len(labels))
    index = {c: i for i, c in enumerate(classes)}
    return torch.tensor([index[label] for label in labels]), classes


def read(method: Any, subject: Subject, sample: Sample, sites: Sequence[str]) -> dict[str, Float[Tensor, "example d"]]:
    """Activations of every example at the method's one position, all sites from one run."""

    if method.position == "all" or not isinstance(method.position, str | int):
        raise OnePosition(type(method).__name__, method.position)
    at = subject.where(method.position, sample)
    run = subject.run(sample.texts, read=[Read(site, at) for site in sites])
    return {site: plain(run[site]) for site in sites}


def plain(acts: Float[Tensor, "example *axes"]) -> Float[Tensor, "example d"]:
    """Activations as fits take them: heads side by side, on the CPU, half precision widened to float32."""
    wide = acts.flatten(1).cpu()
    return wide.float() if wide.dtype in (torch.float16, torch.bfloat16) else wide


def record_try(method: Any, subject: Subject, sample: Sample, site: str) -> None:
    """Write one combination that was looked at into the current ledger."""

    tried(
        {
            "method": path_of(method),
            "settings": settings_of(method),
            "site": site,
            "position": method.position,
            "seed": method.seed,
            "subject": subject.hash,
            "examples": sample.hash,
            "variable": sample.variable,
        }
    )


def origin_of(method: Any, subject: Subject, sample: Sample, site: str, looked_at: int) -> Origin:
    """Where a finding of this method at this site came from."""
    return Origin(
        method=path_of(method),
        settings=settings_of(method),
        subject=subject.hash,
        examples=sample.hash,
        variable=sample.variable,
        site=site,
        position=method.position,
        seed=method.seed,
        tried=looked_at,
        fitted_on=len(sample),
        seen=sketch(sample.texts),
    )


def class_gaps(
    acts: Float[Tensor, "example d"], codes: Int[Tensor, "example"], weight: Float[Tensor, "d k"], n_classes: int
) -> tuple[float, ...]:
    """How far each column's class lies from the other classes' mean along that column, in activation units."""
    means = torch.stack([acts[codes == c].mean(0) for c in range(n_classes)]).double()
    columns = weight.double()
    if n_classes > 2:
        columns = columns - columns.mean(1, keepdim=True)
    size = columns.norm(dim=0)
    columns = columns / torch.where(size > 0, size, 1.0)
    along = means @ columns
    if n_classes == 2:
        return (float(along[1, 0] - along[0, 0]),)
    others = (along.sum(0) - along.diagonal()) / (n_classes - 1)
    return tuple(float(g) for g in along.diagonal() - others)


# ---- choosing ---------------------------------------------------------------------------------------------------


def cluster_folds(clusters: Sequence[str], n: int = FOLDS, seed: int = 0) -> Int[Tensor, "example"]:
    """The fold of each example, whole clusters together and folds of about equal size; at most one fold a cluster.

    The order of clusters comes from a hash, so a cluster's fold does not depend on the order of the examples.
    """
    sizes: dict[str, int] = {}
    for cluster in clusters:
        sizes[cluster] = sizes.get(cluster, 0) + 1
    n = min(n, len(sizes))
    if n < 2:
        raise TooFewClusters(len(sizes), 2, "Choosing among sites")

    def place(cluster: str) -> str:
        return hashlib.sha256(f"veriscope-fold-1|{seed}|{cluster}".encode()).hexdigest()

    filled, fold_of = [0] * n, {}
    for cluster in sorted(sizes, key=place):
        fold = filled.index(min(filled))
        fold_of[cluster] = fold
        filled[fold] += sizes[cluster]
    return torch.tensor([fold_of[cluster] for cluster in clusters])


def held_out_scores(
    method: LinearMethod,
    acts: Float[Tensor, "example d"],
    codes: Int[Tensor, "task example"],
    fold: Int[Tensor, "example"],
    *,
    n_classes: int,
    seed: int = 0,
) -> Float[Tensor, "task example k"]:
    """Score each example by the fit that left its fold out, for each task, all fits solved together."""
    tasks, folds = len(codes), int(fold.max()) + 1
    train = torch.stack([fold != f for f in range(folds)])
    fitted = method.weights(
        acts, codes.repeat_interleave(folds, 0), train.repeat(tasks, 1), n_classes=n_classes, seed=seed
    )
    weight = fitted.weight.unflatten(0, (tasks, folds))
    bias = fitted.bias.unflatten(0, (tasks, folds))
    scores = weight.new_empty(tasks, len(acts), weight.shape[-1])
    for f in range(folds):
        scores[:, fold == f] = Linear(weight[:, f], bias[:, f]).score(acts[fold == f])
    return scores


def choose_site(
    method: LinearMethod,
    sample: Sample,
    acts: dict[str, Float[Tensor, "example d"]],
    codes: Int[Tensor, "example"],
    n_classes: int,
) -> str:
    """The site whose scores on held-out clusters (5 folds) tell most bits; the first of those that tell the same."""
    if len(acts) == 1:
        return next(iter(acts))
    fold = cluster_folds(sample.clusters, seed=method.seed)
    scores = [
        held_out_scores(method, here, codes[None], fold, n_classes=n_classes, seed=method.seed)[0]
        for here in acts.values()
    ]
    bits = calibrated_bits(torch.stack(scores), codes.repeat(len(scores), 1), n_classes)
    return list(acts)[int(bits.argmax())]
