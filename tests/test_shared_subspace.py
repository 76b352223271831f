"""SharedSubspace: its numbers against their definition, and what they are for."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold

from skanopatch import GMMDetector, KNNDetector, MahalanobisDetector, SharedSubspace
from skanopatch.metrics import auc_score

UNITS = np.repeat(["a", "b", "c"], 30)


def make_clips(seed=0, units=UNITS, n_features=20):
    """Units with means of their own, which vary along three directions and little else."""
    means, directions = np.random.default_rng(0).normal(size=(2, 3, n_features))
    rng = np.random.default_rng(seed)
    along = rng.normal(size=(len(units), 3)) @ directions
    noise = 0.1 * rng.normal(size=(len(units), n_features))
    return 5 * means[np.searchsorted(["a", "b", "c"], units)] + along + noise


def test_components_of_one_class_are_those_of_pca():
    X = make_clips() * np.logspace(-3, 3, 20)
    subspace = SharedSubspace(n_components=4).fit(X)
    standardized = (X - X.mean(axis=0)) / X.std(axis=0)
    pca = PCA(n_components=4).fit(standardized)
    assert_allclose(np.abs(pca.components_ @ subspace.components_.T), np.eye(4), atol=1e-7)
    left = standardized - pca.inverse_transform(pca.transform(standardized))
    assert_allclose(subspace.explained_variance_, pca.explained_variance_ * 89 / 90)
    found = subspace.transform(X)
    whitened = pca.transform(standardized) / np.sqrt(subspace.explained_variance_)
    assert_allclose(np.abs(found[:, :-1]), np.abs(whitened), atol=1e-5)
    assert_allclose(found[:, -1], np.log(np.mean(left**2, axis=1)), rtol=1e-5)


def test_residual_is_about_the_nearest_mean_of_a_class():
    X, new = make_clips(), make_clips(seed=1)
    subspace = SharedSubspace(n_components=3).fit(X, labels=UNITS)
    left_of = np.eye(20) - subspace.components_.T @ subspace.components_
    own_mean = np.stack([X[unit == UNITS].mean(axis=0) for unit in UNITS])
    left = (new - own_mean) / subspace.scale_ @ left_of
    assert_allclose(subspace.transform(new)[:, -1], np.log(np.mean(left**2, axis=1)), rtol=1e-4)
    # One class for all: the means' differences fill the components and the residual.
    one_class = SharedSubspace(n_components=3).fit(X)
    assert one_class.transform(new)[:, -1].mean() > subspace.transform(new)[:, -1].mean() + 2


def test_seen_clips_as_new_ones_are_as_if_they_had_been_left_out():
    X, rng = make_clips(n_features=40), np.random.default_rng(1)
    X[:, 3:] *= rng.lognormal(size=37)
    subspace = SharedSubspace(n_components=6).fit(X, labels=UNITS)
    found = subspace.transform(X).astype(float)

    def about_classes(coordinates, known, units):
        means = {unit: known[units == unit].mean(axis=0) for unit in np.unique(units)}
        return coordinates - np.stack([means[unit] for unit in UNITS])

    left, squared = np.empty(90), np.empty(90)
    for kept, out in KFold(10, shuffle=True, random_state=0).split(X):
        without = SharedSubspace(n_components=6).fit(X[kept], labels=UNITS[kept])
        coordinates = np.asarray(without.transform(X), dtype=float)
        offset = about_classes(coordinates[:, :-1], coordinates[kept, :-1], UNITS[kept])
        left[out], squared[out] = coordinates[out, -1], (offset[out] ** 2).sum(axis=1)
    coordinates = found[:, :-1]
    of_class = about_classes(coordinates, coordinates, UNITS)
    growth = -2 * np.log(1 - ((of_class**2).sum(axis=1) + 3) / 90)
    expected = (left - found[:, -1]).sum() / growth.sum()
    assert subspace.optimism_ == pytest.approx(expected, rel=1e-3)
    of_distance = np.log(squared / (of_class**2).sum(axis=1)).sum() / growth.sum()
    assert subspace.distance_optimism_ == pytest.approx(of_distance, rel=1e-3)
    notes = subspace.transform(X[5:]).notes
    assert notes == subspace.transform(X).notes
    as_new = notes.seen.as_new(found)
    offset = about_classes(as_new[:, :-1], coordinates, UNITS)
    # Half of how much further new clips lie is taken.
    assert_allclose(offset, of_class * np.exp(of_distance * growth / 4)[:, None], atol=1e-4)
    assert_allclose(as_new[:, -1], found[:, -1] + expected * growth, rtol=1e-3)
    assert np.mean((as_new[:, -1] - left) ** 2) < 0.3 * np.mean((found[:, -1] - left) ** 2)


@pytest.mark.parametrize("scale", [1, 0.1])
def test_clips_that_fit_did_not_see_are_new_as_they_are(scale):
    X, new = make_clips(n_features=40), make_clips(n_features=40, seed=1)
    subspace = SharedSubspace().fit(X, labels=UNITS)
    seen, both = subspace.seen_clips(scale), scale * subspace.transform(np.vstack([new, X]))
    as_new = seen.as_new(both)
    assert_array_equal(as_new[:90], both[:90])
    assert (as_new[90:, -1] > both[90:, -1]).all()
    # In whatever batch, order and precision a clip comes.
    alone = np.vstack([scale * subspace.transform(clip[None]) for clip in X[::-1]])
    assert_allclose(seen.as_new(alone.astype(float)), as_new[:89:-1], rtol=1e-4, atol=1e-5)
    one_new = both[:1]
    assert seen.as_new(one_new) is not one_new
    assert_array_equal(seen.as_new(one_new), one_new)


@pytest.mark.parametrize("n_clips", [12, 30])
def test_a_detector_fitted_on_other_clips_takes_them_for_new(n_clips):
    """That it is placed as if they had been seen would call hardly anything an anomaly."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(12, 40))

    def draw(n):
        return rng.normal(size=(n, 12)) @ directions + 0.3 * rng.normal(size=(n, 40))

    subspace = SharedSubspace().fit(draw(n_clips))
    detector = MahalanobisDetector().fit(subspace.transform(draw(200)))
    alarms = np.mean(detector.predict(subspace.transform(draw(2000))) == -1)
    assert 0.05 < alarms < 0.15


def test_clips_are_of_the_classes_that_they_sound_like():
    X, new = make_clips(), make_clips(seed=1)
    for scale in (1, 0.1):  # the units of an embedder's first block
        subspace = SharedSubspace().fit(X, labels=UNITS)
        seen, found = subspace.seen_clips(scale), scale * subspace.transform(new)
        assert_array_equal(seen.nearest_classes(found, 2), np.repeat([0, 1, 2], 30))
        # One clip of b among those of a, and b and c without all but few of theirs.
        assert_array_equal(seen.nearest_classes(found[:31], 2), np.zeros(31))
        few = np.r_[0:30, 30:44, 60:76]
        assert set(seen.nearest_classes(found[few], 2)) == {0, 2}
        assert set(seen.nearest_classes(found[few], 17)) == {0}
        assert seen.nearest_classes(found, 31) is None


def test_a_class_of_few_clips_is_one_where_they_are_all_there():
    X = make_clips()
    rare = np.r_[0:30, 30:33, 60:90]
    subspace = SharedSubspace().fit(X[rare], labels=UNITS[rare])
    assert_array_equal(subspace.class_sizes_, [30, 3, 30])
    found = subspace.transform(X[rare])
    expected = np.repeat([0, 1, 2], [30, 3, 30])
    assert_array_equal(found.notes.seen.nearest_classes(found, 2), expected)
    subspace.class_sizes_ = None  # as from a file of an earlier version
    assert set(subspace.seen_clips().nearest_classes(found, 2)) == {0, 2}
    assert subspace.seen_clips().growth(np.zeros((1, found.shape[1] - 1))) == pytest.approx(
        found.notes.seen.growth(np.zeros((1, found.shape[1] - 1)))
    )


@pytest.mark.parametrize("detector", [MahalanobisDetector(), GMMDetector(random_state=0)], ids=repr)
def test_classes_are_domains(detector):
    """To one model of all units, a step on the way to another one is hardly odd."""
    X, new = make_clips(), make_clips(seed=1)
    on_the_way = new[:30] + 0.1 * (X[30:60].mean(axis=0) - X[:30].mean(axis=0))
    subspace = SharedSubspace().fit(X, labels=UNITS)
    found, tested = subspace.transform(X), subspace.transform(np.vstack([new, on_the_way]))
    y = np.repeat([1, -1], [90, 30])
    by_classes = clone(detector).fit(found)
    given = clone(detector).fit(found, domains=UNITS)
    assert_array_equal(by_classes.score_samples(tested), given.score_samples(tested))
    assert_array_equal(by_classes.training_scores_, given.training_scores_)
    one = clone(detector).fit(found, domains=[0] * 90)
    assert auc_score(y, by_classes.anomaly_score(tested)) == 1
    assert auc_score(y, one.anomaly_score(tested)) < 0.8


@pytest.mark.parametrize(("n_clips", "n_mixtures"), [(16, 3), (15, 1)])
def test_a_mixture_is_of_eight_clips_for_each_gaussian(n_clips, n_mixtures):
    rows = np.concatenate([np.arange(n_clips) + start for start in (0, 30, 60)])
    X, units = make_clips()[rows], UNITS[rows]
    found = SharedSubspace().fit(X, labels=units).transform(X)
    assert len(GMMDetector(random_state=0).fit(found).mixtures_) == n_mixtures


def test_a_detector_of_one_unit_has_one_domain():
    X = make_clips()
    subspace = SharedSubspace().fit(X, labels=UNITS)
    found = subspace.transform(np.vstack([X[:30], X[30:31]]))  # and one clip of another
    detector = MahalanobisDetector().fit(found)
    one = MahalanobisDetector().fit(found, domains=[0] * 31)
    assert_array_equal(detector.location_, one.location_)
    assert_array_equal(detector.training_scores_, one.training_scores_)


@pytest.mark.parametrize(("n_classes", "n_domains"), [(256, 256), (257, 1)])
def test_too_many_classes_are_one_domain(n_classes, n_domains):
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(n_classes), 3)
    X = 1e5 * rng.normal(size=(n_classes, 4))[labels] + rng.normal(size=(len(labels), 4))
    embeddings = SharedSubspace().fit(X, labels=labels).transform(X)
    assert len(MahalanobisDetector().fit(embeddings).location_) == n_domains


def test_nothing_is_known_of_classes_of_one_clip():
    with pytest.warns(UserWarning, match="6 clips apart"):
        subspace = SharedSubspace().fit(make_clips()[:6], labels=range(6))
    assert subspace.optimism_ == 0


@pytest.mark.parametrize(
    "detector", [MahalanobisDetector(), KNNDetector(), GMMDetector(random_state=0)], ids=repr
)
def test_thresholds_are_placed_for_new_clips(detector):
    """The clips that a subspace was fitted on leave less than new ones do."""
    rates, rates_of_seen = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(20, 120)) / np.arange(1, 21)[:, np.newaxis]
        clips = rng.normal(size=(600, 20)) @ directions + 0.1 * rng.normal(size=(600, 120))
        subspace = SharedSubspace().fit(clips[:200])
        seen, new = subspace.transform(clips[:200]), subspace.transform(clips[200:])
        rates.append(np.mean(detector.fit(seen).predict(new) == -1))
        rates_of_seen.append(np.mean(detector.fit(np.asarray(seen)).predict(new) == -1))
    assert 0.01 < np.mean(rates) < 0.2
    assert np.mean(rates_of_seen) > 2.5 * np.mean(rates)


def test_units_of_few_clips_show_each_other_how_they_vary():
    """Ten clips a unit do not tell the three directions well; sixty of six units do."""
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(6), 10)
    directions, means = rng.normal(size=(3, 40)), rng.normal(size=(6, 40))

    def record(units, noise):
        along = rng.normal(size=(len(units), 3)) @ directions
        return means[units] + along + noise * rng.normal(size=(len(units), 40))

    X, tested = record(units, 0.1), np.repeat(np.arange(6), 40)
    y = np.tile([1, -1], 120)
    new = np.where((y == 1)[:, None], record(tested, 0.1), record(tested, 0.15))
    subspace = SharedSubspace().fit(X, labels=units)

    def auc(X, new):
        aucs = []
        for unit in range(6):
            detector = MahalanobisDetector().fit(X[units == unit])
            rows = tested == unit
            aucs.append(auc_score(y[rows], detector.anomaly_score(new[rows])))
        return np.mean(aucs)

    assert auc(X, new) < 0.85
    assert auc(subspace.transform(X), subspace.transform(new)) > 0.9


@pytest.mark.parametrize(
    ("n_clips", "n_features", "n_components"), [(90, 20, 7), (9, 20, 4), (3, 20, 1), (90, 5, 4)]
)
def test_components_are_at_most_half_of_the_clips(n_clips, n_features, n_components):
    X = np.random.default_rng(0).normal(size=(n_clips, n_features))
    subspace = SharedSubspace(n_components=7).fit(X)
    assert subspace.components_.shape == (n_components, n_features)
    assert subspace.transform(X).shape == (n_clips, n_components + 1)
    assert len(subspace.get_feature_names_out()) == n_components + 1


def test_a_class_takes_a_clip_from_the_components():
    X = np.random.default_rng(0).normal(size=(8, 20))
    assert len(SharedSubspace().fit(X, labels=[0, 1, 2, 3, 4, 4, 5, 5]).components_) == 2
    with pytest.warns(UserWarning, match="8 clips apart into 8 classes"):
        found = SharedSubspace().fit(X, labels=range(8)).transform(X)
    assert found.shape == (8, 2)
    assert np.isfinite(found).all()


def test_a_clip_with_nan_is_left_out():
    X = make_clips()
    with_nan = np.insert(X, 40, np.nan, axis=0)
    with_nan[40, 3] = 1.0
    labels = np.insert(UNITS, 40, "broken")
    subspace = SharedSubspace().fit(with_nan, labels=labels)
    expected = SharedSubspace().fit(X, labels=UNITS)
    found = subspace.transform(with_nan)
    assert np.isnan(found[40]).all()
    assert_array_equal(np.delete(found, 40, axis=0), expected.transform(X))


def test_features_that_never_vary_do_not_count():
    X = np.insert(make_clips(), 7, 0.1, axis=1)  # 0.1 has a mean that is not quite 0.1
    found = SharedSubspace(n_components=3).fit(X, labels=UNITS).transform(X)
    expected = SharedSubspace(n_components=3).fit(make_clips(), labels=UNITS)
    assert_allclose(np.abs(found[:, :-1]), np.abs(expected.transform(make_clips()))[:, :-1])
    assert np.isfinite(SharedSubspace().fit_transform(np.full((5, 3), 0.1))).all()


def test_wrong_labels_are_named():
    X = make_clips()
    with pytest.raises(ValueError, match=r"one entry a clip. Got 2 labels for 90 clips"):
        SharedSubspace().fit(X, labels=["a", "b"])
    with pytest.raises(ValueError, match=r"must not be NaN. Got nan for clip 0"):
        SharedSubspace().fit(X, labels=np.full(90, np.nan))
    with pytest.raises(ValueError, match="Every clip has NaN"):
        SharedSubspace().fit(np.full((4, 2), np.nan))
