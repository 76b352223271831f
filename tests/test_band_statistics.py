"""BandStatistics: each number against its definition, and what it hears."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp

from skanopatch import BandStatistics, patchify


def by_definition(log_mel, n_bands, n_varying):
    """Work out the statistics of one spectrogram, band by band, in double precision."""
    n_frames, n_mels = log_mel.shape

    def log_power(n, band):
        bins = log_mel[:, band * n_mels // n : (band + 1) * n_mels // n]
        return logsumexp(bins, axis=1) - np.log(bins.shape[1])

    loud = [(logsumexp(2 * log_power(n_bands, b)) - np.log(n_frames)) / 2 for b in range(n_bands)]
    varying = []
    while n_varying:
        varying += [log_power(n_varying, b).std() for b in range(n_varying)]
        n_varying //= 2
    level = log_mel.mean(axis=1)
    slow = [level[i : i + 8].mean() for i in range(0, n_frames // 8 * 8, 8)]
    frames = [level.std(), np.abs(np.diff(level)).mean(), np.std(slow)]
    return np.concatenate([log_mel.mean(axis=0), loud, varying, frames])


@pytest.mark.parametrize(("n_frames", "n_varying"), [(32, 1), (192, 8), (496, 16), (992, 32)])
def test_statistics_equal_their_definition(n_frames, n_varying):
    log_mel = np.random.default_rng(0).normal(8, 3, size=(10, n_frames, 128)).astype(np.float32)
    statistics = BandStatistics().fit_transform(patchify(log_mel))
    assert statistics.dtype == np.float32
    expected = [by_definition(clip.astype(float), 32, n_varying) for clip in log_mel]
    assert_allclose(statistics, expected, atol=2e-4)


def test_a_range_beyond_float32_stays_finite():
    log_mel = np.full((1, 48, 128), -500.0)
    log_mel[:, 20] = 500.0
    statistics = BandStatistics().fit_transform(patchify(log_mel))[0]
    assert np.isfinite(statistics).all()
    # One frame of 48 holds all power.
    assert_allclose(statistics[128:160], 500 - np.log(48) / 2, rtol=1e-5)


def test_a_knock_moves_the_loud_moments_and_hardly_the_mean():
    log_mel = np.zeros((2, 192, 128), dtype=np.float32)
    log_mel[1, 100] = 10.0
    calm, knocked = BandStatistics().fit_transform(patchify(log_mel))
    assert_allclose((knocked - calm)[:128], 10 / 192, rtol=1e-4)
    assert_allclose((knocked - calm)[128:160], (20 - np.log(192)) / 2, rtol=1e-4)


def test_clips_of_another_length_have_the_bands_of_those_fitted():
    log_mel = np.random.default_rng(0).normal(size=(2, 192, 128))
    statistics = BandStatistics().fit(patchify(log_mel))
    longer = statistics.transform(patchify(np.concatenate([log_mel, log_mel], axis=1)))
    # Nothing but the order of time differs, which steps and slow means alone can hear.
    assert_allclose(longer[:, :-2], statistics.transform(patchify(log_mel))[:, :-2], atol=1e-5)


def test_clips_that_are_nan_stay_so():
    patches = patchify(np.random.default_rng(0).normal(size=(3, 48, 128)))
    patches[1] = np.nan
    statistics = BandStatistics().fit_transform(patches)
    assert np.isnan(statistics[1]).all()
    assert np.isfinite(statistics[[0, 2]]).all()
