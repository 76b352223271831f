"""The detectors against oracles, and what they say to input that is not right."""

import pickle
import re
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn import config_context
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import gen_batches

from skanopatch.detectors import (
    CalibratedDetector,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    PatchKNNDetector,
    SubbandKNNDetector,
    search,
)
from skanopatch.detectors.base import BaseDetector, spreads_of
from skanopatch.detectors.grouped import with_threshold
from skanopatch.detectors.search import as_distance, find_nearest, prepare
from skanopatch.detectors.thresholds import place_threshold

ONES = [
    KNNDetector(),
    KNNDetector(2, metric="euclidean", normalization="local_density"),
    KNNDetector(2, normalization="variance_min"),
    KNNDetector(metric="euclidean", standardize=True),
    GMMDetector(2, random_state=0),
    GMMDetector(1, covariance_type="full", random_state=0),
    MahalanobisDetector(),
    MahalanobisDetector("ledoit-wolf", standardize=False),
]
DETECTORS = [
    *ONES,
    GroupedDetector(KNNDetector()),
    CalibratedDetector(make_pipeline(StandardScaler(), KNNDetector())),
    JoinedDetector([("spread", MahalanobisDetector()), ("near", KNNDetector())]),
]


def by_name(detector):
    return repr(detector).replace("\n", "").replace(" ", "")[:70]


every_detector = pytest.mark.parametrize("detector", DETECTORS, ids=by_name)
every_one = pytest.mark.parametrize("detector", ONES, ids=by_name)
DISTANCES = {"cosine": cosine_distances, "euclidean": euclidean_distances}


def clips(n, n_features=6, seed=0, shift=2.0):
    return np.random.default_rng(seed).normal(size=(n, n_features)) + shift


def twenty_folds(n_clips):
    """The rows that are kept and left out: every twentieth clip."""
    for fold in range(min(n_clips, 20)):
        left_out = np.arange(fold, n_clips, 20)
        yield np.setdiff1d(np.arange(n_clips), left_out), left_out


# --- the contract of every detector --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("n_clips", [9, 50])
@pytest.mark.parametrize("detector", ONES[:-2], ids=by_name)  # those of Mahalanobis are below
def test_training_scores_are_those_of_refits_without_each_fold(detector, n_clips):
    X = clips(n_clips)
    expected = np.empty(n_clips)
    for kept, left_out in twenty_folds(n_clips):
        expected[left_out] = clone(detector).fit(X[kept]).score_samples(X[left_out])
    found = clone(detector).fit(X)
    assert_allclose(found.training_scores_, expected, rtol=1e-9)
    assert_array_equal(found.own_domain_scores_, found.training_scores_)


@every_detector
def test_decision_prediction_and_anomaly_score_follow_from_the_score(detector):
    detector = clone(detector).fit(clips(60))
    X = np.vstack([clips(40, seed=1), clips(5, seed=2) * 9])
    scores = detector.score_samples(X)
    assert scores.dtype == np.float64
    assert_array_equal(detector.decision_function(X), scores - detector.offset_)
    assert_array_equal(detector.predict(X), np.where(scores >= detector.offset_, 1, -1))
    assert_array_equal(detector.anomaly_score(X), -scores)
    assert set(detector.predict(X)) == {-1, 1}


@every_detector
def test_offset_is_the_threshold_of_the_training_scores(detector):
    detector = clone(detector).fit(clips(60))
    placed = -place_threshold(-detector.training_scores_, 0.1)
    assert detector.offset_ == pytest.approx(placed, rel=1e-10)
    assert (detector.training_scores_ < 0).all() or detector.get_params().get("normalization")


@every_detector
def test_p_values_compare_with_the_training_scores(detector):
    detector = clone(detector).fit(clips(30))
    X = np.vstack([clips(40, seed=1), clips(5, seed=2) * 9])
    at_most = detector.training_scores_ <= detector.score_samples(X)[:, np.newaxis]
    assert_allclose(detector.p_values(X), (1 + at_most.sum(axis=1)) / 31)
    assert detector.p_values(X).min() == pytest.approx(1 / 31)


@pytest.mark.parametrize("rate", [0.01, 0.3])
@every_detector
def test_another_false_alarm_rate_is_that_of_a_fit(detector, rate):
    X, new = clips(40), clips(10, seed=1)
    moved = clone(detector).fit(X)
    assert moved.set_false_alarm_rate(rate) is moved
    again = clone(detector)
    inner = "detector__" if isinstance(again, GroupedDetector) else ""
    again.set_params(**{f"{inner}false_alarm_rate": rate}).fit(X)
    assert_allclose(moved.offset_, again.offset_, rtol=1e-12)
    assert_allclose(moved.score_samples(new), again.score_samples(new), rtol=1e-12)
    assert_allclose(moved.training_scores_, again.training_scores_, rtol=1e-12)
    assert_allclose(moved.p_values(new), again.p_values(new))
    if not inner:
        assert moved.false_alarm_rate == rate


@pytest.mark.parametrize("threshold", ["quantile", "gamma"])
@every_one
def test_the_rule_of_the_threshold_is_a_parameter(detector, threshold):
    detector = clone(detector).set_params(threshold=threshold, false_alarm_rate=0.2).fit(clips(60))
    placed = -place_threshold(-detector.training_scores_, 0.2, threshold)
    assert detector.offset_ == pytest.approx(placed)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@every_detector
def test_a_clip_scores_the_same_alone_in_any_batch_and_order(detector, dtype):
    X = clips(60, 40).astype(dtype)
    new = np.vstack([clips(30, 40, seed=1).astype(dtype), X])
    detector = clone(detector).fit(X)
    together = detector.score_samples(new)
    order = np.random.default_rng(1).permutation(90)
    rtol = 1e-9 if dtype == np.float64 else 1e-6
    assert_allclose(detector.score_samples(new[order]), together[order], rtol=rtol)
    alone = [detector.score_samples(row[np.newaxis])[0] for row in new]
    assert_allclose(alone, together, rtol=rtol)
    with config_context(working_memory=0.02):
        assert_allclose(detector.score_samples(new), together, rtol=rtol)


@every_detector
def test_unreadable_clip_scores_nan_and_is_predicted_anomalous(detector):
    detector = clone(detector).fit(clips(60))
    if isinstance(detector, CalibratedDetector):
        detector = CalibratedDetector(KNNDetector()).fit(clips(60))
    X = clips(5, seed=1)
    whole = detector.score_samples(X)
    X[2] = np.nan
    assert_allclose(detector.score_samples(X)[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])
    for found in (detector.score_samples(X), detector.p_values(X)):
        assert np.isnan(found).tolist() == [False, False, True, False, False]
    assert detector.predict(X)[2] == -1
    assert np.isnan(detector.score_samples(np.full((2, 6), np.nan))).all()


@every_detector
def test_unreadable_training_clips_are_left_out(detector):
    X, fresh = clips(40), clips(20, seed=1)
    expected = clone(detector).fit(X)
    with_gaps = np.insert(X, [3, 30], np.nan, axis=0)
    fitted = clone(detector).fit(with_gaps)
    assert np.flatnonzero(np.isnan(fitted.training_scores_)).tolist() == [3, 31]
    assert np.isnan(fitted.p_values(fresh)).sum() == 0
    if isinstance(detector, CalibratedDetector):
        return  # its folds are of all clips
    # But for how sums round, which follows the alignment of memory.
    assert_allclose(fitted.score_samples(fresh), expected.score_samples(fresh), rtol=1e-10)
    assert_allclose(fitted.offset_, expected.offset_, rtol=1e-10)
    assert_allclose(fitted.p_values(fresh), expected.p_values(fresh))
    assert fitted.session_weights_[[3, 31]].tolist() == [0, 0]
    assert fitted.session_weights_.sum() == 40


@every_detector
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "contains NaN."), (np.inf, "Input X contains infinity")]
)
def test_half_a_row_of_nan_or_an_infinity_is_refused(detector, value, message):
    detector = clone(detector).fit(clips(60))
    X = clips(30, seed=1)
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
    assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    assert loaded.offset_ == detector.offset_
    loaded.set_false_alarm_rate(0.02)
    assert_array_equal(loaded.p_values(X), detector.p_values(X))


@every_detector
def test_a_second_fit_forgets_the_first(detector):
    X, new = clips(40), clips(10, seed=1)
    once = clone(detector).fit(X)
    twice = clone(detector).fit(9 * clips(30, seed=2)).fit(X)
    assert_array_equal(twice.score_samples(new), once.score_samples(new))
    assert_array_equal(twice.training_scores_, once.training_scores_)


@every_detector
def test_float32_scores_as_float64_does(detector):
    X, new = clips(60).astype(np.float32), clips(20, seed=1).astype(np.float32)
    single = clone(detector).fit(X)
    double = clone(detector).fit(X.astype(np.float64))
    assert_allclose(single.score_samples(new), double.score_samples(new), rtol=1e-4)
    assert single.score_samples(new).dtype == np.float64
    assert_allclose(single.training_scores_, double.training_scores_, rtol=1e-4)
    assert single.offset_ == pytest.approx(double.offset_, rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("constant", [1.0, 0.1, 0.0, 1e6])
@every_detector
def test_equal_clips_are_normal_and_others_anomalies_with_a_warning(detector, constant):
    X = np.full((30, 6), constant)
    message = (
        "All 30 clips are equal: none of the 6 features varies, so that any other clip is an "
        "anomaly. Were they silent, or one recording many times?"
    )
    with pytest.warns(UserWarning, match=re.escape(message)):
        fitted = clone(detector).fit(X)
    assert fitted.predict(X).tolist() == [1] * 30
    assert fitted.predict(X + np.r_[np.zeros(5), 9e6]).tolist() == [-1] * 30
    X[::2] *= 1 + 1e-15  # as rounding of another batch changes it
    for dtype in (np.float32, np.float64):
        with pytest.warns(UserWarning, match="All 30 clips are equal"):
            clone(detector).fit(X.astype(dtype))
    X[:3, 2] += 1e-3 * (1 + constant)  # of three folds
    assert np.isfinite(clone(detector).fit(X).offset_)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@every_detector
def test_twins_of_half_of_the_clips_leave_a_threshold(detector):
    """Backups and copies: false alarms on new clips stay where they are without them."""
    alarms = []
    for seed in range(5):
        X = clips(60, seed=seed)
        X[30:45] = X[:15]
        fitted = clone(detector).fit(X)
        assert np.isfinite(fitted.training_scores_).all()
        alarms.append(np.mean(fitted.predict(clips(300, seed=100 + seed)) == -1))
    assert 0.005 < np.mean(alarms) < 0.3


@every_detector
def test_two_clips_can_be_fitted(detector):
    least = {
        "n_neighbors=2": 4,
        "normalization": 3,
        "GMM": 2,
        "Calibrated": 3,
    }
    n_clips = next((n for key, n in least.items() if key in repr(detector)), 2)
    X = clips(n_clips)
    detector = clone(detector).fit(X)
    assert np.isfinite(detector.offset_)
    assert np.isfinite(detector.score_samples(clips(5, seed=1))).all()
    if n_clips > 2 and not isinstance(detector, GMMDetector):
        with pytest.raises(ValueError, match=r"needs at least|minimum of 2 is required"):
            detector.fit(X[:-1])


@every_detector
def test_a_constant_feature_makes_no_difference_or_nearly_none(detector):
    X, new = clips(60), clips(20, seed=1)
    for constant in (0.1, 1 / 3, -1e6 / 7):
        X[:, 2] = new[:, 2] = constant
        fitted = clone(detector).fit(X)
        assert np.isfinite(fitted.training_scores_).all()
        moved = new + np.array([0, 0, 1e-12 * constant, 0, 0, 0])
        assert_allclose(fitted.score_samples(moved), fitted.score_samples(new), rtol=1e-6)


@every_one
def test_domain_labels_have_one_entry_per_clip(detector):
    for name in ("domains", "sessions"):
        message = f"{name} must have one entry per clip. Got 3 for 60."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            clone(detector).fit(clips(60), **{name: ["source"] * 3})
    detector = clone(detector).fit(clips(60))
    with pytest.raises(ValueError, match=r"domains must have one entry per clip\. Got 3"):
        detector.score_samples(clips(60), domains=["source"] * 3)


def test_parameters_set_after_construction_count():
    X = clips(60)
    detector = KNNDetector().set_params(n_neighbors=4, metric="euclidean", false_alarm_rate=0.3)
    assert_array_equal(
        detector.fit(X).training_scores_, KNNDetector(4, metric="euclidean").fit(X).training_scores_
    )
    assert 12 < (detector.predict(clips(60, seed=1)) == -1).sum() < 24


@every_detector
def test_contamination_is_explained(detector):
    message = "takes no contamination. Detectors have false_alarm_rate, the share of new normal"
    with pytest.raises(TypeError, match=message):
        type(detector)(contamination=0.1)


RECORDINGS = {
    "strings": ["a.wav", "b.wav", "c.wav"],
    "paths": [Path("a.wav"), Path("b.wav")],
    "array": np.array([["a.wav"], ["b.wav"]], dtype=object),
    "frame": pd.DataFrame({"file": ["a.wav", "b.wav"]}),
    "series": pd.Series([Path("a.wav"), Path("b.wav")]),
    "lengths": [np.zeros(5), np.zeros(6)],
    "pairs": [(np.zeros(5), 16_000), (np.zeros(6), 16_000)],
    "samples": np.random.default_rng(0).normal(size=(3, 16_000)).astype(np.float32),
}


@pytest.mark.parametrize("kind", RECORDINGS)
@pytest.mark.parametrize(
    "detector",
    [
        KNNDetector(),
        MahalanobisDetector(),
        SubbandKNNDetector(),
        PatchKNNDetector(),
        GroupedDetector(),
        CalibratedDetector(KNNDetector()),
        JoinedDetector([("near", KNNDetector())]),
    ],
    ids=by_name,
)
def test_recordings_need_a_patcher_first(detector, kind):
    with pytest.raises(ValueError, match=r"put MelPatcher\(\) first") as caught:
        clone(detector).fit(RECORDINGS[kind])
    said = {"samples": "X has 16000 features", "lengths": "table of", "pairs": "table of"}
    assert said.get(kind, "a.wav") in str(caught.value)


def test_15000_features_are_taken():
    X = np.random.default_rng(0).normal(size=(4, 15_001)).astype(np.float32)
    assert KNNDetector().fit(X[:, 1:]).n_features_in_ == 15_000
    message = (
        "X has 15001 features a clip. More than 15000 are taken for the samples of a recording. A "
        "detector takes embeddings, not recordings: put MelPatcher() first, as in "
        "make_pipeline(MelPatcher(), BandStatistics(), MahalanobisDetector()). Reduce larger "
        "embeddings by PCA()."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        KNNDetector().fit(X)


RANGES = [
    (KNNDetector, "n_neighbors", [0, 1.5], [1]),
    (KNNDetector, "n_density_neighbors", [0], [1]),
    (KNNDetector, "smote", [0, 1.1], [0.1, 1]),
    (KNNDetector, "metric", ["mahalanobis"], ["euclidean"]),
    (KNNDetector, "normalization", ["density"], ["local_density"]),
    (KNNDetector, "standardize", ["yes"], [True]),
    (MahalanobisDetector, "shrinkage", [0, 1.1, "oas"], [1, 1e-6]),
    (MahalanobisDetector, "standardize", [None], [False]),
    (GMMDetector, "n_components", [0, 1.5], [1]),
    (GMMDetector, "reg_covar", [0, "silverman"], [1e-3, 2.0]),
    (GMMDetector, "covariance_type", ["tied"], ["full"]),
    (PatchKNNDetector, "max_bank_size", [0, 2.5], [1, None]),
    (PatchKNNDetector, "metric", ["manhattan"], ["cosine"]),
    (PatchKNNDetector, "verbose", [-1], [0]),
    (SubbandKNNDetector, "max_bank_size", [0], [1, None]),
    (GroupedDetector, "pooled", ["yes"], [True, "auto"]),
    *((kind, "false_alarm_rate", [0, 0.51], [1e-6, 0.5]) for kind in (GMMDetector, KNNDetector)),
    *((kind, "threshold", ["normal"], ["gamma"]) for kind in (MahalanobisDetector, KNNDetector)),
]


@pytest.mark.parametrize(("kind", "name", "wrong", "right"), RANGES)
def test_parameters_out_of_their_range_are_refused_and_its_ends_are_taken(kind, name, wrong, right):
    X = clips(12)
    for value in wrong:
        message = f"^The '{name}' parameter of {kind.__name__} must be .* Got {value!r} instead"
        with pytest.raises(ValueError, match=message):
            kind(**{name: value}).fit(X)
    for value in right:
        fitted = kind(**{name: value}).fit(X)
        assert np.isfinite(fitted.score_samples(clips(3, seed=1))).all()


@pytest.mark.parametrize("missing", ["_fit", "_terms"])
def test_a_detector_says_how_it_fits_and_measures(missing):
    methods = {name: lambda self, *arguments: None for name in {"_fit", "_terms"} - {missing}}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Half", (BaseDetector,), methods)()


@pytest.mark.parametrize(
    ("X", "is_equal"),
    [
        (np.zeros((5, 3)), True),
        (np.full((5, 3), 1 / 3), True),
        (np.array([[1.0, -7], [1 + 32 * 2.0**-52, -7]]), True),
        (np.array([[1.0, -7], [1 + 33 * 2.0**-52, -7]]), False),
        (np.array([[1.0, -7], [1, -7 - 1e-13]]), False),
        (np.array([[1.0, -7], [1 + 32 * 2.0**-23, -7]], np.float32), True),
        (np.array([[1.0, -7], [1 + 33 * 2.0**-23, -7]], np.float32), False),
    ],
)
def test_clips_are_equal_but_for_32_units_in_the_last_place(X, is_equal):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        KNNDetector(metric="euclidean").fit(X)
    n_clips, n_features = X.shape
    message = f"All {n_clips} clips are equal: none of the {n_features} features varies, so that"
    assert [str(w.message).startswith(message) for w in caught] == [True] * is_equal
    assert {w.filename for w in caught} <= {__file__}  # where fit was called


def test_a_spread_of_rounding_errors_is_none():
    X = np.array([[1.0, 10.0, 1e6], [2.0, 10.0, 1e6], [3.0, 10.0, 1e6]])
    residuals = X - X.mean(axis=0)
    residuals[:, 1] = [1e-12, -1e-12, 0]  # of 10: a deviation of 8e-14, relatively
    residuals[:, 2] = [1e-6, -1e-6, 0]  # of a million: 8e-13
    found = spreads_of(residuals, X)
    assert_allclose(found, [np.sqrt(2 / 3), 0, 1e-6 * np.sqrt(2 / 3)])
    assert spreads_of(residuals.astype(np.float32), X).dtype == np.float64


def test_nothing_but_unreadable_training_clips():
    with pytest.raises(ValueError, match=r"^Found array with 0 sample\(s\) \(shape=\(0, 4\)\)"):
        KNNDetector().fit(np.full((5, 4), np.nan))


@pytest.mark.parametrize(
    ("detector", "n_clips", "message"),
    [
        (
            KNNDetector(5),
            5,
            "KNNDetector(n_neighbors=5) needs at least 6 clips, since each is left out once to "
            "set the threshold. X has 5.",
        ),
        (
            KNNDetector(normalization="local_density"),
            2,
            "KNNDetector(normalization='local_density') needs at least 3 clips, since each is "
            "left out once to set the threshold. X has 2.",
        ),
    ],
)
def test_too_few_clips_are_refused(detector, n_clips, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detector.fit(clips(n_clips))


# --- the search ----------------------------------------------------------------------------------


def scenes(name, rng):
    """A bank and queries that products of float32 get wrong."""
    X = rng.normal(size=(420, 8))
    if name == "clusters":
        X += 1e4 * rng.choice([-1, 1], size=(420, 1))
    elif name == "outlier":
        X[0, 0] = 1e6
    elif name == "constant":
        X[:, 0] = 1e6
    elif name == "small":
        X *= 1e-8
    elif name == "tiny":
        X *= 1e-30
    elif name == "huge":
        X *= 1e25
    elif name == "far":
        X = 1e-2 * X + 1e3
    return X[:300], X[300:]


SCENES = ["plain", "clusters", "outlier", "constant", "small", "tiny", "huge", "far"]


@pytest.mark.parametrize("n_neighbors", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", SCENES)
def test_neighbours_are_those_of_an_exact_search(name, metric, dtype, n_neighbors):
    bank, queries = (X.astype(dtype) for X in scenes(name, np.random.default_rng(0)))
    bank, queries = prepare(bank, metric), prepare(queries, metric)
    distances, neighbors = find_nearest(queries, bank, n_neighbors, metric=metric, skip_self=True)
    # Of what float32 leaves of the clips, without products.
    exact = cdist(queries.astype(np.float64), bank.astype(np.float64))
    expected = np.sort(exact, axis=1)[:, :n_neighbors]
    expected = expected**2 / 2 if metric == "cosine" else expected
    assert_allclose(distances, expected, rtol=1e-9)
    found = np.take_along_axis(exact, neighbors, axis=1)
    assert_allclose(found, np.sort(exact, axis=1)[:, :n_neighbors], rtol=1e-9)


@pytest.mark.parametrize("normalization", ["local_density", "variance_min"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SCENES)
def test_normalized_distances_are_those_of_an_exact_search(name, dtype, normalization):
    bank, queries = (X.astype(dtype) for X in scenes(name, np.random.default_rng(0)))
    detector = KNNDetector(3, metric="euclidean", normalization=normalization).fit(bank)
    (density,) = detector.densities_
    D = cdist(queries.astype(np.float64), bank.astype(np.float64))
    D = D / density if normalization == "local_density" else D - detector.alpha_ * density
    expected = np.sort(D, axis=1)[:, :3].mean(axis=1)
    assert_allclose(detector.anomaly_score(queries), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["plain", "outlier", "constant", "small", "far"])
@pytest.mark.parametrize("normalization", [None, "local_density"])
def test_a_clip_is_compared_with_others_though_it_is_rounded_otherwise(name, dtype, normalization):
    bank, _ = (X.astype(dtype) for X in scenes(name, np.random.default_rng(0)))
    detector = KNNDetector(metric="euclidean", normalization=normalization).fit(bank)
    rounded = (bank * (1 + 4 * np.finfo(dtype).eps)).astype(dtype)
    exact = cdist(rounded.astype(np.float64), bank.astype(np.float64))
    np.fill_diagonal(exact, np.inf)
    if normalization:
        exact = exact / detector.densities_[0]
    assert_allclose(detector.anomaly_score(rounded), exact.min(axis=1), rtol=1e-6)


def test_one_reference_that_equals_the_clip_is_skipped_and_no_more():
    X = clips(40)
    twins = np.vstack([X, X[:1]])
    detector = KNNDetector(metric="euclidean").fit(twins)
    scores = detector.score_samples(twins)
    assert scores[0] == scores[-1] == 0  # each has the other
    assert (scores[1:-1] < 0).all()
    with_near = np.vstack([X, X[:1] + 1e-6])
    scores = KNNDetector(metric="euclidean").fit(with_near).score_samples(with_near)
    assert scores[0] == pytest.approx(-1e-6 * np.sqrt(6))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("working_memory", [1024, 0.05])
def test_scores_are_those_of_brute_force(metric, working_memory):
    X, new = clips(3000, 16), clips(200, 16, seed=1)
    oracle = NearestNeighbors(n_neighbors=3, algorithm="brute", metric=metric).fit(X)
    with config_context(working_memory=working_memory):
        detector = KNNDetector(3, metric=metric).fit(X)
        scores = detector.score_samples(new)
        # Without arguments, kneighbors leaves each row out of its own search.
        seen = detector.score_samples(X[:200])
    assert_allclose(scores, -oracle.kneighbors(new)[0].mean(axis=1), rtol=1e-6)
    assert_allclose(seen, -oracle.kneighbors()[0][:200].mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("name", ["plain", "outlier"])
def test_within_a_bank_none_is_its_own_neighbour(name):
    X, _ = scenes(name, np.random.default_rng(0))
    rows = np.arange(len(X))
    distances, neighbors = find_nearest(X, X, 2, folds=(rows, rows))
    exact = cdist(X, X)
    np.fill_diagonal(exact, np.inf)
    assert_allclose(distances, np.sort(exact, axis=1)[:, :2], rtol=1e-9)
    assert (neighbors != np.arange(len(X))[:, np.newaxis]).all()


@pytest.mark.parametrize("normalization", ["local_density", "variance_min"])
def test_a_bank_of_two_clips_has_densities(normalization):
    X = np.random.default_rng(0).normal(size=(3, 4))  # one is left out
    assert np.isfinite(KNNDetector(normalization=normalization).fit(X).training_scores_).all()


@pytest.mark.parametrize("name", ["plain", "outlier"])
def test_references_of_the_own_fold_are_no_neighbours(name):
    bank, queries = scenes(name, np.random.default_rng(0))
    of_bank, of_queries = np.arange(len(bank)) % 7 // 2, np.arange(len(queries)) % 5
    distances, neighbors = find_nearest(queries, bank, 3, folds=(of_queries, of_bank))
    exact = np.where(of_queries[:, np.newaxis] == of_bank, np.inf, cdist(queries, bank))
    assert_allclose(distances, np.sort(exact, axis=1)[:, :3], rtol=1e-9)
    assert_allclose(np.take_along_axis(exact, neighbors, axis=1), distances, rtol=1e-9)


@pytest.mark.parametrize("n_neighbors", [1, 3])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("metadata", [None, "domains", "sessions"])
@pytest.mark.filterwarnings("ignore:Clips of one session")
def test_one_search_for_all_folds_gives_the_scores_of_fits_without_them(
    metadata, metric, n_neighbors
):
    X = np.random.default_rng(0).normal(1, 1, size=(90, 12)).astype(np.float32)
    X[50] = X[7]  # a copy of a clip in another fold is one reference that is skipped
    labels = {
        None: {},
        "domains": {"domains": ["source"] * 60 + ["target"] * 30},
        "sessions": {"sessions": [i % 8 for i in range(90)]},
    }[metadata]
    fitted = KNNDetector(n_neighbors, metric=metric).fit(X, **labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KNNDetector, "_left_out_terms", BaseDetector._left_out_terms)
        one_by_one = KNNDetector(n_neighbors, metric=metric).fit(X, **labels)
    assert_allclose(fitted.training_scores_, one_by_one.training_scores_, rtol=1e-12)
    assert_allclose(fitted.own_domain_scores_, one_by_one.own_domain_scores_, rtol=1e-12)
    assert fitted.offset_ == pytest.approx(one_by_one.offset_, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [7, 128, 1000, 1001, 2500])
def test_a_bank_has_a_center_a_unit_and_squares_of_its_rows(n_rows, dtype):
    X = (np.random.default_rng(0).normal(size=(n_rows, 5)) * 6 + 40).astype(dtype)
    X[:, 3] = X[:, 4] = 7  # features at the end that do not vary are left out
    bank = search.Bank(X)
    step = int(np.ceil(n_rows / 1000))  # of at most a thousand rows, evenly spread
    center = X[::step].mean(axis=0, dtype=np.float64)
    assert len(bank) == n_rows
    assert bank.center.dtype == dtype
    assert_allclose(bank.center, center, rtol=1e-6)
    assert_allclose(bank.rounding, 32 * np.finfo(dtype).eps * np.abs(X).max(axis=0))
    unit, rows, squares = bank.fast
    largest = np.abs(X - center).max()
    assert unit <= largest < 2 * unit
    assert np.log2(unit) == round(np.log2(unit))
    assert rows.shape == (n_rows, 3)
    assert rows.dtype == squares.dtype == np.float32
    assert_allclose(rows, ((X - center) / unit)[:, :3], atol=1e-6)
    assert_allclose(squares, (rows.astype(float) ** 2).sum(axis=1), rtol=1e-5)


def test_a_bank_of_equal_rows_has_a_unit_too():
    unit, rows, squares = search.Bank(np.full((4, 3), -7.0)).fast
    assert unit == 1
    assert rows.shape == (4, 1)
    assert not squares.any()
    assert_allclose(search.Bank(np.full((4, 3), -7.0)).rounding, 32 * 2.0**-52 * 7)
    found, _ = find_nearest(np.full((1, 3), -5.0), np.full((4, 3), -7.0), 2)
    assert_allclose(found, np.sqrt(12))


@pytest.mark.parametrize("working_memory", [0.05, 0.5, 1024])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_search_takes_as_many_queries_at_once_as_the_working_memory_holds(
    monkeypatch, normalized, working_memory
):
    sizes = []

    def batches(n, size):
        sizes.append((n, size))
        return gen_batches(n, size)

    monkeypatch.setattr(search, "gen_batches", batches)
    bank, queries = clips(300, 16), clips(1000, 16, seed=1)
    normalize = (lambda distances, references: distances) if normalized else None
    with config_context(working_memory=working_memory):
        find_nearest(queries, bank, 3, normalize=normalize)
    # Products in float32, their copy and ranks; or distances, their squares and two more.
    row_bytes = 300 * (32 if normalized else 12) + (3 + 2) * 16 * 16
    n_rows = int(working_memory * 2**20 / row_bytes)
    n_rows = n_rows if normalized else min(n_rows, 512)
    assert next(size for n, size in sizes if n == 1000) == n_rows
    sizes.clear()
    with config_context(working_memory=1e-5):
        found, _ = find_nearest(queries[:3], bank, 1, normalize=normalize)
    assert next(size for n, size in sizes if n == 3) == 1  # one at least
    assert_allclose(found[:, 0], cdist(queries[:3], bank).min(axis=1))


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("n_columns", [8, 31, 160, 161, 1000, 1055, 4096])
def test_the_smallest_columns_are_those_of_a_sort(n_columns, k):
    values = np.random.default_rng(0).normal(size=(40, n_columns)).astype(np.float32)
    values[3] = np.sort(values[3])
    values[4] = -np.sort(-values[4])
    columns = search._smallest(values, k)
    assert columns.shape == (40, k)
    found = np.sort(np.take_along_axis(values, columns, axis=1), axis=1)
    assert_array_equal(found, np.sort(values, axis=1)[:, :k])
    assert all(len(set(row)) == k for row in columns.tolist())


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_within_a_bank_normalized_distances_leave_each_out(name, metric):
    bank, _ = scenes(name, np.random.default_rng(0))
    bank = prepare(bank, metric)
    unit = np.linspace(1, 2, len(bank))
    every = np.arange(len(bank))
    found, neighbors = find_nearest(
        bank, bank, 2, metric=metric, normalize=lambda d, rows: d / unit[rows], folds=(every, every)
    )
    exact = cdist(bank, bank)
    exact = (exact**2 / 2 if metric == "cosine" else exact) / unit
    np.fill_diagonal(exact, np.inf)
    assert_allclose(found, np.sort(exact, axis=1)[:, :2], rtol=1e-6)
    assert (neighbors != np.arange(len(bank))[:, np.newaxis]).all()


def test_a_tolerance_of_a_feature_says_what_equals_a_reference():
    bank = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    for moved, tolerance, nearest in (
        ([0.5, 0.0], [0.5, 0.0], 9.5),
        ([0.5, 0.0], [0.4, 9.0], 0.5),
        ([0.0, 0.5], [0.5, 0.0], 0.5),
        ([0.5, 0.5], [0.5, 0.5], np.hypot(9.5, 0.5)),
    ):
        found, _ = find_nearest(
            np.array([moved]), bank, 1, skip_self=True, tolerance=np.array(tolerance)
        )
        assert found[0, 0] == pytest.approx(nearest)
    # Without others there is nothing else to compare with.
    found, rows = find_nearest(np.zeros((1, 2)), bank[:1], 1, skip_self=True)
    assert (found[0, 0], rows[0, 0]) == (0, 0)
    found, _ = find_nearest(np.zeros((1, 2)), bank, 3, skip_self=True)
    assert_allclose(found[0], [0, 10, 10])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_unit_length_have_one_more_coordinate_for_zeros(dtype):
    X = np.array([[3.0, 4.0], [0.0, 0.0], [-1e-20, 0.0]], dtype=dtype)
    assert_allclose(prepare(X, "cosine"), [[0.6, 0.8, 0], [0, 0, 1], [-1, 0, 0]])
    assert prepare(X, "cosine").dtype == dtype
    assert prepare(X, "euclidean") is X
    assert_allclose(as_distance(np.array([0.0, 2.0, 4.0]), "cosine"), [0, 1, 2])
    assert_allclose(as_distance(np.array([0.0, 2.25, 4.0]), "euclidean"), [0, 1.5, 2])


def test_spare_candidates_leave_few_queries_to_an_exact_search(monkeypatch):
    """Each such query costs a pass over the bank in float64."""
    calls = []

    def count(squared, metric):
        calls.append(len(squared))
        return as_distance(squared, metric)

    monkeypatch.setattr(search, "as_distance", count)
    bank, queries = scenes("plain", np.random.default_rng(0))
    find_nearest(queries, bank, 3, skip_self=True)
    assert len(calls) == 1  # of the one batch, and none of single queries
    calls.clear()
    find_nearest(bank, bank, 3, skip_self=True)  # one candidate is the clip itself
    assert len(calls) - 1 <= 0.01 * len(bank)


# --- KNNDetector ---------------------------------------------------------------------------------


def test_vector_of_zeros_is_at_cosine_distance_one_from_all_but_its_like():
    X = clips(30)
    zero = np.zeros((1, 6))
    assert KNNDetector().fit(X).score_samples(zero)[0] == pytest.approx(-1)
    detector = KNNDetector().fit(np.vstack([X, zero]))
    assert detector.training_scores_[-1] == pytest.approx(-1)
    assert detector.score_samples(-X).min() == pytest.approx(-1)
    assert KNNDetector().fit(np.vstack([X, zero, zero])).score_samples(zero)[0] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardized_features_have_no_units(dtype):
    X, new = clips(2000).astype(dtype), clips(20, seed=1).astype(dtype)
    X[:, 2] = new[:, 2] = 0.1  # whose mean of many is off by rounding
    units = np.array([1e-6, 1e3, 1, 1e6, 1, 1e-3], dtype=dtype)
    for metric in ("cosine", "euclidean"):
        detector = KNNDetector(metric=metric, standardize=True)
        plain = detector.fit(X).score_samples(new)
        assert detector.scale_[2] == 1
        Z = X / detector.scale_
        oracle = NearestNeighbors(n_neighbors=1, metric=metric).fit(Z)
        expected = oracle.kneighbors(new / detector.scale_)[0][:, 0]
        assert_allclose(plain, -expected, rtol=1e-3)
        assert_allclose(detector.fit(X * units).score_samples(new * units), plain, rtol=2e-3)
    spread = X.astype(np.float64).std(axis=0)
    assert_allclose(KNNDetector(standardize=True).fit(X).scale_[3:], spread[3:], rtol=1e-5)


def density(D, row, n_others, without=()):
    """The written-out definition: mean distance to the nearest others."""
    return np.mean(sorted(np.delete(D[row], [row, *without]))[:n_others])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_local_density_is_its_written_out_loop(metric, n_neighbors):
    X, new = clips(25), clips(10, seed=1)
    detector = KNNDetector(
        n_neighbors, metric=metric, normalization="local_density", n_density_neighbors=4
    ).fit(X)
    D, Q = DISTANCES[metric](X), DISTANCES[metric](new, X)
    densities = [density(D, j, 4) for j in range(25)]
    assert_allclose(detector.densities_[0], densities, rtol=1e-9)
    scores = [-np.mean(sorted(row / densities)[:n_neighbors]) for row in Q]
    assert_allclose(detector.score_samples(new), scores, rtol=1e-9)
    seen = [-np.mean(sorted(np.delete(D[i] / densities, i))[:n_neighbors]) for i in range(25)]
    assert_allclose(detector.score_samples(X), seen, rtol=1e-9)


def test_a_small_bank_measures_density_by_half_of_it():
    X = clips(7)
    detector = KNNDetector(metric="euclidean", normalization="local_density").fit(X)
    D = euclidean_distances(X)
    assert_allclose(detector.densities_[0], [density(D, j, 3) for j in range(7)], rtol=1e-9)


def test_densities_of_twins_are_a_millionth_of_the_largest():
    X = clips(20)
    X[1] = X[0]
    detector = KNNDetector(
        metric="euclidean", normalization="local_density", n_density_neighbors=1
    ).fit(X)
    (densities,) = detector.densities_
    assert_array_equal(densities[:2], 1e-6 * densities.max())


@pytest.mark.parametrize(("n_clips", "n_others"), [(2, 1), (3, 1), (4, 2), (17, 8), (40, 8)])
def test_the_density_of_a_bank_is_of_half_of_it_and_at_most_eight_clips(n_clips, n_others):
    X = clips(n_clips + 20)
    detector = KNNDetector(metric="euclidean", normalization="local_density")
    detector.fit(X, domains=["a"] * 20 + ["b"] * n_clips) if n_clips > 2 else detector._fit(
        X, {"a": np.arange(20), "b": np.arange(20, 22)}
    )
    D = euclidean_distances(X[20:])
    expected = [density(D, j, n_others) for j in range(n_clips)]
    assert_allclose(detector.densities_[1], expected, rtol=1e-9)


def test_references_that_do_not_vary_leave_distances_as_they_are():
    square = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])  # each is as far from its nearest
    detector = KNNDetector(metric="euclidean", normalization="variance_min")
    detector._fit(square, {None: np.arange(4)})
    assert detector.alpha_ == 0
    assert_array_equal(detector._terms(square + 5)[:, 0], cdist(square + 5, square).min(axis=1))


def test_a_domain_of_equal_clips_has_densities_of_one():
    X = clips(20)
    X[10:] = X[10]
    detector = KNNDetector(metric="euclidean", normalization="local_density")
    detector.fit(X, domains=["a", "b"] * 5 + ["c"] * 10)
    assert_array_equal(detector.densities_[2], 1)
    near = X[10] + np.array([0.5, 0, 0, 0, 0, 0])
    assert detector.score_samples([near], domains=["c"])[0] == pytest.approx(-0.5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_variance_min_is_its_written_out_loop(metric, n_neighbors):
    X, new = clips(25), clips(10, seed=1)
    detector = KNNDetector(n_neighbors, metric=metric, normalization="variance_min").fit(X)
    D, Q = DISTANCES[metric](X), DISTANCES[metric](new, X)
    b = np.array([density(D, j, n_neighbors) for j in range(25)])
    seen = []
    for i in range(25):
        nearest = sorted((j for j in range(25) if j != i), key=lambda j: D[i, j])[:n_neighbors]
        seen.append(np.mean([density(D, j, n_neighbors, without=[i]) for j in nearest]))
    alpha = np.cov(b, seen)[0, 1] / np.var(seen, ddof=1)
    assert detector.alpha_ == pytest.approx(alpha)
    scores = [-np.mean(sorted(row - alpha * b)[:n_neighbors]) for row in Q]
    assert_allclose(detector.score_samples(new), scores, rtol=1e-9)


def test_alpha_minimizes_the_variance_of_the_normalized_scores():
    X = clips(300) * np.random.default_rng(2).lognormal(size=(300, 1))
    detector = KNNDetector(metric="euclidean", normalization="variance_min").fit(X)
    plain = KNNDetector(metric="euclidean").fit(X)
    assert detector.training_scores_.var() < 0.9 * plain.training_scores_.var()


# --- MahalanobisDetector -------------------------------------------------------------------------


def reference_terms(X, new, shrinkage, domains=None, standardize=True):
    """Return the distances (n_new, n_domains, 3) by inverses of whole covariances."""
    n, p = X.shape
    domains = np.zeros(n, dtype=int) if domains is None else np.asarray(domains)
    names = list(dict.fromkeys(domains.tolist()))
    means = {d: X[domains == d].mean(axis=0) for d in names}
    R = X - np.array([means[d] for d in domains.tolist()])
    scale = np.sqrt((R**2).mean(axis=0)) if standardize else np.ones(p)
    Z = R / scale
    S = Z.T @ Z / n
    P = np.linalg.inv((1 - shrinkage) * S + shrinkage * np.trace(S) / p * np.eye(p))
    rank = min(p, n - len(names))
    k = max(n / 2, n * p / (n + p))
    k = min(rank, max(1, int(min(0.9 * n - len(names), k))))
    values, vectors = np.linalg.eigh(S)
    V, deviations = vectors[:, ::-1][:, :k], np.sqrt(values[::-1][:k])
    terms = np.empty((len(new), len(names), 3))
    for j, d in enumerate(names):
        own = Z[domains == d] @ V / deviations
        weight = len(own) / (len(own) + k) if len(names) > 1 else 0
        T = np.linalg.inv(weight * own.T @ own / len(own) + (1 - weight) * np.eye(k))
        for i, x in enumerate(new):
            z = (x - means[d]) / scale
            along = z @ V / deviations
            terms[i, j] = z @ P @ z, along @ T @ along, np.sum((z - z @ V @ V.T) ** 2)
    return np.sqrt(terms)


SIZES = [(12, 30), (30, 30), (40, 12), (24, 14)]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("domains", [None, 3])
@pytest.mark.parametrize(("n_clips", "n_features"), SIZES)
def test_mahalanobis_joins_its_written_out_terms(n_clips, n_features, domains, standardize):
    X = clips(n_clips, n_features) * np.linspace(1, 2, n_features)
    new = clips(9, n_features, seed=1) * np.linspace(1, 2, n_features)
    n_domains = domains or 1
    if domains:
        domains = (np.arange(n_clips) % 5).clip(max=2)  # the last has three fifths
        X += 3 * domains[:, np.newaxis]
    home = np.zeros(n_clips, dtype=int) if domains is None else domains
    settings = {"shrinkage": 0.3, "standardize": standardize}
    detector = MahalanobisDetector(**settings).fit(X, domains=domains)

    # Clips that are left out give the spread of each term.
    order = np.argsort(home, kind="stable")
    left_out = np.full((n_clips, n_domains, 3), np.nan)
    for fold in range(min(20, n_clips)):
        left = np.sort(order[fold::20])
        kept = np.setdiff1d(np.arange(n_clips), left)
        # The order of domains is that of first appearance among the clips that are kept.
        names = list(dict.fromkeys(home[kept].tolist()))
        terms = reference_terms(X[kept], X[left], 0.3, home[kept], standardize)
        left_out[left[:, np.newaxis], names] = terms
    own = np.log(left_out[np.arange(n_clips), home])
    inverse = 1 / own.std(axis=0, ddof=1)
    inverse[0 if n_clips - n_domains < n_features else 2] = 0
    weights = inverse / inverse.sum()
    assert_allclose(detector.term_weights_, weights, rtol=1e-6)

    def joint(terms):
        return np.exp(np.sum(((np.log(terms) - own.mean(axis=0)) * weights)[..., inverse > 0], -1))

    distances = joint(left_out)
    assert_allclose(detector.training_scores_, -distances.min(axis=1), rtol=1e-6)
    assert_allclose(detector.own_domain_scores_, -distances[np.arange(n_clips), home], rtol=1e-6)
    found = joint(reference_terms(X, new, 0.3, home, standardize))
    assert_allclose(detector.score_samples(new), -found.min(axis=1), rtol=1e-6)
    for d in range(n_domains):
        label = d if domains is not None else None
        scores = detector.score_samples(new, domains=[label] * 9)
        assert_allclose(scores, -found[:, detector.domains_.index(label)], rtol=1e-6)


def test_shrinkage_is_ledoit_and_wolfs():
    X = clips(50, 80) * np.linspace(1, 3, 80)
    detector = MahalanobisDetector("ledoit-wolf", standardize=False).fit(X)
    assert detector.shrinkage_ == pytest.approx(LedoitWolf().fit(X).shrinkage_)
    detector = MahalanobisDetector("ledoit-wolf").fit(X)
    expected = LedoitWolf().fit(StandardScaler().fit_transform(X)).shrinkage_
    assert detector.shrinkage_ == pytest.approx(expected)
    assert MahalanobisDetector("ledoit-wolf").fit(X[:, :1]).shrinkage_ > 0


@pytest.mark.parametrize(
    ("n_clips", "n_features", "unit"), [(60, 12, 1.0), (12, 30, 1.0), (12, 30, 0.1)]
)
def test_left_out_clips_are_likeliest_at_the_shrinkage(n_clips, n_features, unit):
    """By refits without each clip in turn, at shrinkages around the one that was found."""
    X = unit * clips(n_clips, n_features)
    found = MahalanobisDetector(standardize=False).fit(X).shrinkage_
    target = X.var(axis=0).mean() * np.eye(n_features)

    def log_likelihood(shrinkage):
        total = 0.0
        for i in range(n_clips):
            others = np.delete(X, i, axis=0)
            covariance = np.cov(others.T, bias=True)
            covariance = (1 - shrinkage) * covariance + shrinkage * target
            total += stats.multivariate_normal(others.mean(axis=0), covariance).logpdf(X[i])
        return total

    best = log_likelihood(found)
    assert 0.01 < found < 0.99
    assert best > log_likelihood(found * 0.95)
    assert best > log_likelihood(min(1, found * 1.05))


@pytest.mark.parametrize("n_clips", [15, 60])
def test_units_of_features_do_not_matter_to_mahalanobis(n_clips):
    X, new = clips(n_clips, 20), clips(10, 20, seed=1)
    units = np.logspace(-6, 6, 20)
    domains = [0, 0, 1] * (n_clips // 3)
    plain = MahalanobisDetector().fit(X, domains=domains)
    scaled = MahalanobisDetector().fit(X * units, domains=domains)
    assert_allclose(scaled.score_samples(new * units), plain.score_samples(new), rtol=1e-7)
    assert_allclose(scaled.offset_, plain.offset_, rtol=1e-7)
    moved = MahalanobisDetector().fit(X + 1e3, domains=domains)
    assert_allclose(moved.score_samples(new + 1e3), plain.score_samples(new), rtol=1e-7)
    for unit in (1e-6, 1e6):  # of all features, without standardization
        raw = MahalanobisDetector(standardize=False)
        plain = raw.fit(X).score_samples(new)
        assert_allclose(raw.fit(X * unit).score_samples(new * unit), plain, rtol=1e-7)


def test_features_that_depend_on_others_add_no_component():
    """Rounding leaves a component of deviation 1e-16, in units of which any clip is far away."""
    X, new = clips(60), clips(200, seed=1)
    X[:, 5], new[:, 5] = X[:, 0] + X[:, 1] / 3, new[:, 0] + new[:, 1] / 3
    detector = MahalanobisDetector().fit(X)
    assert detector.n_components_ == 5
    assert detector.components_.shape == (5, 6)
    assert np.mean(detector.predict(new) == -1) < 0.2


def test_a_large_constant_adds_no_component():
    X = clips(60)
    X[:, 2] = 1e9 / 7  # its mean is off by 1e-8
    assert MahalanobisDetector().fit(X).components_.shape == (5, 6)


@pytest.mark.parametrize("n_features", [3, 12_000])
def test_a_clip_that_spans_a_direction_alone_has_a_likeliest_shrinkage(n_features):
    X = np.zeros((8, n_features))
    X[:, :2] = np.random.default_rng(0).normal(size=(8, 2))
    X[3, 2] = 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = MahalanobisDetector(standardize=False).fit(X)
    assert 1e-3 <= detector.shrinkage_ <= 1
    assert np.isfinite(detector.training_scores_).all()


def test_attributes_describe_the_principal_components():
    X = clips(40, 12)
    detector = MahalanobisDetector().fit(X)
    Z = StandardScaler().fit_transform(X)
    assert_allclose(detector.components_ @ detector.components_.T, np.eye(12), atol=1e-12)
    assert_allclose(detector.explained_variance_, (Z @ detector.components_.T).var(axis=0))
    assert (np.diff(detector.explained_variance_) <= 0).all()
    assert_allclose(detector.scale_, X.std(axis=0))
    assert detector.n_components_ == 12
    assert detector.term_weights_[2] == 0
    assert MahalanobisDetector().fit(clips(40, 30)).n_components_ == 20
    assert MahalanobisDetector().fit(clips(40, 400)).n_components_ == 35
    assert MahalanobisDetector().fit(clips(40, 80)).n_components_ == 26


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


def test_a_fold_of_one_clip_has_a_covariance_all_the_same():
    """Of two clips one is left out at a time: what remains does not vary."""
    for shrinkage in ("likelihood", "ledoit-wolf"):
        detector = MahalanobisDetector(shrinkage)
        detector._fit(clips(1), {None: np.arange(1)})
        assert detector.shrinkage_ == 1
        assert detector.variance_ == 1
        assert detector.n_components_ == 0
        assert_allclose(detector._terms(clips(1) + 2)[0, 0], np.sqrt([24, 0, 24]))


def test_the_shrinkage_of_one_feature_is_the_least():
    X = clips(60, 1)
    assert MahalanobisDetector("ledoit-wolf").fit(X).shrinkage_ == 1e-7
    wide = np.hstack([X, X, X])  # features that depend on each other
    assert MahalanobisDetector().fit(wide).shrinkage_ == pytest.approx(1e-3, rel=0.05)


# --- GMMDetector ---------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_distance_of_one_gaussian_is_mahalanobis(covariance_type):
    X, new = clips(60), clips(20, seed=1)
    detector = GMMDetector(1, covariance_type=covariance_type, reg_covar=0.05).fit(X)
    scaler = StandardScaler().fit(X)
    covariance = np.cov(scaler.transform(X).T, bias=True)
    if covariance_type == "diag":
        covariance = np.diag(np.diag(covariance))
    inverse = np.linalg.inv(covariance + 0.05 * np.eye(6))
    expected = cdist(scaler.transform(new), np.zeros((1, 6)), "mahalanobis", VI=inverse)[:, 0]
    assert_allclose(detector.score_samples(new), -expected, rtol=1e-9)


@pytest.mark.slow
def test_a_clip_at_the_peak_is_at_distance_zero_though_rounding_puts_it_above():
    for seed in range(20):
        X = clips(60, seed=seed)
        X[30:] += 100  # far from 0, where products of coordinates lose digits
        detector = GMMDetector(1, reg_covar=1e-6, random_state=0)
        detector.fit(X, domains=["near"] * 30 + ["far"] * 30)
        means = np.vstack([mixture.means_ for mixture in detector.mixtures_])
        nearest = detector.anomaly_score(detector.location_ + detector.scale_ * means).min()
        assert nearest == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_distance_of_a_mixture_is_its_fall_from_the_sum_of_peaks(covariance_type):
    X, new = np.vstack([clips(100), clips(50, seed=2) + 8]), clips(20, seed=1)
    detector = GMMDetector(2, covariance_type=covariance_type, reg_covar=0.01, random_state=0).fit(
        X
    )
    Z = StandardScaler().fit(X).transform(new)
    halves, peaks = [], []
    for part, weight in ((X[:100], 2 / 3), (X[100:], 1 / 3)):
        part = (part - X.mean(axis=0)) / X.std(axis=0)
        covariance = np.cov(part.T, bias=True)
        if covariance_type == "diag":
            covariance = np.diag(np.diag(covariance))
        gaussian = stats.multivariate_normal(part.mean(axis=0), covariance + 0.01 * np.eye(6))
        halves.append(np.log(weight) + gaussian.logpdf(Z))
        peaks.append(np.log(weight) + gaussian.logpdf(part.mean(axis=0)))
    expected = np.sqrt(2 * (np.logaddexp(*peaks) - np.logaddexp(*halves)))
    assert_allclose(detector.score_samples(new), -expected, rtol=1e-6)


def test_each_domain_has_a_mixture_and_the_highest_peak_counts():
    X, new = np.vstack([clips(60), 3 * clips(40, seed=2) + 8]), clips(20, seed=1)
    domains = ["a"] * 60 + ["b"] * 40
    detector = GMMDetector(1, reg_covar=0.01).fit(X, domains=domains)
    scaler = StandardScaler().fit(X)
    Z = scaler.transform(new)
    fitted = [
        GaussianMixture(1, covariance_type="diag", reg_covar=0.01).fit(scaler.transform(part))
        for part in (X[:60], X[60:])
    ]
    peak = max(mixture.score_samples(mixture.means_)[0] for mixture in fitted)
    falls = np.sqrt([2 * (peak - mixture.score_samples(Z)) for mixture in fitted])
    assert_allclose(detector.score_samples(new), -falls.min(axis=0), rtol=1e-9)
    assert_allclose(detector.score_samples(new, domains=["b"] * 20), -falls[1], rtol=1e-9)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_fewer_clips_than_features_leave_the_mixture_finite(covariance_type):
    units = np.logspace(-3, 3, 256)
    X = clips(60, 256) * units
    detector = GMMDetector(covariance_type=covariance_type, random_state=0).fit(X)
    assert np.isfinite(detector.training_scores_).all()
    broken = clips(50, 256, seed=1) * units
    broken[:, :80] += 4 * units[:80]
    assert (detector.predict(broken) == -1).all()


def test_scotts_rule_bounds_the_variances():
    for n_clips, n_features in ((30, 4), (100, 60)):
        detector = GMMDetector(1).fit(clips(n_clips, n_features))
        assert detector.reg_covar_ == pytest.approx(n_clips ** (-2 / (n_features + 4)))
    assert GMMDetector(1, reg_covar=0.2).fit(clips(30)).reg_covar_ == 0.2


def test_a_mixture_has_at_most_half_as_many_gaussians_as_its_domain_has_clips():
    domains = ["a"] * 30 + ["b"] * 5 + ["c"] * 2
    detector = GMMDetector(4, random_state=0).fit(clips(37), domains=domains)
    assert [mixture.n_components for mixture in detector.mixtures_] == [4, 2, 1]


def test_a_constant_feature_keeps_its_unit_in_a_mixture():
    X = np.column_stack([clips(30), np.full(30, 7.0)])
    detector = GMMDetector(1, covariance_type="diag").fit(X)
    assert_allclose(detector.scale_, [*X[:, :-1].std(axis=0), 1])
    off = X[:1].copy()
    off[0, -1] += 3  # its variance in the mixture is the regularization alone
    squares = detector._terms(np.concatenate([X[:1], off]))[:, 0] ** 2
    assert squares[1] - squares[0] == pytest.approx(9 / detector.reg_covar_)


# --- GroupedDetector -----------------------------------------------------------------------------


def machines():
    """Three machines whose embeddings differ in place and in spread."""
    X = np.vstack([clips(50), 3 * clips(40, seed=1) + 20, 0.5 * clips(30, seed=2) - 20])
    return X, np.array(["fan"] * 50 + ["pump"] * 40 + ["valve"] * 30)


def euclidean_by_group(**parameters):
    return GroupedDetector(KNNDetector(metric="euclidean", **parameters))


def test_scores_are_relative_to_the_threshold_of_the_group():
    X, groups = machines()
    order = np.random.default_rng(0).permutation(120)
    X, groups = X[order], groups[order]
    detector = euclidean_by_group().fit(X, groups=groups)
    new = clips(20, seed=3)
    own = {g: KNNDetector(metric="euclidean").fit(X[groups == g]) for g in set(groups.tolist())}
    spreads = {g: np.log(-alone.training_scores_).std(ddof=1) for g, alone in own.items()}
    mean_spread = np.mean(list(spreads.values()))
    for group, alone in own.items():
        relative = (alone.score_samples(new) / alone.offset_) ** (mean_spread / spreads[group])
        scores = detector.score_samples(new, groups=[group] * 20)
        assert_allclose(scores, -relative, rtol=1e-8)
        assert_array_equal(detector.predict(new, groups=[group] * 20), alone.predict(new))
        logs = np.log(-detector.training_scores_[groups == group])
        assert logs.std(ddof=1) == pytest.approx(mean_spread)
    assert list(detector.detectors_) == list(dict.fromkeys(groups.tolist()))
    assert detector.offset_ == -1


def test_without_groups_a_clip_is_as_normal_as_its_best_group_finds_it():
    X, groups = machines()
    detector = euclidean_by_group().fit(X, groups=groups)
    new = clips(20, seed=3)
    by_group = [detector.score_samples(new, groups=[g] * 20) for g in ("fan", "pump", "valve")]
    assert_array_equal(detector.score_samples(new), np.max(by_group, axis=0))
    assert_array_equal(detector.score_samples(new), by_group[0])
    one = GroupedDetector(KNNDetector()).fit(X)
    assert list(one.detectors_) == [None]
    assert_array_equal(one.predict(new), KNNDetector().fit(X).predict(new))


def test_a_clip_of_another_machine_is_an_anomaly():
    X, groups = machines()
    detector = euclidean_by_group().fit(X, groups=groups)
    assert (detector.predict(X[:50], groups=["valve"] * 50) == -1).all()
    assert 4 <= (detector.predict(X, groups=groups) == -1).sum() <= 24  # about a tenth of each


@pytest.mark.parametrize("inner", [MahalanobisDetector(), KNNDetector(), GMMDetector(1)])
def test_pooled_groups_are_domains_of_one_detector(inner):
    X, groups = machines()
    order = np.random.default_rng(0).permutation(120)
    X, groups = X[order], groups[order]
    detector = GroupedDetector(inner, pooled=True).fit(X, groups=groups)
    names = list(dict.fromkeys(groups.tolist()))
    one = clone(inner).fit(X, domains=groups)
    new = np.vstack([clips(10, seed=3), clips(10, seed=4) + 20])
    scales = {g: np.log(-one.own_domain_scores_[groups == g]).std(ddof=1) for g in names}
    mean_spread = np.mean(list(scales.values()))
    for g in names:
        own = one.own_domain_scores_[groups == g]
        placed = place_threshold(-own, 0.1)
        relative = (-one.score_samples(new, domains=[g] * 20) / placed) ** (mean_spread / scales[g])
        assert_allclose(detector.score_samples(new, groups=[g] * 20), -relative, rtol=1e-8)
        expected = -((-own / placed) ** (mean_spread / scales[g]))
        assert_allclose(detector.training_scores_[groups == g], expected, rtol=1e-8)
    assert len(set(map(id, detector.detectors_.values()))) == 1


def test_pooled_groups_with_domains_take_the_nearest_domain_of_the_group():
    X, groups = machines()
    X[1::2] += 3
    domains = ["source", "target"] * 60
    detector = GroupedDetector(pooled=True).fit(X, groups=groups, domains=domains)
    one = detector.detectors_["fan"]
    assert set(one.domains_) == {(g, d) for g in set(groups) for d in ("source", "target")}
    new = clips(10, seed=3)
    best = np.max(
        [one.score_samples(new, domains=[("fan", d)] * 10) for d in ("source", "target")], axis=0
    )
    found = detector.score_samples(new, groups=["fan"] * 10)
    assert_array_equal(np.argsort(found), np.argsort(best))


def test_pooling_shares_what_groups_have_in_common():
    """Eight clips a unit of 20 features: with the covariance of all units more faults are found."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(20, 20))
    centers = 5 * rng.normal(size=(10, 20))

    def units(n_each):
        return np.concatenate([c + rng.normal(size=(n_each, 20)) @ mixing for c in centers])

    groups = np.repeat(np.arange(10), 8)
    fresh_groups = np.repeat(np.arange(10), 30)
    X, fresh = units(8), units(30)
    faulty = units(30) + 3 * rng.choice([-1, 1], size=(300, 20)) @ np.diag(rng.random(20))
    found = []
    for pooled in (False, True):
        detector = GroupedDetector(pooled=pooled).fit(X, groups=groups)
        alarms = np.mean(detector.predict(fresh, groups=fresh_groups) == -1)
        found.append(np.mean(detector.predict(faulty, groups=fresh_groups) == -1))
        assert alarms < 0.2
    assert found[1] > found[0] + 0.2


def test_a_domain_of_a_pooled_group_of_which_no_clip_can_be_read_is_no_domain():
    X, groups, domains = clips(40), ["a", "b"] * 20, ["s", "s", "t", "t"] * 10
    X[2::4] = np.nan
    detector = GroupedDetector(pooled=True).fit(X, groups=groups, domains=domains)
    read = ~np.isnan(X).any(axis=1)
    expected = GroupedDetector(pooled=True).fit(
        X[read], groups=np.array(groups)[read], domains=np.array(domains)[read]
    )
    assert_array_equal(
        detector.score_samples(X[:2], groups=["a", "b"]),
        expected.score_samples(X[:2], groups=["a", "b"]),
    )


@pytest.mark.parametrize("inner", [GroupedDetector(), JoinedDetector([("a", GroupedDetector())])])
def test_clips_are_fitted_and_judged_by_their_groups(inner):
    X = np.vstack([clips(30), clips(30) + 50])
    X[0] += 50  # normal for a clip of the other group
    groups = ["near"] * 30 + ["far"] * 30
    found = clone(inner).fit_predict(X, groups=iter(groups))
    assert_array_equal(found, clone(inner).fit(X, groups=groups).predict(X, groups=groups))
    assert found[0] == -1


def test_another_rate_moves_groups_of_scores_that_are_relative_to_it():
    tokens = np.random.default_rng(0).normal(size=(40, 2, 8, 4))
    groups = ["fan", "pump"] * 20
    moved = GroupedDetector(PatchKNNDetector()).fit(tokens, groups=groups)
    moved.set_false_alarm_rate(0.3)
    again = GroupedDetector(PatchKNNDetector(false_alarm_rate=0.3)).fit(tokens, groups=groups)
    assert_allclose(moved.training_scores_, again.training_scores_)
    new, own = tokens[:10] + 0.1, groups[:10]
    assert_allclose(moved.p_values(new, groups=own), again.p_values(new, groups=own))
    assert_allclose(moved.score_samples(new, groups=own), again.score_samples(new, groups=own))


def test_metadata_are_tables_or_rows_of_them():
    X, expected = clips(8), [("fan", 1), ("pump", 2)]
    table = pd.DataFrame({"kind": ["fan", "pump"] * 4, "speed": [1, 2] * 4})
    rows = table.astype(object).to_numpy()
    for domains in (table, rows, rows.tolist(), map(tuple, rows)):
        assert MahalanobisDetector().fit(X, domains=domains).domains_ == expected
    square = pd.DataFrame(np.repeat([0, 1], 4)[:, np.newaxis] * np.ones(8))
    assert len(MahalanobisDetector().fit(X, domains=square).domains_) == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "not be NaN"), (("fan", pd.NaT), "not be NaN"), ({"unit": 1}, "be hashable")],
)
@pytest.mark.parametrize("name", ["domains", "sessions"])
def test_metadata_that_name_nothing_are_refused(name, value, reason):
    message = f"{name} must {reason}. Got {value!r} for clip 7"
    for detector in (MahalanobisDetector(), GroupedDetector(), CalibratedDetector(KNNDetector())):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            detector.fit(clips(8), **{name: [0] * 4 + [1] * 3 + [value]})


@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    "inner", [KNNDetector(), MahalanobisDetector(), make_pipeline(StandardScaler(), KNNDetector())]
)
def test_another_rate_moves_the_threshold_of_each_group(inner, pooled, rate):
    X, groups = machines()
    moved = GroupedDetector(inner, pooled=pooled).fit(X, groups=groups).set_false_alarm_rate(rate)
    key = "knndetector__false_alarm_rate" if hasattr(inner, "steps") else "false_alarm_rate"
    again = GroupedDetector(clone(inner).set_params(**{key: rate}), pooled=pooled)
    again.fit(X, groups=groups)
    new = clips(20, seed=3)
    for g in ("fan", "pump"):
        assert_allclose(
            moved.score_samples(new, groups=[g] * 20),
            again.score_samples(new, groups=[g] * 20),
            rtol=1e-12,
        )
    assert_allclose(moved.training_scores_, again.training_scores_, rtol=1e-12)


def test_another_rate_of_groups_is_kept_by_clone():
    X, groups = machines()
    for inner in (None, KNNDetector(), make_pipeline(StandardScaler(), KNNDetector())):
        moved = GroupedDetector(inner).fit(X, groups=groups).set_false_alarm_rate(0.3)
        again = clone(moved).fit(X, groups=groups)
        assert_allclose(again.training_scores_, moved.training_scores_, rtol=1e-12)
        assert inner is None or KNNDetector().false_alarm_rate == 0.1  # the caller's own
    forest = GroupedDetector(IsolationForest(n_estimators=5, random_state=0)).fit(X, groups=groups)
    again = clone(forest.set_false_alarm_rate(0.3)).fit(X, groups=groups)
    assert again.detectors_["fan"].false_alarm_rate == 0.3


def test_parameters_of_a_threshold_reach_the_detector_of_each_group():
    inner = GroupedDetector(make_pipeline(StandardScaler(), KNNDetector()))
    changed = with_threshold(inner, false_alarm_rate=0.02, threshold="quantile")
    end = changed.detector[-1]
    assert (end.false_alarm_rate, end.threshold) == (0.02, "quantile")
    assert inner.detector[-1].false_alarm_rate == 0.1
    assert (
        with_threshold(GroupedDetector(), false_alarm_rate=0.02).detector.false_alarm_rate == 0.02
    )
    forest = with_threshold(IsolationForest(), false_alarm_rate=0.02)
    assert isinstance(forest, CalibratedDetector)


@pytest.mark.parametrize(
    ("inner", "domains", "is_pooled"),
    [
        (KNNDetector(), ["s", "t"] * 60, True),
        (KNNDetector(), None, False),
        (IsolationForest(n_estimators=5), ["s", "t"] * 60, False),
    ],
)
def test_groups_are_pooled_if_the_detector_compares_domains_and_gets_them(
    inner, domains, is_pooled
):
    X, groups = machines()
    detector = GroupedDetector(inner, pooled="auto").fit(X, groups=groups, domains=domains)
    assert detector.pooled_ is is_pooled
    assert (len(set(map(id, detector.detectors_.values()))) == 1) is is_pooled


@pytest.mark.parametrize("given", [True, False])
def test_pooled_groups_measure_distances_once(monkeypatch, given):
    X, groups = machines()
    detector = GroupedDetector(KNNDetector(), pooled=True)
    detector.fit(X, groups=groups, domains=["s", "t"] * 60)
    calls = []
    terms = KNNDetector._terms
    monkeypatch.setattr(KNNDetector, "_terms", lambda self, X: calls.append(X) or terms(self, X))
    detector.score_samples(X, groups=groups if given else None)
    assert len(calls) == 1


def test_groups_have_maps_if_their_detectors_have():
    assert hasattr(GroupedDetector(SubbandKNNDetector()), "anomaly_map")
    assert not hasattr(GroupedDetector(), "anomaly_map")


@pytest.mark.parametrize("inner", [IsolationForest(), SubbandKNNDetector()])
def test_pooling_needs_a_detector_that_compares_domains(inner):
    X, groups = machines()
    message = (
        "With pooled=True, detector must compare a clip with domains, as MahalanobisDetector() "
        f"does. Got {inner!r} instead."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GroupedDetector(inner, pooled=True).fit(X, groups=groups)


def test_a_detector_of_another_package_is_calibrated_in_each_group():
    X, groups = machines()
    detector = GroupedDetector(IsolationForest(n_estimators=10, random_state=0))
    detector.fit(X, groups=groups)
    assert isinstance(detector.detectors_["fan"], CalibratedDetector)
    assert (detector.predict(X[:5] + 50, groups=["fan"] * 5) == -1).all()


def test_unknown_group_is_named():
    X, groups = machines()
    detector = GroupedDetector().fit(X, groups=groups)
    message = "Group 'gearbox' was not seen in fit. The groups are: 'fan', 'pump', 'valve'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detector.predict(X[:2], groups=["fan", "gearbox"])


@pytest.mark.parametrize("pooled", [False, True])
def test_group_with_too_few_clips_is_named(pooled):
    X, groups = machines()
    groups[0] = "belt"
    message = (
        "Domain ('belt', None) has 1."
        if pooled
        else "The detector of group 'belt' has no fit: Found array with 1 sample(s) "
        "(shape=(1, 6)) while a minimum of 2 is required by MahalanobisDetector."
    )
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        GroupedDetector(pooled=pooled).fit(X, groups=groups)


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


def test_a_pipeline_per_group_decides_as_its_detector_would():
    X, groups = machines()
    scaled = GroupedDetector(make_pipeline(StandardScaler(), KNNDetector())).fit(X, groups=groups)
    alone = make_pipeline(StandardScaler(), KNNDetector()).fit(X[:50])
    new = clips(40, seed=3)
    assert_array_equal(scaled.predict(new, groups=["fan"] * 40), alone.predict(new))


def test_a_group_whose_clips_score_the_same_is_scored_by_its_own_threshold():
    X = np.vstack([clips(42), clips(2, seed=1)])
    groups = ["fan"] * 42 + ["pump"] * 2
    detector = GroupedDetector(KNNDetector(metric="euclidean")).fit(X, groups=groups)
    assert_allclose(detector.training_scores_[42:], -1)
    near, far = detector.score_samples([X[42], X[42] + 50], groups=["pump"] * 2)
    assert far < -1 <= near


@pytest.mark.parametrize("detector", [PatchKNNDetector(), SubbandKNNDetector()])
def test_detectors_of_maps_can_be_grouped(detector):
    tokens = np.random.default_rng(0).normal(size=(24, 3, 2, 5))
    groups = ["fan", "pump"] * 12
    grouped = GroupedDetector(detector).fit(tokens, groups=groups)
    assert grouped.n_features_in_ == 5
    own = clone(detector).fit(tokens[::2])
    new = np.random.default_rng(1).normal(size=(9, 3, 2, 5))
    assert_array_equal(grouped.predict(new, groups=["fan"] * 9), own.predict(new))
    assert_array_equal(grouped.anomaly_map(new, groups=["fan"] * 9), own.anomaly_map(new))
    best = grouped.score_samples(new, groups=["fan"] * 9) >= grouped.score_samples(
        new, groups=["pump"] * 9
    )
    maps = [grouped.anomaly_map(new, groups=[g] * 9) for g in ("fan", "pump")]
    assert 0 < best.sum() < 9
    assert_array_equal(grouped.anomaly_map(new), np.where(best[:, np.newaxis, np.newaxis], *maps))
    assert np.isfinite(grouped.score_samples(tokens[:, :2], groups=groups)).all()


@pytest.mark.parametrize(
    "inner",
    [
        KNNDetector(),
        make_pipeline(StandardScaler(), KNNDetector()),
        IsolationForest(n_estimators=5, random_state=0),
    ],
    ids=by_name,
)
def test_a_group_is_taken_out_with_its_scores(inner):
    X, groups = machines()
    order = np.random.default_rng(0).permutation(120)
    X, groups = X[order], groups[order]
    detector = GroupedDetector(inner).fit(X, groups=groups, sessions=np.arange(120) // 2)
    new = clips(9, seed=3)
    for group in ("pump", "valve"):
        alone, own = detector.select_group(group), groups == group
        expected = detector.score_samples(new, groups=[group] * 9)
        assert_array_equal(alone.score_samples(new), expected)
        assert_array_equal(alone.score_samples(new, groups=[group] * 9), expected)
        assert_array_equal(alone.p_values(new), detector.p_values(new, groups=[group] * 9))
        assert_array_equal(alone.training_scores_, detector.training_scores_[own])
        assert_array_equal(alone.session_weights_, detector.session_weights_[own])
        assert_array_equal(alone.group_rows_[group], np.arange(own.sum()))
        for name in ("detectors_", "thresholds_", "scales_", "group_rows_"):
            assert list(getattr(alone, name)) == [group]
        assert alone.offset_ == -1
    assert set(detector.detectors_) == {"fan", "pump", "valve"}  # as it was


def test_what_cannot_be_taken_out_is_said():
    X, groups = machines()
    with pytest.raises(ValueError, match=r"^This GroupedDetector instance is not fitted yet"):
        GroupedDetector().select_group("fan")
    message = "Group 'belt' was not seen in fit. The groups are: 'fan', 'pump', 'valve'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GroupedDetector().fit(X, groups=groups).select_group("belt")
    message = (
        "The groups share one detector, since fit was given domains or labels (pooled=True), and "
        "none can be taken out. Fit without them."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GroupedDetector(pooled=True).fit(X, groups=groups).select_group("fan")


def test_the_map_of_a_clip_without_a_group_is_that_of_its_best_and_unread_ones_have_none():
    tokens = np.random.default_rng(0).normal(size=(24, 3, 2, 5))
    tokens[12:] += 3
    pipe = make_pipeline(FunctionTransformer(), SubbandKNNDetector())
    detector = GroupedDetector(pipe).fit(tokens, groups=["fan"] * 12 + ["pump"] * 12)
    new = np.random.default_rng(1).normal(size=(4, 3, 2, 5))
    new[2:] += 3
    new[1] = np.nan
    found = detector.anomaly_map(new)
    expected = detector.anomaly_map(new, groups=["fan", "fan", "pump", "pump"])
    assert_array_equal(found, expected)
    assert np.isnan(found).all(axis=(1, 2)).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="not fitted yet"):
        GroupedDetector(pipe).anomaly_map(new)


def test_metadata_of_single_clips_follow_them_into_their_groups():
    X, groups = machines()
    domains = np.array(["source", "target"])[np.arange(120) // 3 % 2]
    sessions = np.arange(120) // 2
    detector = euclidean_by_group().fit(X, groups=groups, domains=domains, sessions=sessions)
    for group in ("fan", "pump", "valve"):
        own = groups == group
        alone = KNNDetector(metric="euclidean").fit(
            X[own], domains=domains[own], sessions=sessions[own]
        )
        assert_array_equal(detector.detectors_[group].training_scores_, alone.training_scores_)
        assert_array_equal(detector.session_weights_[own], alone.session_weights_)


# --- metadata in a pipeline ----------------------------------------------------------------------


def test_metadata_reaches_the_detectors_without_routing():
    X, groups = machines()
    domains = ["source", "target"] * 60
    pipe = make_pipeline(StandardScaler(), GroupedDetector())
    pipe.fit(X, groupeddetector__groups=groups, groupeddetector__domains=domains)
    assert list(pipe[-1].detectors_) == ["fan", "pump", "valve"]
    assert len(pipe[-1].detectors_["fan"].location_) == 2
    expected = pipe[-1].predict(pipe[0].transform(X), groups=groups)
    assert_array_equal(pipe.predict(X, groups=groups), expected)

    pipe = make_pipeline(StandardScaler(), KNNDetector()).fit(X, knndetector__domains=domains)
    assert [len(bank) for bank in pipe[-1].banks_] == [60, 60]


def test_metadata_reaches_the_detectors_with_routing():
    X, groups = machines()
    domains = ["source", "target"] * 60
    with config_context(enable_metadata_routing=True):
        knn = KNNDetector().set_fit_request(domains=True)
        grouped = GroupedDetector(KNNDetector()).set_fit_request(domains=True)
        pipe = make_pipeline(StandardScaler(), grouped)
        pipe.fit(X, groups=groups, domains=domains)
        assert [len(bank) for bank in pipe[-1].detectors_["fan"].banks_] == [25, 25]
        expected = pipe[-1].decision_function(pipe[0].transform(X), groups=groups)
        assert_array_equal(pipe.decision_function(X, groups=groups), expected)
        assert_array_equal(pipe.predict(X, groups=groups), np.where(expected < 0, -1, 1))

        pipe = make_pipeline(StandardScaler(), knn).fit(X, domains=domains)
        assert [len(bank) for bank in pipe[-1].banks_] == [60, 60]


def test_what_a_search_computes_first_does_not_travel():
    normal, new = np.random.default_rng(0).normal(size=(2, 200, 8)) + 3
    detector = KNNDetector().fit(normal)
    scores = detector.score_samples(new)
    copied = pickle.loads(pickle.dumps(detector))
    assert "fast" in vars(detector._banks[0])
    assert list(vars(copied._banks[0])) == ["rows"]
    assert_array_equal(copied.score_samples(new), scores)
