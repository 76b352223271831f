"""The detectors against oracles, and what they say to input that is not right."""

import pickle
import re

import joblib
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn import config_context
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch.detectors import (
    GMMDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    PatchKNNDetector,
    SubbandKNNDetector,
)
from skanopatch.feature_notes import FeatureNotes, with_notes

DETECTORS = [
    KNNDetector(),
    KNNDetector(2, metric="euclidean", normalization="local_density"),
    KNNDetector(2, normalization="variance_min"),
    GMMDetector(random_state=0),
    GMMDetector(covariance_type="full", random_state=0),
    MahalanobisDetector(),
    GroupedDetector(KNNDetector()),
]
every_detector = pytest.mark.parametrize("detector", DETECTORS, ids=repr)
DISTANCES = {"cosine": cosine_distances, "euclidean": euclidean_distances}


def clips(n, n_features=6, seed=0, shift=2.0):
    return np.random.default_rng(seed).normal(size=(n, n_features)) + shift


class Change:
    """What new clips have more of in each feature: the more, the later the feature."""

    def __init__(self, change):
        self.change = change

    def as_new(self, X):
        return X + self.change * np.arange(X.shape[1])

    def nearest_classes(self, X, n_least):
        return None


def with_change(X, change):
    return with_notes(X, FeatureNotes((X.shape[1],), Change(change)))


# --- the contract of every detector --------------------------------------------------------------


@every_detector
def test_training_rows_get_their_leave_one_out_score(detector):
    X = clips(60)
    detector = clone(detector).fit(X)
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_array_equal(
        detector.score_samples(X[order]), detector.training_scores_[order]
    )


@every_detector
def test_decision_prediction_and_anomaly_score_follow_from_the_score(detector):
    detector = clone(detector).fit(clips(60))
    X = clips(40, seed=1)
    scores = detector.score_samples(X)
    np.testing.assert_array_equal(detector.decision_function(X), scores - detector.offset_)
    np.testing.assert_array_equal(detector.predict(X), np.where(scores >= detector.offset_, 1, -1))
    np.testing.assert_array_equal(detector.anomaly_score(X), -scores)


@every_detector
def test_unreadable_clip_scores_nan_and_is_predicted_anomalous(detector):
    detector = clone(detector).fit(clips(60))
    X = clips(5, seed=1)
    whole = detector.score_samples(X)
    X[2] = np.nan
    np.testing.assert_allclose(detector.score_samples(X)[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])
    assert np.isnan(detector.score_samples(X)).tolist() == [False, False, True, False, False]
    assert detector.predict(X)[2] == -1
    assert np.isnan(detector.score_samples(np.full((2, 6), np.nan))).all()


@every_detector
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "Input X contains NaN."), (np.inf, "Input X contains infinity")]
)
def test_half_a_row_of_nan_or_an_infinity_is_refused(detector, value, message):
    detector = clone(detector).fit(clips(60))
    X = clips(5, seed=1)
    X[2, 3] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        detector.score_samples(X)
    with pytest.raises(ValueError, match=re.escape(message)):
        detector.fit(X)


@every_detector
@pytest.mark.parametrize("copy", ["pickle", "joblib"])
def test_saved_detector_scores_to_the_bit(detector, copy, tmp_path):
    detector = clone(detector).fit(clips(60))
    if copy == "pickle":
        loaded = pickle.loads(pickle.dumps(detector))
    else:
        joblib.dump(detector, tmp_path / "detector.joblib")
        loaded = joblib.load(tmp_path / "detector.joblib")
    X = clips(20, seed=1)
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    assert loaded.offset_ == detector.offset_


@every_detector
def test_float32_scores_as_float64_does(detector):
    X, new = clips(60).astype(np.float32), clips(20, seed=1).astype(np.float32)
    single = clone(detector).fit(X)
    double = clone(detector).fit(X.astype(np.float64))
    np.testing.assert_allclose(single.score_samples(new), double.score_samples(new), rtol=1e-4)
    assert single.score_samples(new).dtype == np.float64
    # A training row is recognised in either precision.
    np.testing.assert_array_equal(
        single.score_samples(X.astype(np.float64)), single.training_scores_
    )


@every_detector
def test_twins_see_each_other(detector):
    X = clips(40)
    detector = clone(detector).fit(np.vstack([X, X[:1]]))
    assert detector.training_scores_[0] == detector.training_scores_[-1]
    assert detector.score_samples(X[:1])[0] == detector.training_scores_[0]


def test_a_clip_with_a_twin_is_at_distance_zero():
    X = clips(40)
    assert KNNDetector().fit(np.vstack([X, X[:1]])).training_scores_[0] == 0


def test_negative_zero_is_the_training_row_with_zero():
    X = clips(40)
    X[0, 0] = 0.0
    detector = KNNDetector().fit(X)
    X[0, 0] = -0.0
    assert detector.score_samples(X)[0] == detector.training_scores_[0]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # there is one, as asked
@every_detector
def test_identical_clips_are_all_normal(detector):
    X = np.ones((30, 6))
    prefix = "detector__" if isinstance(detector, GroupedDetector) else ""
    for threshold in ("quantile", "gamma"):
        detector = clone(detector).set_params(**{f"{prefix}threshold": threshold})
        assert (detector.fit_predict(X) == 1).all()


@every_detector
def test_domain_labels_have_one_entry_per_clip(detector):
    with pytest.raises(
        ValueError, match=re.escape("domains must have one entry per clip. Got 3 for 60.")
    ):
        clone(detector).fit(clips(60), domains=["source"] * 3)


@every_detector
def test_one_domain_is_no_domain(detector):
    X, new = clips(60), clips(20, seed=1)
    plain, one = clone(detector).fit(X), clone(detector).fit(X, domains=["source"] * 60)
    np.testing.assert_array_equal(one.score_samples(new), plain.score_samples(new))


@every_detector
def test_domains_of_any_hashable_need_not_be_in_order(detector):
    X, new = clips(60), clips(20, seed=1)
    X[::2] += 5
    labels = [("mic", 1) if row % 2 else None for row in range(60)]
    mixed = clone(detector).fit(X, domains=labels)
    order = np.r_[0:60:2, 1:60:2]
    sorted_ = clone(detector).fit(X[order], domains=[labels[row] for row in order])
    np.testing.assert_allclose(mixed.score_samples(new), sorted_.score_samples(new), rtol=1e-8)
    np.testing.assert_allclose(mixed.training_scores_[order], sorted_.training_scores_, rtol=1e-8)


@pytest.mark.parametrize(
    ("detector", "n_target", "message"),
    [
        (
            KNNDetector(3),
            3,
            "KNNDetector with n_neighbors=3 needs at least 4 clips in each domain, since each is "
            "left out once to set the threshold. Domain 'target' has 3.",
        ),
        (
            MahalanobisDetector(),
            1,
            "MahalanobisDetector needs at least 2 clips in each domain, since each is left out "
            "once to set the threshold. Domain 'target' has 1.",
        ),
        (
            GMMDetector(8),
            15,
            "GMMDetector with n_components=8 needs at least 16 clips in each domain, since each "
            "is left out once to set the threshold. Domain 'target' has 15.",
        ),
        (
            GroupedDetector(KNNDetector(normalization="local_density")),
            2,
            "KNNDetector with n_neighbors=1 needs at least 3 clips in each domain, since each is "
            "left out once to set the threshold. Domain 'target' has 2.",
        ),
    ],
)
def test_a_domain_with_too_few_clips_is_named(detector, n_target, message):
    domains = np.array(["source"] * 40 + ["target"] * n_target)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detector.fit(clips(40 + n_target), domains=domains)


def test_more_neighbours_than_clips_is_refused():
    message = (
        "KNNDetector with n_neighbors=5 needs at least 6 clips, since each is left out once to "
        "set the threshold. X has 5."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        KNNDetector(5).fit(clips(5))


def test_too_few_clips_for_the_quantile_are_said_so():
    message = (
        "40 clips cannot place a quantile at contamination=0.01: the false-alarm rate will be "
        "about 0.024. Give 99 clips or more, or threshold='gamma', which extrapolates."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        KNNDetector(contamination=0.01).fit(clips(40))


def test_quantile_offset_is_weibulls():
    detector = KNNDetector(contamination=0.1).fit(clips(99))
    # The 10th smallest of 99 scores has 10 of the 100 gaps between them below it.
    assert detector.offset_ == pytest.approx(np.sort(detector.training_scores_)[9], abs=1e-15)


def test_gamma_offset_recovers_a_gamma_quantile_at_any_location():
    truth = stats.gamma(3, loc=-50, scale=2)
    detector = KNNDetector(contamination=0.05, threshold="gamma").fit(clips(10))
    detector.training_scores_ = -truth.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert -detector._place_offset() == pytest.approx(truth.ppf(0.95), rel=1e-3)


def test_parameters_set_after_construction_count():
    X = clips(60)
    detector = KNNDetector().set_params(n_neighbors=4, metric="euclidean", contamination=0.3)
    np.testing.assert_array_equal(
        detector.fit(X).training_scores_,
        KNNDetector(4, metric="euclidean").fit(X).training_scores_,
    )
    assert (detector.predict(X) == -1).sum() == 18


# --- KNNDetector ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("working_memory", [1024, 0.05])
def test_scores_are_those_of_brute_force(metric, working_memory):
    X, new = clips(3000, 16), clips(200, 16, seed=1)
    with config_context(working_memory=working_memory):
        detector = KNNDetector(3, metric=metric).fit(X)
        scores = detector.score_samples(new)
    oracle = NearestNeighbors(n_neighbors=3, algorithm="brute", metric=metric).fit(X)
    np.testing.assert_allclose(scores, -oracle.kneighbors(new)[0].mean(axis=1), rtol=1e-6)
    # Without arguments, kneighbors leaves each row out of its own search.
    np.testing.assert_allclose(
        detector.training_scores_, -oracle.kneighbors()[0].mean(axis=1), rtol=1e-6
    )


def test_near_points_far_from_the_origin_keep_their_distances():
    # Squared norms of 1e10 leave float32 products no digit of a squared distance of 1e-4.
    X = 1e-2 * clips(500, 8, shift=0) + 1e5
    new = 1e-2 * clips(50, 8, seed=1, shift=0) + 1e5
    scores = KNNDetector(metric="euclidean").fit(X).score_samples(new)
    oracle = np.linalg.norm(new[:, np.newaxis] - X, axis=2).min(axis=1)
    np.testing.assert_allclose(scores, -oracle, rtol=1e-9)


def test_vector_of_zeros_is_at_cosine_distance_one_from_all_but_its_like():
    X = clips(30)
    zero = np.zeros((1, 6))
    assert KNNDetector().fit(X).score_samples(zero)[0] == pytest.approx(-1)
    detector = KNNDetector().fit(np.vstack([X, zero]))
    assert detector.training_scores_[-1] == pytest.approx(-1)
    assert detector.score_samples(-X).min() == pytest.approx(-1)
    assert KNNDetector().fit(np.vstack([X, zero, zero])).training_scores_[-1] == 0


def test_the_nearest_bank_counts():
    X, new = clips(60), clips(20, seed=1)
    X[50:] += 5
    domains = ["source"] * 50 + ["target"] * 10
    detector = KNNDetector(2, metric="euclidean").fit(X, domains=domains)
    alone = [KNNDetector(2, metric="euclidean").fit(X[s]) for s in (slice(50), slice(50, None))]
    for shift in (0, 5):
        expected = np.maximum(*(a.score_samples(new + shift) for a in alone))
        np.testing.assert_allclose(detector.score_samples(new + shift), expected)


def density(D, row, n_others, without=()):
    """The written-out definition: mean distance to the nearest others."""
    others = [D[row, j] for j in range(len(D)) if j != row and j not in without]
    return np.mean(sorted(others)[:n_others])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_local_density_is_its_written_out_loop(metric, n_neighbors):
    X, new = clips(25), clips(10, seed=1)
    detector = KNNDetector(
        n_neighbors, metric=metric, normalization="local_density", n_density_neighbors=4
    ).fit(X)
    D, Q = DISTANCES[metric](X), DISTANCES[metric](new, X)

    scores = [
        -np.mean(sorted(Q[i, j] / density(D, j, 4) for j in range(25))[:n_neighbors])
        for i in range(10)
    ]
    np.testing.assert_allclose(detector.score_samples(new), scores, rtol=1e-10)
    left_out = [
        -np.mean(sorted(D[i, j] / density(D, j, 4, {i}) for j in range(25) if j != i)[:n_neighbors])
        for i in range(25)
    ]
    np.testing.assert_allclose(detector.training_scores_, left_out, rtol=1e-10)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_variance_min_is_its_written_out_loop(metric, n_neighbors):
    X, new = clips(25), clips(10, seed=1)
    detector = KNNDetector(n_neighbors, metric=metric, normalization="variance_min").fit(X)
    D, Q = DISTANCES[metric](X), DISTANCES[metric](new, X)
    b = [density(D, j, n_neighbors) for j in range(25)]
    seen = []
    for i in range(25):
        nearest = sorted((j for j in range(25) if j != i), key=lambda j: D[i, j])[:n_neighbors]
        seen.append(np.mean([density(D, j, n_neighbors, {i}) for j in nearest]))
    alpha = np.cov(b, seen)[0, 1] / np.var(seen, ddof=1)
    assert detector.alpha_ == pytest.approx(alpha)

    scores = [
        -np.mean(sorted(Q[i, j] - alpha * b[j] for j in range(25))[:n_neighbors]) for i in range(10)
    ]
    np.testing.assert_allclose(detector.score_samples(new), scores, rtol=1e-10)
    left_out = []
    for i in range(25):
        others = [j for j in range(25) if j != i]
        values = [D[i, j] - alpha * density(D, j, n_neighbors, {i}) for j in others]
        left_out.append(-np.mean(sorted(values)[:n_neighbors]))
    np.testing.assert_allclose(detector.training_scores_, left_out, rtol=1e-10)


def test_alpha_minimizes_the_variance_of_the_normalized_scores():
    X = clips(300) * np.random.default_rng(2).lognormal(size=(300, 1))
    detector = KNNDetector(metric="euclidean", normalization="variance_min").fit(X)
    plain = KNNDetector(metric="euclidean").fit(X)
    assert detector.training_scores_.var() < 0.5 * plain.training_scores_.var()


# --- MahalanobisDetector -------------------------------------------------------------------------


def test_covariance_is_ledoit_and_wolfs():
    X = clips(50, 80) * np.linspace(1, 3, 80)
    detector = MahalanobisDetector("ledoit-wolf", standardize=False).fit(X)
    oracle = LedoitWolf().fit(X)
    np.testing.assert_allclose(detector.covariance_[0], oracle.covariance_, rtol=1e-10)
    assert detector.shrinkage_ == pytest.approx((oracle.shrinkage_,))
    new = clips(20, 80, seed=1)
    np.testing.assert_allclose(detector.score_samples(new) ** 2, oracle.mahalanobis(new))


def test_standardized_covariance_is_ledoit_and_wolfs_of_standardized_features():
    X, new = clips(50, 80) * np.logspace(-6, 6, 80), clips(20, 80, seed=1) * np.logspace(-6, 6, 80)
    detector = MahalanobisDetector("ledoit-wolf").fit(X)
    scaler = StandardScaler().fit(X)
    oracle = LedoitWolf().fit(scaler.transform(X))
    np.testing.assert_allclose(
        detector.score_samples(new) ** 2, oracle.mahalanobis(scaler.transform(new)), rtol=1e-8
    )


@pytest.mark.parametrize(("n_clips", "n_features"), [(60, 12), (12, 30)])
def test_left_out_clips_are_likeliest_at_the_shrinkage(n_clips, n_features):
    """By refits without each clip in turn, at shrinkages around the one that was found."""
    X = clips(n_clips, n_features)
    detector = MahalanobisDetector(standardize=False).fit(np.hstack([X, np.ones((n_clips, 1))]))
    target = X.var(axis=0).mean() * np.eye(n_features)

    def log_likelihood(shrinkage):
        found = 0.0
        for i in range(n_clips):
            others = np.delete(X, i, axis=0)
            covariance = np.cov(others.T, bias=True)
            covariance = (1 - shrinkage) * covariance + shrinkage * target
            found += stats.multivariate_normal(others.mean(axis=0), covariance).logpdf(X[i])
        return found

    (found,) = detector.shrinkage_
    best = log_likelihood(found)
    assert 0.01 < found < 0.99
    assert best > log_likelihood(found * 0.95)
    assert best > log_likelihood(min(1, found * 1.05))


def test_likeliest_shrinkage_of_clips_that_do_not_vary():
    detector = MahalanobisDetector().fit(np.ones((10, 3)))
    assert detector.shrinkage_ == (1,)
    assert (detector.score_samples(np.ones((2, 3))) == 0).all()


@pytest.mark.parametrize("domains", [None, ["a", "b", "b"] * 20])
def test_blocks_are_uncorrelated(domains):
    """A score is that of detectors on each block, where a single domain is nearest in all.

    Their squared distances are divided by the fourth roots of their sizes.
    """
    X, new = clips(60, 9), clips(20, 9, seed=1)
    X[:, 5] += X[:, 1]
    if domains is not None:
        for Y in (X, new):
            Y[1::3] += 100
            Y[2::3] += 100
    detector = MahalanobisDetector(blocks=(4, 5)).fit(X, domains=domains)
    first = MahalanobisDetector().fit(X[:, :4], domains=domains)
    second = MahalanobisDetector().fit(X[:, 4:], domains=domains)
    assert detector.shrinkage_ == (*first.shrinkage_, *second.shrinkage_)
    assert (detector.covariance_[:, :4, 4:] == 0).all()
    for rows in (X, new):
        squared = first.score_samples(rows[:, :4]) ** 2 * (4.5 / 4) ** 0.25
        squared += second.score_samples(rows[:, 4:]) ** 2 * (4.5 / 5) ** 0.25
        np.testing.assert_allclose(detector.score_samples(rows) ** 2, squared, rtol=1e-6)
    assert (MahalanobisDetector().fit(X).score_samples(new) != detector.score_samples(new)).all()


def test_blocks_come_with_the_embeddings():
    X, new = clips(60, 9), clips(20, 9, seed=1)
    known = with_notes(X, FeatureNotes((4, 5)))
    expected = MahalanobisDetector(blocks=[4, 5]).fit(X).score_samples(new)
    np.testing.assert_array_equal(MahalanobisDetector().fit(known).score_samples(new), expected)
    again = pickle.loads(pickle.dumps(known))[10:40]
    assert MahalanobisDetector().fit(again).block_sizes_ == (4, 5)
    grouped = GroupedDetector(MahalanobisDetector()).fit(known, groups=[0, 1] * 30)
    assert grouped.detectors_[1].block_sizes_ == (4, 5)
    # Rows that were embedded in batches are joined as they would be without blocks.
    first, last = known[:20], known[20:]
    for joined in (
        np.concatenate([first, last]),
        np.vstack((first, last)),
        np.append(first, last, 0),
    ):
        np.testing.assert_array_equal(joined, X)
        assert MahalanobisDetector().fit(joined).block_sizes_ == (4, 5)
    other = with_notes(X, FeatureNotes((5, 4)))
    for parts, axis in (([known, other], 0), ([known, X], 0), ([X, known], 0), ([known, known], 1)):
        assert type(np.concatenate(parts, axis)) is np.ndarray
    out = np.empty((120, 9))
    assert np.concatenate([known, known], out=out) is out
    for rows in (known[:, :], known[...], known[np.arange(60) > 5, ...], known.astype("float32")):
        assert MahalanobisDetector().fit(rows).block_sizes_ == (4, 5)


def test_other_numbers_and_columns_are_features_like_any_others():
    known = with_notes(clips(60, 9), FeatureNotes((4, 5)))
    in_place = known.copy()
    in_place *= 10
    for other in (
        np.asarray(known),
        known[:, :6],
        known[:, ::-1],
        known[..., np.arange(9)[::-1]],
        -known,
        known * 10,
        known / np.linalg.norm(known, axis=1, keepdims=True),
        in_place,
    ):
        assert type(other) is np.ndarray
        assert MahalanobisDetector().fit(other).block_sizes_ == (other.shape[1],)
    assert known.sum() == pytest.approx(np.asarray(known).sum())
    assert [type(number) for number in (known.max(), known[0, 0])] == [np.float64] * 2


@pytest.mark.parametrize("blocks", [(4, 4), (9, 0), (4.5, 4.5), ()])
def test_blocks_that_are_not_those_of_the_features_are_refused(blocks):
    with pytest.raises(ValueError, match=re.escape("sum up to the number of features, 9. Got")):
        MahalanobisDetector(blocks=blocks).fit(clips(60, 9))


@pytest.mark.parametrize("change", [0.0, 0.1])
@pytest.mark.parametrize("n_target", [0, 5, 30])
def test_leave_one_out_distances_are_those_of_refits(n_target, change):
    """Shrinkage target and weights of the domains are held fixed, all else is computed anew."""
    n, n_features, shrinkage = 60, 20, 0.2
    X = clips(n, n_features)
    X[:n_target] = 1.5 * X[:n_target] + 1
    domains = np.arange(n) < n_target
    detector = MahalanobisDetector(shrinkage, standardize=False)
    detector.fit(with_change(X, change), domains=domains)
    as_new = X + change * np.arange(20)

    def scatter(rows):
        centred = X[rows] - X[rows].mean(axis=0)
        return centred.T @ centred

    members = [np.flatnonzero(domains == label) for label in dict.fromkeys(domains.tolist())]
    target = shrinkage * sum(map(scatter, members)).trace() / n / n_features * np.eye(n_features)
    expected = []
    for i in range(n):
        kept = [rows[rows != i] for rows in members]
        pooled = sum(map(scatter, kept)) / (n - 1)
        squared = []
        for rows, all_rows in zip(kept, members, strict=True):
            own = len(all_rows) / (len(all_rows) + n_features)
            covariance = (1 - shrinkage) * (
                own * scatter(rows) / len(rows) + (1 - own) * pooled
            ) + target
            y = as_new[i] - X[rows].mean(axis=0)
            squared.append(y @ np.linalg.solve(covariance, y))
        expected.append(-np.sqrt(min(squared)))
    np.testing.assert_allclose(detector.training_scores_, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "detector",
    [
        KNNDetector(metric="euclidean"),
        KNNDetector(2, normalization="local_density"),
        MahalanobisDetector(0.2, blocks=(2, 4), standardize=False),
        GroupedDetector(KNNDetector(metric="euclidean")),
    ],
    ids=repr,
)
def test_a_clip_is_left_out_as_it_was_seen_and_scored_as_if_it_were_new(detector):
    X, change = clips(30), np.arange(6) / 4
    found = clone(detector).fit(with_change(X, 0.25))
    if isinstance(detector, GroupedDetector):
        found, detector = found.detectors_[None], detector.detector
    for i in range(30):
        refit = clone(detector).fit(np.delete(X, i, axis=0))
        expected = refit.score_samples(X[i : i + 1] + change)[0]
        rel = 1e-2 if isinstance(detector, MahalanobisDetector) else 1e-6
        assert found.training_scores_[i] == pytest.approx(expected, rel=rel)
    # New clips are as they are.
    new = clips(5, seed=1)
    expected = clone(detector).fit(X).score_samples(new)
    np.testing.assert_array_equal(found.score_samples(with_change(new, 0.25)), expected)


@pytest.mark.parametrize(
    "detector", [KNNDetector(metric="euclidean"), MahalanobisDetector(), GMMDetector(1)], ids=repr
)
def test_a_clip_is_scored_as_if_it_were_new_in_other_domains_too(detector):
    """When new, the first half would lie where the second does, and that half far away."""
    X = np.vstack([clips(40), clips(40, seed=1) + 20 * np.arange(6)])
    detector.fit(with_change(X, 20), domains=["a"] * 40 + ["b"] * 40)
    moved = detector.score_samples(X[:40] + 20 * np.arange(6))
    np.testing.assert_allclose(detector.training_scores_[:40], moved, rtol=0.1)
    assert detector.training_scores_[40:].max() < moved.min() - 2 * np.ptp(moved)


@pytest.mark.parametrize("n_features", [20, 100])
def test_leave_one_out_distances_follow_the_standardization_to_first_order(n_features):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, n_features)) @ rng.normal(size=(n_features, n_features))
    detector = MahalanobisDetector(0.2).fit(X)
    refits = [MahalanobisDetector(0.2).fit(np.delete(X, i, axis=0)) for i in range(60)]
    expected = [refit.score_samples(X[i : i + 1])[0] for i, refit in enumerate(refits)]
    np.testing.assert_allclose(detector.training_scores_, expected, rtol=2e-3)


def test_few_target_clips_borrow_the_covariance_of_the_source():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(64, 64)) / 8
    X = rng.normal(size=(500, 64)) @ mixing
    target = rng.normal(size=(10, 64)) @ mixing + 3
    detector = MahalanobisDetector().fit(
        np.vstack([X, target]), domains=["source"] * 500 + ["target"] * 10
    )
    fresh = rng.normal(size=(500, 64)) @ mixing
    source, moved = detector.score_samples(fresh), detector.score_samples(fresh + 3)
    # A mean of 10 clips is off by a tenth of the variance, so that distances grow by 5 %.
    assert np.median(moved) / np.median(source) == pytest.approx(np.sqrt(1.1), rel=0.05)


# --- GMMDetector ---------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_score_is_the_log_density_of_standardized_features(covariance_type):
    X, new = np.vstack([clips(100), clips(50, seed=2) + 8]), clips(20, seed=1)
    detector = GMMDetector(covariance_type=covariance_type, random_state=0).fit(X)
    Z = StandardScaler().fit(X).transform(new)
    halves = []
    for part, weight in ((X[:100], 2 / 3), (X[100:], 1 / 3)):
        part = (part - X.mean(axis=0)) / X.std(axis=0)
        covariance = np.cov(part.T, bias=True)
        if covariance_type == "diag":
            covariance = np.diag(np.diag(covariance))
        gaussian = stats.multivariate_normal(part.mean(axis=0), covariance + 0.01 * np.eye(6))
        halves.append(np.log(weight) + gaussian.logpdf(Z))
    np.testing.assert_allclose(detector.score_samples(new), np.logaddexp(*halves), rtol=1e-6)


@pytest.mark.parametrize("change", [0.0, 0.1])
@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_leave_one_out_likelihood_of_one_gaussian_is_that_of_refits(covariance_type, change):
    X = clips(40)
    detector = GMMDetector(1, covariance_type=covariance_type, reg_covar=0.05)
    detector.fit(with_change(X, change))
    scaler = StandardScaler().fit(X)
    Z, as_new = scaler.transform(X), scaler.transform(X + change * np.arange(6))
    expected = []
    for i in range(40):
        rest = np.delete(Z, i, axis=0)
        covariance = np.cov(rest.T, bias=True)
        if covariance_type == "diag":
            covariance = np.diag(np.diag(covariance))
        gaussian = stats.multivariate_normal(rest.mean(axis=0), covariance + 0.05 * np.eye(6))
        expected.append(gaussian.logpdf(as_new[i]))
    np.testing.assert_allclose(detector.training_scores_, expected, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_leave_one_out_likelihood_of_clusters_is_that_of_refits(covariance_type):
    # Far apart, responsibilities are 0 or 1 whether a clip is left out or not.
    X = np.vstack([clips(40), clips(30, seed=1) + 20])
    detector = GMMDetector(covariance_type=covariance_type, random_state=0).fit(X)
    Z, mixture = StandardScaler().fit_transform(X), detector.mixtures_[0]
    for i in (0, 20, 45, 69):
        refit = GaussianMixture(
            2, covariance_type=covariance_type, reg_covar=0.01, means_init=mixture.means_
        ).fit(np.delete(Z, i, axis=0))
        expected = refit.score_samples(Z[i : i + 1])[0]
        assert detector.training_scores_[i] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_fewer_clips_than_features_leave_the_mixture_finite(covariance_type):
    X = clips(175, 256) * np.logspace(-3, 3, 256)
    detector = GMMDetector(covariance_type=covariance_type, random_state=0).fit(X)
    assert np.isfinite(detector.training_scores_).all()
    broken = clips(50, 256, seed=1) * np.logspace(-3, 3, 256)
    broken[:, :40] += 3 * np.logspace(-3, 3, 256)[:40]
    assert (detector.predict(broken) == -1).all()


# --- GroupedDetector -----------------------------------------------------------------------------


def machines():
    """Three machines whose embeddings differ in place and in spread."""
    X = np.vstack([clips(50), 3 * clips(40, seed=1) + 20, 0.5 * clips(30, seed=2) - 20])
    return X, np.array(["fan"] * 50 + ["pump"] * 40 + ["valve"] * 30)


def euclidean_by_group(**parameters):
    return GroupedDetector(KNNDetector(metric="euclidean", **parameters))


def test_each_group_has_a_detector_of_its_own():
    X, groups = machines()
    order = np.random.default_rng(0).permutation(120)
    detector = euclidean_by_group().fit(X[order], groups=groups[order])
    new = clips(20, seed=3)
    for group in ("fan", "pump", "valve"):
        alone = KNNDetector(metric="euclidean").fit(X[order][groups[order] == group])
        decision = alone.decision_function(new)
        spread = (alone.training_scores_ - alone.offset_).std()
        np.testing.assert_allclose(
            detector.score_samples(new, groups=[group] * 20), decision / spread
        )
        assert detector.training_scores_[groups[order] == group].std() == pytest.approx(1)
    assert list(detector.detectors_) == list(dict.fromkeys(groups[order].tolist()))
    np.testing.assert_array_equal(
        detector.score_samples(X, groups=groups), detector.training_scores_[np.argsort(order)]
    )


def test_without_groups_a_clip_is_as_normal_as_its_best_group_finds_it():
    X, groups = machines()
    detector = euclidean_by_group().fit(X, groups=groups)
    new = clips(20, seed=3)
    by_group = [detector.score_samples(new, groups=[g] * 20) for g in ("fan", "pump", "valve")]
    np.testing.assert_array_equal(detector.score_samples(new), np.max(by_group, axis=0))
    np.testing.assert_array_equal(detector.score_samples(new), by_group[0])


def test_a_clip_of_another_machine_is_an_anomaly():
    X, groups = machines()
    detector = euclidean_by_group().fit(X, groups=groups)
    assert (detector.predict(X[:50], groups=["valve"] * 50) == -1).all()
    assert (detector.predict(X, groups=groups) == -1).sum() == 12  # a tenth of each


def test_fit_predict_knows_the_groups():
    X, groups = machines()
    labels = euclidean_by_group().fit_predict(X, groups=groups)
    expected = euclidean_by_group().fit(X, groups=groups).predict(X, groups=groups)
    np.testing.assert_array_equal(labels, expected)


def test_unknown_group_is_named():
    X, groups = machines()
    detector = GroupedDetector().fit(X, groups=groups)
    message = "Group 'gearbox' was not seen in fit. The groups are: 'fan', 'pump', 'valve'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detector.predict(X[:2], groups=["fan", "gearbox"])


def test_group_with_too_few_clips_is_named():
    X, groups = machines()
    groups[0] = "belt"
    message = (
        "The detector of group 'belt' has no fit: Found array with 1 sample(s) (shape=(1, 6)) "
        "while a minimum of 2 is required by MahalanobisDetector."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GroupedDetector().fit(X, groups=groups)


def test_group_labels_have_one_entry_per_clip():
    X, groups = machines()
    message = "groups must have one entry per clip. Got 119 for 120."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GroupedDetector().fit(X, groups=groups[1:])
    detector = GroupedDetector().fit(X, groups=groups)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detector.score_samples(X, groups=groups[1:])


def test_parameters_of_the_inner_detector_are_reached_by_name():
    detector = GroupedDetector(KNNDetector()).set_params(detector__n_neighbors=3)
    assert clone(detector).detector.n_neighbors == 3
    X, groups = machines()
    fitted = detector.fit(X, groups=groups)
    assert fitted.detectors_["fan"] is not detector.detector
    assert not hasattr(detector.detector, "offset_")


def test_a_pipeline_per_group_scores_as_its_detector_would():
    X, groups = machines()
    scaled = GroupedDetector(make_pipeline(StandardScaler(), KNNDetector())).fit(X, groups=groups)
    alone = make_pipeline(StandardScaler(), KNNDetector()).fit(X[:50])
    new = clips(10, seed=3)
    np.testing.assert_allclose(
        scaled.score_samples(new, groups=["fan"] * 10),
        alone.decision_function(new) / alone[-1].training_scores_.std(),
    )


# --- metadata in a pipeline ----------------------------------------------------------------------


def test_metadata_reaches_the_detectors_without_routing():
    X, groups = machines()
    domains = ["source", "target"] * 60
    pipe = make_pipeline(StandardScaler(), GroupedDetector())
    pipe.fit(X, groupeddetector__groups=groups, groupeddetector__domains=domains)
    assert list(pipe[-1].detectors_) == ["fan", "pump", "valve"]
    assert len(pipe[-1].detectors_["fan"].location_) == 2
    expected = pipe[-1].predict(pipe[0].transform(X), groups=groups)
    np.testing.assert_array_equal(pipe.predict(X, groups=groups), expected)

    pipe = make_pipeline(StandardScaler(), KNNDetector()).fit(X, knndetector__domains=domains)
    assert pipe[-1].bank_ends_.tolist() == [60, 120]


def test_metadata_reaches_the_detectors_with_routing():
    X, groups = machines()
    domains = ["source", "target"] * 60
    with config_context(enable_metadata_routing=True):
        knn = KNNDetector().set_fit_request(domains=True)
        pipe = make_pipeline(StandardScaler(), GroupedDetector(knn))
        pipe.fit(X, groups=groups, domains=domains)
        assert pipe[-1].detectors_["fan"].bank_ends_.tolist() == [25, 50]
        expected = pipe[-1].decision_function(pipe[0].transform(X), groups=groups)
        np.testing.assert_array_equal(pipe.decision_function(X, groups=groups), expected)
        np.testing.assert_array_equal(pipe.predict(X, groups=groups), np.where(expected < 0, -1, 1))
        np.testing.assert_array_equal(
            pipe.fit_predict(X, groups=groups, domains=domains), np.where(expected < 0, -1, 1)
        )

        renamed = GroupedDetector(KNNDetector().set_fit_request(domains="microphone"))
        make_pipeline(StandardScaler(), renamed).fit(X, groups=groups, microphone=domains)

        pipe = make_pipeline(StandardScaler(), knn).fit(X, domains=domains)
        assert pipe[-1].bank_ends_.tolist() == [60, 120]


@pytest.mark.parametrize(
    "detector",
    [KNNDetector(), GMMDetector(random_state=0), MahalanobisDetector(), GroupedDetector()],
    ids=lambda detector: type(detector).__name__,
)
def test_unreadable_training_clips_are_left_out(detector):
    rng = np.random.default_rng(0)
    X, fresh = rng.normal(size=(50, 4)), rng.normal(size=(20, 4))
    domains = ["source", "target"] * 25
    with_gaps = np.insert(X, [3, 30], np.nan, axis=0)
    domains_with_gaps = [*domains[:3], "target", *domains[3:30], "source", *domains[30:]]
    expected = clone(detector).fit(X, domains=domains)
    fitted = clone(detector).fit(with_gaps, domains=domains_with_gaps)
    np.testing.assert_array_equal(fitted.score_samples(fresh), expected.score_samples(fresh))
    assert np.flatnonzero(np.isnan(fitted.training_scores_)).tolist() == [3, 31]


def test_nothing_but_unreadable_training_clips():
    with pytest.raises(ValueError, match=r"^Found array with 0 sample\(s\) \(shape=\(0, 4\)\)"):
        KNNDetector().fit(np.full((5, 4), np.nan))


@pytest.mark.parametrize("constant", [0.1, 1 / 3, -1e6 / 7])
def test_a_constant_feature_is_not_scaled_by_rounding(constant):
    X, new = clips(60, 4), clips(100, 4, seed=1)
    X[:, 2] = new[:, 2] = constant
    detector = MahalanobisDetector().fit(X)
    assert detector.covariance_[0, 2, 2] > 0.01
    moved = new + np.array([0, 0, 1e-9, 0])
    np.testing.assert_allclose(detector.score_samples(moved), detector.score_samples(new))


@pytest.mark.filterwarnings("ignore:2 clips cannot place a quantile:UserWarning")
def test_a_group_whose_clips_score_the_same_has_the_spread_1():
    X = np.vstack([clips(42), clips(2, seed=1)])
    for seed in range(10):
        X[42:] = clips(2, seed=seed)
        detector = GroupedDetector().fit(X, groups=["fan"] * 42 + ["pump"] * 2)
        assert detector.spreads_["pump"] == 1
        assert 0.1 < detector.spreads_["fan"] < 10


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_clips_have_in_common_does_not_hide_their_neighbours(metric, dtype):
    X = (clips(400, 16) + 3000).astype(dtype)
    queries, bank = X[:100], X[100:]
    found = KNNDetector(1, metric=metric).fit(bank).anomaly_score(queries)
    if metric == "cosine":
        X = X / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    expected = cdist(X[:100].astype(np.float64), X[100:].astype(np.float64)).min(axis=1)
    if metric == "cosine":
        expected = expected**2 / 2
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype == np.float64 else 0.05)


@pytest.mark.parametrize(("n_clips", "n_features"), [(12, 100), (20, 60)])
def test_leaving_a_clip_out_changes_the_spreads_by_which_features_are_divided(n_clips, n_features):
    X = clips(n_clips, n_features)
    detector = MahalanobisDetector(0.5).fit(X)
    without = [
        MahalanobisDetector(0.5).fit(np.delete(X, i, axis=0)).score_samples(X[i : i + 1])[0]
        for i in range(n_clips)
    ]
    np.testing.assert_allclose(detector.training_scores_, without, rtol=0.01)


@pytest.mark.parametrize("detector", [PatchKNNDetector(n_freq=2), SubbandKNNDetector(n_freq=2)])
def test_detectors_of_maps_can_be_grouped(detector):
    tokens = np.random.default_rng(0).normal(size=(24, 6, 5))
    groups = ["fan", "pump"] * 12
    grouped = GroupedDetector(detector).fit(tokens, groups=groups)
    assert grouped.n_features_in_ == 5
    own = clone(detector).fit(tokens[::2])
    scores = grouped.score_samples(tokens[::2], groups=groups[::2])
    np.testing.assert_allclose(scores, own.decision_function(tokens[::2]) / grouped.spreads_["fan"])
    shorter = grouped.score_samples(tokens[:, :4], groups=groups)
    assert np.isfinite(shorter).all()
