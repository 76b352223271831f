"""`contamination` is the false-alarm rate on fresh normal clips, for every detector.

The rate of one fit varies with its n training clips and with the m fresh ones that count it: its
standard error is sqrt(c (1 - c) (1 / (n + 2) + 1 / m)), where the first term is the variance of
what a quantile of n scores leaves below it (a beta distribution). Over F fits it is less by
sqrt(F). Offsets from in-sample scores fail every test here, by 5 to 800 standard errors.
"""

import numpy as np
import pytest
from sklearn.base import clone

from skanopatch.detectors import (
    GMMDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
)

N_FITS, N_CLIPS, N_FRESH, N_FEATURES = 40, 200, 1000, 16


def draw(rng, n_clips):
    """Two states of a machine, with one covariance about their means."""
    mixing = np.random.default_rng(7).normal(size=(N_FEATURES, N_FEATURES)) / 4
    means = 3 * np.random.default_rng(8).normal(size=(2, N_FEATURES))
    X = rng.normal(size=(n_clips, N_FEATURES)) @ mixing
    return X + means[rng.integers(2, size=n_clips)]


def standard_error(rate, n_clips=N_CLIPS, n_fresh=N_FRESH, n_fits=N_FITS):
    return np.sqrt(rate * (1 - rate) * (1 / (n_clips + 2) + 1 / n_fresh) / n_fits)


def false_alarms(detector, settings, n_fits=N_FITS, n_clips=N_CLIPS, **metadata):
    """Mean false-alarm rate at each (contamination, threshold), over fits to fresh data."""
    rates = np.zeros(len(settings))
    for seed in range(n_fits):
        rng = np.random.default_rng(seed)
        X, fresh = draw(rng, n_clips), draw(rng, N_FRESH)
        scores = clone(detector).fit(X, **metadata).score_samples(fresh)
        for i, (contamination, threshold) in enumerate(settings):
            set_up = clone(detector).set_params(contamination=contamination, threshold=threshold)
            rates[i] += np.mean(scores < set_up.fit(X, **metadata).offset_) / n_fits
    return rates


SETTINGS = [(c, threshold) for c in (0.01, 0.05, 0.1) for threshold in ("quantile", "gamma")]


@pytest.mark.parametrize(
    "detector",
    [
        KNNDetector(),
        KNNDetector(5, metric="euclidean"),
        KNNDetector(normalization="local_density"),
        KNNDetector(metric="euclidean", normalization="local_density"),
        KNNDetector(normalization="variance_min"),
        KNNDetector(3, metric="euclidean", normalization="variance_min"),
        MahalanobisDetector(),
        GMMDetector(random_state=0),
        GMMDetector(covariance_type="full", random_state=0),
    ],
    ids=repr,
)
def test_false_alarm_rate_is_contamination(detector):
    rates = false_alarms(detector, SETTINGS)
    for (contamination, threshold), rate in zip(SETTINGS, rates, strict=True):
        error = (rate - contamination) / standard_error(contamination)
        assert abs(error) < 3, f"{rate:.4f} at {contamination} by {threshold}: {error:.1f} SE"


@pytest.mark.parametrize("detector", [KNNDetector(), MahalanobisDetector()], ids=repr)
def test_false_alarm_rate_is_contamination_with_domains(detector):
    # The fresh clips are of both domains in the proportion of the training clips.
    domains = ["source"] * 180 + ["target"] * 20
    settings = [(0.05, "quantile"), (0.1, "quantile")]
    rates = false_alarms(detector, settings, domains=domains)
    for (contamination, _), rate in zip(settings, rates, strict=True):
        assert abs(rate - contamination) < 3 * standard_error(contamination)


@pytest.mark.parametrize("contamination", [0.01, 0.05, 0.1])
def test_false_alarm_rate_is_contamination_in_each_group(contamination):
    rates = []
    for seed in range(N_FITS):
        rng = np.random.default_rng(seed)
        X, fresh = draw(rng, N_CLIPS), draw(rng, N_FRESH)
        X[:100] *= 5  # one machine is louder, which no common threshold allows for
        fresh[:500] *= 5
        groups = np.repeat(["loud", "quiet"], [100, 100])
        detector = KNNDetector(metric="euclidean", contamination=contamination)
        detector = GroupedDetector(detector).fit(X, groups=groups)
        labels = detector.predict(fresh, groups=np.repeat(["loud", "quiet"], [500, 500]))
        rates.append([np.mean(labels[:500] == -1), np.mean(labels[500:] == -1)])
    np.testing.assert_allclose(
        np.mean(rates, axis=0),
        contamination,
        atol=3 * standard_error(contamination, n_clips=100, n_fresh=500),
    )


def test_few_clips_of_many_features_are_calibrated():
    """175 clips of 256 features: what a day of one machine gives."""
    rates = []
    mixing = np.random.default_rng(7).normal(size=(256, 256)) / 16
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(175, 256)) @ mixing
        fresh = rng.normal(size=(N_FRESH, 256)) @ mixing
        rates.append(np.mean(MahalanobisDetector().fit(X).predict(fresh) == -1))
    assert abs(np.mean(rates) - 0.1) < 3 * standard_error(0.1, n_clips=175, n_fits=20)
