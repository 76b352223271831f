"""BandStatistics: each number against its definition, and what it hears."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp

from skanopatch import BandStatistics, patchify


def by_definition(log_mel):
    """Work out the statistics of one spectrogram, band by band, in double precision."""
    n_frames, n_mels = log_mel.shape

    def bins(n, band):
        return log_mel[:, band * n_mels // n : (band + 1) * n_mels // n]

    def log_power(n, band):
        return logsumexp(bins(n, band), axis=1) - np.log(n_mels // n)

    loud = [(logsumexp(2 * log_power(32, b)) - np.log(n_frames)) / 2 for b in range(32)]
    fluctuating = [bins(16, b).std(axis=0).mean() for b in range(16)]
    swelling = [log_power(n, b).std() for n in (4, 2, 1) for b in range(n)]
    level = log_mel.mean(axis=1)
    slow = [level[i : i + 8].mean() for i in range(0, n_frames // 8 * 8, 8)]
    frames = [level.std(), np.abs(np.diff(level)).mean(), np.std(slow)]
    return np.concatenate([log_mel.mean(axis=0), loud, fluctuating, swelling, frames])


@pytest.mark.parametrize("n_frames", [16, 192, 992])
def test_statistics_equal_their_definition(n_frames):
    log_mel = np.random.default_rng(0).normal(8, 3, size=(10, n_frames, 128)).astype(np.float32)
    statistics = BandStatistics().fit_transform(patchify(log_mel))
    assert statistics.dtype == np.float32
    expected = [by_definition(clip.astype(float)) for clip in log_mel]
    assert_allclose(statistics, expected, atol=2e-4)


def test_a_range_beyond_float32_stays_finite():
    log_mel = np.full((1, 48, 128), -500.0)
    log_mel[:, 20] = 500.0
    statistics = BandStatistics().fit_transform(patchify(log_mel))[0]
    assert np.isfinite(statistics).all()
    # One frame of 48 holds all power.
    assert_allclose(statistics[128 + 5], 500 - np.log(48) / 2, rtol=1e-5)


def test_a_knock_moves_the_loud_moments_and_hardly_the_mean():
    log_mel = np.zeros((2, 192, 128), dtype=np.float32)
    log_mel[1, 100] = 10.0
    calm, knocked = BandStatistics().fit_transform(patchify(log_mel))
    assert_allclose((knocked - calm)[:128], 10 / 192, rtol=1e-4)
    assert_allclose((knocked - calm)[128:160], (20 - np.log(192)) / 2, rtol=1e-4)


def test_a_spectrum_of_few_bins_has_fewer_bands():
    log_mel = np.random.default_rng(0).normal(size=(2, 32, 24))
    assert BandStatistics(n_freq=3).fit_transform(patchify(log_mel, patch_size=8)).shape == (
        2, 24 + 8 + 8 + 7 + 3,
    )  # fmt: skip


def test_clips_that_are_nan_stay_so():
    patches = patchify(np.random.default_rng(0).normal(size=(3, 48, 128)))
    patches[1] = np.nan
    statistics = BandStatistics().fit_transform(patches)
    assert np.isnan(statistics[1]).all()
    assert np.isfinite(statistics[[0, 2]]).all()
