"""Statistics of clips and patches against their definitions; what takes patches, and what not."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import lfilter
from scipy.special import logsumexp
from sklearn import config_context
from sklearn.base import clone

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    BandStatistics,
    MelPatcher,
    MelStatistics,
    PatchStatistics,
    patchify,
    unpatchify,
)
from skanopatch.spectra.lazy_patches import LazyPatches
from skanopatch.spectra.patches import (
    given_patches,
    iterate_batches,
    refuse_equal_clips,
    survey_patches,
    warn_of_another_unit,
)

TAKING_PATCHES = pytest.mark.parametrize(
    "estimator",
    [AnoPatchEmbedder(), BandStatistics(), MelStatistics(), PatchStatistics()],
    ids=lambda estimator: type(estimator).__name__,
)


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
    width = min(8, n_frames)
    slow = [level[i : i + width].mean() for i in range(0, n_frames // width * width, width)]
    step = np.abs(np.diff(level)).mean() if n_frames > 1 else 0
    frames = [level.std(), step, np.std(slow)]
    return np.concatenate([log_mel.mean(axis=0), loud, fluctuating, swelling, frames])


@pytest.mark.parametrize(
    ("n_frames", "patch_size"), [(1, 1), (6, 2), (12, 4), (16, 16), (192, 16), (992, 16)]
)
def test_statistics_equal_their_definition(n_frames, patch_size):
    log_mel = np.random.default_rng(0).normal(8, 3, size=(10, n_frames, 128)).astype(np.float32)
    found = BandStatistics()
    statistics = found.fit_transform(patchify(log_mel, patch_size=patch_size))
    assert statistics.dtype == np.float32
    expected = [by_definition(clip.astype(float)) for clip in log_mel]
    assert_allclose(statistics, expected, atol=2e-4)
    assert (found.n_mels_, found.n_level_) == (128, 160)
    assert len(found.get_feature_names_out()) == statistics.shape[1]
    mean_and_deviation = np.hstack([log_mel.mean(axis=1), log_mel.std(axis=1)])
    of_bins = MelStatistics()
    found = of_bins.fit_transform(patchify(log_mel, patch_size=patch_size))
    assert_allclose(found, mean_and_deviation, atol=1e-5)
    assert len(of_bins.get_feature_names_out()) == found.shape[1]


def test_a_gain_shifts_the_first_statistics_and_no_others():
    log_mel = np.random.default_rng(0).normal(size=(2, 32, 64))
    of_clips = BandStatistics()
    calm, loud = (of_clips.fit_transform(patchify(log_mel + gain)) for gain in (0, 3))
    assert_allclose((loud - calm)[:, : of_clips.n_level_], 3, atol=1e-4)
    assert_allclose(calm[:, of_clips.n_level_ :], loud[:, of_clips.n_level_ :], atol=1e-4)


def patch_by_definition(log_mel, log_unit=1.0, height=16, width=16):
    """Work out the statistics of the patches of one spectrogram, one by one."""
    n_time, n_freq = log_mel.shape[0] // height, log_mel.shape[1] // width
    found = np.empty((n_time, n_freq, 2 * width + 16))
    for f in range(n_freq):
        band = log_unit * log_mel[:, width * f : width * (f + 1)]
        level = np.log(np.exp(band).sum(axis=1))
        for t in range(n_time):
            frames = slice(height * t, height * (t + 1))
            spectrum = band[frames].mean(axis=0)
            peaks = np.log(np.exp(band[frames]).mean(axis=0)) - spectrum
            # A level counts half for a frame that is as loud, and hardly for one 0.4 louder.
            above = (level - level.mean())[frames, np.newaxis] - np.linspace(-3, 3, 16)
            shares = (1 / (1 + np.exp(-above / 0.4))).mean(axis=0)
            found[t, f] = np.concatenate([spectrum - band.mean(), peaks, shares])
    return found


@pytest.mark.parametrize("log_unit", [1.0, 0.5])
@pytest.mark.parametrize(("patch_size", "n_frames"), [(16, 64), (4, 12), (1, 5)])
def test_a_patch_is_described_by_its_definition(patch_size, n_frames, log_unit):
    # More clips than in one batch.
    log_mel = np.random.default_rng(0).normal(scale=2, size=(9, n_frames, 32))
    patches = patchify(log_mel, patch_size=patch_size)
    tokens = PatchStatistics(log_unit=log_unit).fit_transform(patches)
    size = patch_size
    expected = [patch_by_definition(clip, log_unit, size, size) for clip in log_mel]
    assert tokens.dtype == np.float32
    assert_allclose(tokens, expected, atol=1e-5)


def test_gain_and_colour_of_bands_do_not_show_in_the_statistics_of_patches():
    log_mel = np.random.default_rng(0).normal(size=(1, 64, 128))
    coloured = log_mel + 7 + np.repeat(np.arange(8.0), 16)
    plain, other = (PatchStatistics().fit_transform(patchify(x)) for x in (log_mel, coloured))
    assert_allclose(other, plain, atol=1e-5)


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
    assert BandStatistics().fit_transform(patchify(log_mel, patch_size=8)).shape == (
        2, 24 + 8 + 8 + 7 + 3,
    )  # fmt: skip


def test_statistics_are_in_nepers_of_power_unless_said_otherwise():
    assert BandStatistics().log_unit == PatchStatistics().log_unit == 1
    for statistics in (BandStatistics, PatchStatistics):
        message = f"The 'log_unit' parameter of {statistics.__name__} must be a float in the range"
        with pytest.raises(ValueError, match=f"{message} \\(0\\.0, inf\\)"):
            statistics(log_unit=0.0).fit(np.zeros((2, 1, 8, 256)))


def test_clips_that_are_nan_stay_so():
    patches = patchify(np.random.default_rng(0).normal(size=(3, 48, 128)))
    patches[1] = np.nan
    statistics = BandStatistics().fit_transform(patches)
    assert np.isnan(statistics[1]).all()
    assert np.isfinite(statistics[[0, 2]]).all()


@pytest.mark.parametrize("statistics", [BandStatistics(), PatchStatistics()])
def test_decibels_with_their_unit_give_the_statistics_of_natural_logarithms(statistics):
    rng = np.random.default_rng(0)
    nepers = patchify(np.log(rng.gamma(3.0, size=(6, 64, 128)) * rng.gamma(1.0, size=(128,))))
    decibels = (10 / np.log(10)) * nepers
    expected = statistics.fit_transform(nepers)
    in_decibels = clone(statistics).set_params(log_unit=np.log(10) / 10)
    assert_allclose(in_decibels.fit_transform(decibels), expected, rtol=2e-4, atol=1e-5)
    # Not by chance: taken for nepers, decibels give other shapes of the same clips.
    assert np.abs(statistics.fit_transform(decibels) - expected).max() > 1


def test_64_mel_bins_give_statistics_of_64_bins():
    noise = np.random.default_rng(0).normal(size=(4, 16000))
    patches = MelPatcher(n_mels=64, duration=1.0).fit_transform(noise)
    assert patches.shape == (4, 6, 4, 256)
    log_mel = unpatchify(patches)
    statistics = BandStatistics().fit_transform(patches)
    assert statistics.shape == (4, 64 + 32 + 16 + 7 + 3)
    assert_allclose(statistics, [by_definition(clip.astype(float)) for clip in log_mel], atol=2e-4)
    mean_and_deviation = np.hstack([log_mel.mean(axis=1), log_mel.std(axis=1)])
    assert_allclose(MelStatistics().fit_transform(patches), mean_and_deviation, atol=1e-5)
    of_a_patch = PatchStatistics().fit_transform(patches)[1, 2, 3, :16]
    band = log_mel[1, :, 48:]
    assert_allclose(of_a_patch, band[32:48].mean(axis=0) - band.mean(), atol=1e-5)
    embedded = AnoPatchEmbedder().fit_transform(patches)
    assert_allclose(embedded, statistics / statistics.std(axis=0), rtol=1e-4)


CLIPS = {
    "paths": ["a.wav", "b.wav"],
    "a series of paths": pd.Series(["a.wav", "b.wav"]),
    "a table of paths": pd.DataFrame({"clip": ["a.wav", "b.wav"]}),
    "path objects": [Path("a.wav"), Path("b.wav")],
    "pairs": [(np.zeros(9000), 16000), (np.zeros(8000), 16000)],
    "pairs of equal lengths": [(np.zeros(9000), 16000), (np.zeros(9000), 16000)],
    "clips of different lengths": [np.zeros(9000), np.zeros(8000)],
    "an array of such": np.array([np.zeros(9000), np.zeros(8000)], dtype=object),
}


@pytest.mark.parametrize("clips", CLIPS.values(), ids=CLIPS)
@TAKING_PATCHES
def test_clips_in_place_of_patches_are_refused(estimator, clips):
    name = type(estimator).__name__
    message = f"{name} takes patches, and X are clips. Put MelPatcher() first."
    fitted = clone(estimator).fit(patchify(np.random.default_rng(0).normal(size=(4, 16, 64))))
    for method in (clone(estimator).fit, fitted.transform):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            method(clips)


@TAKING_PATCHES
@pytest.mark.parametrize("form", [np.asarray, list, pd.DataFrame])
def test_rows_of_samples_in_place_of_patches_are_refused(estimator, form):
    name = type(estimator).__name__
    message = (
        f"{name} takes patches, and X has rows of 4097 values, more than the 4096 of the largest "
        "patch: these seem to be samples. Put MelPatcher() first."
    )
    rows = np.random.default_rng(0).normal(size=(3, 4097))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clone(estimator).fit(form(rows))
    clone(estimator).fit(form(rows[:, :4096]))


@TAKING_PATCHES
def test_patches_of_another_area_or_other_bands_are_refused(estimator):
    patches = patchify(np.random.default_rng(0).normal(size=(4, 32, 128)))
    estimator, name = clone(estimator).fit(patches), type(estimator).__name__
    message = f"X has patches of 64 values, but {name} was fitted on patches of 256."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        estimator.transform(np.zeros((2, 4, 16, 64)))
    if name == "PatchStatistics":
        assert estimator.transform(patches[:, :, :4]).shape == (4, 2, 4, 48)
        return
    message = "X has {} bands of patches, which are {} mel bins, but {} was fitted on 128 mel bins."
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(4, 64, name))}$"):
        estimator.transform(patches[:, :, :4])
    for one_patch in (patches[:, :1, :1], patches[:, 0, 0]):
        with pytest.raises(ValueError, match=f"^{re.escape(message.format(1, 16, name))}$"):
            estimator.transform(one_patch)


@pytest.mark.parametrize("statistics", [BandStatistics(), MelStatistics(), PatchStatistics()])
def test_a_table_is_one_patch_a_clip(statistics):
    patches = np.random.default_rng(0).normal(size=(5, 256))
    expected = clone(statistics).fit_transform(patches[:, np.newaxis, np.newaxis])
    for table in (patches, patches.tolist(), pd.DataFrame(patches)):
        assert_allclose(clone(statistics).fit_transform(table), expected, atol=1e-6)
    with pytest.raises(ValueError, match="NaN"):
        clone(statistics).fit(np.where(np.arange(256) == 3, np.nan, patches))
    with pytest.raises(ValueError, match=r"dim 5"):
        clone(statistics).fit(np.zeros((2, 1, 1, 1, 256)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("clip", [2, 9])
@pytest.mark.parametrize(
    "estimator",
    [AnoPatchEmbedder(), BandStatistics(), PatchStatistics()],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_hole_in_a_clip_is_refused_by_its_number(estimator, clip, value):
    patches = patchify(np.random.default_rng(0).normal(size=(12, 16, 128)))
    estimator = clone(estimator).fit(patches)
    patches[1] = np.nan
    patches[clip, 0, 3, 4] = value
    with pytest.raises(ValueError, match=f"^The patches of clip {clip} contain NaN or infinity.$"):
        list(iterate_batches(patches, 8))
    with pytest.raises(ValueError, match=r"^The patches of clip \d+ contain NaN or infinity\.$"):
        estimator.transform(patches)


@pytest.mark.parametrize(
    "transformer",
    [BandStatistics(), MelStatistics(), AnoPatchEmbedder()],
    ids=lambda estimator: type(estimator).__name__,
)
def test_silent_or_equal_clips_teach_nothing(transformer):
    patches = np.full((4, 1, 8, 256), 3.0, dtype=np.float32)
    message = "All 4 clips are silent: there is no sound to learn from."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clone(transformer).fit_transform(patches)
    patches += np.arange(256, dtype=np.float32)
    patches[0] = np.nan
    message = "All 3 clips are the same: how normal clips differ cannot be learnt."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clone(transformer).fit_transform(patches)
    patches[1] *= 1 + 1e-6  # but for rounding
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clone(transformer).fit_transform(patches)
    patches[1] += 0.1
    assert np.isfinite(clone(transformer).fit_transform(patches)[1]).all()


def test_one_clip_is_no_reason_to_say_that_all_are_the_same():
    one = patchify(np.random.default_rng(0).normal(size=(3, 16, 128)))
    one[1:] = np.nan
    assert BandStatistics().fit_transform(one).shape == (3, 186)
    refuse_equal_clips(np.array([[1.0, 2.0]]), one[:1])


def test_two_clips_that_differ_in_one_feature_by_more_than_rounding_can_be_learnt_from():
    features = np.array([[1.0, -500.0], [1.0, -500.0]])
    features[1, 1] *= 1 + 3e-6
    with pytest.raises(ValueError, match="All 2 clips are the same"):
        refuse_equal_clips(features, np.arange(2.0).reshape(1, 1, 1, 2))
    features[1, 1] = -500 * (1 + 5e-6)
    refuse_equal_clips(features, np.arange(2.0).reshape(1, 1, 1, 2))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_survey_of_patches_finds_what_numpy_finds_at_once(batch_size):
    patches = np.random.default_rng(0).normal(50, 3, size=(10, 2, 3, 16)).astype(np.float32)
    patches *= np.arange(1, 11, dtype=np.float32)[:, None, None, None]
    usable = [0, 1, 5, 6, 9]
    patches[[2, 3, 4, 7, 8]] = np.nan
    found, (mean, std) = survey_patches(patches, batch_size)
    assert found.tolist() == usable
    assert mean == pytest.approx(patches[usable].mean(dtype=np.float64), rel=1e-12)
    assert std == pytest.approx(patches[usable].std(dtype=np.float64), rel=1e-12)
    _, normalization = survey_patches(np.full((3, 1, 1, 4), 7.0, np.float32), batch_size)
    assert normalization == (7, 1)
    with pytest.raises(ValueError, match=r"^Every clip is NaN: there is nothing to learn from\.$"):
        survey_patches(patches[2:5], batch_size)


def test_given_patches_are_square_and_on_their_grid():
    for patches in (np.zeros((2, 3, 8, 256)), np.zeros((2, 3, 8, 4)).tolist()):
        assert_array_equal(given_patches(patches), np.asarray(patches))
    for shape in ((2, 3, 8, 255), (2, 3, 8, 8), (24, 256), (2, 3, 256)):
        message = (
            "With patcher='passthrough' X must be patches of shape (n_clips, n_time, n_freq, "
            f"patch_size ** 2). Got an array of shape {shape} instead; patchify makes patches of "
            "spectrograms, and patcher=None takes clips."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            given_patches(np.zeros(shape))


def test_a_clip_is_a_path_a_pair_or_no_table_of_numbers_and_none_of_them_is_a_patch():
    for clips in ([None, None], {"a": 1}):
        with pytest.raises((TypeError, ValueError)) as caught:
            BandStatistics().fit(clips)
        assert "MelPatcher" not in str(caught.value)


@pytest.mark.parametrize("statistics", [BandStatistics(), MelStatistics(), PatchStatistics()])
def test_statistics_keep_float32_and_say_so(statistics):
    assert statistics.__sklearn_tags__().transformer_tags.preserves_dtype == ["float32"]


@TAKING_PATCHES
def test_patches_without_their_grid_are_refused(estimator):
    patches = patchify(np.random.default_rng(0).normal(size=(3, 32, 128)))
    message = (
        "X must have the shape (n_clips, n_time, n_freq, patch_area) of patches that MelPatcher "
        "makes of clips and patchify of spectrograms. Got an array of shape (3, 16, 256) instead."
    )
    fitted = clone(estimator).fit(patches)
    for method in (clone(estimator).fit, fitted.transform):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            method(patches.reshape(3, 16, 256))


def noise_patches(colour, n_clips=4):
    noise = np.random.default_rng(0).normal(size=(n_clips, 32000))
    return MelPatcher(duration=2.0).fit_transform(lfilter([1], [1, -colour], noise))


@pytest.mark.parametrize("colour", [0.0, 0.97])
def test_patches_in_another_unit_are_warned_of_by_the_steps_of_noise(colour):
    patches = noise_patches(colour)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_another_unit(patches)
        warn_of_another_unit(patches - 7)
        warn_of_another_unit(np.where(np.arange(4)[:, None, None, None] == 1, np.nan, patches))
        warn_of_another_unit(np.zeros((3, 1, 8, 256)))  # silence has no unit
    message = (
        r"^The mel bins of X step by 3\.\d from frame to frame \(median\), and natural logarithms "
        r"of power by about 0\.7: they may have another unit\. Multiply decibels by 0\.2303, and "
        r"do not standardize\.$"
    )
    with pytest.warns(UserWarning, match=message):
        warn_of_another_unit(10 / np.log(10) * patches)
    with pytest.warns(UserWarning, match=r"step by 0\.1\d from frame to frame"):
        warn_of_another_unit((patches - patches.mean()) / 4.5)


def test_a_warning_of_another_unit_points_to_the_fit():
    decibels = 10 / np.log(10) * noise_patches(0.0, n_clips=8)
    model = AnomalousSoundDetector("passthrough", embedder="drop", map_detector="drop")
    with pytest.warns(UserWarning, match="may have another unit") as caught:
        model.fit(decibels)
    assert {w.filename for w in caught if "another unit" in str(w.message)} == {__file__}


@pytest.mark.parametrize(
    ("step", "is_usual"), [(0.34, False), (0.36, True), (1.39, True), (1.41, False)]
)
def test_steps_are_usual_from_half_to_twice_those_of_noise(step, is_usual):
    log_mel = np.where(np.arange(64) % 2, step, 0.0)[np.newaxis, :, np.newaxis].repeat(16, axis=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_another_unit(patchify(log_mel))
    assert [f"step by {step:.2g} from" in str(w.message) for w in caught] == (
        [] if is_usual else [True]
    )


def test_the_unit_is_measured_on_clips_that_are_evenly_spread():
    patches = noise_patches(0.0, n_clips=4)[np.arange(300) % 4]
    patches[:100] *= 10 / np.log(10)  # a third of the clips: the median is of the others
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_another_unit(patches)


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
            assert_array_equal(clone(estimator).fit_transform(patches), expected[rows])
