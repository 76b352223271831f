"""`false_alarm_rate` is the rate on fresh normal clips, for every detector.

The rate of one fit varies with its n training clips and with the m fresh ones that count it: its
standard error is about sqrt(c (1 - c) (1 / (n + 2) + 1 / m)), where the first term is the variance
of what a quantile of n scores leaves below it (a beta distribution). Over F fits it is less by
sqrt(F). Offsets from in-sample scores fail every test here, by 5 to 800 standard errors.
"""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch.detectors import (
    CalibratedDetector,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
)

N_FRESH, N_FEATURES = 1000, 16
RATES = (0.01, 0.05, 0.1)
JOINED = JoinedDetector([("spread", MahalanobisDetector()), ("near", KNNDetector())])

DETECTORS = [
    KNNDetector(),
    KNNDetector(3, metric="euclidean", standardize=True),
    KNNDetector(metric="euclidean", normalization="local_density"),
    KNNDetector(normalization="variance_min"),
    MahalanobisDetector(),
    MahalanobisDetector("ledoit-wolf", standardize=False),
    GMMDetector(2, random_state=0),
    GMMDetector(1, covariance_type="full"),
    JOINED,
]


def draw(rng, n_clips, n_features=N_FEATURES):
    """Two states of a machine, with one covariance about their means."""
    mixing = np.random.default_rng(7).normal(size=(n_features, n_features)) / np.sqrt(n_features)
    means = 3 * np.random.default_rng(8).normal(size=(2, n_features))
    X = rng.normal(size=(n_clips, n_features)) @ mixing
    return X + means[rng.integers(2, size=n_clips)]


def standard_error(rate, n_clips, n_fits, n_fresh=N_FRESH):
    return np.sqrt(rate * (1 - rate) * (1 / (n_clips + 2) + 1 / n_fresh) / n_fits)


def false_alarms(detector, n_clips, n_fits, rates=RATES, n_features=N_FEATURES, **metadata):
    """Mean false-alarm rate at each rate that is asked for, over fits to fresh data."""
    found = np.zeros((n_fits, len(rates)))
    for seed in range(n_fits):
        rng = np.random.default_rng(seed)
        X, fresh = draw(rng, n_clips, n_features), draw(rng, N_FRESH, n_features)
        fitted = clone(detector).fit(X, **metadata)
        scores = fitted.score_samples(fresh)
        for i, rate in enumerate(rates):
            found[seed, i] = np.mean(scores < fitted.set_false_alarm_rate(rate).offset_)
    return found.mean(axis=0)


def by_name(detector):
    return repr(detector).replace("\n", "").replace(" ", "")[:70]


@pytest.mark.parametrize(
    ("n_clips", "n_fits"), [(30, 20), pytest.param(200, 12, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("detector", DETECTORS, ids=by_name)
def test_false_alarms_are_as_many_as_asked_for(detector, n_clips, n_fits):
    for rate, found in zip(RATES, false_alarms(detector, n_clips, n_fits), strict=True):
        error = (found - rate) / standard_error(rate, n_clips, n_fits)
        assert abs(error) < 4, f"{found:.4f} at {rate}: {error:.1f} standard errors"


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS, ids=by_name)
def test_ten_clips_raise_no_more_false_alarms_than_asked_for(detector):
    """And no fewer than a tenth: normalizations by few clips are cautious."""
    n_fits = 20 if isinstance(detector, GMMDetector) else 50
    found = false_alarms(detector, 10, n_fits)
    bound = np.array(RATES) + 3.5 * standard_error(np.array(RATES), 10, n_fits)
    assert (found < bound).all(), found
    assert (found > 0.1 * np.array(RATES)).all(), found


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["quantile", "gamma"])
@pytest.mark.parametrize("detector", [KNNDetector(), MahalanobisDetector(), JOINED], ids=by_name)
def test_other_rules_hold_with_many_clips(detector, rule):
    found = false_alarms(clone(detector).set_params(threshold=rule), 200, 12)
    errors = (found - RATES) / standard_error(np.array(RATES), 200, 12)
    assert (abs(errors) < 3.5).all(), found


def test_the_quantile_of_ten_clips_cannot_place_small_rates_where_the_default_can():
    # The largest of ten scores is exceeded with probability 1 / 11 in the long run.
    asked = (0.01, 0.05)
    default = false_alarms(KNNDetector(), 10, 60, rates=asked)
    quantile = false_alarms(KNNDetector(threshold="quantile"), 10, 60, rates=asked)
    assert (quantile > 0.06).all()
    assert quantile[0] == quantile[1]
    assert default[0] < 0.4 * quantile[0]


@pytest.mark.slow
@pytest.mark.parametrize("detector", [KNNDetector(), MahalanobisDetector(), JOINED], ids=by_name)
def test_false_alarms_hold_with_domains(detector):
    # The fresh clips are of both domains in the proportion of the training clips.
    domains = ["source"] * 180 + ["target"] * 20
    found = false_alarms(detector, 200, 12, domains=domains)
    errors = (found - RATES) / standard_error(np.array(RATES), 200, 12)
    assert (abs(errors) < 3.5).all(), found


@pytest.mark.slow
@pytest.mark.parametrize(
    "detector",
    [
        GroupedDetector(KNNDetector(metric="euclidean")),
        GroupedDetector(),
        GroupedDetector(pooled=True),
        GroupedDetector(KNNDetector(metric="euclidean"), pooled=True),
    ],
    ids=by_name,
)
def test_false_alarms_hold_in_each_group(detector):
    n_fits, names = 20, np.array(["loud", "quiet"])
    found = np.zeros((n_fits, 2, len(RATES)))
    for seed in range(n_fits):
        rng = np.random.default_rng(seed)
        X, fresh = draw(rng, 140), draw(rng, N_FRESH)
        X[:100] *= 5  # one machine is louder, which no common threshold allows for
        fresh[:500] *= 5
        fitted = clone(detector).fit(X, groups=np.repeat(names, [100, 40]))
        for i, rate in enumerate(RATES):
            labels = fitted.set_false_alarm_rate(rate).predict(fresh, groups=np.repeat(names, 500))
            found[seed, :, i] = [np.mean(labels[:500] == -1), np.mean(labels[500:] == -1)]
    for group, n_clips in enumerate((100, 40)):
        errors = found[:, group].mean(axis=0) - RATES
        errors /= standard_error(np.array(RATES), n_clips, n_fits, n_fresh=500)
        assert (abs(errors) < 3.5).all(), found.mean(axis=0)


def test_few_clips_of_many_features_are_calibrated():
    """100 clips of 256 features: what a day of one machine gives."""
    for detector in (MahalanobisDetector(), KNNDetector(), JOINED):
        found = false_alarms(detector, 100, 5, n_features=256)
        errors = (found - RATES) / standard_error(np.array(RATES), 100, 5)
        assert (abs(errors) < 3.5).all(), found


@pytest.mark.slow
def test_a_tail_that_learns_from_the_clips_is_calibrated_as_a_whole():
    """A PCA of few clips fits them closely, which a threshold behind it does not see."""
    n_clips, n_fits, found = 60, 6, []
    tail = make_pipeline(StandardScaler(), PCA(20), KNNDetector(metric="euclidean"))
    for seed in range(n_fits):
        rng = np.random.default_rng(seed)
        X, fresh = draw(rng, n_clips, 200), draw(rng, N_FRESH, 200)
        fitted = clone(tail).fit(X), CalibratedDetector(tail).fit(X)
        found.append([np.mean(detector.predict(fresh) == -1) for detector in fitted])
    inner, whole = np.mean(found, axis=0)
    error = 3.5 * standard_error(0.1, n_clips, n_fits)
    assert abs(whole - 0.1) < error, f"{inner:.3f} by the detector, {whole:.3f} by the whole"
    assert abs(inner - 0.1) > error, f"{inner:.3f} by the detector, {whole:.3f} by the whole"


def test_detectors_of_other_packages_are_calibrated():
    detector = CalibratedDetector(IsolationForest(n_estimators=20, random_state=0))
    found = false_alarms(detector, 60, 3)
    errors = (found - RATES) / standard_error(np.array(RATES), 60, 3)
    assert (abs(errors) < 3.5).all(), found


# --- p-values ------------------------------------------------------------------------------------


def p_values(detector, n_clips, n_fits, n_fresh=20):
    found = []
    for seed in range(n_fits):
        rng = np.random.default_rng(seed)
        fitted = clone(detector).fit(draw(rng, n_clips))
        found.append(fitted.p_values(draw(rng, n_fresh)))
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS[:1] + DETECTORS[4:], ids=by_name)
def test_p_values_of_fresh_clips_are_uniform(detector):
    n_clips, n_fits = 40, 30
    found = p_values(detector, n_clips, n_fits)
    assert found.min() >= 1 / (n_clips + 1)
    assert found.max() <= 1
    # Those of one fit have their training scores in common: their mean varies as if over fits.
    for moment, expected in ((found, 1 / 2), (found**2, 1 / 3)):
        means = moment.mean(axis=1)
        assert abs(means.mean() - expected) < 3.5 * means.std() / np.sqrt(n_fits) + 1 / n_clips
    one_each = found[:, 0]
    assert stats.kstest(one_each, "uniform").pvalue > 0.01


def in_sessions(rng, n_sessions, n_each, n_features=8):
    means = 2 * rng.normal(size=(n_sessions, 1, n_features))
    X = means + rng.normal(size=(n_sessions, n_each, n_features))
    return X.reshape(-1, n_features)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Clips of one session")
@pytest.mark.parametrize(
    "detector",
    [
        KNNDetector(metric="euclidean"),
        MahalanobisDetector(),
        GMMDetector(1),
        JoinedDetector([("spread", MahalanobisDetector()), ("near", KNNDetector())]),
        CalibratedDetector(make_pipeline(StandardScaler(), KNNDetector(metric="euclidean"))),
    ],
    ids=by_name,
)
def test_sessions_left_out_keep_what_was_asked_on_new_sessions(detector):
    """20 sessions of 8 clips, 300 new ones: clip by clip, false alarms are 2 to 7 times as many."""
    n_fits = 3 if isinstance(detector, CalibratedDetector) else 8
    sessions = np.repeat(np.arange(20), 8)
    rates, shares = [], []
    for seed in range(n_fits):
        rng = np.random.default_rng(seed)
        X, fresh = in_sessions(rng, 20, 8), in_sessions(rng, 300, 1)
        whole, single = clone(detector).fit(X, sessions=sessions), clone(detector).fit(X)
        rates.append([np.mean(fitted.predict(fresh) == -1) for fitted in (whole, single)])
        p = [fitted.p_values(fresh) for fitted in (whole, single)]
        assert p[0].min() >= 1 / 21
        shares.append([[np.mean(values <= q) for q in (0.1, 0.3, 0.5)] for values in p])
    error = 3.5 * standard_error(0.1, 20, n_fits, n_fresh=300)
    whole, single = np.mean(rates, axis=0)
    assert abs(whole - 0.1) < error, (whole, single)
    assert single > 0.1 + error, (whole, single)
    whole, single = np.mean(shares, axis=0)
    quantiles = np.array([0.1, 0.3, 0.5])
    assert (whole < quantiles + 3.5 * standard_error(quantiles, 20, n_fits, n_fresh=300)).all()
    assert (whole > quantiles - 1 / 20 - 0.1).all()
    assert single[0] > 0.15


def test_p_values_of_a_group_are_of_its_clips():
    rng = np.random.default_rng(0)
    X, fresh = draw(rng, 60), draw(rng, 10)
    groups = np.array(["fan"] * 40 + ["pump"] * 20)
    fitted = GroupedDetector(KNNDetector()).fit(X, groups=groups)
    for group in ("fan", "pump"):
        alone = KNNDetector().fit(X[groups == group])
        found = fitted.p_values(fresh, groups=[group] * 10)
        np.testing.assert_array_equal(found, alone.p_values(fresh))
    both = [fitted.p_values(fresh, groups=[group] * 10) for group in ("fan", "pump")]
    np.testing.assert_array_equal(fitted.p_values(fresh), np.max(both, axis=0))


def test_fits_raise_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for detector in DETECTORS:
            clone(detector).fit(draw(np.random.default_rng(0), 30))
