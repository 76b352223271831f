"""Explanations: parts that add up to scores, events with their times and frequencies, words."""

from dataclasses import asdict

import matplotlib as mpl
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    CalibratedDetector,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    patchify,
)
from skanopatch.backbones.front_ends import DECIBELS
from skanopatch.detectors.contributions import contributions
from skanopatch.inspection.explanation import ExplanationDisplay
from skanopatch.recipes.explanation import describe_event
from skanopatch.recipes.sound_events import (
    Axes,
    Event,
    find_clipping,
    find_events,
    learn_reference,
)

mpl.use("Agg")

RATE, DURATION = 16000, 4.0
TIME = np.arange(round(DURATION * RATE)) / RATE


def noise(rng, seconds=DURATION):
    """Return noise whose level falls towards high frequencies, as that of machines does."""
    white = rng.normal(size=round(seconds * RATE) + 4)
    return 0.05 * sum(white[i : len(white) - 4 + i] for i in range(4)).astype(np.float32)


NORMAL = [noise(np.random.default_rng(seed)) for seed in range(16)]
NEW = noise(np.random.default_rng(100))


def fit(clips=NORMAL, patcher=None, **parameters):
    """Return a detector fitted on clips, with the reference that explanations need."""
    metadata = {k: parameters.pop(k) for k in ("groups", "domains", "labels") if k in parameters}
    parameters = {"map_detector": "drop", "embedder": "drop", **parameters}
    patcher = MelPatcher(duration=DURATION, on_error="nan") if patcher is None else patcher
    return AnomalousSoundDetector(patcher, **parameters).fit(clips, **metadata)


@pytest.fixture(scope="module")
def detector():
    return fit()


def tone(hertz, amplitude=0.03):
    return (amplitude * np.sin(2 * np.pi * hertz * TIME)).astype(np.float32)


def band_noise(low, high, seed=0):
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=len(TIME)))
    frequencies = np.fft.rfftfreq(len(TIME), 1 / RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    sound = np.fft.irfft(spectrum, len(TIME))
    return (sound / sound.std()).astype(np.float32)


def knocks(*times, low=1000, high=4000):
    sound = np.zeros(len(TIME), dtype=np.float32)
    for time in times:
        start = round(time * RATE)
        sound[start : start + 800] = 0.5 * band_noise(low, high)[:800]
    return sound


def assert_adds_up(explanation, score):
    total = explanation.typical + sum(part.distance for part in explanation.parts)
    assert_allclose(total, -score, rtol=1e-9)
    assert explanation.score == score


class SumOfFeatures(OutlierMixin, BaseEstimator):
    """A detector whose score is a weighted sum: what each feature adds is known."""

    def fit(self, X, y=None):
        self.weights_ = np.arange(1.0, np.shape(X)[1] + 1)
        self.offset_ = -10.0
        return self

    def score_samples(self, X):
        return -np.asarray(X) @ self.weights_


EUCLIDEAN = KNNDetector(metric="euclidean")
DETECTORS = {
    "Mahalanobis": (MahalanobisDetector(), ()),
    "domains": (MahalanobisDetector(), ("domains",)),
    "KNN, cosine": (KNNDetector(), ()),
    "KNN, several": (KNNDetector(3, metric="euclidean", normalization="local_density"), ()),
    "KNN, domains": (KNNDetector(metric="euclidean", normalization="variance_min"), ("domains",)),
    "GMM": (GMMDetector(random_state=0), ()),
    "of another package": (CalibratedDetector(IsolationForest(random_state=0)), ()),
    "groups": (GroupedDetector(), ("groups",)),
    "pooled groups": (GroupedDetector(pooled=True), ("groups",)),
    "groups of a pipeline": (GroupedDetector(make_pipeline(PCA(5), KNNDetector())), ("groups",)),
    "joined": (JoinedDetector([("m", MahalanobisDetector()), ("k", EUCLIDEAN)]), ()),
    "joined, cosine": (JoinedDetector([("m", MahalanobisDetector()), ("k", KNNDetector())]), ()),
}


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize(("n_clips", "n_features"), [(24, 40), (200, 12)])
def test_contributions_add_up_to_the_distance(name, n_clips, n_features):
    rng = np.random.default_rng(0)
    detector, metadata = DETECTORS[name]
    mixing = rng.normal(size=(n_features, n_features))
    normal = rng.normal(size=(n_clips, n_features)) @ mixing + 3
    X = rng.normal(size=(5, n_features)) @ mixing + 3
    detector.fit(normal, **{key: ["a", "b"] * (n_clips // 2) for key in metadata})
    blocks = [np.arange(5), np.arange(5, n_features)]
    typical, parts = contributions(detector, X, normal=normal, blocks=blocks)
    assert_allclose(typical + parts.sum(axis=1), -detector.score_samples(X), rtol=1e-9)
    if metadata == ("groups",):
        typical, parts = contributions(detector, X, groups=["b"] * 5, normal=normal, blocks=blocks)
        scores = detector.score_samples(X, groups=["b"] * 5)
        assert_allclose(typical + parts.sum(axis=1), -scores, rtol=1e-9)


@pytest.mark.parametrize(
    "name",
    sorted(name for name in DETECTORS if "cosine" not in name and "of a" not in name),
)
@pytest.mark.parametrize(("n_clips", "n_features"), [(24, 40), (200, 12)])
def test_the_feature_that_deviates_has_most_of_the_excess(name, n_clips, n_features):
    rng = np.random.default_rng(1)
    detector, metadata = DETECTORS[name]
    normal = rng.normal(size=(n_clips, n_features)) + 3
    detector.fit(normal, **{key: ["a", "b"] * (n_clips // 2) for key in metadata})
    X = normal.mean(axis=0)[np.newaxis] + 20.0 * (np.arange(n_features) == 4)
    typical, parts = contributions(detector, X, normal=normal)
    excess = -detector.score_samples(X) - typical
    own = parts[0, 4::n_features].sum()  # of each member
    assert own > 0.8 * excess[0]


def test_shapley_values_of_a_sum_are_its_terms():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(30, 6))
    detector = SumOfFeatures().fit(normal)
    X = normal[:1] + np.array([0, 0, 0.2, 0, 0, -0.1])
    blocks = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
    typical, parts = contributions(detector, X, normal=normal, blocks=blocks)
    assert_allclose(typical, normal[:1] @ detector.weights_)
    assert_allclose(parts[0], [0, 0, 0.6, 0, 0, -0.6], atol=1e-9)


def test_members_share_the_logarithm_of_the_joint_distance_by_their_weights():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(100, 4))
    joined = JoinedDetector(
        [("spread", MahalanobisDetector()), ("near", KNNDetector(metric="euclidean"))]
    ).fit(normal)
    X = np.array([[4.0, 0, 0, 0], [0, 3.0, 3.0, 0]])
    _, parts = contributions(joined, X)
    logs = []
    for member in joined.detectors_:
        usual, own = contributions(member, X)
        logs.append(np.log((usual + own.sum(axis=1)) / usual))
    expected = joined.weights_ * np.stack(logs, axis=1)
    by_member = np.stack([parts[:, :4].sum(axis=1), parts[:, 4:].sum(axis=1)], axis=1)
    assert_allclose(
        by_member / by_member.sum(axis=1, keepdims=True),
        expected / expected.sum(axis=1, keepdims=True),
        rtol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"detector": KNNDetector(metric="euclidean")},
        {"detector": GMMDetector(random_state=0)},
        {"detector": IsolationForest(random_state=0)},
        {"detector": make_pipeline(PCA(4), MahalanobisDetector())},
        {"embedder": MelStatistics()},
        {"groups": ["a", "b"] * 8},
        {"groups": ["a", "b"] * 8, "domains": [0, 0, 1, 1] * 4},
    ],
    ids=["default", "KNN", "GMM", "forest", "pipeline", "embedder", "groups", "pooled"],
)
def test_parts_of_clips_add_up_to_their_scores(parameters):
    clips = [NEW, NEW + tone(2000), 3 * NEW]
    detector = fit(**parameters)
    scores = detector.score_samples(clips)
    for explanation, score in zip(detector.explain(clips), scores, strict=True):
        assert_adds_up(explanation, score)
    if "groups" in parameters:
        (explanation,) = detector.explain(clips[1:2], groups=iter(["b"]))
        assert_adds_up(explanation, detector.score_samples(clips[1:2], groups=["b"])[0])


def test_the_parts_name_the_band_of_a_fault(detector):
    (explanation,) = detector.explain([NEW + tone(2000)])
    of_bands = {}
    for part in explanation.parts:
        of_bands[part.low, part.high] = of_bands.get((part.low, part.high), 0) + part.distance
    (low, high), distance = max(of_bands.items(), key=lambda item: item[1])
    assert low < 2000 < high
    assert distance > 0.5 * (-explanation.score - explanation.typical)
    assert {part.cause for part in explanation.parts} == {
        "steady spectrum",
        "loud moments",
        "fluctuation",
        "level over time",
    }


def test_a_tone_is_named_with_its_frequency_and_level(detector):
    (explanation,) = detector.explain([NEW + tone(790)])
    event = explanation.events[0]
    assert event.kind == "tone"
    assert event.low == event.high == pytest.approx(790, abs=10)
    assert event.times == []
    near = np.argmin(np.abs(explanation.edges - 790))
    rise = (explanation.spectrum - np.median(explanation.normal_spectra, axis=0))[
        near - 2 : near + 2
    ]
    assert event.decibels == pytest.approx(rise.max(), abs=1.0)
    assert (
        f"A tone at 0.79 kHz, {event.decibels:.0f} dB above similar normal clips, all the"
        in str(explanation)
    )


def test_a_tone_of_a_part_of_the_clip_has_times(detector):
    (explanation,) = detector.explain([NEW + tone(2500) * ((TIME > 1) & (TIME < 3))])
    event = next(event for event in explanation.events if event.kind == "tone")
    assert_allclose(event.times, [(1.0, 3.0)], atol=0.15)


def test_a_louder_band_is_named(detector):
    (explanation,) = detector.explain([NEW + 0.05 * band_noise(2000, 3500)])
    event = explanation.events[0]
    assert event.kind == "louder band"
    assert_allclose([event.low, event.high], [2000, 3500], rtol=0.06)


def test_a_quieter_band_is_named(detector):
    spectrum = np.fft.rfft(NEW)
    frequencies = np.fft.rfftfreq(len(NEW), 1 / RATE)
    spectrum[(frequencies > 1000) & (frequencies < 2000)] *= 0.3
    (explanation,) = detector.explain([np.fft.irfft(spectrum, len(NEW)).astype(np.float32)])
    event = explanation.events[0]
    assert event.kind == "quieter band"
    assert_allclose([event.low, event.high], [1000, 2000], rtol=0.06)
    assert event.decibels == pytest.approx(-20 * np.log10(0.3), abs=1.5)


def test_knocks_are_named_with_times_and_band(detector):
    (explanation,) = detector.explain([NEW + knocks(0.5, 1.7, 3.2)])
    event = explanation.events[0]
    assert event.kind == "knock"
    assert_allclose([start for start, _ in event.times], [0.52, 1.72, 3.22], atol=0.03)
    assert_allclose([event.low, event.high], [1000, 4000], rtol=0.15)
    assert "Knocks at 0.5, 1.7 and 3.2 s" in str(explanation)


@pytest.mark.parametrize(("decibels", "verb"), [(6, "rises"), (-6, "falls")])
def test_a_step_of_the_level_is_named(detector, decibels, verb):
    gain = np.where(TIME > 2.5, 10 ** (decibels / 20), 1).astype(np.float32)
    (explanation,) = detector.explain([gain * NEW])
    assert explanation.events[0].kind == "step"
    assert f"The level {verb} by 6 dB at 2.5 s." in str(explanation)


def test_a_step_is_found_where_a_machine_comes_and_goes():
    def on_and_off(clip, phase):
        return (clip * np.where((TIME + phase) % 0.3 < 0.16, 1, 0.1)).astype(np.float32)

    rng = np.random.default_rng(0)
    detector = fit([on_and_off(clip, rng.uniform(0, 0.3)) for clip in NORMAL])
    for time in (1.1, 1.6, 2.3):
        clip = on_and_off(NEW, 0.05) * np.where(time < TIME, 2, 1)
        event = detector.explain([clip.astype(np.float32)])[0].events[0]
        assert event.kind == "step"
        assert event.times[0][0] == pytest.approx(time, abs=0.16)
        assert event.decibels == pytest.approx(6, abs=1.5)


@pytest.mark.parametrize(
    ("start", "stop", "gain"),
    [(1.5, 1.8, 0), (1.5, 1.8, 0.1), (1.4, 2.6, 0), (1.4, 2.6, 0.1), (0.5, 3.2, 0), (2.5, 3.85, 0)],
)
def test_a_dropout_is_named_first(detector, start, stop, gain):
    is_dropped = (start < TIME) & (stop > TIME)
    clip = np.where(is_dropped, gain * NEW, NEW).astype(np.float32)
    event = detector.explain([clip])[0].events[0]
    assert event.kind == "dropout"
    assert_allclose(event.times, [(start, stop)], atol=0.03)
    assert event.decibels < -100 if gain == 0 else event.decibels == pytest.approx(-20, abs=2)


def test_a_quieter_end_is_a_step_and_no_dropout(detector):
    (event,) = detector.explain([np.where(TIME > 2.5, 0.1 * NEW, NEW).astype(np.float32)])[0].events
    assert event.kind == "step"
    assert event.decibels == pytest.approx(-20, abs=1)


def test_clipping_is_named_at_any_level(detector):
    limit = np.quantile(np.abs(NEW), 0.98)
    (explanation,) = detector.explain([np.clip(NEW, -limit, limit)])
    assert explanation.events[0].kind == "clipping"
    assert "Clipped: 2.01% of the samples are at a limit." in str(explanation)


@pytest.mark.parametrize(
    "samples",
    [NEW, np.sin(440 * TIME), np.round(2 * NEW / NEW.std()), np.zeros(100), np.ones(1)],
    ids=["noise", "sine", "few bits", "silence", "one sample"],
)
def test_what_is_not_clipped_is_not_called_so(samples):
    assert find_clipping(samples) == []


def test_an_unusual_level_is_said(detector):
    (explanation,) = detector.explain([0.1 * NEW])
    assert "20 dB quieter than any normal clip." in str(explanation)


def test_of_normal_clips_nothing_is_said():
    detector = fit()
    clips = [noise(np.random.default_rng(seed)) for seed in range(200, 230)]
    explanations = detector.explain(clips)
    assert sum(bool(explanation.events) for explanation in explanations) <= 3
    quiet = next(e for e in explanations if not e.events and not e.is_anomaly)
    sentences = quiet.sentences()
    ratio = quiet.score / detector.offset_
    clip = explanations.index(quiet)
    assert sentences[0] == (
        f"clip {clip}: normal, nothing exceeds the threshold, {ratio:.2f} of the threshold."
    )
    assert sentences[1] == "No single tone, band or moment is out of the range of the normal clips."


def test_words_agree_with_the_verdict_and_name_the_largest_cause(detector):
    (explanation,) = detector.explain([NEW + knocks(0.5, 1.7, 3.2)])
    sentences = explanation.sentences()
    ratio = explanation.score / detector.offset_
    assert sentences[0] == f"clip 0: anomaly, {ratio:.2f} of the threshold."
    cause, distance = next(iter(explanation.by_cause().items()))
    assert distance == max(explanation.by_cause().values())
    assert f"{distance / explanation.scale:+.2f} {cause}" in sentences[-1]
    words = sentences[-1].removeprefix("Its distance, where the threshold is 1: ")
    numbers = [float(part.split()[0]) for part in words.split(", ")]
    assert sum(numbers) == pytest.approx(ratio, abs=0.03)


def test_of_a_long_clip_the_worst_window_is_explained(detector):
    clip = np.concatenate([NEW, NEW + knocks(1.0, 2.0), NORMAL[0]])
    (explanation,) = detector.explain([clip])
    assert (explanation.start, explanation.stop) == (4.0, 8.0)
    assert_allclose([start for start, _ in explanation.events[0].times], [5.0, 6.0], atol=0.05)
    assert_adds_up(explanation, detector.score_samples([clip])[0])
    assert str(explanation).startswith("clip 0, 4 to 8 s: anomaly")


def test_a_clip_that_cannot_be_read_is_said_so(detector):
    with pytest.warns(UserWarning, match="1 of 2 clips cannot be used"):
        missing, other = detector.explain(["missing.wav", NEW])
    assert str(missing) == "clip 0 ('missing.wav') cannot be read."
    assert missing.is_anomaly
    assert np.isfinite(other.score)
    with pytest.raises(
        ValueError, match=r"'missing.wav'.* cannot be read: there is nothing to draw"
    ):
        ExplanationDisplay(missing).plot()


def test_patches_made_elsewhere_are_explained_in_bins_and_frames():
    rng = np.random.default_rng(0)
    log_mel = rng.normal(scale=1.2, size=(13, 192, 64))
    log_mel[12, :, 40:42] += 3
    patches = patchify(log_mel)
    detector = fit(patches[:12], "passthrough")
    (explanation,) = detector.explain(patches[12:])
    assert_adds_up(explanation, detector.score_samples(patches[12:])[0])
    assert explanation.events[0].kind == "tone"
    assert explanation.events[0].low == pytest.approx(41, abs=0.6)
    assert "A tone at bin 41, " in str(explanation)


def test_a_reference_is_small_and_plain():
    patches = patchify(np.random.default_rng(0).normal(size=(300, 32, 32)))
    patches[7] = np.nan
    reference = learn_reference(patches)
    assert type(reference) is dict
    assert {values.dtype for values in reference.values()} == {np.dtype(np.float32)}
    assert len(reference["spectra"]) == 100
    assert np.isfinite(np.concatenate([v.ravel() for v in reference.values()])).all()
    with pytest.raises(ValueError, match=r"At least 2 normal clips .* Got 1"):
        learn_reference(patches[6:8])


def test_decibels_are_taken_as_such():
    patches = patchify(np.random.default_rng(0).normal(size=(5, 32, 32)))
    of_decibels = learn_reference(4.3429448 * patches, log_unit=0.23025851)
    for name, values in learn_reference(patches).items():
        assert_allclose(of_decibels[name], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_frames", [16, 32, 400])
def test_events_of_clips_of_any_length(n_frames):
    rng = np.random.default_rng(0)
    reference = learn_reference(patchify(rng.normal(size=(3, n_frames, 128))))
    axes = Axes(np.arange(129.0), 0.025, 0.01)
    log_mel = rng.normal(size=(n_frames, 128))
    log_mel[5] += 40
    event = find_events(log_mel, reference, axes)[0]
    assert event.kind == "knock"
    assert event.times == [(pytest.approx(0.0625), pytest.approx(0.0625))]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Event("knock", 1000, 4000, [(3.12, 3.12)], 9), "a knock at 3.1 s, 1 to 4 kHz, 9 dB above"),
        (
            Event("burst", 500, 900, [(1, 2.5)], 9),
            "a burst from 1.0 to 2.5 s, 0.5 to 0.9 kHz, 9 dB",
        ),
        (Event("tone", 4132, 4132, [], 14.2), "a tone at 4.13 kHz, 14 dB above similar"),
        (Event("quieter band", 100, 300, [], 5), "0.1 to 0.3 kHz is 5 dB below similar normal"),
        (Event("dropout", None, None, [(1.5, 1.8)], -40), "the sound drops by 40 dB from 1.50 to"),
        (
            Event("knock", 1000, 4000, [(i, i) for i in range(9)], 9),
            "knocks at 0.0, 1.0, 2.0, 3.0, 4.0 s and 4 times more",
        ),
    ],
)
def test_events_in_words(event, words):
    assert describe_event(event, "Hz").startswith(words)


def test_the_display_draws_spectrum_range_events_and_parts(detector):
    display = ExplanationDisplay.from_estimator(detector, NEW + tone(790))
    explanation = display.explanation
    edges = explanation.edges
    drawn = dict(zip(*display.spectrum_.get_data(), strict=True))
    middle = (edges[60] + edges[61]) / 2
    assert drawn[middle] == explanation.spectrum[60]
    lowest = explanation.normal_spectra[:, 60].min()
    vertices = display.range_.get_paths()[-1].vertices
    assert np.isclose(vertices, [middle, lowest]).all(axis=1).any()
    assert display.marks_[0].get_xdata()[0] == explanation.events[0].low
    widths = [bar.get_width() for bar in display.bars_]
    assert_allclose(sum(widths[:-1]), widths[-1])
    assert widths[-1] == pytest.approx(explanation.score / detector.offset_)
    assert "A tone at 0.79 kHz" in display.figure_.get_suptitle()


def test_a_knock_is_named_at_its_time_where_frames_are_centred():
    """Levels are decibels already: statistics, causes and times are in their right units."""
    rng = np.random.default_rng(0)
    clips = 0.01 * rng.normal(size=(24, 2 * 16000))
    patcher = MelPatcher(**asdict(DECIBELS), duration=2.0)
    model = AnomalousSoundDetector(patcher, embedder="drop").fit(clips)
    assert model.statistics_.log_unit == pytest.approx(np.log(10) / 10)
    knocked = 0.01 * rng.normal(size=2 * 16000)
    knocked[16000:16080] += 2.0
    (explanation,) = model.explain([knocked])
    assert explanation.score < model.offset_
    times = [np.mean(time) for event in explanation.events for time in event.times]
    assert min(abs(np.array(times) - 1.0025)) < 0.006  # half a frame
