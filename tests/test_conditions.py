"""Recordings that were made in another way than those of fit: notes, warnings, gain tolerance."""

import warnings

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from skanopatch import AnomalousSoundDetector, BandStatistics, MahalanobisDetector, MelPatcher
from skanopatch.detectors.gain_tolerance import GainTolerantDetector

RATE = 16000
DECIBEL = np.log(10) / 10


def clip(seed, seconds=1.0, rate=RATE):
    return 0.1 * np.random.default_rng(seed).normal(size=round(seconds * rate)).astype(np.float32)


def low_pass(samples, share):
    spectrum = np.fft.rfft(samples)
    spectrum[round(share * len(spectrum)) :] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    model = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop")
    return model.fit([(clip(seed), RATE) for seed in range(12)])


@pytest.mark.parametrize(
    ("new", "note"),
    [
        ((clip(50), RATE), ""),
        ((0.25 * clip(50), RATE), "12 dB quieter than any normal clip"),
        ((2 * clip(50), RATE), "6 dB louder than any normal clip"),
        ((clip(50, rate=8000), 8000), "sampled at 8 kHz, fitted at 16 kHz"),
        ((np.stack([clip(50)] * 2, axis=1), RATE), "2 channel(s), fitted with 1"),
        ((np.zeros(RATE, np.float32), RATE), "silent"),
        ((low_pass(clip(50), 0.5), RATE), "no sound above 4.1 kHz, unlike in fit"),
        ((clip(50) + np.float32(0.2), RATE), "a constant part of"),
    ],
)
def test_what_is_not_as_in_fit_is_said_with_numbers(fitted, new, note):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (said,) = fitted.notes([new])
    assert said.startswith(note) if note.endswith("of") else note in said
    assert bool(said) == bool(note)


def test_clipping_is_said_with_its_share(fitted):
    loud = clip(50)
    loud[:800] = 1.0
    (said,) = fitted.notes([(loud, RATE)])
    assert "clipped: 5.00% of the samples at full scale, in fit up to 0.00%" in said


def test_scores_of_another_rate_or_channel_come_with_one_warning(fitted):
    new = [(clip(50), RATE), (clip(51, rate=8000), 8000), (clip(52, rate=8000), 8000)]
    with pytest.warns(UserWarning, match=r"2 of 3 clips were recorded in another way") as caught:
        fitted.predict(new)
    assert len(caught) == 1
    assert "clip 1: sampled at 8 kHz, fitted at 16 kHz" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a level may be what a fault changes: a note, no warning
        fitted.predict([(0.25 * clip(50), RATE)])


def test_fit_says_what_lies_above_the_rate_of_the_patcher(tmp_path):
    paths = []
    for seed in range(4):
        paths.append(tmp_path / f"{seed}.wav")
        soundfile.write(paths[-1], clip(seed, rate=48000), 48000)
    model = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop")
    message = r"4 of 4 clips are sampled at up to 48000 Hz, and only sound below 8000 Hz is used"
    with pytest.warns(UserWarning, match=message):
        model.fit(paths)


# --- Gain tolerance ---------------------------------------------------------------------------


def rows(n_clips, seed=0, gains=None):
    """Return statistics of five bins: independent of each other, and a gain in dB beside."""
    rng = np.random.default_rng(seed)
    gains = rng.normal(scale=0.1, size=n_clips) if gains is None else gains
    return rng.normal(scale=0.05, size=(n_clips, 7)) + DECIBEL * np.outer(
        gains, [1, 1, 1, 1, 1, 0, 0]
    )


def tolerant(tolerance=1.5, detector=None):
    detector = MahalanobisDetector() if detector is None else detector
    return GainTolerantDetector(detector, n_mels=5, n_level=5, gain_tolerance=tolerance)


def test_the_deviation_of_gains_is_measured_in_decibels():
    gains = np.random.default_rng(1).normal(scale=2.0, size=400)
    measured = tolerant().fit(rows(400, gains=gains)).gain_deviation_
    assert measured == pytest.approx(np.std(gains), abs=0.05)


def test_a_gain_within_the_tolerance_is_forgiven_and_a_fault_is_not():
    plain, forgiving = (tolerant(t).fit(rows(80)) for t in (0.0, 1.5))
    changed = rows(40, seed=1, gains=np.full(40, 1.0))
    assert np.mean(plain.predict(changed) == -1) > 0.9
    assert np.mean(forgiving.predict(changed) == -1) < 0.3
    fault = rows(40, seed=2)
    fault[:, 2] += 1.0
    assert_allclose(forgiving.score_samples(fault), plain.score_samples(fault), rtol=0.1)
    assert_array_equal(forgiving.predict(fault), -1)


def test_scores_are_the_better_of_both_and_never_worse_than_without():
    plain, forgiving = (tolerant(t).fit(rows(80)) for t in (0.0, 1.5))
    new = rows(30, seed=1, gains=np.linspace(-4, 4, 30))
    assert (forgiving.score_samples(new) >= plain.score_samples(new)).all()
    reduced = forgiving.reduce_gain(new)
    best = np.maximum(plain.score_samples(new), plain.score_samples(reduced))
    assert_array_equal(forgiving.score_samples(new), best)
    assert_array_equal(forgiving.offset_, plain.offset_)
    assert_array_equal(plain.score_samples(forgiving.best_statistics(new)), best)
    p_values = np.maximum(plain.p_values(new), plain.p_values(reduced))
    assert_array_equal(forgiving.p_values(new), p_values)
    assert (p_values > plain.p_values(new)).any()
    kept = forgiving.gain_deviation_ / 1.5
    left = np.median(reduced[:, :5] - forgiving.locations_[0, :5], axis=1)
    before = np.median(new[:, :5] - forgiving.locations_[0, :5], axis=1)
    assert_allclose(left, kept * before, rtol=1e-9)
    assert_array_equal(reduced[:, 5:], new[:, 5:])


def test_a_gain_that_varies_more_than_the_tolerance_changes_nothing():
    gains = np.random.default_rng(1).normal(scale=2.0, size=60)
    assert tolerant().fit(rows(60, gains=gains)).reduce_gain(rows(3)) is None


def test_the_gain_is_relative_to_the_nearest_domain():
    X = np.vstack([rows(40), rows(40, seed=1) + 3 * np.array([1, 0, 1, 0, 1, 0, 0])])
    forgiving = tolerant().fit(X, domains=["a"] * 40 + ["b"] * 40)
    assert forgiving.gain_deviation_ < 0.5
    left = forgiving.reduce_gain(X[40:] - DECIBEL * np.array([1, 1, 1, 1, 1, 0, 0]))
    assert abs(np.median(left[:, :5] - X[40:].mean(axis=0)[:5])) < 0.3 * DECIBEL


def test_one_decibel_less_gain_raises_few_alarms():
    """Recordings of one gain: without the tolerance, half a decibel is an anomaly."""
    X = [clip(seed) for seed in range(30)]
    new = [10 ** (-1 / 20) * clip(100 + seed) for seed in range(30)]
    alarms = {}
    for tolerance in (0.0, 1.5):
        model = AnomalousSoundDetector(
            MelPatcher(duration=1.0), map_detector="drop", gain_tolerance=tolerance
        )
        alarms[tolerance] = np.mean(model.fit(X).predict(new) == -1)
    assert alarms[1.5] <= 0.2 < 0.9 < alarms[0.0]


def test_a_normalized_level_takes_out_the_gain_and_nothing_else():
    as_is = MelPatcher(duration=1.0).fit_transform([clip(0), 0.1 * clip(0)])
    even = MelPatcher(duration=1.0, level="normalized").fit_transform([clip(0), 0.1 * clip(0)])
    used = as_is[1] > as_is[1].min()  # a mel bin may lie between two lines of the spectrum
    assert_allclose((as_is[0] - as_is[1])[used], 20 * DECIBEL, rtol=1e-3)
    assert_allclose(even[0], even[1], atol=1e-3)
    shapes = [BandStatistics().fit(p).transform(p)[0, :128] for p in (as_is, even)]
    assert np.ptp(shapes[0] - shapes[1]) < 0.01
