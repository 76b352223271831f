"""BandStatistics: each number against its definition, and the unit of the logarithm."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import lfilter
from scipy.special import logsumexp
from sklearn import config_context
from sklearn.base import clone

from skanopatch import BandStatistics, MelPatcher, PatchStatistics, patchify
from skanopatch.spectra.patches import LazyPatches


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
    statistics = BandStatistics(log_unit=1.0).fit_transform(patchify(log_mel))
    assert statistics.dtype == np.float32
    expected = [by_definition(clip.astype(float)) for clip in log_mel]
    assert_allclose(statistics, expected, atol=2e-4)


def test_a_range_beyond_float32_stays_finite():
    log_mel = np.full((1, 48, 128), -500.0)
    log_mel[:, 20] = 500.0
    statistics = BandStatistics(log_unit=1.0).fit_transform(patchify(log_mel))[0]
    assert np.isfinite(statistics).all()
    # One frame of 48 holds all power.
    assert_allclose(statistics[128 + 5], 500 - np.log(48) / 2, rtol=1e-5)


def test_a_knock_moves_the_loud_moments_and_hardly_the_mean():
    log_mel = np.zeros((2, 192, 128), dtype=np.float32)
    log_mel[1, 100] = 10.0
    calm, knocked = BandStatistics(log_unit=1.0).fit_transform(patchify(log_mel))
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


@pytest.mark.parametrize("statistics", [BandStatistics(), PatchStatistics()])
def test_the_unit_of_the_logarithm_does_not_matter(statistics):
    rng = np.random.default_rng(0)
    nepers = patchify(np.log(rng.gamma(3.0, size=(6, 64, 128)) * rng.gamma(1.0, size=(128,))))
    decibels = (10 / np.log(10)) * nepers
    assert_allclose(
        statistics.fit_transform(decibels), statistics.fit_transform(nepers), rtol=2e-4, atol=1e-5
    )
    # Not by chance: taken for nepers, decibels give other shapes of the same clips.
    taken_for_nepers = clone(statistics).set_params(log_unit=1.0).fit_transform(decibels)
    assert np.abs(taken_for_nepers - statistics.fit_transform(nepers)).max() > 1


def noise_patches(colour, gain=1.0, n_clips=4):
    noise = np.random.default_rng(0).normal(size=(n_clips, 32000))
    return MelPatcher(duration=2.0).fit_transform(gain * lfilter([1], [1, -colour], noise))


@pytest.mark.parametrize("estimator", [BandStatistics(), PatchStatistics()])
@pytest.mark.parametrize("colour", [0.0, 0.97])
def test_the_unit_is_measured_by_the_steps_of_noise(colour, estimator):
    patches = noise_patches(colour)
    decibels = 10 / np.log(10) * patches
    assert clone(estimator).fit(patches).log_unit_ == 1
    assert clone(estimator).fit(decibels).log_unit_ == np.log(10) / 10
    standardized = (patches - patches.mean()) / (4 * patches.std())
    measured = clone(estimator).fit(standardized).log_unit_
    assert measured == pytest.approx(4 * patches.std(), rel=0.15)


@pytest.mark.parametrize("estimator", [BandStatistics(), PatchStatistics()])
def test_lazy_patches_arrays_and_slices_of_them_give_the_same_statistics(estimator):
    clips = np.random.default_rng(0).normal(size=(120, 8000))
    patcher = MelPatcher(duration=0.5)
    eager = patcher.fit_transform(clips)
    with config_context(working_memory=0.1):
        lazy = patcher.transform(clips)
    assert isinstance(lazy, LazyPatches)
    expected = clone(estimator).fit_transform(eager)
    assert_array_equal(clone(estimator).fit_transform(lazy), expected)
    for rows in (slice(3, 6), slice(None, None, 50), [7]):
        for patches in (lazy[rows], eager[rows]):
            assert type(patches) is np.ndarray
            fitted = clone(estimator).fit(patches)
            assert fitted.log_unit_ == 1
            assert_array_equal(fitted.transform(patches), expected[rows])


def test_silence_has_no_unit():
    assert BandStatistics().fit(np.zeros((3, 8, 256))).log_unit_ == 1
