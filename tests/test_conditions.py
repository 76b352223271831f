"""Recordings that were made in another way than those of fit: notes, warnings, gain tolerance."""

import warnings

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from skanopatch import (
    AnomalousSoundDetector,
    BandStatistics,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    PatchKNNDetector,
)
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


def reduced_by_definition(X, new, groups, of_new, classes, tolerance=1.5):
    """Reduce the gains of clips of five bins, one clip after the other."""
    keys = list(dict.fromkeys(classes))
    means = {key: X[[c == key for c in classes]].mean(axis=0) for key in keys}
    gains = [np.median((row - means[c])[:5]) for row, c in zip(X, classes, strict=True)]
    deviation = np.sqrt(np.sum(np.square(gains)) / (len(X) - len(keys))) / DECIBEL
    reduced = new.copy()
    for row, group in enumerate(of_new):
        best = None
        for key in keys:
            if group is not None and groups[classes.index(key)] != group:
                continue
            difference = (new[row] - means[key])[:5]
            gain = np.median(difference)
            shape = np.abs(difference - gain).mean()
            if best is None or shape < best[0]:
                best = shape, gain
        reduced[row, :5] -= (1 - deviation / tolerance) * best[1]
    return reduced, deviation


@pytest.mark.parametrize("known", [True, False])
def test_a_gain_is_reduced_by_its_definition_within_the_classes_of_the_group(known):
    places = np.array([[0, 0, 0, 0, 0], [2, 0, 2, 0, 2], [0, 5, 0, 5, 0], [9, 0, 0, 0, 9]])
    kind = np.arange(48) % 4
    X = rows(48)
    X[:, :5] += 0.1 * places[kind]
    groups = ["fan" if k < 2 else "pump" for k in kind]
    domains = ["source" if k % 2 else "target" for k in kind]
    detector = tolerant(detector=GroupedDetector(pooled=True))
    detector.fit(X, groups=groups, domains=domains)
    classes = list(zip(groups, domains, strict=True))
    new = rows(8, seed=1, gains=np.linspace(-3, 3, 8))
    new[:, :5] += 0.1 * places[np.arange(8) % 4]
    of_new = [("fan", "pump")[i // 2 % 2] for i in range(8)] if known else [None] * 8
    expected, deviation = reduced_by_definition(X, new, groups, of_new, classes)
    assert detector.gain_deviation_ == pytest.approx(deviation, rel=1e-9)
    given = iter(of_new) if known else None
    assert_allclose(detector.reduce_gain(new, given), expected, rtol=1e-9)
    assert detector.location_groups_ == ["fan", "fan", "pump", "pump"]
    assert detector.n_features_in_ == 7
    assert detector.locations_of("pump").shape == (2, 7)
    assert detector.locations_of("valve").shape == (0, 7)
    kwargs = {"groups": of_new} if known else {}
    scores = [
        detector.detector_.score_samples(statistics, **kwargs) for statistics in (new, expected)
    ]
    assert_allclose(detector.score_samples(new, **kwargs), np.max(scores, axis=0), rtol=1e-7)
    single = detector.reduce_gain(new.astype(np.float32), of_new if known else None)
    assert single.dtype == np.float32
    assert_allclose(single, expected, atol=1e-5)


def test_unreadable_clips_have_no_gain_and_harm_none():
    X = rows(40)
    with_gap = np.insert(X, 7, np.nan, axis=0)
    plain, other = tolerant().fit(X), tolerant().fit(with_gap, domains=["a"] * 41)
    assert other.gain_deviation_ == pytest.approx(plain.gain_deviation_)
    assert_allclose(other.locations_, plain.locations_)
    new = np.insert(rows(4, seed=1, gains=np.full(4, 2.0)), 2, np.nan, axis=0)
    reduced = other.reduce_gain(new)
    assert np.isnan(reduced).any(axis=1).tolist() == [False, False, True, False, False]
    assert np.isnan(other.score_samples(new)).tolist() == [False, False, True, False, False]


def test_classes_of_one_clip_leave_gains_as_they_are():
    detector = tolerant(detector=KNNDetector(metric="euclidean"))
    detector.fit(rows(6), labels=list("abcdef"))
    assert detector.gain_deviation_ > 0  # labels make no classes
    alone = tolerant(detector=PatchKNNDetector("euclidean")).fit(rows(6), domains=list("abcdef"))
    assert np.isnan(alone.gain_deviation_)
    assert alone.reduce_gain(rows(2)) is None
    assert tolerant(0.0).fit(rows(20)).reduce_gain(rows(2)) is None


def test_a_group_that_is_taken_out_has_its_own_classes_and_scores():
    X = rows(60)
    X[1::2, :5] += 0.3 * np.array([1, 0, 1, 0, 1])
    groups = ["fan", "pump"] * 30
    detector = tolerant(detector=GroupedDetector()).fit(X, groups=groups)
    new = rows(9, seed=1, gains=np.linspace(-2, 2, 9))
    for group, part in (("fan", X[::2]), ("pump", X[1::2])):
        alone = detector.select_group(group)
        assert_allclose(alone.locations_, part.mean(axis=0)[np.newaxis])
        assert alone.location_groups_ == [group]
        assert len(alone.training_scores_) == len(alone.session_weights_) == 30
        expected = detector.score_samples(new, groups=[group] * 9)
        assert_array_equal(alone.score_samples(new, groups=[group] * 9), expected)
        assert_array_equal(alone.score_samples(new), expected)
    assert_array_equal(detector.group_rows_["pump"], np.arange(1, 60, 2))
    assert detector.location_groups_ == ["fan", "pump"]  # as it was


def test_another_rate_moves_the_threshold_and_nothing_else():
    X, new = rows(60), rows(9, seed=1)
    moved = tolerant().fit(X)
    scores = moved.score_samples(new)
    assert moved.set_false_alarm_rate(0.3) is moved
    again = tolerant(detector=MahalanobisDetector(false_alarm_rate=0.3)).fit(X)
    assert moved.offset_ == again.offset_ == moved.detector_.offset_
    assert_array_equal(moved.score_samples(new), scores)


def test_a_decibel_and_a_half_is_tolerated_unless_said_otherwise():
    detector = GainTolerantDetector(MahalanobisDetector(), n_mels=5, n_level=5)
    assert detector.gain_tolerance == 1.5


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
