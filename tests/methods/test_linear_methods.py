"""What every linear method must do: find what was planted, stay silent where nothing was, solve tasks as if alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planted import colours, planted_acts, toy
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from veriscope.errors import BadSetting, MissingField, OneClass, OnePosition, TooFewClusters, UnknownSite
from veriscope.examples import make_example
from veriscope.findings import Reading
from veriscope.ledger import Ledger, count_tries, use
from veriscope.methods import (
    LinearMethod,
    LogisticProbe,
    MeanDifference,
    PCADirection,
    RandomDirection,
    cluster_folds,
    held_out_scores,
    method,
    path_of,
    settings_of,
)
from veriscope.methods.bits import calibrated_bits
from veriscope.methods.mean_difference import shrunk_covariance

SUPERVISED = [MeanDifference("late"), MeanDifference("late", whiten=True), LogisticProbe("late")]
EVERY = [*SUPERVISED, PCADirection("late"), RandomDirection("late")]


def name(method: Any) -> str:
    return type(method).__name__ + ("-whiten" if getattr(method, "whiten", False) else "")


def held_out_bits(method: LinearMethod, classes: int, gap: float, seed: int = 0) -> float:
    acts, codes, _ = planted_acts(classes=classes, gap=gap, seed=seed)
    fold = cluster_folds([str(i) for i in range(len(acts))])
    scores = held_out_scores(method, acts, codes[None], fold, n_classes=classes)
    return float(calibrated_bits(scores, codes[None], classes)[0])


@pytest.mark.parametrize("method", SUPERVISED, ids=name)
@pytest.mark.parametrize("classes", [2, 5])
def test_supervised_methods_find_what_was_planted_and_nothing_else(method: LinearMethod, classes: int) -> None:
    assert held_out_bits(method, classes, gap=3.0) > 0.5
    assert held_out_bits(method, classes, gap=0.0) < 0.01


@pytest.mark.parametrize("method", EVERY, ids=name)
@pytest.mark.parametrize("classes", [2, 4])
def test_tasks_solved_together_are_tasks_solved_alone(method: LinearMethod, classes: int) -> None:
    acts, codes, _ = planted_acts(n=200, d=10, classes=classes, gap=1.5)
    tasks = torch.stack([codes, codes.flip(0), (codes + 1) % classes])
    train = torch.rand(3, 200, generator=torch.Generator().manual_seed(1)) < 0.7

    together = method.weights(acts, tasks, train, n_classes=classes)

    assert together.weight.shape == (3, 10, 1 if classes == 2 else classes)
    for t in range(3):
        alone = method.weights(acts, tasks[t : t + 1], train[t : t + 1], n_classes=classes)
        assert torch.allclose(together.weight[t], alone.weight[0], atol=1e-4)
        assert torch.allclose(together.bias[t], alone.bias[0], atol=1e-3)
        assert torch.allclose(together.score(acts)[t], acts @ alone.weight[0] + alone.bias[0], atol=1e-3)


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_rows_outside_training_do_not_matter(method: LinearMethod) -> None:
    acts, codes, _ = planted_acts(n=200, d=10)
    train = torch.arange(200)[None] < 150
    other = codes.clone()
    other[150:] = 1 - other[150:]

    one = method.weights(acts, codes[None], train, n_classes=2)
    two = method.weights(acts, other[None], train, n_classes=2)

    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_the_same_call_gives_the_same_answer(method: LinearMethod) -> None:
    acts, codes, _ = planted_acts(n=150, d=8)
    train = torch.ones(1, 150, dtype=torch.bool)

    one, two = (method.weights(acts, codes[None], train, n_classes=2, seed=3) for _ in range(2))

    assert torch.equal(one.weight, two.weight)


@pytest.mark.parametrize("method", EVERY, ids=name)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_without_training_rows_breaks_nothing(method: LinearMethod, classes: int) -> None:
    acts, codes, _ = planted_acts(n=120, d=6, classes=classes)

    fitted = method.weights(acts, codes[None], (codes != classes - 1)[None], n_classes=classes)

    assert bool(torch.isfinite(fitted.weight).all() and torch.isfinite(fitted.bias).all())


def test_mean_difference_is_the_nearest_centroid() -> None:
    for classes in (2, 4):
        acts, codes, _ = planted_acts(classes=classes)
        score = (
            MeanDifference("x").weights(acts, codes[None], torch.ones(1, 600).bool(), n_classes=classes).score(acts)[0]
        )
        guess = (score[:, 0] > 0).long() if classes == 2 else score.argmax(1)

        oracle = NearestCentroid().fit(acts.numpy(), codes.numpy()).predict(acts.numpy())

        assert (guess.numpy() == oracle).mean() > 0.998


def test_whitened_mean_difference_is_discriminant_analysis() -> None:
    acts, codes, _ = planted_acts(n=20_000, d=8)
    mixed = acts @ torch.randn(8, 8, generator=torch.Generator().manual_seed(2))

    fitted = MeanDifference("x", whiten=True).weights(mixed, codes[None], torch.ones(1, 20_000).bool(), n_classes=2)

    oracle = torch.tensor(LinearDiscriminantAnalysis().fit(mixed.numpy(), codes.numpy()).coef_[0]).float()
    assert float(torch.cosine_similarity(fitted.weight[0, :, 0], oracle, dim=0)) > 0.995


def test_shrunk_covariance_is_ledoit_and_wolfs() -> None:
    from sklearn.covariance import ledoit_wolf

    acts = planted_acts(n=40, d=60)[0].double()

    assert torch.allclose(shrunk_covariance(acts), torch.tensor(ledoit_wolf(acts.numpy())[0]), atol=1e-10)


def test_a_principal_component_is_what_stands_out_and_not_what_was_asked_for() -> None:
    acts, codes, _ = planted_acts(gap=1.0)
    loud = torch.randn(24, generator=torch.Generator().manual_seed(3))
    loud = loud / loud.norm()
    acts = acts + 10 * torch.randn(600, 1, generator=torch.Generator().manual_seed(4)) * loud

    for n_rows in (600, 20):
        train = torch.arange(600)[None] < n_rows
        found = PCADirection("x").weights(acts, codes[None], train, n_classes=2).weight[0, :, 0]
        assert abs(float(found @ loud)) > 0.95
    with pytest.raises(BadSetting, match=r"component=30 will not do; it must be below 24"):
        PCADirection("x", component=30).weights(acts, codes[None], torch.ones(1, 600).bool(), n_classes=2)
    with pytest.raises(BadSetting, match="0 or more"):
        PCADirection("x", component=-1)


def test_labels_decide_only_the_sign_of_a_random_direction() -> None:
    acts, codes, _ = planted_acts()
    train = torch.ones(2, 600, dtype=torch.bool)

    found = RandomDirection("x", seed=1).weights(acts, torch.stack([codes, 1 - codes]), train, n_classes=2)
    other = RandomDirection("x", seed=2).weights(acts, codes[None], train[:1], n_classes=2)

    assert torch.allclose(found.weight[0], -found.weight[1])
    assert float(found.weight[0].norm()) == pytest.approx(1.0, rel=1e-5)
    assert abs(float(found.weight[0, :, 0] @ other.weight[0, :, 0])) < 0.9


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_fitting_on_a_subject_gives_a_reading_that_can_be_made_again(method: Any) -> None:
    subject, sample = toy(), colours()

    found = method.fit(subject, sample)
    again = method_of(found).fit(subject, sample)

    assert isinstance(found, Reading)
    assert (found.site, found.position, found.classes) == ("late", "last", ("False", "True"))
    assert torch.equal(found.weight, again.weight)
    assert again.origin == found.origin
    assert found.gap > 0
    assert torch.allclose(found.centre, subject.acts(sample.texts, "late").mean(0))


def method_of(found: Reading) -> Any:
    return method(found.origin.method, **found.origin.settings)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_planted_direction_is_found_in_a_subject_only_where_the_label_follows_it(shuffled: bool) -> None:
    subject = toy()

    found = MeanDifference("early", position="colour").fit(subject, colours(shuffled=shuffled))

    aligned = abs(float(found.direction @ subject.module.feature)) > 0.99
    assert (aligned and found.gap > 2) == (not shuffled)


def test_the_best_of_several_sites_is_kept_and_every_one_is_recorded() -> None:
    subject, sample = toy(), colours()

    with use(Ledger.in_memory()) as ledger:
        found = MeanDifference(("early", "la*")).fit(subject, sample)
        MeanDifference(("early", "la*")).fit(subject, sample)  # the same again is no further try

        assert count_tries(ledger, examples=sample.hash, of="is_red") == 2
        assert {row.body["site"] for row in ledger.rows("try")} == {"early", "late"}
    assert (found.site, found.origin.tried) == ("late", 2)  # only later does the last word know of the others
    assert found.origin.settings["site"] == ["early", "la*"]


def test_errors_say_what_to_do() -> None:
    subject, sample = toy(), colours()

    with pytest.raises(UnknownSite, match=r"no site 'laet'\. Did you mean 'late'"):
        MeanDifference("laet").fit(subject, sample)
    with pytest.raises(OnePosition, match="MeanDifference reads one position of each example, not 'all'"):
        MeanDifference("late", position="all").fit(subject, sample)
    with pytest.raises(OneClass, match="'is_red' takes only 'True'"):
        MeanDifference("late").fit(subject, sample.where(lambda e: e.label == "True"))
    with pytest.raises(MissingField):
        MeanDifference("late").fit(subject, type(sample)((make_example("red one"),), "x", "h", "dev", "is_red"))
    together = type(sample)(
        tuple(make_example(e.text, label=e.label, cluster="c") for e in sample), "x", "h", "dev", "z"
    )
    with pytest.raises(TooFewClusters, match=r"needs at least 2; these examples have 1"):
        MeanDifference(("early", "late")).fit(subject, together)


def test_folds_keep_clusters_together_and_do_not_depend_on_order() -> None:
    clusters = [f"c{i % 17}" for i in range(100)]

    fold = cluster_folds(clusters, 5)
    turned = cluster_folds(clusters[::-1], 5)

    assert {c: int(f) for c, f in zip(clusters, fold, strict=True)} == {
        c: int(f) for c, f in zip(clusters[::-1], turned, strict=True)
    }
    assert torch.bincount(fold).min() >= 15
    assert not torch.equal(fold, cluster_folds(clusters, 5, seed=1))
    assert int(cluster_folds(["a", "b", "b"], 5).max()) == 1


@pytest.mark.parametrize("made", EVERY, ids=name)
def test_settings_and_path_rebuild_the_method(made: Any) -> None:
    assert method(path_of(made), **settings_of(made)) == made
