"""Thresholds, joint distances and p-values against their formulas."""

import re
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.ensemble import IsolationForest

from skanopatch.detectors import (
    CalibratedDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
)
from skanopatch.detectors.folds import (
    _session_distances,
    cross_fit,
    session_weights,
    split_folds,
    warn_of_sessions,
)
from skanopatch.detectors.thresholds import (
    DistanceScale,
    JointDistance,
    conformal_p_values,
    exp,
    place_threshold,
)


def distances(n, seed=0):
    return np.random.default_rng(seed).lognormal(1, 0.3, size=n)


def folds(n_clips, domains=None, sessions=None, n_folds=20):
    return list(split_folds(n_clips, domains=domains, sessions=sessions, n_folds=n_folds))


# --- folds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_clips", "n_folds"), [(2, 2), (7, 7), (20, 20), (33, 20), (500, 20)])
def test_each_clip_is_left_out_once(n_clips, n_folds):
    found = folds(n_clips)
    assert len(found) == n_folds
    assert_array_equal(np.sort(np.concatenate([left for _, left in found])), np.arange(n_clips))
    sizes = [len(left) for _, left in found]
    assert max(sizes) - min(sizes) <= 1
    for kept, left in found:
        assert_array_equal(np.sort(np.concatenate([kept, left])), np.arange(n_clips))


def test_neighbours_in_time_are_left_out_in_different_folds():
    for _, left in folds(100):
        assert np.diff(left).min() >= 20


def test_sessions_are_left_out_as_a_whole():
    sessions = np.random.default_rng(0).integers(30, size=200).tolist()
    for kept, left in folds(200, sessions=sessions):
        assert not {sessions[i] for i in kept} & {sessions[i] for i in left}
    assert len(folds(60, sessions=["a", "b", "c"] * 20)) == 3


def test_each_domain_loses_about_as_many_clips_in_each_fold():
    domains = ["source"] * 100 + ["target"] * 20
    order = np.random.default_rng(0).permutation(120)
    mixed = [domains[i] for i in order]
    for _, left in folds(120, domains=mixed):
        of_target = sum(mixed[i] == "target" for i in left)
        assert (of_target, len(left) - of_target) == (1, 5)


def test_sessions_of_each_domain_are_spread_over_the_folds():
    # Ten sessions of a, then ten of b, with n_folds=10: one of each is left out at a time.
    sessions = np.repeat(np.arange(20), 3).tolist()
    domains = ["a"] * 30 + ["b"] * 30
    for _, left in folds(60, domains=domains, sessions=sessions, n_folds=10):
        assert sorted(domains[i] for i in left) == ["a"] * 3 + ["b"] * 3


def test_cross_fit_puts_each_part_in_its_place_and_leaves_the_rest_nan():
    found = cross_fit(
        [(np.array([0, 1]), np.array([3])), (np.array([3]), np.array([1, 0]))],
        [None] * 5,
        lambda kept, left: (left * 10.0, np.stack([left, left * 0 + len(kept)], axis=1)),
    )
    assert_array_equal(found[0], [0, 10, np.nan, 30, np.nan])
    assert_array_equal(found[1][[0, 1, 3]], [[0, 1], [1, 1], [3, 2]])


def test_clips_of_a_session_count_as_one_clip():
    weights = session_weights(["b", "a", "b", ("c", 1), "b"], 5)
    assert_allclose(weights, [1 / 3, 1, 1 / 3, 1, 1 / 3])
    assert_array_equal(session_weights(None, 3), 1)


# --- the threshold -------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("n", [3, 10, 200])
def test_lognormal_is_between_students_quantile_of_the_logarithms_and_weibulls(rate, n):
    d = distances(n)
    logs = np.log(d)
    normal = logs.mean() + logs.std(ddof=1) * stats.t(n - 1).ppf(1 - rate)
    quantile = np.quantile(logs, 1 - rate, method="weibull")
    share = n * rate / (n * rate + 10)
    assert place_threshold(d, rate) == pytest.approx(
        np.exp((1 - share) * normal + share * quantile), rel=1e-12
    )


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("n", [10, 99, 1000])
def test_quantile_is_weibulls(rate, n):
    d = distances(n)
    assert place_threshold(d, rate, "quantile") == pytest.approx(
        np.quantile(d, 1 - rate, method="weibull"), rel=1e-12
    )


def test_quantile_leaves_as_many_gaps_above_it_as_are_asked_for():
    d = np.random.default_rng(0).permutation(np.arange(1.0, 100))
    # 10 of the 100 gaps between 99 numbers are above the 10th largest.
    assert place_threshold(d, 0.1, "quantile") == pytest.approx(90)


def test_gamma_recovers_a_gamma_quantile_at_any_location():
    truth = stats.gamma(3, loc=50, scale=2)
    d = truth.ppf((np.arange(100_000) + 0.5) / 100_000)
    for rate in (0.01, 0.1):
        assert place_threshold(d, rate, "gamma") == pytest.approx(truth.ppf(1 - rate), rel=1e-3)
    low = place_threshold(-d, 0.1, "gamma")  # the other skewness
    assert low == pytest.approx(-truth.ppf(0.1), rel=1e-3)


@pytest.mark.parametrize("n", [8, 20])
def test_gamma_takes_mean_deviation_and_skewness(n):
    d = distances(n)
    expected = stats.pearson3.ppf(0.95, stats.skew(d), loc=d.mean(), scale=d.std(ddof=1))
    assert place_threshold(d, 0.05, "gamma") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rule", ["lognormal", "quantile", "gamma"])
def test_thresholds_scale_with_distances(rule):
    d = distances(30)
    for scale in (1e-50, 1e-6, 1e6, 1e50):
        found = place_threshold(scale * d, 0.05, rule)
        assert found == pytest.approx(scale * place_threshold(d, 0.05, rule), rel=1e-9)


@pytest.mark.parametrize("rule", ["lognormal", "quantile", "gamma"])
def test_unread_clips_do_not_count(rule):
    d = distances(30)
    with_gaps = np.insert(d, [3, 17], np.nan)
    weights = np.insert(np.ones(30), [3, 17], 0.7)
    assert place_threshold(with_gaps, 0.05, rule, weights) == place_threshold(d, 0.05, rule)


@pytest.mark.parametrize("rule", ["lognormal", "quantile", "gamma"])
def test_sessions_of_equal_clips_place_the_threshold_of_single_clips(rule):
    d = distances(12)
    copies = [1, 5, 2, 3, 1, 1, 9, 4, 2, 2, 1, 7]
    weights = np.repeat(1 / np.array(copies), copies)
    found = place_threshold(np.repeat(d, copies), 0.1, rule, weights)
    single = place_threshold(d, 0.1, rule)
    if rule == "gamma":
        assert found == pytest.approx(single, rel=1e-12)
    else:  # the last of equal numbers has their plotting position: the threshold is no lower
        assert single * (1 - 1e-12) <= found <= single + np.diff(np.sort(d)).max()


@pytest.mark.parametrize("rule", ["lognormal", "quantile", "gamma"])
@pytest.mark.parametrize("value", [0.0, 1 / 3, 1e-300, 1e300])
def test_equal_distances_are_all_normal(rule, value):
    d = np.full(30, value)
    assert place_threshold(d, 0.1, rule) == value
    d[3] *= 1 + 2e-16
    assert place_threshold(d, 0.1, rule) >= d.max()


def test_clips_at_distance_zero_do_not_move_the_threshold_to_zero_or_infinity():
    d = distances(40)
    d[::2] = 0  # twins
    found = place_threshold(d, 0.1)
    assert d[d > 0].min() < found < 100 * d.max()


def test_negative_distances_have_their_quantile_where_clips_suffice_for_it():
    d = distances(50) - 5
    assert place_threshold(d, 0.1) == pytest.approx(np.quantile(d, 0.9, method="weibull"))
    # 9 clips have no quantile for a rate of .05: between Student's and theirs, without logarithms.
    few = d[:9]
    normal = few.mean() + few.std(ddof=1) * stats.t(8).ppf(0.95)
    share = 0.45 / 10.45
    expected = (1 - share) * normal + share * few.max()
    assert few.min() < 0
    assert place_threshold(few, 0.05) == pytest.approx(expected)
    assert place_threshold(few, 0.1) == few.max()  # one of the ten gaps is above it


@pytest.mark.parametrize(("n", "is_quantile"), [(8, False), (9, True), (10, True)])
def test_negative_distances_have_a_quantile_from_as_many_clips_on_as_one_is_beyond(n, is_quantile):
    d = np.random.default_rng(0).normal(size=n)
    quantile = np.quantile(d, 0.9, method="weibull")
    normal = d.mean() + d.std(ddof=1) * stats.t(n - 1).ppf(0.9)
    share = 0.1 * n / (0.1 * n + 10)
    between = (1 - share) * normal + share * quantile
    assert place_threshold(d, 0.1) == pytest.approx(quantile if is_quantile else between)


def test_distances_that_differ_by_rounding_only_are_all_normal():
    near, far = np.array([1.0, 1 + 0.9e-12, 1]), np.array([1.0, 1 + 1.2e-12, 1])
    for rule in ("lognormal", "quantile", "gamma"):
        assert place_threshold(near, 0.5, rule) == near.max()
        assert place_threshold(far, 0.5, rule) < far.max()
    assert place_threshold(-near, 0.5) == -1
    assert DistanceScale(near, np.ones(3)).deviation == 0
    assert JointDistance(near[:, np.newaxis], np.ones(3)).weights.tolist() == [0]


def test_a_scale_of_negative_distances_takes_no_logarithms():
    d = np.array([-2.0, 1.0, 4.0, 5.0])
    scale = DistanceScale(np.append(d, np.nan), np.array([1, 1, 1, 0.5, 7.0]))
    weights = np.array([1, 1, 1, 0.5])
    mean = np.average(d, weights=weights)
    deviation = np.sqrt(np.sum(weights * (d - mean) ** 2) / 2.5)
    assert (scale.is_log, scale.n) == (False, 3.5)
    assert scale.center == pytest.approx(mean)
    assert scale.deviation == pytest.approx(deviation)
    assert_allclose(scale.standardize(d), (d - mean) / deviation)
    with_zero = DistanceScale(np.array([0.0, 1.0, 4.0]), np.ones(3))
    assert with_zero.is_log
    assert with_zero.floor == pytest.approx(2.5e-3)  # the median of those above 0
    nothing = DistanceScale(np.zeros(3), np.ones(3))
    assert (nothing.is_log, nothing.deviation) == (True, 0)
    assert nothing.floor == 1e-3 * np.finfo(float).eps
    assert_allclose(nothing.standardize(np.zeros(2)), 0, atol=1e-12)
    assert nothing.standardize(np.ones(1))[0] == pytest.approx(-np.log(nothing.floor))


def test_the_deviation_of_one_session_is_of_its_clips():
    """With a single session n - 1 is 0: the sum of squares is divided by 1."""
    d = np.exp([1.0, 2, 4])
    scale = DistanceScale(d, np.full(3, 1 / 3))
    assert scale.n == pytest.approx(1)
    assert scale.deviation == pytest.approx(np.std([1, 2, 4]))


def test_distances_of_infinity_have_the_largest_number_there_is_an_exponential_of():
    assert exp(np.array([np.inf, 701.0, 700.0, 699.0])).tolist() == np.exp(
        [700.0, 700.0, 700.0, 699.0]
    ).tolist()  # fmt: skip


def test_one_session_or_clip_has_its_largest_distance_for_a_threshold():
    assert place_threshold(np.array([3.0]), 0.1) == 3
    assert place_threshold(np.array([3.0, 4, 5]), 0.1, weights=np.full(3, 1 / 3)) == 5


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rate"), [(10, 0.01), (10, 0.1), (30, 0.05), (200, 0.01)])
def test_lognormal_distances_exceed_the_threshold_about_as_often_as_asked(n, rate):
    # A distance that is left out is larger than that of a new clip: here by nothing, so that
    # what makes up for it, the factor sqrt((n + 1) / (n - 1)) of a prediction, shows.
    rng = np.random.default_rng(0)
    found = [
        stats.norm.sf(np.log(place_threshold(rng.lognormal(size=n), rate))) for _ in range(2000)
    ]
    worst = stats.t(n - 1).sf(stats.t(n - 1).ppf(1 - rate) * np.sqrt((n - 1) / (n + 1)))
    assert 0.9 * rate < np.mean(found) < 1.1 * worst + 0.1 * rate


# --- joint distances -----------------------------------------------------------------------------


def two_distances(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal(size=(n, 2)) * [0.2, 1] + [3, -5])


def test_joint_distance_is_the_geometric_mean_in_units_of_the_spread():
    d, new = two_distances(), two_distances(9, seed=1)
    joint = JointDistance(d, np.ones(50))
    logs = np.log(d)
    weights = (1 / logs.std(axis=0, ddof=1)) / (1 / logs.std(axis=0, ddof=1)).sum()
    assert_allclose(joint.weights, weights)
    expected = np.exp((np.log(new) - logs.mean(axis=0)) @ weights)
    assert_allclose(joint(new), expected)
    assert_allclose(joint(new.reshape(3, 3, 2)), expected.reshape(3, 3))


@pytest.mark.parametrize("joining", ["mean", "min"])
def test_powers_say_how_much_a_joint_distance_grows_with_each(joining):
    d = np.column_stack([two_distances(), np.full(50, 3.0)])  # the last has no weight
    joint = JointDistance(d, np.ones(50), joining)
    for near in (d[7], d[8] * [0.1, 1, 1], d[8] * [1, 0.1, 1]):
        # Of 1 % more of one distance, by the definition of a power.
        grown = joint(near * (1 + 0.01 * np.eye(3)))
        found = np.log(grown / joint(near)) / np.log(1.01)
        counts = [True] * 3
        if joining == "min":
            standardized = [
                scale.standardize(x) for scale, x in zip(joint.scales, near, strict=True)
            ]
            counts = [i == np.argmin(standardized[:2]) for i in range(3)]
        assert_allclose(found, np.where(counts, joint.powers, 0), atol=1e-9)
    if joining == "mean":
        assert_allclose(joint.powers, joint.weights)
    assert joint.powers[2] == 0
    assert JointDistance(np.ones((5, 2)), np.ones(5)).powers == [1, 1]
    # Without logarithms it is the power of the exponential.
    plain = JointDistance(np.linspace(-1, 1, 9)[:, np.newaxis], np.ones(9))
    assert np.log(plain(np.array([0.1])) / plain(np.array([0.0]))) == pytest.approx(
        0.1 * plain.powers[0]
    )


def test_joint_distance_of_one_is_in_units_of_its_geometric_mean():
    d = distances(30)[:, np.newaxis]
    joint = JointDistance(d, np.ones(30))
    assert_allclose(joint(d), d[:, 0] / stats.gmean(d[:, 0]))
    twice = JointDistance(np.hstack([d, d * 7]), np.ones(30))
    assert_allclose(twice(np.hstack([d, d * 7])), joint(d))


def test_joint_distance_does_not_know_order_or_units():
    d, new = two_distances(), two_distances(9, seed=1)
    joint = JointDistance(d, np.ones(50))
    for columns, units in (([1, 0], [1, 1]), ([0, 1], [1e-9, 1e9])):
        other = JointDistance(d[:, columns] * units, np.ones(50))
        assert_allclose(other(new[:, columns] * units), joint(new), rtol=1e-10)


def test_a_distance_that_does_not_vary_has_no_weight():
    d = np.column_stack([distances(30), np.full(30, 1 / 3)])
    joint = JointDistance(d, np.ones(30))
    assert_array_equal(joint.weights, [1, 0])
    assert_allclose(joint(np.array([[2.0, 1e9]])), 2 / stats.gmean(d[:, 0]))


@pytest.mark.parametrize("distance", [150.0, 1.0, 1e-9])
def test_a_distance_that_varies_by_rounding_has_no_weight(distance):
    noise = 1e-14 * np.random.default_rng(0).normal(size=30)
    varied = np.column_stack([distances(30), distance * (1 + noise)])
    assert_array_equal(JointDistance(varied, np.ones(30)).weights, [1, 0])
    varied[:, 1] = distance * (1 + 1e4 * noise)
    assert JointDistance(varied, np.ones(30)).weights[1] > 0.9


def test_if_no_distance_varies_all_count():
    joint = JointDistance(np.ones((5, 2)), np.ones(5))
    near, far = joint(np.array([[1.0, 1.0], [1.0, 9.0]]))
    assert near == 1
    assert far > 1


def test_rows_of_nan_do_not_count_and_stay_nan():
    d = two_distances()
    with_nan = np.insert(d, 3, [np.nan, 1.0], axis=0)
    joint, other = JointDistance(d, np.ones(50)), JointDistance(with_nan, np.ones(51))
    assert_array_equal(other(d), joint(d))
    assert np.flatnonzero(np.isnan(other(with_nan))).tolist() == [3]


def test_sessions_weigh_joint_distances():
    d = two_distances(12)
    copies = np.arange(1, 13)
    joint = JointDistance(d, np.ones(12))
    repeated = JointDistance(np.repeat(d, copies, axis=0), np.repeat(1 / copies, copies))
    assert_allclose(repeated(d), joint(d), rtol=1e-10)


def test_joint_distances_of_several_spreads_without_logarithms_have_a_unit_of_at_most_1():
    rng = np.random.default_rng(0)
    for spread in (0.1, 1e3):
        d = spread * rng.normal(size=(40, 2)) * [1, 3]
        joint = JointDistance(d, np.ones(40))
        deviations = d.std(axis=0, ddof=1)
        unit = min(1 / (1 / deviations).sum(), 1)
        standardized = (d - d.mean(axis=0)) / deviations
        assert_allclose(joint(d), np.exp(unit * standardized.sum(axis=1)))
        least = JointDistance(d, np.ones(40), "min")
        assert_allclose(least(d), np.exp(2 * unit * standardized.min(axis=1)))
    mixed = np.column_stack([spread * rng.normal(size=40), distances(40)])
    joint = JointDistance(mixed, np.ones(40))
    values = np.column_stack([mixed[:, 0], np.log(mixed[:, 1])])
    standardized = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    unit = min(1 / (1 / values.std(axis=0, ddof=1)).sum(), 1)
    assert_allclose(joint(mixed), np.exp(unit * standardized.sum(axis=1)))


def test_the_least_of_distances_is_in_units_of_the_harmonic_mean_of_their_deviations():
    d, new = two_distances(), two_distances(9, seed=1)
    joint = JointDistance(np.column_stack([d, np.full(50, 2.0)]), np.ones(50), "min")
    logs = np.log(d)
    deviations = logs.std(axis=0, ddof=1)
    least = ((np.log(new) - logs.mean(axis=0)) / deviations).min(axis=1)
    expected = np.exp(least * 2 / np.sum(1 / deviations))
    found = joint(np.column_stack([new, np.full(9, 1e-9)]))  # of no weight, though it is less
    assert_allclose(found, expected)
    same = JointDistance(np.full((5, 2), 3.0), np.ones(5), "min")
    assert_allclose(same(np.array([[3.0, 3.0], [9.0, 30.0]])), [1, 3])


def test_far_clips_have_finite_distances_in_order():
    d = two_distances()
    far = JointDistance(d, np.ones(50))(np.array([[1e300, 1e300], [np.inf, np.inf]]))
    assert np.isfinite(far).all()
    assert far[1] >= far[0] > 1e100


@pytest.mark.parametrize("spread", [1e-3, 1, 1e4])
def test_distances_without_logarithms_keep_their_order(spread):
    d = spread * np.random.default_rng(0).normal(size=(40, 1))
    joint = JointDistance(d, np.ones(40))(d)
    assert_array_equal(np.argsort(joint), np.argsort(d[:, 0]))
    assert len(np.unique(joint)) == 40


def test_distances_near_zero_are_a_thousandth_of_the_median():
    d = np.array([0, 0, 1.0, 2.0, 3.0])
    scale = DistanceScale(d, np.ones(5))
    expected = np.log([2e-3, 2e-3, 1, 2, 3])
    assert scale.center == pytest.approx(expected.mean())
    assert scale.deviation == pytest.approx(expected.std(ddof=1))
    assert scale.standardize(np.array([0.0])) == scale.standardize(np.array([1e-9]))


# --- p-values ------------------------------------------------------------------------------------


def test_p_values_are_their_written_out_sum():
    rng = np.random.default_rng(0)
    sessions = rng.integers(8, size=40).tolist()
    weights = session_weights(sessions, 40)
    scores, new = rng.integers(10, size=40) / 10, rng.integers(12, size=30) / 10 - 0.1
    n_sessions = len(set(sessions))
    expected = []
    for s in new:
        shares = [
            np.mean([scores[i] <= s for i in range(40) if sessions[i] == session])
            for session in set(sessions)
        ]
        expected.append((1 + sum(shares)) / (1 + n_sessions))
    assert_allclose(conformal_p_values(new, scores, weights), expected)


def test_p_values_are_in_0_to_1_and_nan_for_unread_clips():
    scores = np.array([3.0, np.nan, 1.0, 2.0])
    found = conformal_p_values(np.array([0, 9, np.nan, 2.0]), scores, np.array([1, 0, 1, 1.0]))
    assert_allclose(found, [1 / 4, 1, np.nan, 3 / 4])


def test_p_values_of_exchangeable_scores_are_uniform():
    rng = np.random.default_rng(0)
    found = [
        conformal_p_values(rng.normal(size=1), rng.normal(size=19), np.ones(19))[0]
        for _ in range(2000)
    ]
    counts = np.bincount(np.round(np.array(found) * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts).pvalue > 0.01


# --- warnings ------------------------------------------------------------------------------------


def sessions_of_clips(n_sessions, n_each, between, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    means = between * rng.normal(size=(n_sessions, 1, n_features))
    X = (means + rng.normal(size=(n_sessions, n_each, n_features))).reshape(-1, n_features)
    return X, np.repeat(np.arange(n_sessions), n_each)


def session_distances(Z, sessions):
    """Return the median distance to the nearest clip of the same and of other sessions."""
    D = np.linalg.norm(Z[:, np.newaxis] - Z, axis=2)
    same = sessions[:, np.newaxis] == sessions
    near = np.where(same & ~np.eye(len(Z), dtype=bool), D, np.inf).min(axis=1)
    return np.median(near), np.median(np.where(same, np.inf, D).min(axis=1))


@pytest.mark.parametrize(
    "detector",
    [KNNDetector(), CalibratedDetector(IsolationForest(n_estimators=5, random_state=0))],
    ids=repr,
)
def test_near_sessions_get_a_warning_with_both_distances(detector):
    X, sessions = sessions_of_clips(12, 8, between=20)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    near, far = session_distances(Z, sessions)
    message = (
        f"Clips of one session are much nearer to each other (median distance {near:.2g}) than to "
        f"clips of other sessions ({far:.2g}). Whole sessions are left out to place the threshold, "
        "so it rests on 12 sessions, not on 96 clips. Give more sessions if new ones raise false "
        "alarms."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        detector.fit(X, sessions=sessions)
    assert caught[0].filename == __file__


def test_sessions_that_are_like_others_get_no_warning():
    X, sessions = sessions_of_clips(12, 8, between=2)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    near, far = session_distances(Z, sessions)
    assert 0.6 * far < near < 0.9 * far  # nearer, but not by much
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_sessions(X, sessions)
        warn_of_sessions(X, np.arange(96))  # each clip is a session
        KNNDetector().fit(X, sessions=sessions)


def test_clips_without_numbers_or_neighbours_leave_nothing_to_compare():
    X, sessions = sessions_of_clips(12, 2, between=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_sessions(None, sessions)
        warn_of_sessions(np.full_like(X, np.nan), sessions)
        X[::2] = np.nan  # one clip is left of each session
        warn_of_sessions(X, sessions)
    message = r"median distance (\S+)\) than to clips of other sessions \((\S+)\)"
    X, sessions = sessions_of_clips(12, 8, between=20)
    X = np.insert(X, 5, np.nan, axis=0)
    sessions = np.insert(sessions, 5, 3)
    whole = np.delete(X, 5, axis=0)
    Z = (whole - whole.mean(axis=0)) / whole.std(axis=0)
    near, far = session_distances(Z, np.delete(sessions, 5))
    with pytest.warns(UserWarning, match=message) as caught:
        warn_of_sessions(X, sessions)
    assert re.search(message, str(caught[0].message)).groups() == (f"{near:.2g}", f"{far:.2g}")


def test_sessions_of_one_clip_count_neither_as_near_nor_as_far():
    X, sessions = sessions_of_clips(6, 3, between=5)
    X, sessions = np.vstack([X, X[:4] + 50]), np.append(sessions, [6, 7, 8, 9])
    D = np.linalg.norm(X[:, np.newaxis] - X, axis=2)
    same = sessions[:, np.newaxis] == sessions
    inside = np.where(same & ~np.eye(22, dtype=bool), D, np.inf)[:18].min(axis=1)
    outside = np.where(same, np.inf, D)[:18].min(axis=1)
    found = _session_distances(X, sessions)
    assert_allclose(found, [np.median(inside), np.median(outside)])
    assert np.isnan(_session_distances(X[:3], sessions[:3])).all()


@pytest.mark.parametrize(("within", "is_near"), [(0.69, True), (0.71, False)])
def test_clips_are_much_nearer_below_seven_tenths_of_the_distance_to_others(within, is_near):
    X = np.repeat(np.arange(20.0), 2)[:, np.newaxis] * np.ones(1)
    X[1::2] += within / (1 + within)  # the gap to the next is 1 / (1 + within)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_sessions(X, np.repeat(np.arange(20), 2))
    assert len(caught) == is_near


def test_one_session_is_said_to_be_one_and_clips_are_left_out():
    X = np.random.default_rng(0).normal(size=(30, 4))
    message = (
        "sessions are all the same for 30 clips: how new sessions differ cannot be learnt, and "
        "single clips are left out to place the threshold. Its false-alarm rate holds for this "
        "session only."
    )
    for detector in (KNNDetector(), CalibratedDetector(KNNDetector())):
        plain = detector.fit(X).training_scores_
        with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
            detector.fit(X, sessions=["monday"] * 30)
        assert_array_equal(detector.training_scores_, plain)
        assert_array_equal(detector.session_weights_, 1)


def test_fewer_than_five_sessions_are_few():
    X = np.random.default_rng(0).normal(size=(60, 4))
    for n_sessions, least in ((2, "0.33"), (4, "0.2")):
        message = (
            f"{n_sessions} sessions are few to place a threshold by: how new sessions differ is "
            f"hardly known, and faults may be missed. The least p-value is {least}. Give 5 "
            "sessions or more."
        )
        detector = KNNDetector(metric="euclidean")
        with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
            detector.fit(X, sessions=np.arange(60) % n_sessions)
        assert f"{detector.p_values(X + 100).max():.2g}" == least
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KNNDetector().fit(X, sessions=np.arange(60) % 5)


@pytest.mark.filterwarnings("ignore:Clips of one session", "ignore:2 sessions are few")
@pytest.mark.parametrize(
    "detector", [KNNDetector(), CalibratedDetector(KNNDetector())], ids=lambda d: type(d).__name__
)
def test_a_domain_of_one_session_has_no_left_out_scores(detector):
    X, sessions = sessions_of_clips(10, 6, between=2)
    domains = ["a"] * 54 + ["b"] * 6
    detector.fit(X, domains=domains, sessions=sessions)
    assert_array_equal(np.isnan(detector.training_scores_), np.array(domains) == "b")
    assert detector.offset_ == -place_threshold(
        -detector.training_scores_[:54], 0.1, weights=np.full(54, 1 / 6)
    )
    message = "Each domain of ['a', 'b'] has one session only."
    with pytest.raises(ValueError, match=re.escape(message)):
        detector.fit(X[-12:], domains=domains[-12:], sessions=sessions[-12:])


@pytest.mark.filterwarnings("ignore:Clips of one session", "ignore:sessions are all the same")
def test_a_group_of_one_session_needs_a_detector_of_its_own():
    X, sessions = sessions_of_clips(10, 6, between=2)
    groups = ["fan"] * 54 + ["pump"] * 6
    with pytest.raises(ValueError, match="Group 'pump' has no clips to place its threshold by"):
        GroupedDetector(pooled=True).fit(X, groups=groups, sessions=sessions)
    found = GroupedDetector().fit(X, groups=groups, sessions=sessions)
    assert np.isfinite(found.training_scores_).all()
    assert_allclose(found.session_weights_, np.repeat([1 / 6, 1], [54, 6]))


# --- another rate --------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, 0.6, -0.1, np.nan, "0.1"])
def test_a_rate_that_cannot_be_is_refused_and_the_former_kept(rate):
    X = np.random.default_rng(0).normal(size=(30, 4))
    detector = MahalanobisDetector().fit(X)
    offset = detector.offset_
    with pytest.raises(ValueError, match="The 'false_alarm_rate' parameter of MahalanobisDet"):
        detector.set_false_alarm_rate(rate)
    assert (detector.offset_, detector.false_alarm_rate) == (offset, 0.1)


def test_another_rate_needs_a_fit():
    for detector in (KNNDetector(), GroupedDetector(), JoinedDetector([("a", KNNDetector())])):
        with pytest.raises(ValueError, match="not fitted yet"):
            detector.set_false_alarm_rate(0.05)
