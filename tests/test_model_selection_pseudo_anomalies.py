"""Pseudo-anomalies: what each kind does to a sound, and that no fold leaks a source."""

import re

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from scipy import signal
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from skanopatch import (
    FitOnNormal,
    KNNDetector,
    MelPatcher,
    MelStatistics,
    make_anomaly_scorer,
    make_pseudo_anomalies,
)

RATE = 16000


def noises(n_clips, n_samples=4000, seed=0):
    """Clips of noise, each with a loudness of its own."""
    rng = np.random.default_rng(seed)
    loudness = rng.uniform(0.01, 0.2, size=(n_clips, 1))
    return (loudness * rng.normal(size=(n_clips, n_samples))).astype(np.float32)


def rms(samples):
    return np.sqrt(np.mean(np.square(samples, dtype=np.float64)))


def likeness(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def spectrum(samples):
    return np.abs(np.fft.rfft(samples))


# --- what each kind does -------------------------------------------------------------------------


def test_mixed_is_the_clip_and_its_partner_at_equal_loudness():
    X = noises(2)  # each is the other's partner
    whole = make_pseudo_anomalies(X, kinds=["mixed"], strength=1.0, random_state=0).clips[2:]
    assert_allclose(whole[0], X[1] * rms(X[0]) / rms(X[1]), rtol=1e-5)
    quarter = make_pseudo_anomalies(X, kinds=["mixed"], strength=0.25, random_state=0).clips[2:]
    blend = 0.75 * X[0] + 0.25 * X[1] * rms(X[0]) / rms(X[1])
    assert_allclose(quarter[0], blend * rms(X[0]) / rms(blend), rtol=1e-4, atol=1e-7)


def test_a_shorter_partner_is_repeated():
    X = [noises(1, 4000)[0], noises(1, 1500, seed=1)[0]]
    mixed = make_pseudo_anomalies(X, kinds=["mixed"], strength=1.0, random_state=0).clips[2:]
    assert [len(samples) for samples in mixed] == [4000, 1500]
    assert likeness(mixed[0], np.tile(X[1], 3)[:4000]) == pytest.approx(1)
    assert likeness(mixed[1], X[0][:1500]) == pytest.approx(1)


def test_pitched_moves_a_tone_by_a_third():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    X = [tone] * 40
    pitched = make_pseudo_anomalies(X, kinds=["pitched"], strength=1.0, random_state=0)
    # The index of the largest bin is the frequency in Hz, for one second; where a faster clip turns
    # back its phase jumps, which may move the maximum by a bin or two.
    found = {int(np.argmax(spectrum(samples))) for samples in pitched.clips[40:]}
    expected = np.array([800, 1000 * 5 / 6, 1200, 1250])
    assert {int(np.argmin(np.abs(expected - hertz))) for hertz in found} == {0, 1, 2, 3}
    assert max(np.abs(expected - hertz).min() for hertz in found) < 3


def test_a_faster_clip_goes_back_at_its_end_without_a_jump():
    ramp = np.linspace(0.0, 1.0, 5000) ** 2
    X = [ramp] * 20
    for samples in make_pseudo_anomalies(X, kinds=["pitched"], strength=1.0, random_state=0).clips[
        20:
    ]:
        inner = samples[50:-50]  # the resampling filter rings where the ramp is cut off
        turn = np.argmax(samples)
        if turn < 4900:  # faster
            mirrored = min(turn, len(samples) - turn) - 60
            assert_allclose(
                samples[turn + 30 : turn + mirrored],
                samples[turn - 30 : turn - mirrored : -1],
                atol=0.02,
            )
        else:
            assert np.abs(np.diff(inner)).max() < 2e-3


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_band_stopped_is_a_gaussian_notch_in_octaves(strength):
    """An impulse has all frequencies alike, so that the output's spectrum is the filter's gain."""
    impulse = np.zeros(8000)
    impulse[4000] = 1.0
    X = [impulse] * 20
    frequencies = np.linspace(1e-6, 1, 4001)  # of the Nyquist frequency
    centres = []
    for samples in make_pseudo_anomalies(
        X, kinds=["band_stopped"], strength=strength, random_state=0
    ).clips[20:]:
        gain = spectrum(samples)
        centre = np.log2(frequencies[np.argmin(gain)])
        expected = 1 - strength * np.exp(-0.5 * ((np.log2(frequencies) - centre) / 0.5) ** 2)
        expected /= np.sqrt(np.mean(expected[1:] ** 2))  # the impulse's RMS is kept
        assert_allclose(gain[30:], expected[30:], atol=0.02)
        centres.append(centre)
    assert -6.6 < min(centres) < -5
    assert -2 < max(centres) < -0.4


@pytest.mark.parametrize("shape", [(999,), (1000, 2)])
def test_a_pitched_clip_is_resampled_by_a_third_and_goes_back_where_it_ends(shape):
    X = [0.1 * np.random.default_rng(seed).normal(size=shape) for seed in range(40)]
    clips = X if len(shape) == 1 else [(samples, 8000) for samples in X]
    made = make_pseudo_anomalies(clips, kinds=["pitched"], strength=0.4, random_state=0).clips[40:]
    found = []
    for samples, blend in zip(X, made, strict=True):
        candidates = []
        for up, down in ((4, 5), (5, 6), (6, 5), (5, 4)):
            played = signal.resample_poly(samples, up, down, axis=0)[: len(samples)]
            played = np.concatenate([played, played[::-1]])[: len(samples)]
            played = 0.6 * samples + 0.4 * played
            candidates.append(played * rms(samples) / rms(played))
        blend = blend if len(shape) == 1 else blend[0]
        assert blend.dtype == np.float32
        errors = [np.abs(blend - candidate).max() for candidate in candidates]
        assert min(errors) < 1e-6
        found.append(int(np.argmin(errors)))
    assert set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize("n_samples", [256, 257])
def test_stopped_bands_lie_from_half_an_octave_to_six_and_a_half_below_the_highest(n_samples):
    noise = np.random.default_rng(0).normal(size=n_samples)
    pseudo = make_pseudo_anomalies(
        [noise] * 400, kinds=["band_stopped"], strength=1.0, random_state=0
    )
    power = np.fft.rfft(noise)
    # The frequency of a bin, of the highest one; that of a constant is far below all bands.
    octaves = -np.log2(np.linspace(1e-6, 1, n_samples // 2 + 1))
    grid = np.linspace(0, 7, 701)
    gains = 1 - np.exp(-0.5 * ((octaves - grid[:, np.newaxis]) / 0.5) ** 2)
    expected = np.fft.irfft(power * gains, n_samples)
    expected *= rms(noise) / np.sqrt(np.mean(expected**2, axis=1, keepdims=True))
    centres = []
    for samples in pseudo.clips[400:]:
        errors = np.abs(samples - expected).max(axis=1)
        assert errors.min() < 0.05
        centres.append(grid[errors.argmin()])
    assert min(centres) == pytest.approx(0.5, abs=0.1)
    assert max(centres) == pytest.approx(6.5, abs=0.1)
    assert np.mean(centres) == pytest.approx(3.5, abs=0.4)  # uniform


def test_loudness_and_length_do_not_tell():
    X = [*noises(30), *noises(3, 2501, seed=1)]
    kinds = ["mixed", "pitched", "band_stopped"]
    pseudo = make_pseudo_anomalies(X, kinds=kinds, strength=0.7, random_state=0)
    for made, source in zip(pseudo.clips[33:], X, strict=True):
        assert len(made) == len(source)
        assert rms(made) == pytest.approx(rms(source), rel=1e-5)
        assert likeness(made, source) < 0.9999


def test_silence_stays_silent():
    pseudo = make_pseudo_anomalies(np.zeros((6, 1000)), random_state=0)
    assert_array_equal(pseudo.clips[6:], np.zeros((6, 1000)))


# --- what is returned ----------------------------------------------------------------------------


def test_kinds_take_turns_and_all_is_in_one_order():
    X = noises(30)
    kinds = ["mixed", "pitched", "band_stopped"]
    pseudo = make_pseudo_anomalies(X, kinds=kinds, random_state=0)
    assert_array_equal(pseudo.y, np.repeat([1, -1], 30))
    assert_array_equal(pseudo.source, [*range(30), *range(30)])
    for kind, n_clips in [("normal", 30), ("mixed", 10), ("pitched", 10), ("band_stopped", 10)]:
        assert (pseudo.kind == kind).sum() == n_clips
    assert_array_equal(pseudo.clips[:30], X)
    # Pairs share a group, and so does what was made of them.
    numbers, sizes = np.unique(pseudo.groups, return_counts=True)
    assert_array_equal(sizes, [4] * 15)
    assert_array_equal(numbers, np.arange(15))
    # Without mixing, each clip and what was made of it is a group.
    assert_array_equal(make_pseudo_anomalies(X).groups, [*range(30), *range(30)])


def test_clips_of_another_machine_are_mixed_in_or_take_the_place():
    X, others = noises(5), noises(4, seed=1)
    whole = make_pseudo_anomalies(
        X, kinds=["mixed"], strength=1.0, other_clips=others, random_state=0
    )
    for made, source in zip(whole.clips[5:], X, strict=True):
        assert max(likeness(made, other) for other in others) == pytest.approx(1)
        assert rms(made) == pytest.approx(rms(source), rel=1e-5)
    assert_array_equal(whole.groups, [*range(5), *range(5)])
    half = make_pseudo_anomalies(
        X, kinds=["mixed"], strength=0.5, other_clips=others, random_state=0
    )
    for made, source in zip(half.clips[5:], X, strict=True):
        assert likeness(made, source) == pytest.approx(np.sqrt(0.5), abs=0.03)
        assert max(likeness(made, other) for other in others) == pytest.approx(
            np.sqrt(0.5), abs=0.03
        )


def test_an_odd_clip_makes_a_group_of_three():
    pseudo = make_pseudo_anomalies(noises(7), kinds=["mixed"], random_state=0)
    assert sorted(np.bincount(pseudo.groups[:7])) == [2, 2, 3]


def test_a_clip_is_mixed_with_any_other_of_its_group_and_never_with_itself():
    X = noises(60, 400)
    groups = np.array(["a", "b", "c"])[np.arange(60) % 3]
    pseudo = make_pseudo_anomalies(X, kinds=["mixed"], strength=1.0, groups=groups, random_state=0)
    assert_array_equal(pseudo.groups, np.tile(np.arange(60) % 3, 2))  # in order of appearance
    partners = []
    for row in range(60):
        alike = [likeness(pseudo.clips[60 + row], clip) for clip in X]
        partners.append(int(np.argmax(alike)))
        assert max(alike) == pytest.approx(1)
        assert partners[-1] != row
        assert groups[partners[-1]] == groups[row]
    assert len(set(partners)) > 20


def test_clips_to_mix_with_are_repeated_to_length_channel_by_channel():
    rng = np.random.default_rng(0)
    X = [(rng.normal(size=(900, 2)), 8000), (rng.normal(size=(400, 2)), 8000)]
    made = make_pseudo_anomalies(X, kinds=["mixed"], strength=1.0, random_state=0).clips[2:]
    expected = np.concatenate([X[1][0]] * 3)[:900]
    assert_allclose(made[0][0], expected * rms(X[0][0]) / rms(expected), rtol=1e-5)
    assert made[0][1] == 8000
    for other in ((rng.normal(size=(400, 1)), 8000), (rng.normal(size=(400, 2)), 16000)):
        with pytest.raises(ValueError, match="must have one sample rate and one number of chan"):
            make_pseudo_anomalies([X[0], other], kinds=["mixed"], random_state=0)


def test_one_clip_alone_has_nothing_to_be_mixed_with():
    with pytest.raises(ValueError, match="There is no other clip in the group of clip 0"):
        make_pseudo_anomalies(noises(1), kinds=["mixed"])
    three = make_pseudo_anomalies(noises(3), kinds=["mixed"], random_state=0)
    assert_array_equal(three.groups, 0)
    assert make_pseudo_anomalies(noises(1), random_state=0).y.tolist() == [1, -1]


@pytest.mark.parametrize("strength", [1.0, 1, 1e-3])
def test_a_strength_is_the_share_of_the_changed_clip(strength):
    X = noises(2)
    other = noises(1, seed=5)
    made = make_pseudo_anomalies(
        X, kinds=["mixed"], strength=strength, other_clips=other, random_state=0
    ).clips[2]
    blend = (1 - strength) * X[0] + strength * other[0] * rms(X[0]) / rms(other[0])
    assert_allclose(made, blend * rms(X[0]) / rms(blend), atol=1e-7)
    with pytest.raises(ValueError, match=r"range \(0\.0, 1\.0\]\. Got 1\.01"):
        make_pseudo_anomalies(X, strength=1.01)


def test_one_seed_gives_one_set():
    X = noises(9)
    first, again, other = (make_pseudo_anomalies(X, random_state=s).clips[9:] for s in (0, 0, 1))
    assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_pseudo_anomaly_has_the_form_of_its_clip(tmp_path):
    stereo = noises(2, 3000).T
    soundfile.write(tmp_path / "a.wav", stereo, 44100, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", stereo[::-1], 44100, subtype="FLOAT")
    pseudo = make_pseudo_anomalies([tmp_path / "a.wav", tmp_path / "b.wav"], random_state=0)
    assert pseudo.clips[0] == tmp_path / "a.wav"
    assert [(samples.shape, rate) for samples, rate in pseudo.clips[2:]] == [((3000, 2), 44100)] * 2
    mono = make_pseudo_anomalies([(noises(1)[0], 8000)] * 2, random_state=0).clips[2:]
    assert [(samples.shape, rate) for samples, rate in mono] == [((4000,), 8000)] * 2
    assert make_pseudo_anomalies(noises(2), random_state=0).clips[2].shape == (4000,)


# --- leakage -------------------------------------------------------------------------------------


def sources_of(pseudo, X, row):
    """Return the clips that a row is mixed of: exact for kinds at full strength."""
    return [i for i, clip in enumerate(X) if abs(likeness(pseudo.clips[row], clip)) > 0.5]


@pytest.mark.parametrize("groups", [None, np.arange(24) // 4], ids=["pairs", "sessions"])
def test_no_fold_scores_what_was_made_of_a_clip_it_trained_on(groups):
    X = noises(24)
    pseudo = make_pseudo_anomalies(X, kinds=["mixed"], strength=0.5, groups=groups, random_state=0)

    def leaks(splits):
        return sum(
            bool(set(sources_of(pseudo, X, row)) & set(train[pseudo.y[train] == 1]))
            for train, test in splits
            for row in test[pseudo.y[test] == -1]
        )

    assert all(len(sources_of(pseudo, X, row)) == 2 for row in range(24, 48))
    splitter = GroupKFold(4)
    assert leaks(splitter.split(pseudo.clips, pseudo.y, pseudo.groups)) == 0
    naive = KFold(4, shuffle=True, random_state=0)  # what the groups are for
    assert leaks(naive.split(pseudo.clips, pseudo.y)) > 12
    if groups is not None:
        assert_array_equal(pseudo.groups[:24], groups)


def test_the_search_trains_on_normal_clips_and_finds_what_hears_the_change():
    """Three tones at any loudness: the distance of statistics hears them, one bin does not."""
    rng = np.random.default_rng(0)
    seconds = np.arange(8000) / RATE
    tones = np.sin(2 * np.pi * np.array([[500], [1300], [2900]]) * seconds).sum(axis=0)
    X = rng.uniform(0.01, 0.3, size=(40, 1)) * (tones + 0.3 * rng.normal(size=(40, 8000)))
    one_bin = FunctionTransformer(lambda statistics: statistics[:, 100:101])
    pipe = Pipeline(
        [
            ("patches", MelPatcher(duration=0.5)),
            ("statistics", MelStatistics()),
            ("columns", None),
            ("detector", KNNDetector(metric="euclidean")),
        ]
    )
    pseudo = make_pseudo_anomalies(X, kinds=["pitched"], strength=0.5, random_state=0)
    search = GridSearchCV(
        FitOnNormal(pipe),
        {"estimator__columns": [one_bin, None]},
        scoring=make_anomaly_scorer("auc"),
        cv=StratifiedGroupKFold(4),
        error_score="raise",
    ).fit(pseudo.clips, pseudo.y, groups=pseudo.groups)
    deaf, hearing = search.cv_results_["mean_test_score"]
    assert hearing > 0.95
    assert deaf < 0.7
    assert search.best_params_ == {"estimator__columns": None}
    assert len(search.best_estimator_.estimator_[-1].training_scores_) == 40  # normal clips alone


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clips", "parameters", "message"),
    [
        (
            noises(4),
            {"kinds": ["mixed", "louder"]},
            "kinds must be among ['mixed', 'pitched', 'band_stopped']. Got 'louder' instead.",
        ),
        (
            noises(4),
            {"kinds": []},
            "kinds must be among ['mixed', 'pitched', 'band_stopped']. Got none instead.",
        ),
        (
            noises(4),
            {"other_clips": noises(2)},
            "other_clips are what clips are mixed with. Got kinds=['pitched', 'band_stopped'], "
            "without 'mixed'.",
        ),
        (
            noises(4),
            {"groups": ["a", "b"]},
            "groups must have one entry per clip. Got 2 for 4.",
        ),
        (
            noises(3),
            {"kinds": ["mixed"], "groups": ["a", "b", "b"]},
            "There is no other clip in the group of clip 0 to mix it with. Give other_clips or "
            "larger groups, or leave 'mixed' out of kinds.",
        ),
        (
            [(noises(1)[0], 8000), (noises(1)[0], 16000)],
            {"kinds": ["mixed"]},
            "Clips to be mixed must have one sample rate and one number of channels. clip 0 has "
            "8000 Hz and 1, clip 1 has 16000 Hz and 1.",
        ),
        (["nowhere.wav"] * 2, {}, "clip 0 ('nowhere.wav'): there is no such file."),
        (np.full((2, 9), np.nan), {}, "clip 0: it contains NaN or infinity."),
        (
            noises(4),
            {"strength": 0},
            "The 'strength' parameter of make_pseudo_anomalies must be a float in the range "
            "(0.0, 1.0]. Got 0 instead.",
        ),
    ],
)
def test_what_cannot_be_made_is_named(clips, parameters, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_pseudo_anomalies(clips, **parameters)
