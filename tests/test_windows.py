"""Long recordings: windows, sessions, and the score of a clip from those of its windows."""

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from skanopatch import AnomalousSoundDetector, MelPatcher, Segment
from skanopatch.detectors.thresholds import place_threshold
from skanopatch.recipes.windows import cut_windows, whole_clips

RATE = 16000


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=round(seconds * RATE)).astype(np.float32) * 0.1


def detector(**parameters):
    parameters = {"map_detector": "drop", **parameters}
    return AnomalousSoundDetector(MelPatcher(duration=1.0, on_error="nan"), **parameters)


@pytest.fixture(scope="module")
def fitted():
    return detector().fit([noise(1, seed) for seed in range(24)])


def test_windows_cover_a_clip_and_the_last_one_ends_with_it():
    X = [noise(1.0), noise(3.3), noise(0.5)]
    windows = cut_windows(X, duration=1.0, hop=None, sample_rate=RATE)
    assert windows.clips.tolist() == [0, 1, 1, 1, 1, 2]
    assert_allclose(windows.starts, [0, 0, 1, 2, 2.3, 0])
    assert_allclose(windows.stops, [1, 1, 2, 3, 3.3, 0.5])
    assert windows.first.tolist() == [0, 1, 5]
    assert windows.last.tolist() == [0, 4, 5]
    assert_array_equal(windows.X[3], X[1][2 * RATE : 3 * RATE])
    assert_array_equal(windows.X[4], X[1][-RATE:])


def test_windows_may_overlap_and_may_not_leave_gaps():
    windows = cut_windows([noise(2.0)], duration=1.0, hop=0.25, sample_rate=RATE)
    assert_allclose(windows.starts, [0, 0.25, 0.5, 0.75, 1])
    with pytest.raises(ValueError, match=r"hop must be at most the 1 s of a window.* Got 1.5"):
        cut_windows([noise(2.0)], duration=1.0, hop=1.5, sample_rate=RATE)


def test_a_window_of_a_file_is_a_stretch_of_it(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(4.0), RATE)
    stretch = Segment(path, 1.0, 3.5)
    windows = cut_windows([path, stretch], duration=2.0, hop=None, sample_rate=RATE)
    of_file = [Segment(str(path), 0.0, 2.0), Segment(str(path), 2.0, 4.0)]
    assert [*of_file, Segment(path, 1.0, 3.0), Segment(path, 1.5, 3.5)] == windows.X


def test_short_clips_are_left_as_they_are():
    X = np.stack([noise(1.0), noise(1.0, 1)])
    windows = cut_windows(X, duration=1.0, hop=None, sample_rate=RATE)
    assert windows.X is X
    assert windows.are_clips
    assert np.isnan(whole_clips(X).starts).all()


def test_windows_of_a_file_are_one_session_and_those_of_an_only_file_ten():
    X = [noise(3.0), noise(2.0), noise(40.0)]
    windows = cut_windows(X, duration=1.0, hop=None, sample_rate=RATE)
    assert windows.sessions(None) == [(0, 0)] * 3 + [(1, 0)] * 2 + [(2, 0)] * 40
    groups = ["a"] * 5 + ["b"] * 40  # group b has one file
    assert windows.sessions(groups)[:5] == [(0, 0)] * 3 + [(1, 0)] * 2
    assert windows.sessions(groups)[5:] == [(2, i) for i in range(10) for _ in range(4)]


def test_a_clip_has_the_score_of_its_worst_window(fitted):
    long = noise(4.0, 50)
    long[2 * RATE : 3 * RATE] *= 9
    windows = fitted.score_windows([long, noise(1.0, 51)])
    assert windows["clip"].tolist() == [0, 0, 0, 0, 1]
    alone = fitted.score_samples([long[i * RATE : (i + 1) * RATE] for i in range(4)])
    assert_array_equal(windows["score"][:4], alone)
    assert windows["score"].argmin() == 2
    found = fitted.examine([long])
    assert (found.starts[0], found.stops[0], found.lengths[0]) == (2.0, 3.0, 4.0)
    assert found.n_windows.tolist() == [4]


def test_the_threshold_allows_for_the_number_of_windows(fitted):
    """At rate r for n windows, each of them has the rate 1 - (1 - r) ** (1 / n)."""
    long = noise(4.0, 50)
    worst = fitted.score_windows([long])["score"].min()
    own, of_four = (
        place_threshold(-fitted.training_scores_, rate, "lognormal", fitted.session_weights_)
        for rate in (0.1, 1 - 0.9**0.25)
    )
    assert_allclose(fitted.score_samples([long])[0], worst * own / of_four)


@pytest.mark.slow
def test_false_alarms_of_long_clips_stay_near_what_was_asked():
    """Ten windows of a normal clip raise the alarm about as often as one does."""
    rates = []
    for seed in range(3):
        model = detector().fit([noise(1, 100 * seed + i) for i in range(48)])
        rates.append(np.mean(model.predict([noise(10, 7000 + i) for i in range(30)]) == -1))
    assert np.mean(rates) <= 0.2


def test_one_long_recording_is_enough_to_fit_on():
    long = noise(30.0, 3)
    model = detector().fit([long])
    assert len(model.training_scores_) == 30
    assert np.mean(model.predict([noise(1.0, 60 + seed) for seed in range(20)]) == -1) <= 0.2
    assert model.predict([9 * noise(1.0, 60)]).tolist() == [-1]


def test_a_window_that_cannot_be_read_is_the_worst(fitted, tmp_path):
    path = tmp_path / "bad.wav"
    path.write_bytes(b"no sound")
    with pytest.warns(UserWarning, match="1 of 3 clips"):
        scores = fitted.score_samples([str(path), noise(2.0)])
    assert np.isnan(scores).tolist() == [True, False]
    with pytest.warns(UserWarning, match="1 of 3 clips"):
        found = fitted.examine([str(path), noise(2.0)])
    assert np.isnan(found.lengths).tolist() == [True, False]


def test_maps_of_long_clips_are_those_of_the_worst_window():
    model = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit([noise(1, i) for i in range(12)])
    long = noise(3.0, 50)
    long[RATE : 2 * RATE] *= 9
    (of_clip,), (alone,) = (model.anomaly_map([x]) for x in (long, long[RATE : 2 * RATE]))
    ratio = model.score_samples([long]) / model.score_samples([long[RATE : 2 * RATE]])
    assert ratio < 1  # three windows may lie further out than one
    from_moments = of_clip == alone
    assert 0 < from_moments.mean() < 1
    assert_allclose(of_clip[~from_moments], ratio * alone[~from_moments])


@pytest.mark.filterwarnings("ignore:3 sessions are few")
def test_labels_go_to_all_windows_of_their_clip():
    clips = [gain * noise(2, i) for i, gain in enumerate([1, 1, 1, 5, 5, 5])]
    model = detector().fit(clips, groups=list("aaabbb"))
    assert model.groups_ == ["a", "b"]
    scores = [model.score_samples([5 * noise(2, 9)], groups=[group])[0] for group in "ab"]
    assert scores[0] < model.offset_
    assert scores[0] < scores[1]
