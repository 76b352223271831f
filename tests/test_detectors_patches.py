"""Detectors of patches: which cells of time and frequency are anomalies."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.covariance import ledoit_wolf
from sklearn.metrics.pairwise import cosine_distances
from sklearn.random_projection import GaussianRandomProjection

from skanopatch.detectors import PatchKNNDetector, SubbandKNNDetector, patch_knn
from skanopatch.detectors.patch_knn import _farthest_first
from skanopatch.detectors.thresholds import place_threshold

N_TIME, N_FREQ, N_DIMS = 6, 4, 5

DETECTORS = [
    SubbandKNNDetector(),
    SubbandKNNDetector("cosine"),
    PatchKNNDetector(),
    PatchKNNDetector("euclidean", max_bank_size=100, random_state=0),
]
every_detector = pytest.mark.parametrize("detector", DETECTORS, ids=repr)


def clips(n, seed=0, n_time=N_TIME):
    """Tokens that vary from clip to clip, from band to band and within both."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(N_DIMS, N_DIMS))
    means = 3 * np.random.default_rng(8).normal(size=(N_FREQ, N_DIMS))
    X = rng.normal(size=(n, n_time, N_FREQ, N_DIMS)) + rng.normal(size=(n, 1, N_FREQ, N_DIMS))
    return X @ mixing + means


# --- the contract --------------------------------------------------------------------------------


@every_detector
def test_a_map_has_its_highest_cell_where_a_token_is_odd(detector):
    X = clips(1, seed=1)
    X[0, 3, 2] *= -9
    maps = clone(detector).fit(clips(40)).anomaly_map(X)
    assert maps.shape == (1, N_TIME, N_FREQ)
    assert maps.dtype == np.float64
    assert np.unravel_index(maps.argmax(), maps.shape) == (0, 3, 2)
    assert maps.max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.1])
@every_detector
def test_a_fresh_normal_clip_has_a_cell_above_1_as_often_as_asked_for(detector, rate):
    n_fits, n_clips, n_fresh = 6, 50, 200
    rates = []
    for seed in range(n_fits):
        fitted = clone(detector).fit(clips(n_clips, seed=seed).astype(np.float32))
        fitted.set_false_alarm_rate(rate)
        fresh = clips(n_fresh, seed=1000 + seed).astype(np.float32)
        rates.append(
            [
                np.mean(fitted.anomaly_map(fresh).max(axis=(1, 2)) > 1),
                np.mean(fitted.predict(fresh) == -1),
            ]
        )
    error = np.sqrt(rate * (1 - rate) * (1 / (n_clips + 2) + 1 / n_fresh) / n_fits)
    assert_allclose(np.mean(rates, axis=0), rate, atol=3.5 * error)


@every_detector
def test_training_clips_are_not_their_own_neighbours(detector):
    X = clips(40)
    detector = clone(detector).fit(X)
    maps = detector.anomaly_map(X)
    # A clip that found itself would have distances of 0, far below the median.
    assert abs(np.median(maps)) < 0.2
    order = np.random.default_rng(1).permutation(40)
    assert_allclose(detector.anomaly_map(X[order]), maps[order], rtol=1e-9, atol=1e-12)
    scores = detector.score_samples(X)
    assert_allclose(detector.score_samples(X[order]), scores[order], rtol=1e-9)
    alone = [detector.score_samples(row[np.newaxis])[0] for row in X]
    assert_allclose(alone, scores, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_detector
def test_training_clips_have_the_same_map_alone_and_in_a_batch(detector, dtype):
    """Products over a batch round differently with its length; clips are skipped all the same."""
    mixing = np.random.default_rng(3).normal(size=(N_DIMS, 200))
    X = (
        clips(60) @ mixing + 0.1 * np.random.default_rng(4).normal(size=(60, 6, 4, 200)) + 5
    ).astype(dtype)
    detector = clone(detector).fit(X)
    maps, scores = detector.anomaly_map(X), detector.score_samples(X)
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-7, "atol": 1e-9}
    )
    for rows in ([0], [59], [3, 40, 7], range(17)):
        part = X[list(rows)]
        assert_allclose(detector.anomaly_map(part), maps[list(rows)], **tolerance)
        assert_allclose(detector.score_samples(part), scores[list(rows)], **tolerance)


@pytest.mark.parametrize("rate", [0.01, 0.3])
@every_detector
def test_another_false_alarm_rate_is_that_of_a_fit(detector, rate):
    X, new = clips(40), clips(9, seed=1)
    moved = clone(detector).fit(X).set_false_alarm_rate(rate)
    again = clone(detector).set_params(false_alarm_rate=rate).fit(X)
    for name in ("offset_", "level_", "training_scores_", "own_domain_scores_"):
        assert_allclose(getattr(moved, name), getattr(again, name), rtol=1e-12)
    assert_allclose(moved.anomaly_map(new), again.anomaly_map(new), rtol=1e-12)
    assert_allclose(moved.score_samples(new), again.score_samples(new), rtol=1e-12)
    assert_array_equal(moved.predict(new), again.predict(new))
    assert_allclose(moved.p_values(new), again.p_values(new))


@pytest.mark.filterwarnings("ignore:Clips of one session")
@every_detector
def test_sessions_are_left_out_as_a_whole(detector):
    """Clips of one session are alike: the level is that of the sessions, not of the clips."""
    X = np.repeat(clips(12), 4, axis=0) + 0.01 * clips(48, seed=1)
    sessions = np.repeat(np.arange(12), 4)
    whole, single = (clone(detector).fit(X, sessions=s) for s in (sessions, None))
    fresh = clips(100, seed=2)
    alarms = [np.mean(d.anomaly_map(fresh).max(axis=(1, 2)) > 1) for d in (whole, single)]
    assert alarms[0] < 0.3
    assert alarms[1] > 0.7
    assert_array_equal(whole.session_weights_, 1 / 4)
    expected = place_threshold(whole._highest, 0.1, weights=np.full(48, 1 / 4))
    assert whole.level_ == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_detector
def test_units_of_tokens_do_not_matter(detector, dtype):
    if detector.metric == "euclidean":
        detector = clone(detector).set_params(metric="mahalanobis")
    X, new = clips(40).astype(dtype), clips(9, seed=1).astype(dtype)
    units = 1.0 if detector.metric == "cosine" else np.array([1e-4, 1e3, 1, 1e4, 1e-2], dtype)
    if isinstance(detector, PatchKNNDetector):
        detector = clone(detector).set_params(max_bank_size=None)
    plain = clone(detector).fit(X).score_samples(new)
    scaled = clone(detector).fit(1e3 * units * X).score_samples(1e3 * units * new)
    assert_allclose(scaled, plain, rtol=1e-2 if dtype == np.float32 else 1e-6)


@every_detector
def test_an_unreadable_clip_has_a_map_of_nan_and_harms_no_other(detector):
    X, new = clips(40), clips(5, seed=1)
    with_nan = np.insert(X, 7, np.nan, axis=0)
    detector = clone(detector).fit(X)
    again = clone(detector).fit(with_nan)
    assert np.isnan(again.training_scores_[7])
    whole = detector.anomaly_map(new)
    new[2] = np.nan
    maps = again.anomaly_map(new)
    assert np.isnan(maps[2]).all()
    assert_allclose(maps[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])
    assert again.predict(new)[2] == -1
    nothing = again.anomaly_map(np.full((2, 6, 4, N_DIMS), np.nan))
    assert nothing.shape == (2, 6, 4)
    assert np.isnan(nothing).all()


@every_detector
def test_clips_of_other_lengths_are_compared_cell_by_cell(detector):
    detector = clone(detector).fit(clips(40))
    long = clips(1, seed=1, n_time=9)
    assert detector.anomaly_map(long).shape == (1, 9, N_FREQ)


@every_detector
def test_a_clip_of_one_token_is_a_row(detector):
    X, new = clips(40)[:, 0, 0], clips(5, seed=1)[:, 0, 0]
    rows, tokens = clone(detector).fit(X), clone(detector).fit(X[:, np.newaxis, np.newaxis])
    assert_array_equal(rows.anomaly_map(new), tokens.anomaly_map(new[:, np.newaxis, np.newaxis]))
    assert rows.anomaly_map(new).shape == (5, 1, 1)


@every_detector
def test_saved_detector_gives_the_same_maps(detector):
    detector = clone(detector).fit(clips(40))
    new = clips(5, seed=1)
    loaded = pickle.loads(pickle.dumps(detector))
    assert_array_equal(loaded.anomaly_map(new), detector.anomaly_map(new))


@every_detector
def test_what_does_not_fit_is_refused_by_name(detector):
    detector = clone(detector).fit(clips(40))
    shape = r"must have the shape \(n_clips, n_time, n_freq, n_dims\), .* Got .* \(1, 6, 2, 2, 5\)"
    with pytest.raises(ValueError, match=shape):
        detector.anomaly_map(clips(1).reshape(1, 6, 2, 2, N_DIMS))
    with pytest.raises(ValueError, match=r"5 dimensions in 1 bands, but .* in 4 bands"):
        detector.anomaly_map(clips(1).reshape(1, 24, N_DIMS))
    with pytest.raises(ValueError, match=r"tokens of 3 dimensions in 4 bands, but .* of 5 dim"):
        detector.anomaly_map(clips(1)[..., :3])
    with pytest.raises(ValueError, match=r"5 dimensions in 1 bands, but .* in 4 bands"):
        detector.anomaly_map(clips(1)[:, 0, 0])
    half = clips(3)
    half[1, 0, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"Input X contains NaN\."):
        detector.anomaly_map(half)


@every_detector
def test_tokens_of_one_band_need_no_axis_for_it(detector):
    X = clips(12).reshape(12, 24, N_DIMS)
    fitted = clone(detector).fit(X)
    same = clone(detector).fit(X[:, :, np.newaxis])
    assert_array_equal(fitted.score_samples(X), same.score_samples(X[:, :, np.newaxis]))


def test_too_few_clips_are_refused():
    message = "SubbandKNNDetector() needs at least 3 clips, since each is left out once"
    with pytest.raises(ValueError, match=re.escape(message)):
        SubbandKNNDetector().fit(clips(2))
    assert np.isfinite(SubbandKNNDetector("cosine").fit(clips(2)).offset_)
    domains = ["source"] * 8 + ["target"]
    fitted = SubbandKNNDetector().fit(clips(9), domains=domains)
    # The target clip is the only one of its domain: left out, it has nothing to be compared with.
    assert np.isnan(fitted.training_scores_).tolist() == [False] * 8 + [True]


def test_equal_clips_are_warned_of():
    message = "All 20 clips are equal: none of the 24 features varies"
    for detector in (SubbandKNNDetector(), PatchKNNDetector("cosine")):
        with pytest.warns(UserWarning, match=message):
            detector.fit(np.ones((20, 2, 4, 3)))
        assert detector.predict(np.ones((2, 2, 4, 3))).tolist() == [1, 1]


def test_domains_of_single_clips_are_refused():
    X = clips(12)
    detector = SubbandKNNDetector().fit(X, domains=["a", "b"] * 6)
    message = "compares a clip with all domains at once. Got domains for 12 clips; leave them out."
    with pytest.raises(ValueError, match=re.escape(message)):
        detector.score_samples(X, domains=["a", "b"] * 6)


@pytest.mark.filterwarnings("ignore:Clips of one session", "ignore:2 sessions are few")
def test_a_domain_of_one_session_has_no_left_out_scores():
    """A left-out clip of a domain that no other session has cannot be compared with it."""
    X, domains = clips(20), ["a"] * 16 + ["b"] * 4
    X[16:] += 30
    sessions = np.arange(20) // 2
    sessions[16:] = 8
    detector = SubbandKNNDetector().fit(X, domains=domains, sessions=sessions)
    assert_array_equal(np.isnan(detector.training_scores_), np.array(domains) == "b")
    assert detector.offset_ > -10  # and not the distance to the other domain
    assert np.isfinite(detector.level_)
    assert np.isfinite(detector.anomaly_map(X)).all()
    patch_knn_scores = (
        PatchKNNDetector().fit(X, domains=domains, sessions=sessions).training_scores_
    )
    assert np.isfinite(patch_knn_scores).all()  # it compares with all domains
    with pytest.raises(ValueError, match=r"Each domain of \['a', 'b'\] has one session only"):
        detector.fit(X, domains=domains, sessions=domains)


# --- SubbandKNNDetector --------------------------------------------------------------------------


def test_subband_score_is_that_of_beam():
    X, new = clips(30), clips(7, seed=1)
    of_bands = [
        cosine_distances(a, b).min(axis=1)
        for a, b in zip(
            *(np.moveaxis(Z.mean(1), 1, 0) for Z in (new, X)),
            strict=True,
        )
    ]
    detector = SubbandKNNDetector("cosine").fit(X)
    assert_allclose(detector.score_samples(new), -np.mean(of_bands, axis=0), rtol=1e-6)


def test_whitened_distance_is_that_of_the_shrunk_covariance():
    X = clips(30)[:, :, :1]
    new = clips(7, seed=1)[:, :, :1]
    means, new_means = X.mean(axis=(1, 2)), new.mean(axis=(1, 2))
    scale = means.std(axis=0)
    covariance, _ = ledoit_wolf(means / scale)
    precision = np.linalg.inv(covariance * np.outer(scale, scale))
    differences = new_means[:, np.newaxis] - means
    squared = np.einsum("qrd,de,qre->qr", differences, precision, differences)
    detector = SubbandKNNDetector().fit(X)
    assert_allclose(detector.score_samples(new), -np.sqrt(squared.min(axis=1)), rtol=1e-5)


def test_subband_map_is_the_sum_of_band_and_token_in_quartile_ranges():
    X, new = clips(30), clips(7, seed=1)
    detector = SubbandKNNDetector("euclidean", max_bank_size=None).fit(X)
    Z = new
    f = 2
    band = np.linalg.norm(Z.mean(1)[:, None, f] - X.mean(1)[None, :, f], axis=2).min(axis=1)
    references = X[:, :, f].reshape(-1, N_DIMS)
    token = np.linalg.norm(Z[:, :, f, np.newaxis] - references, axis=3).min(axis=2)
    centers, spreads = detector.band_median_[:, f], detector.band_iqr_[:, f]
    expected = (np.log1p(band[:, np.newaxis]) - centers[0]) / spreads[0]
    expected = expected + (np.log1p(token) - centers[1]) / spreads[1]
    assert_allclose(
        detector.anomaly_map(new)[:, :, f], expected / detector.level_, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("n_clips", [12, 50])
def test_spread_of_a_band_is_the_quartile_range_of_its_clips_left_out(n_clips):
    X = clips(n_clips)
    detector = SubbandKNNDetector("euclidean", max_bank_size=None).fit(X)
    band, tokens = X.mean(axis=1)[:, 2], X[:, :, 2]
    fold = np.arange(n_clips) % 20
    apart = fold[:, np.newaxis] != fold
    of_clips = np.linalg.norm(band[:, np.newaxis] - band, axis=2)
    of_tokens = np.linalg.norm(tokens[:, :, None, None] - tokens, axis=4).min(axis=3)
    of_tokens = np.moveaxis(of_tokens, 2, 1)
    found = [
        np.where(apart, of_clips, np.inf).min(axis=1),
        np.where(apart[:, :, None], of_tokens, np.inf).min(axis=1),
    ]
    for term, distances in enumerate(found):
        quartiles = np.quantile(np.log1p(distances), [0.25, 0.5, 0.75])
        assert_allclose(detector.band_median_[term, 2], quartiles[1], rtol=1e-5)
        assert_allclose(detector.band_iqr_[term, 2], quartiles[2] - quartiles[0], rtol=1e-5)


def test_a_band_keeps_some_tokens_the_same_in_each_fit():
    X, new = clips(50), clips(3, seed=1)
    few, every = SubbandKNNDetector("euclidean", max_bank_size=9), SubbandKNNDetector("euclidean")
    few.fit(X), every.set_params(max_bank_size=None).fit(X)
    for f, (space, bank) in enumerate(few.token_banks_):
        distances = np.linalg.norm(
            bank[:, None] - (X[:, :, f].reshape(-1, X.shape[3]) - space[0]), axis=2
        )
        assert len(bank) == 9
        assert len(np.unique(distances.argmin(axis=1))) == 9
        assert distances.min(axis=1).max() < 1e-5  # each is a token of this band
        assert_array_equal(bank, clone(few).fit(X).token_banks_[f][1])
    assert_array_equal(few.score_samples(new), every.score_samples(new))
    assert few.offset_ == every.offset_
    assert [len(bank) for _, bank in every.token_banks_] == [50 * N_TIME] * N_FREQ


def test_the_level_is_placed_among_cells_in_units_of_the_other_clips():
    """A clip that is far away does not stretch the units in which it is itself measured."""
    X = clips(12)
    X[5] *= 30
    detector = SubbandKNNDetector("euclidean").fit(X)
    logs = [np.empty((12, n_time, N_FREQ)) for n_time in (1, N_TIME)]
    for i in range(12):
        part = clone(detector).fit(np.delete(X, i, axis=0))
        for log, cells in zip(logs, part._terms(X[[i]]), strict=True):
            log[i] = np.log1p(cells[0])
    highest = np.empty(12)
    for i in range(12):
        cells = 0
        for log in logs:
            low, median, high = np.quantile(np.delete(log, i, axis=0), [0.25, 0.5, 0.75], (0, 1))
            cells = cells + (log[i] - median) / (high - low)
        highest[i] = cells.max()
    assert detector.level_ == pytest.approx(place_threshold(highest, 0.1))


@pytest.mark.slow
def test_training_scores_are_those_of_refits():
    X = clips(30)
    for metric in ("mahalanobis", "cosine"):
        detector = SubbandKNNDetector(metric=metric).fit(X)
        expected = np.empty(30)
        for fold in range(20):
            left = np.arange(fold, 30, 20)
            part = clone(detector).fit(np.delete(X, left, axis=0))
            expected[left] = part.score_samples(X[left])
        assert_allclose(detector.training_scores_, expected, rtol=1e-9)
        assert detector.offset_ == pytest.approx(-place_threshold(-expected, 0.1))


@pytest.mark.parametrize("metric", ["mahalanobis", "euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_distance_of_rounding_errors_is_none(metric, dtype):
    X = np.repeat(clips(10), 2, axis=0).astype(dtype)
    detector = PatchKNNDetector(metric).fit(X)
    (rounded,) = detector._terms(np.nextafter(X, dtype(np.inf)))
    assert_array_equal(rounded, 0)
    (moved,) = detector._terms(X + np.array([0.1, 0, 0, 0, 0], dtype))
    assert (moved > 0).all()


@pytest.mark.parametrize("detector", [SubbandKNNDetector(), PatchKNNDetector()], ids=str)
def test_features_that_are_one_in_fit_and_differ_in_a_new_cell_are_an_anomaly(detector):
    X = np.repeat(np.random.default_rng(0).choice([-1.0, 1.0], size=(20, 4, 2, 1)), 2, axis=3)
    X[:10] = -X[10:]  # the mean is 0, and the covariance singular to the bit
    new = X[:1].copy()
    new[0, 1, 1] = [1, -1]
    found = detector.fit(X).anomaly_map(new)[0]
    assert np.unravel_index(found.argmax(), found.shape) == (1, 1)
    assert found.max() > 1


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "mahalanobis"])
def test_a_map_of_patches_is_its_definition_band_by_band(metric):
    """Distances to the nearest token of any band, as logarithms in quartile ranges of a band."""
    X, new = clips(24), clips(5, seed=1)
    tokens = X.reshape(-1, N_DIMS)

    def space(rows):
        if metric == "cosine":
            return np.zeros(N_DIMS), np.eye(N_DIMS)
        if metric == "euclidean":
            return rows.mean(axis=0), np.eye(N_DIMS)
        scale = rows.std(axis=0)
        covariance, _ = ledoit_wolf((rows - rows.mean(axis=0)) / scale, assume_centered=True)
        covariance += 1e-6 * np.eye(N_DIMS)
        return rows.mean(axis=0), np.linalg.inv(np.linalg.cholesky(covariance)).T / scale[:, None]

    def distances(rows, others):
        center, matrix = space(others)
        if metric == "cosine":
            return cosine_distances(rows, others).min(axis=1)
        a, b = (rows - center) @ matrix, (others - center) @ matrix
        return np.linalg.norm(a[:, np.newaxis] - b, axis=2).min(axis=1)

    left_out = np.empty((24, N_TIME, N_FREQ))
    for fold in range(20):
        left = np.arange(fold, 24, 20)
        others = np.delete(X, left, axis=0).reshape(-1, N_DIMS)
        found = distances(X[left].reshape(-1, N_DIMS), others)
        left_out[left] = found.reshape(len(left), N_TIME, N_FREQ)
    low, median, high = np.quantile(np.log1p(left_out), [0.25, 0.5, 0.75], axis=(0, 1))
    detector = PatchKNNDetector(metric).fit(X)
    assert_allclose(detector.band_median_, median[np.newaxis], rtol=1e-6)
    assert_allclose(detector.band_iqr_, (high - low)[np.newaxis], rtol=1e-6)
    of_new = distances(new.reshape(-1, N_DIMS), tokens).reshape(5, N_TIME, N_FREQ)
    expected = (np.log1p(of_new) - median) / (high - low) / detector.level_
    assert_allclose(detector.anomaly_map(new), expected, rtol=1e-5, atol=1e-7)


def test_a_band_whose_distances_are_all_the_same_is_in_units_of_logarithms():
    X = np.random.default_rng(0).normal(size=(20, 2, 2, 3))
    X[:, :, 1] = 100 + np.arange(3)  # one token, in each clip
    detector = PatchKNNDetector("euclidean").fit(X)
    assert_array_equal(detector.band_median_[0, 1], 0)
    assert_array_equal(detector.band_iqr_[0, 1], 1)
    new = X[:1].copy()
    new[0, 1, 1, 2] += 2.0
    found = detector.anomaly_map(new)[0, :, 1]
    assert_allclose(found, [0, np.log1p(2.0) / detector.level_])


def test_a_level_that_is_not_above_0_is_none():
    """Of two clips that are alike, each is as near as the median: the highest cell is 0."""
    X = np.repeat(clips(1, n_time=1), 6, axis=0)
    with pytest.warns(UserWarning, match="All 6 clips are equal"):
        detector = PatchKNNDetector("euclidean").fit(X)
    assert detector.level_ == 1
    assert_array_equal(detector.anomaly_map(X), 0)


def test_directions_of_rounding_errors_are_none_and_constant_ones_have_their_unit():
    X = clips(20)
    X[..., 2] = 7.0
    detector = PatchKNNDetector().fit(X)
    center, matrix, rounding = detector.space_
    assert_allclose(center, X.reshape(-1, N_DIMS).mean(axis=0))
    residuals = X.reshape(-1, N_DIMS) - center
    residuals[:, 2] = 0
    scale = np.where(np.arange(N_DIMS) == 2, 1, residuals.std(axis=0))
    covariance, _ = ledoit_wolf(residuals / scale, assume_centered=True)
    covariance += np.diag(np.where(np.arange(N_DIMS) == 2, 1, 1e-6))
    assert_allclose(matrix @ matrix.T * np.outer(scale, scale), np.linalg.inv(covariance))
    largest = np.abs(residuals).max(axis=0) @ np.abs(matrix)
    assert_allclose(rounding, 8 * np.finfo(float).eps * largest)
    for metric in ("euclidean", "cosine"):
        plain = PatchKNNDetector(metric).fit(X)
        center, matrix, rounding = plain.space_
        assert matrix is None
        assert not rounding.any()
        assert_allclose(center, 0 if metric == "cosine" else X.reshape(-1, N_DIMS).mean(axis=0))


def test_one_odd_clip_among_the_normal_ones_hides_no_fault():
    X, new = clips(60), clips(3, seed=1)
    new[:, 2, 1] += 20
    clean = SubbandKNNDetector(max_bank_size=None).fit(X).anomaly_map(new)
    X[0] += 100
    stained = SubbandKNNDetector(max_bank_size=None).fit(X).anomaly_map(new)
    place = (np.arange(3), 2, 1)
    assert (clean[place] > 1).all()
    assert (stained[place] > 1).all()


def test_a_clip_is_as_normal_as_its_best_domain_finds_it():
    X, new = clips(30), clips(9, seed=1)
    X[20:] += 2
    together, source, target = (SubbandKNNDetector("cosine") for _ in range(3))
    together.fit(X, domains=["source"] * 20 + ["target"] * 10)
    scores = [
        part.fit(rows).score_samples(new) for part, rows in ((source, X[:20]), (target, X[20:]))
    ]
    assert_allclose(together.score_samples(new), np.max(scores, axis=0), rtol=1e-6)


def test_the_best_domain_is_that_of_the_least_mean_over_bands():
    X = clips(30)
    new = X[:5] + 1.0
    X[20:25] = new + 3 * (np.arange(N_FREQ) > 0)[:, np.newaxis]  # but for a band
    detector = SubbandKNNDetector("euclidean")
    together = detector.fit(X, domains=["source"] * 20 + ["target"] * 10).score_samples(new)
    alone = [clone(detector).fit(part).score_samples(new) for part in (X[:20], X[20:])]
    assert (alone[0] > alone[1]).all()
    assert_allclose(together, alone[0], rtol=1e-6)


# --- PatchKNNDetector ----------------------------------------------------------------------------


def test_patch_score_is_minus_the_highest_cell_so_that_the_threshold_is_minus_1():
    detector = PatchKNNDetector().fit(clips(40))
    new = clips(20, seed=1)
    maxima = detector.anomaly_map(new).max(axis=(1, 2))
    assert_allclose(detector.score_samples(new), -maxima)
    assert_allclose(detector.offset_, -1)
    assert_array_equal(detector.predict(new), np.where(maxima <= 1, 1, -1))


def test_search_in_chunks_finds_what_it_finds_at_once():
    X, new = clips(20), clips(5, seed=1)
    at_once = PatchKNNDetector().fit(X)
    with config_context(working_memory=0.01):
        in_chunks = PatchKNNDetector().fit(X)
        assert_allclose(in_chunks.anomaly_map(new), at_once.anomaly_map(new), rtol=1e-6)
    references = at_once.bank_.astype(np.float64)
    queries = at_once._project(new.reshape(-1, N_DIMS), at_once.space_)
    distances = np.linalg.norm(queries[:, np.newaxis] - references, axis=2).min(axis=1)
    assert_allclose(at_once._terms(new)[0].ravel(), distances)


def test_greedy_choice_takes_the_farthest_token_each_time():
    tokens = np.random.default_rng(0).normal(size=(200, 3))
    chosen = _farthest_first(tokens, range(30), np.random.RandomState(0))
    for i in range(1, 30):
        gaps = np.linalg.norm(tokens[:, np.newaxis] - tokens[chosen[:i]], axis=2).min(axis=1)
        assert_allclose(gaps[chosen[i]], gaps.max(), rtol=1e-5)
    assert len(set(chosen)) == 30


def test_greedy_choice_covers_more_than_a_random_one_also_in_a_projection():
    rng = np.random.default_rng(0)
    common, rare = rng.normal(size=(2000, 128)), rng.normal(size=(5, 128)) + 3
    chosen = _farthest_first(np.vstack([common, rare]), range(40), np.random.RandomState(0))
    assert np.any(chosen >= 2000)  # 40 of 2005 at random would miss them nine times out of ten


def test_bank_is_bounded_and_depends_on_the_seed_alone():
    def bank(seed):
        detector = PatchKNNDetector(max_bank_size=50, random_state=seed)
        return detector.fit(clips(20)).bank_

    assert bank(0).shape == (50, N_DIMS)
    assert_array_equal(bank(0), bank(0))
    assert not np.array_equal(bank(0), bank(1))
    # A bound that is not reached leaves the tokens in their order.
    assert PatchKNNDetector(max_bank_size=None).fit(clips(20)).bank_.shape == (480, N_DIMS)


def test_too_little_memory_is_an_error_that_says_what_to_set(monkeypatch):
    memory = SimpleNamespace(available=10**6)
    monkeypatch.setattr(patch_knn.psutil, "virtual_memory", lambda: memory)
    message = "needs 1.1 GB to keep 480 of 480 tokens of 5 dimensions, and 0.001 GB are available"
    with pytest.raises(MemoryError, match=re.escape(message)) as caught:
        PatchKNNDetector().fit(clips(20))
    assert "MelPatcher" not in str(caught.value)
    memory.available = 2 * 10**9
    PatchKNNDetector().fit(clips(20))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
@pytest.mark.parametrize(("n_dims", "size"), [(5, None), (5, 480), (5, 100), (80, 100)])
def test_memory_is_that_of_tokens_bank_matrices_and_chunks(
    monkeypatch, n_dims, size, metric, dtype
):
    X = np.random.default_rng(0).normal(size=(20, 6, 4, n_dims)).astype(dtype)
    n_tokens, itemsize = 480, np.dtype(dtype).itemsize
    kept = n_tokens if size is None else size
    needed = n_tokens * n_dims * (itemsize + 8)  # projected, and their differences in float64
    needed += 2 * kept * n_dims * itemsize  # the bank, and that of a fold
    if kept < n_tokens:  # of the choice: float32 rows of at most 64 dimensions, and three numbers
        needed += n_tokens * 4 * (min(n_dims, 64) + 3)
    if metric == "mahalanobis":
        needed += 4 * 8 * n_dims * n_dims
    needed += 3 * 2**20  # to work in
    memory = SimpleNamespace(available=needed)
    monkeypatch.setattr(patch_knn.psutil, "virtual_memory", lambda: memory)
    detector = PatchKNNDetector(metric, max_bank_size=size, random_state=0)
    with config_context(working_memory=3):
        detector._check_memory(n_tokens, n_dims, itemsize)
        detector.fit(X)
        memory.available = needed - 1
        message = (
            f"PatchKNNDetector needs {needed / 1e9:.2g} GB to keep {kept} of 480 tokens of "
            f"{n_dims} dimensions, and {memory.available / 1e9:.2g} GB are available. Set "
            f"max_bank_size below {size}, give fewer clips, or float32 for float64."
        )
        with pytest.raises(MemoryError, match=f"^{re.escape(message)}$"):
            detector.fit(X)


@pytest.mark.parametrize(("n_dims", "is_many"), [(2000, False), (2001, True)])
def test_tokens_of_more_dimensions_than_any_network_has_may_be_samples(
    monkeypatch, n_dims, is_many
):
    memory = SimpleNamespace(available=0)
    monkeypatch.setattr(patch_knn.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(MemoryError) as caught:
        PatchKNNDetector("cosine").fit(np.random.default_rng(0).normal(size=(3, 1, 1, n_dims)))
    assert ("put MelPatcher() first" in str(caught.value)) is is_many


@pytest.mark.parametrize(("size", "n_folds"), [(None, 20), (600, 20), (599, 5), (50, 5)])
def test_clips_are_left_out_in_five_folds_if_tokens_are_chosen(size, n_folds):
    detector = PatchKNNDetector(max_bank_size=size)
    assert detector._n_folds(clips(25)) == n_folds  # of 600 tokens


@pytest.mark.parametrize(("n_dims", "is_exact"), [(64, True), (65, False)])
def test_the_choice_measures_in_at_most_64_dimensions(n_dims, is_exact):
    """On rows along the axes, each at its own distance, the order of the choice is known."""
    lengths = 1 + 0.02 * np.arange(n_dims)
    rows = np.vstack([np.zeros(n_dims), np.diag(lengths)])
    start = SimpleNamespace(randint=lambda n: 0)
    if is_exact:
        chosen = _farthest_first(rows, range(n_dims + 1), start)
        assert chosen[0] == 0
        assert chosen[1] == n_dims
        assert sorted(chosen) == list(range(n_dims + 1))
        return
    chosen = _farthest_first(rows, range(n_dims + 1), np.random.RandomState(0))
    again = _farthest_first(rows, range(n_dims + 1), np.random.RandomState(0))
    assert_array_equal(chosen, again)
    assert sorted(chosen) == list(range(n_dims + 1))  # each once, also those that look alike
    projection = GaussianRandomProjection(64, random_state=np.random.RandomState(0))
    near = projection.fit_transform(rows.astype(np.float32))
    for i in range(1, 20):
        gaps = np.linalg.norm(near[:, np.newaxis] - near[chosen[:i]], axis=2).min(axis=1)
        assert gaps[chosen[i]] == pytest.approx(gaps.max(), rel=1e-3)


def test_tokens_of_many_dimensions_need_memory_for_their_covariance(monkeypatch):
    memory = SimpleNamespace(available=1.2 * 10**9)
    monkeypatch.setattr(patch_knn.psutil, "virtual_memory", lambda: memory)
    X = np.random.default_rng(0).normal(size=(4, 1, 1, 3000))
    with pytest.raises(MemoryError, match=r"needs 1\.4 GB .*put MelPatcher\(\) first"):
        PatchKNNDetector().fit(X)  # four matrices of 3,000 x 3,000 beside 1 GiB to work in
    assert PatchKNNDetector("cosine").fit(X).bank_.shape == (4, 3001)


def test_verbose_fit_estimates_memory_and_shows_the_progress_of_the_choice(capfd):
    PatchKNNDetector(max_bank_size=50, random_state=0, verbose=1).fit(clips(20))
    out, err = capfd.readouterr()
    assert "keeps 50 of 480 tokens of 5 dimensions; fit takes 1.1 GB." in out
    assert "Choosing tokens: 100%" in err
    assert err.count("50/50") == 6  # five folds and the whole
