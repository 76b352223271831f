"""Displays: where their artists are, what their labels say, and that nothing lies over the data."""

import subprocess
import sys
from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile
from sklearn import config_context
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torchaudio.compliance.kaldi import get_mel_banks

import skanopatch
from skanopatch import (
    AnomalousSoundDetector,
    AnomalyMapDisplay,
    AnomalyRocDisplay,
    BandStatistics,
    CalibratedDetector,
    EmbeddingDisplay,
    FitOnNormal,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    PatchKNNDetector,
    ScoreDisplay,
    TimelineDisplay,
    anomaly_map,
    make_anomaly_scorer,
    unpatchify,
)
from skanopatch.inspection.decisions import decision_table, relative_scores
from skanopatch.inspection.style import EXCESS_COLORS
from skanopatch.metrics import pauc_score

RATE = 16000


@pytest.fixture(autouse=True)
def closed_figures(monkeypatch):
    """Close what a test draws; a display that shows a window fails."""
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a display must not call plt.show"))
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def front_end():
    return MelPatcher(duration=1.0).front_end


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(scale=0.1, size=(20, RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def clip_pipeline(noise):
    pipeline = make_pipeline(MelPatcher(duration=1.0), MelStatistics(), MahalanobisDetector())
    return pipeline.fit(list(noise))


@pytest.fixture(scope="module")
def map_pipeline(noise):
    """Patches of the spectrogram are the tokens: no network, the same grid."""
    return make_pipeline(MelPatcher(duration=1.0), PatchKNNDetector()).fit(list(noise))


def legend_texts(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


_rng = np.random.default_rng(0)
Y = np.tile([1, 1, 1, -1], 10)
DOMAIN = np.repeat(["source", "target"], 20)
SCORES = _rng.normal(size=40) - Y
MACHINE = np.tile(["fan", "the bearing of the second conveyor in the north hall"], 20)
LOG_MEL, MAP = _rng.normal(size=(96, 128)), _rng.uniform(0, 2, size=(6, 8))

DRAW = {
    "map": lambda front_end, **kwargs: AnomalyMapDisplay.from_predictions(
        LOG_MEL, MAP, front_end=front_end, **kwargs
    ),
    "scores": lambda _, **kwargs: ScoreDisplay.from_predictions(
        Y, SCORES, machine=MACHINE, domain=DOMAIN, threshold=0.0, **kwargs
    ),
    "roc": lambda _, **kwargs: AnomalyRocDisplay.from_predictions(Y, SCORES, name="kNN", **kwargs),
    "embedding": lambda _, **kwargs: EmbeddingDisplay.from_predictions(
        np.column_stack([SCORES, Y, SCORES**2]), Y, domain=DOMAIN, **kwargs
    ),
    "timeline": lambda _, **kwargs: TimelineDisplay.from_predictions(
        np.arange(40.0), SCORES, threshold=0.0, **kwargs
    ),
}


def test_displays_are_public_and_matplotlib_waits_for_them():
    assert skanopatch.AnomalyMapDisplay is skanopatch.inspection.AnomalyMapDisplay
    code = "import skanopatch, sys; skanopatch.KNNDetector; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_axes_given_are_drawn_on_and_others_are_new(draw, front_end):
    _, ax = plt.subplots()
    display = draw(front_end, ax=ax)
    assert (display.ax_, display.figure_) == (ax, ax.figure)
    display = draw(front_end)
    assert display.figure_ is not ax.figure
    assert display.figure_ is display.ax_.figure
    assert display.plot(ax) is display
    assert display.ax_ is ax


@pytest.mark.parametrize("width", [3.5, 8.0])
@pytest.mark.parametrize("name", ["scores", "embedding", "timeline"])
def test_legend_lies_above_all_data(name, width, front_end):
    figure, ax = plt.subplots(figsize=(width, 4.5), layout="constrained")
    display = DRAW[name](front_end, ax=ax)
    figure.draw_without_rendering()
    lowest = ax.get_legend().get_window_extent().y0
    if name == "timeline":
        highest = ax.transData.transform([0, display.line_.get_data().values.max()])[1]
        highest = max(highest, display.flagged_.get_window_extent().y1)
    else:
        points = np.concatenate([points.get_offsets() for points in display.scatter_])
        highest = ax.transData.transform(points)[:, 1].max()
    assert highest < lowest
    assert ax.get_legend().get_window_extent().y1 <= ax.get_window_extent().y1


def test_long_names_of_machines_are_wrapped_and_stay_inside_the_figure(front_end):
    figure, ax = plt.subplots(figsize=(4.0, 4.0), layout="constrained")
    DRAW["scores"](front_end, ax=ax)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert min(box.x0 for box in boxes) >= 0
    assert not boxes[0].overlaps(boxes[1])
    assert "the bearing of the\nsecond conveyor in\nthe north hall" in [
        label.get_text() for label in ax.get_yticklabels()
    ]


# AnomalyMapDisplay


def test_bins_are_drawn_at_the_frequencies_of_their_filters(front_end):
    display = DRAW["map"](front_end)
    hertz = display.spectrogram_.get_coordinates()[:, 0, 1]
    _, centres = get_mel_banks(128, 512, float(RATE), 20.0, 0.0, 100.0, -500.0, 1.0)
    to_axis = display.ax_.yaxis.get_transform().transform
    np.testing.assert_allclose(
        (to_axis(hertz[:-1]) + to_axis(hertz[1:])) / 2, to_axis(centres[:, 0]), rtol=1e-5
    )
    spacings = np.diff(to_axis(hertz))  # all bins are as high as each other
    np.testing.assert_allclose(spacings, spacings[0])


def test_tone_and_click_are_drawn_where_they_sound(front_end):
    samples = 0.2 * np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE)
    samples[round(0.6 * RATE)] += 20
    log_mel = unpatchify(MelPatcher(duration=1.0).fit_transform([samples]))[0]
    mesh = AnomalyMapDisplay.from_predictions(log_mel, MAP, front_end=front_end).spectrogram_
    level, edges = mesh.get_array(), mesh.get_coordinates()
    assert level.max() == 0  # dB below the loudest
    quiet = np.median(level.data, axis=1)
    loudest = np.argmax(quiet)
    assert edges[loudest, 0, 1] < 3000 < edges[loudest + 1, 0, 1]
    loud = np.flatnonzero(level[20] > level[20].max() - 3)  # frames that hold the click
    assert edges[0, loud[0], 0] < 0.6 < edges[0, loud[-1] + 1, 0]
    assert len(loud) <= 3


@pytest.mark.parametrize(
    ("filterbank", "click"), [("kaldi", 0.6025), ("decibels", 0.6)], ids=["kaldi", "centred"]
)
def test_a_click_is_drawn_at_its_time(filterbank, click):
    """It lies in the middle of one frame, which is the loudest and is drawn around it."""
    params = {"frame_length": 0.032, "n_mels": 64, "preemphasis": 0.0}
    params = {"filterbank": filterbank, **(params if filterbank == "decibels" else {})}
    patcher = MelPatcher(duration=1.0, **params)
    samples = 1e-3 * np.random.default_rng(0).normal(size=RATE)
    samples[round(click * RATE)] += 0.5
    log_mel = unpatchify(patcher.fit_transform([samples]))[0]
    n_cells = len(log_mel) // 16, patcher.n_mels // 16
    mesh = AnomalyMapDisplay.from_predictions(
        log_mel, np.ones(n_cells), front_end=patcher.front_end
    ).spectrogram_
    frame = mesh.get_array().data.mean(axis=0).argmax()
    edges = mesh.get_coordinates()[0, :, 0]
    np.testing.assert_allclose(edges[frame : frame + 2], [click - 0.005, click + 0.005])


def test_levels_that_are_decibels_stay_as_they_are():
    front_end = MelPatcher(filterbank="decibels", n_mels=64, preemphasis=0.0).front_end
    log_mel = np.full((96, 64), -30.0)
    log_mel[0, 0] = 0.0
    mesh = AnomalyMapDisplay.from_predictions(
        log_mel, np.ones((6, 4)), front_end=front_end
    ).spectrogram_
    assert mesh.get_array()[5, 5] == pytest.approx(-30)


def test_level_is_in_decibels(front_end):
    log_mel = np.full((96, 128), np.log(1.0))
    log_mel[0, 0] = np.log(1000.0)
    mesh = AnomalyMapDisplay.from_predictions(log_mel, MAP, front_end=front_end).spectrogram_
    assert mesh.get_array()[0, 0] == 0
    assert mesh.get_array()[5, 5] == pytest.approx(-30)


def test_axes_are_in_seconds_and_hertz(front_end):
    ax = DRAW["map"](front_end).ax_
    ticks = {label.get_text(): place for label, place in zip(
        ax.get_yticklabels(), ax.get_yticks(), strict=True
    )}  # fmt: skip
    assert ticks == {t: int(t) for t in ["100", "250", "500", "1000", "2000", "4000", "8000"]}
    assert ax.get_ylim() == (20, 8000)
    # Frames of 25 ms each 10 ms: the middle of the first is at 12.5 ms.
    np.testing.assert_allclose(ax.get_xlim(), [0.0075, 0.0075 + 0.96])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "frequency (Hz, mel scale)")


def test_map_is_transparent_below_and_coloured_above_the_threshold(front_end):
    odd = np.repeat([[-0.5, 0.0, 0.6, 1.0, 3.0, 10.0, 0.0, 0.0]], 6, axis=0)
    display = AnomalyMapDisplay.from_predictions(LOG_MEL, odd, front_end=front_end)
    alphas = display.map_.to_rgba(display.map_.get_array()[:6, 0])[:, 3]
    np.testing.assert_array_equal(alphas[:3], 0)
    assert 0.3 < alphas[3] < alphas[4] < alphas[5]
    assert display.map_.get_array().shape == (8, 6)
    np.testing.assert_allclose(display.map_.get_coordinates()[0, 1, 0], 0.0075 + 0.16)


def test_one_value_has_one_colour_in_the_maps_of_all_clips(front_end):
    colours = []
    for highest in (0.4, 10, 314):
        odd = np.zeros((6, 8))
        odd[3, 3] = highest
        drawn = AnomalyMapDisplay.from_predictions(LOG_MEL, odd, front_end=front_end).map_
        colours.append(drawn.to_rgba([0.9, 1.0, 1.5, 10.0, 314.0]))
    np.testing.assert_array_equal(colours[0], colours[1])
    np.testing.assert_array_equal(colours[0], colours[2])
    _, threshold, above, top, beyond = colours[0]
    assert len({tuple(threshold), tuple(above), tuple(top)}) == 3
    np.testing.assert_array_equal(beyond, top)
    np.testing.assert_allclose(drawn.norm([1, 10**0.5, 10]), [0, 0.5, 1])


@pytest.mark.parametrize(
    ("highest", "texts"),
    [
        (0.44, ["nothing is above the threshold (highest: 0.44)"]),
        (1.0, ["nothing is above the threshold (highest: 1)"]),
        (1.01, []),
    ],
)
def test_a_map_without_a_cell_above_the_threshold_says_so(highest, texts, front_end):
    odd = np.zeros((6, 8))
    odd[3, 3] = highest
    display = AnomalyMapDisplay.from_predictions(LOG_MEL, odd, front_end=front_end)
    assert [text.get_text() for text in display.ax_.texts] == texts


def test_outline_goes_around_the_cells_above_the_threshold(front_end):
    odd = np.zeros((6, 8))
    odd[2:4, 5] = 1.5  # two cells beside each other: no line between them
    odd[0, 0] = 1.0  # at the threshold is not above it
    display = AnomalyMapDisplay.from_predictions(LOG_MEL, odd, front_end=front_end)
    edges = display.map_.get_coordinates()
    left, middle, right = edges[0, 2:5, 0]
    low, high = edges[5:7, 0, 1]
    expected = {
        ((left, low), (left, high)),
        ((right, low), (right, high)),
        ((left, low), (middle, low)),
        ((middle, low), (right, low)),
        ((left, high), (middle, high)),
        ((middle, high), (right, high)),
    }
    assert {tuple(map(tuple, side)) for side in display.outline_.get_segments()} == expected


def test_where_most_cells_are_above_the_threshold_the_most_anomalous_ones_are_outlined(front_end):
    odd = np.full((6, 8), 2.0)
    odd[0, 0] = 0.5  # a hole
    odd[2:4, 5] = 8.0
    display = AnomalyMapDisplay.from_predictions(LOG_MEL, odd, front_end=front_end)
    alone = np.where(odd > 2, odd, 0)
    expected = AnomalyMapDisplay.from_predictions(LOG_MEL, alone, front_end=front_end)
    np.testing.assert_array_equal(display.outline_.get_segments(), expected.outline_.get_segments())
    assert (display.outline_level_, expected.outline_level_) == (2, 1)
    (text,) = display.ax_.texts
    assert text.get_text() == "98% are above the threshold; outlined: above 2"


def test_no_hole_is_outlined_where_all_other_cells_are_alike(front_end):
    odd = np.full((6, 8), 2.0)
    odd[0, 0] = 0.5
    display = AnomalyMapDisplay.from_predictions(LOG_MEL, odd, front_end=front_end)
    assert display.outline_.get_segments() == []
    assert display.ax_.texts[0].get_text() == "98% are above the threshold, most of them at 2"


def test_steady_bands_are_outlined_where_all_bands_are_above_the_threshold(front_end):
    odd = np.repeat([[1.2] * 5 + [3.0] * 3], 6, axis=0)
    display = AnomalyMapDisplay.from_predictions(LOG_MEL, odd, front_end=front_end)
    edges = display.map_.get_coordinates()
    heights = np.array(display.outline_.get_segments())[..., 1]
    assert heights.min() == edges[5, 0, 1]
    assert display.ax_.texts[0].get_text() == "100% are above the threshold; outlined: 3"


def test_colour_bars_name_their_units_and_begin_at_the_threshold(front_end):
    display = DRAW["map"](front_end)
    bars = [ax for ax in display.figure_.axes if ax is not display.ax_]
    labels = [ax.get_ylabel() for ax in bars]
    assert sorted(labels) == ["anomaly map (1 = threshold)", "level (dB re loudest)"]
    bar = bars[labels.index("anomaly map (1 = threshold)")]
    assert bar.get_ylim() == pytest.approx((1, 10))
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1", "2", "5", "10"]
    assert len(DRAW["map"](front_end, colorbar=False).figure_.axes) == 1


@pytest.mark.parametrize(
    ("log_mel", "odd", "message"),
    [
        (LOG_MEL, np.zeros((5, 8)), r"anomaly_map must have shape \(6, 8\).*Got shape \(5, 8\)"),
        (LOG_MEL[:, :64], MAP, "must have the 128 mel bins of front_end. Got 64 instead"),
        (LOG_MEL[0], MAP, "Expected 2D array"),
        (LOG_MEL * np.nan, MAP, "log_mel contains NaN"),
        (LOG_MEL, MAP * np.nan, "anomaly_map contains NaN"),
    ],
)
def test_map_that_does_not_fit_is_refused(log_mel, odd, message, front_end):
    with pytest.raises(ValueError, match=message):
        AnomalyMapDisplay.from_predictions(log_mel, odd, front_end=front_end)


def test_map_from_estimator_is_that_of_the_pipeline(map_pipeline, noise):
    clip = noise[0] + np.where(np.arange(RATE) // 2560 == 3, np.sin(np.arange(RATE)), 0)
    display = AnomalyMapDisplay.from_estimator(map_pipeline, (clip, RATE))
    np.testing.assert_array_equal(display.anomaly_map, anomaly_map(map_pipeline, [clip])[0])
    # sin(n) has 2546 Hz; the fourth stretch of 0.16 s is where the map is highest.
    t, f = np.unravel_index(display.anomaly_map.argmax(), (6, 8))
    edges = display.map_.get_coordinates()
    assert edges[f, t, 0] < 0.56 < edges[f + 1, t + 1, 0]
    assert edges[f, t, 1] < 2546 < edges[f + 1, t + 1, 1]


def test_map_from_estimator_is_that_of_the_whole_recipe(noise):
    model = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(noise)
    display = AnomalyMapDisplay.from_estimator(model, noise[0])
    np.testing.assert_array_equal(display.anomaly_map, model.anomaly_map(noise[:1])[0])
    log_mel = unpatchify(model.patcher_.transform(noise[:1]))[0]
    np.testing.assert_array_equal(display.log_mel, log_mel)


def test_of_a_long_clip_the_worst_window_is_drawn_at_its_seconds(noise):
    model = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(noise)
    long = np.concatenate([noise[0], noise[1], noise[2] + 0.2 * np.sin(np.arange(RATE)), noise[3]])
    display = AnomalyMapDisplay.from_estimator(model, long)
    window = long[2 * RATE : 3 * RATE]
    log_mel = unpatchify(model.patcher_.transform([window]))[0]
    np.testing.assert_array_equal(display.log_mel, log_mel)
    np.testing.assert_array_equal(display.anomaly_map, model.anomaly_map([window])[0])
    np.testing.assert_allclose(display.ax_.get_xlim(), [2.0075, 2.0075 + 0.96])


def test_map_from_estimator_refuses_what_has_no_map_or_takes_no_clips(clip_pipeline, noise):
    with pytest.raises(TypeError, match="must have anomaly_map"):
        AnomalyMapDisplay.from_estimator(clip_pipeline, noise[0])
    patches = MelPatcher(duration=1.0).fit_transform(noise)
    detector = PatchKNNDetector().fit(patches)
    with pytest.raises(ValueError, match=r"must be an AnomalousSoundDetector of clips.* Got Patch"):
        AnomalyMapDisplay.from_estimator(detector, patches[0])


# ScoreDisplay


def test_scores_lie_in_the_rows_of_their_machines_normal_above_anomalous():
    display = ScoreDisplay.from_predictions(
        ["ok", "bad", "ok"], [0.5, 2.5, -1.0], machine=["fan", "fan", "pump"], pos_label="bad"
    )
    normal, anomalous = (points.get_offsets() for points in display.scatter_)
    np.testing.assert_array_equal(normal[:, 0], [0.5, -1.0])
    np.testing.assert_array_equal(anomalous[:, 0], [2.5])
    assert np.rint(normal[:, 1]).tolist() == [0, 1]
    bottom, top = display.ax_.get_ylim()
    assert bottom > top  # the first machine is on top
    assert -0.5 < normal[0, 1] < anomalous[0, 1] < 0.5
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["fan", "pump"]
    assert legend_texts(display) == ["normal", "anomalous"]
    assert display.threshold_line_ is None


@pytest.mark.parametrize("y", [None, [1] * 30, [-1] * 30])
def test_clips_of_one_label_lie_in_the_middle_of_their_row(y):
    (points,) = ScoreDisplay.from_predictions(y, np.arange(30.0)).scatter_
    heights = points.get_offsets()[:, 1]
    assert -0.16 <= heights.min() < -0.1
    assert 0.1 < heights.max() <= 0.16


def test_labels_differ_by_fill_and_domains_by_marker():
    display = DRAW["scores"](None)
    kinds = {points.get_label(): points for points in display.scatter_}
    assert list(kinds) == [
        "normal, source", "normal, target", "anomalous, source", "anomalous, target",
    ]  # fmt: skip
    assert sum(len(points.get_offsets()) for points in kinds.values()) == 40
    marker = {name: points.get_paths()[0].vertices.shape for name, points in kinds.items()}
    assert marker["normal, source"] == marker["anomalous, source"]
    assert marker["normal, source"] != marker["normal, target"]
    assert len(kinds["normal, source"].get_facecolor()) == 0  # hollow
    assert len(kinds["anomalous, source"].get_facecolor()) == 1


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.7, [0.7, 0.7]), ({"pump": 2.0, "fan": 1.0}, [1.0, 2.0])]
)
def test_threshold_is_drawn_in_each_row(threshold, expected):
    display = ScoreDisplay.from_predictions(
        None, [0.0, 1.0], machine=["fan", "pump"], threshold=threshold
    )
    for row, (segment, value) in enumerate(
        zip(display.threshold_line_.get_segments(), expected, strict=True)
    ):
        np.testing.assert_array_equal(segment, [[value, row - 0.5], [value, row + 0.5]])
    assert legend_texts(display) == ["threshold"]


def test_scores_near_the_threshold_stay_apart_where_others_are_far_above_it():
    scores = [0.2, 0.8, 1.2, 2.0, 24.0, 385.0, np.inf]
    display = ScoreDisplay.from_predictions(None, scores, threshold=1.0)
    ax = display.ax_
    display.figure_.draw_without_rendering()
    place = ax.transAxes.inverted().transform
    (low, _), (high, _), (far, _), (mark, _) = (
        place(ax.transData.transform([x, 0.0])) for x in (0.2, 2.0, 24.0, 100.0)
    )
    assert low > 0
    assert high - low > 0.3  # of the width, where a linear axis up to 385 leaves half a percent
    assert high < far < mark == pytest.approx(1)
    np.testing.assert_array_equal(display.beyond_.get_offsets()[:, 0], [100, 100])
    assert legend_texts(display)[-1] == "2 beyond 100 (highest: inf)"
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == ["0", "0.5", "1", "2", "5", "10", "20", "50", "100"]
    assert ax.get_xlabel() == "anomaly score (1 = threshold; logarithmic far from it)"


def test_scores_up_to_ten_times_the_threshold_are_drawn_on_a_linear_axis():
    display = ScoreDisplay.from_predictions(None, [0.2, 9.9], threshold=1.0)
    assert display.ax_.get_xscale() == "linear"
    assert display.beyond_ is None
    below = ScoreDisplay.from_predictions(None, [-9.0, -8.0, -7.0, 90.0], threshold=-8.0)
    assert below.ax_.get_xscale() == "function"  # a unit is the median distance, 1
    assert below.beyond_ is None


@pytest.mark.parametrize("name", ["US$ 5 $pump$", "$a_{$"])
def test_a_dollar_sign_in_a_name_is_text(name):
    displays = [
        ScoreDisplay.from_predictions([1, -1], [1, 2], machine=[name] * 2, domain=[name] * 2),
        EmbeddingDisplay.from_predictions(np.eye(3), domain=[name] * 3),
        AnomalyRocDisplay.from_predictions([1, -1], [1, 2], name=name),
    ]
    for display in displays:
        display.figure_.canvas.draw()
        texts = display.ax_.get_legend().get_texts() + display.ax_.get_yticklabels()
        own = [text for text in texts if name[:3] in text.get_text()]
        assert own
        assert not any(text.get_parse_math() for text in own)


def test_clips_without_score_are_counted():
    display = ScoreDisplay.from_predictions(None, [0.1, np.nan, 0.3, np.nan])
    assert legend_texts(display) == ["not drawn: 2 without score"]


def test_scores_without_any_label_have_no_legend_and_no_ticks():
    ax = ScoreDisplay.from_predictions(None, [0.1, 0.2]).ax_
    assert ax.get_legend() is None
    assert len(ax.get_yticks()) == 0


def test_scores_from_estimator_are_distances_over_that_of_the_threshold(clip_pipeline, noise):
    clips = [*(noise * 3), *np.random.default_rng(1).normal(scale=0.1, size=(5, RATE))]
    display = ScoreDisplay.from_estimator(clip_pipeline, clips, [-1] * 20 + [1] * 5)
    expected = clip_pipeline.score_samples(clips) / clip_pipeline[-1].offset_
    np.testing.assert_allclose(display.anomaly_score, expected, rtol=1e-12)
    np.testing.assert_array_equal(display.anomaly_score > 1, clip_pipeline.predict(clips) == -1)
    assert display.threshold == 1
    assert display.ax_.get_xlabel().startswith("anomaly score (1 = threshold")
    np.testing.assert_allclose(
        decision_table(clip_pipeline, clips).score, display.anomaly_score, rtol=1e-12
    )


def test_a_clip_at_the_threshold_is_drawn_at_1_and_one_just_above_it_beyond():
    detector = KNNDetector(metric="euclidean").fit(np.random.default_rng(0).normal(size=(40, 2)))
    rows = np.column_stack([np.full(3, 50.0), [0.0, 1e-9, -1e-9]])
    scores = detector.score_samples(rows)
    detector.offset_ = scores[0]
    display = ScoreDisplay.from_estimator(detector, rows)
    np.testing.assert_array_equal(display.anomaly_score > 1, scores < scores[0])
    assert display.anomaly_score[0] == 1
    assert (display.anomaly_score != 1).any()


def test_a_clip_at_the_threshold_is_normal_in_the_table(clip_pipeline, noise):
    pipeline = deepcopy(clip_pipeline)
    scores = pipeline.score_samples(noise[:3] * [[1], [1], [3]])
    pipeline[-1].offset_ = scores[0]
    table = decision_table(pipeline, list(noise[:3] * [[1], [1], [3]]))
    assert (table.score[0], table.decision[0]) == (1, "normal")
    assert (table.score[2] > 1, table.decision[2]) == (True, "anomaly")


def test_scores_of_a_mixture_are_drawn_as_distances():
    X = np.random.default_rng(0).normal(size=(60, 3))
    new = [[0, 0, 0], [2, 0, 0], [0, 8, 0]]
    mixture = GMMDetector(1, covariance_type="full", reg_covar=1e-9, random_state=0).fit(X)
    display = ScoreDisplay.from_estimator(mixture, new)
    # One Gaussian: Mahalanobis' distance, whose ratios the likelihood and its logarithm lack.
    residuals = new - X.mean(axis=0)
    inverse = np.linalg.inv(np.cov(X, rowvar=False, bias=True))
    distance = np.sqrt(np.einsum("ij,jk,ik->i", residuals, inverse, residuals))
    ratios = display.anomaly_score[1:] / display.anomaly_score[0]
    np.testing.assert_allclose(ratios, distance[1:] / distance[0], rtol=1e-6)
    np.testing.assert_array_equal(display.anomaly_score > 1, mixture.predict(new) == -1)
    assert display.threshold == 1


def test_likelihoods_are_drawn_as_minus_the_decision_function():
    X = np.random.default_rng(0).normal(scale=0.01, size=(60, 3))  # densities far above 1
    detector = CalibratedDetector(GaussianMixture(random_state=0)).fit(X)
    assert detector.offset_ > 0
    display = ScoreDisplay.from_estimator(detector, X * 2)
    np.testing.assert_array_equal(display.anomaly_score, -detector.decision_function(X * 2))
    assert display.threshold == 0
    assert display.ax_.get_xlabel() == "anomaly score (0 = threshold)"


def test_wrappers_of_a_detector_are_drawn_as_the_detector_itself():
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.tile([1, 1, 1, -1], 10)
    search = GridSearchCV(
        FitOnNormal(make_pipeline(FunctionTransformer(), KNNDetector(metric="euclidean"))),
        {"estimator__knndetector__n_neighbors": [2]},
        scoring=make_anomaly_scorer("auc"),
    ).fit(X, y)
    detector = KNNDetector(2, metric="euclidean").fit(X[y == 1])
    expected = detector.score_samples(X) / detector.offset_
    for wrapper in (search, search.best_estimator_):
        display = ScoreDisplay.from_estimator(wrapper, X)
        np.testing.assert_allclose(display.anomaly_score, expected, rtol=1e-12)
        embedding = EmbeddingDisplay.from_estimator(wrapper, X)
        np.testing.assert_allclose(embedding.coordinates, PCA(2).fit_transform(X))


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (-2.0, [0.5, 1.0, 1.5]),  # minus distances: their ratio
        (2.0, [2.5, 3.0, 3.5]),  # likelihoods: steps of the threshold
    ],
)
def test_relative_scores_are_1_at_the_threshold_and_higher_for_what_is_more_anomalous(
    offset, expected
):
    np.testing.assert_array_equal(relative_scores(np.array([-1.0, -2, -3]), offset), expected)
    assert relative_scores(np.array([offset]), offset) == [1]


def test_relative_scores_of_equal_training_clips_are_finite_or_infinite_but_not_nan():
    scores = relative_scores(np.array([0.0, -1e-9]), 0.0)
    assert scores[0] == 1
    assert scores[1] > 1e200


def test_threshold_of_each_machine_leaves_the_axis_without_a_number():
    display = ScoreDisplay.from_predictions(None, [1.0], machine=["a"], threshold={"a": 2.0})
    assert display.ax_.get_xlabel() == "anomaly score"


def test_groups_reach_the_detector():
    X = np.random.default_rng(0).normal(size=(40, 3)) + np.repeat([[0], [9]], 20, axis=0)
    groups = np.repeat(["fan", "pump"], 20)
    detector = GroupedDetector(KNNDetector(metric="euclidean")).fit(X, groups=groups)
    swapped = groups[::-1]
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(FunctionTransformer(), detector)
        params = {"groups": swapped}
        display = ScoreDisplay.from_estimator(pipeline, X, machine=swapped, params=params)
        roc = AnomalyRocDisplay.from_estimator(pipeline, X, np.repeat([1, -1], 20), params=params)
    expected = detector.score_samples(X, groups=swapped) / detector.offset_
    np.testing.assert_allclose(display.anomaly_score, expected, rtol=1e-12)
    assert roc.roc_auc == roc_auc_score(np.repeat([0, 1], 20), expected)


@pytest.mark.parametrize(
    ("y", "settings", "message"),
    [
        ([0, 1, 1], {}, r"Got the labels \[0, 1\] with pos_label=-1"),
        ([0, 1, 2], {"pos_label": 1}, "y must hold at most two labels"),
        ([1, -1], {}, "y must have one entry per clip. Got 2 for 3"),
        (None, {"machine": ["fan"]}, "machine must have one entry per clip. Got 1 for 3"),
        (None, {"domain": ["source"]}, "domain must have one entry per clip. Got 1 for 3"),
        (
            None,
            {"machine": ["fan", "pump", "fan"], "threshold": {"fan": 1.0}},
            "one for each machine. It has none for 'pump'",
        ),
    ],
)
def test_scores_that_do_not_fit_are_refused(y, settings, message):
    with pytest.raises(ValueError, match=message):
        ScoreDisplay.from_predictions(y, [0.1, 0.2, 0.3], **settings)


@pytest.mark.parametrize("scores", [[], [[0.1, 0.2]]])
def test_scores_of_another_shape_are_refused(scores):
    with pytest.raises(ValueError, match=r"anomaly_score must have shape \(n_clips,\)"):
        ScoreDisplay.from_predictions(None, scores)


# AnomalyRocDisplay


@pytest.mark.parametrize("max_fpr", [0.1, 0.25, 1.0])
def test_region_has_the_area_that_pauc_standardises(max_fpr):
    display = AnomalyRocDisplay.from_predictions(Y, SCORES, max_fpr=max_fpr)
    x, y = display.region_.get_paths()[0].vertices.T
    area = 0.5 * abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1)))
    least = max_fpr**2 / 2
    standardised = 0.5 * (1 + (area - least) / (max_fpr - least))
    expected = pauc_score(Y, SCORES, max_fpr=max_fpr) if max_fpr < 1 else None
    assert standardised == pytest.approx(expected or roc_auc_score(Y == -1, SCORES))
    assert x.max() == max_fpr


def test_step_at_the_end_of_the_region_is_upright():
    # The highest of ten normal clips scores between the anomalous ones: the curve goes through
    # (0, 0.5), (0.1, 0.5) and (0.1, 1), and the region is 0.1 by 0.5.
    y, scores = [-1, 1, -1] + [1] * 9, [3.0, 2.0, 1.0] + [0.0] * 9
    display = AnomalyRocDisplay.from_predictions(y, scores)
    x, y = display.region_.get_paths()[0].vertices.T
    assert 0.5 * abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) == pytest.approx(0.05)


def test_curve_and_legend_are_those_of_scikit_learn():
    display = AnomalyRocDisplay.from_predictions(Y, SCORES, name="kNN", plot_chance_level=True)
    fpr, tpr, _ = roc_curve(Y == -1, SCORES)
    np.testing.assert_array_equal(display.line_.get_data(), [fpr, tpr])
    assert legend_texts(display) == [
        f"kNN\nAUC = {roc_auc_score(Y == -1, SCORES):.3f}",
        "Chance level (AUC = 0.5)",
        f"pAUC = {roc_auc_score(Y == -1, SCORES, max_fpr=0.1):.3f} (up to 0.1)",
    ]
    ax = display.ax_
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("false-alarm rate", "detection rate")


@pytest.mark.parametrize(
    ("y", "pos_label"),
    [(np.where(Y == -1, 1, 0), 1), (Y == -1, True), (np.where(Y == -1, "odd", "fine"), "odd")],
)
def test_labels_of_every_convention_give_the_same_curve(y, pos_label):
    display = AnomalyRocDisplay.from_predictions(y, SCORES, pos_label=pos_label)
    expected = AnomalyRocDisplay.from_predictions(Y, SCORES)
    np.testing.assert_array_equal(display.tpr, expected.tpr)
    assert (display.roc_auc, display.pauc) == (expected.roc_auc, expected.pauc)


def test_curves_on_one_axes_differ_by_colour_and_dashes():
    first = AnomalyRocDisplay.from_predictions(Y, SCORES)
    second = AnomalyRocDisplay.from_predictions(Y, SCORES**2, ax=first.ax_)
    assert first.line_.get_color() != second.line_.get_color()
    assert first.line_.get_linestyle() != second.line_.get_linestyle()
    assert len(legend_texts(second)) == 4
    assert first.point_ is None


def test_a_dot_shows_false_alarms_and_detections_at_the_threshold(clip_pipeline, noise):
    y, scores = [1, 1, 1, 1, -1, -1, -1], [0.1, 0.9, 1.0, 1.1, 0.5, 2.0, 3.0]
    display = AnomalyRocDisplay.from_predictions(y, scores, threshold=1.0)
    x, height = display.point_.get_data()
    assert (list(x), list(height)) == ([0.25], [2 / 3])  # a tie is normal
    assert legend_texts(display)[-1] == "at the threshold: 25.0%\nfalse alarms, 66.7% found"
    assert display.point_.get_color() == display.line_.get_color()
    clips, y = [*noise[:10], *(3 * noise[10:])], [1] * 10 + [-1] * 10
    of_model = AnomalyRocDisplay.from_estimator(clip_pipeline, clips, y).at_threshold
    called = clip_pipeline.predict(clips) == -1
    assert of_model == (called[:10].mean(), called[10:].mean())


@pytest.mark.parametrize("width", [3.5, 8.0])
def test_legend_lies_beside_the_curve(width):
    figure, ax = plt.subplots(figsize=(width, 4.0), layout="constrained")
    AnomalyRocDisplay.from_predictions(Y, -SCORES, name="a detector with a long name", ax=ax)
    figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent()
    assert ax.get_window_extent().x1 < legend.x0
    assert legend.x1 <= figure.bbox.x1


def test_curve_from_estimator_is_named_after_it(clip_pipeline, noise):
    display = AnomalyRocDisplay.from_estimator(clip_pipeline, list(noise), np.tile([1, -1], 10))
    assert display.line_.get_label().startswith("Pipeline\nAUC = ")


def test_keywords_go_to_the_curve_and_its_colour_to_the_region():
    display = AnomalyRocDisplay.from_predictions(Y, SCORES, curve_kwargs={"lw": 5, "c": "#ff0000"})
    assert (display.line_.get_linewidth(), display.line_.get_color()) == (5, "#ff0000")
    np.testing.assert_array_equal(display.region_.get_facecolor(), [[1, 0, 0, 0.25]])
    assert legend_texts(display)[0].startswith("AUC = ")


@pytest.mark.parametrize(
    ("y", "scores", "message"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], "y must hold two labels"),
        ([0, 0, 1], [0.1, 0.2, 0.3], "with pos_label=-1"),
        ([1, -1, 1], [0.1, np.nan, 0.3], "scores of 1 of 3 clips are NaN"),
    ],
)
def test_curve_that_does_not_exist_is_refused(y, scores, message):
    with pytest.raises(ValueError, match=message):
        AnomalyRocDisplay.from_predictions(y, scores)


# EmbeddingDisplay


def test_embeddings_are_projected_by_pca_and_the_axes_say_how_much_it_shows():
    embeddings = np.random.default_rng(0).normal(size=(30, 6)) * [9, 5, 1, 1, 1, 1]
    display = EmbeddingDisplay.from_predictions(embeddings, [1] * 20 + [-1] * 10)
    pca = PCA(2)
    np.testing.assert_allclose(display.coordinates, pca.fit_transform(embeddings))
    np.testing.assert_array_equal(
        display.scatter_[1].get_offsets(), np.asarray(display.coordinates)[20:]
    )
    first, second = (f"{100 * share:.0f}" for share in pca.explained_variance_ratio_)
    assert display.ax_.get_xlabel() == f"component 1 ({first} % of the variance)"
    assert display.ax_.get_ylabel() == f"component 2 ({second} % of the variance)"


def test_reducer_is_cloned_and_need_not_know_variances():
    reducer = FunctionTransformer(lambda X: X[:, ::-1])
    display = EmbeddingDisplay.from_predictions(np.arange(12.0).reshape(4, 3), reducer=reducer)
    np.testing.assert_array_equal(display.coordinates, [[2, 1], [5, 4], [8, 7], [11, 10]])
    assert display.ax_.get_xlabel() == "component 1"
    pca = PCA(3)
    EmbeddingDisplay.from_predictions(np.eye(4), reducer=pca)
    assert not hasattr(pca, "components_")


def test_clips_without_embedding_are_left_out_and_counted():
    embeddings = np.random.default_rng(0).normal(size=(10, 4))
    embeddings[3] = np.nan
    display = EmbeddingDisplay.from_predictions(embeddings, domain=["hall"] * 5 + ["yard"] * 5)
    readable = np.delete(np.arange(10), 3)
    expected = PCA(2).fit_transform(embeddings[readable])
    np.testing.assert_allclose(np.asarray(display.coordinates)[readable], expected)
    assert legend_texts(display) == ["hall", "yard", "not drawn: 1 without embedding"]


def test_embedding_from_a_pipeline_is_what_its_last_step_gets(clip_pipeline, noise):
    display = EmbeddingDisplay.from_estimator(clip_pipeline, list(noise))
    expected = PCA(2).fit_transform(clip_pipeline[:-1].transform(list(noise)))
    np.testing.assert_allclose(display.coordinates, expected, atol=1e-4)
    of_transformer = EmbeddingDisplay.from_estimator(clip_pipeline[:-1], list(noise))
    np.testing.assert_array_equal(of_transformer.coordinates, display.coordinates)


@pytest.mark.parametrize("patcher", [MelPatcher(duration=1.0), "passthrough"])
def test_embedding_from_the_whole_recipe_is_what_its_detector_gets(patcher, noise):
    X = noise if patcher != "passthrough" else MelPatcher(duration=1.0).fit_transform(noise)
    model = AnomalousSoundDetector(patcher, map_detector="drop").fit(X)
    display = EmbeddingDisplay.from_estimator(model, X)
    patches = X if patcher == "passthrough" else model.patcher_.transform(X)
    expected = PCA(2).fit_transform(model.detector_[:-1].transform(patches))
    np.testing.assert_allclose(display.coordinates, expected, atol=1e-4)


def test_embedding_from_a_recipe_with_two_members_is_that_of_the_last(noise):
    model = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop").fit(noise)
    patches = model.patcher_.transform(noise)
    members = [
        (name, make_pipeline(features, MahalanobisDetector()))
        for name, features in [("statistics", BandStatistics()), ("network", MelStatistics())]
    ]
    model.detector_ = JoinedDetector(members).fit(patches)
    display = EmbeddingDisplay.from_estimator(model, noise)
    expected = PCA(2).fit_transform(MelStatistics().fit_transform(patches))
    np.testing.assert_allclose(display.coordinates, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("embeddings", "reducer", "message"),
    [
        (np.ones((4, 3, 2)), None, r"embeddings must have shape \(n_clips, n_dims\)"),
        (np.eye(4), PCA(1), r"at least two coordinates a clip. Got an array of shape \(4, 1\)"),
    ],
)
def test_embeddings_that_give_no_plane_are_refused(embeddings, reducer, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingDisplay.from_predictions(embeddings, reducer=reducer)


# TimelineDisplay


def test_each_score_lasts_to_halfway_to_its_neighbours():
    display = TimelineDisplay.from_predictions([1, 2, 4, 8], [0.1, 0.9, 0.8, 0.2], threshold=0.5)
    values, edges, _ = display.line_.get_data()
    np.testing.assert_array_equal(values, [0.1, 0.9, 0.8, 0.2])
    np.testing.assert_array_equal(edges, [0.5, 1.5, 3, 6, 10])
    np.testing.assert_array_equal(display.stretches_, [[1.5, 6]])
    assert list(display.threshold_line_.get_ydata()) == [0.5, 0.5]
    assert display.ax_.get_xlim() == (0.5, 10)
    assert legend_texts(display) == ["score", "threshold", "anomaly (red: 5 and more)"]


def test_tint_of_a_window_says_how_far_above_the_threshold_it_is():
    scores = [0.5, 2.0, 20.0, 2000.0, np.nan]
    display = TimelineDisplay.from_predictions(np.arange(5.0), scores, threshold=2 / 10**0.5)
    colors = display.flagged_.get_facecolors()
    expected = EXCESS_COLORS(np.array([0.5, 1.0, 1.0]))  # the square root of ten times, and more
    np.testing.assert_allclose(colors, expected, atol=0.01)
    spans = [path.get_extents().intervalx for path in display.flagged_.get_paths()]
    np.testing.assert_allclose(spans, [[0.5, 1.5], [1.5, 2.5], [2.5, 3.5]])
    below_zero = TimelineDisplay.from_predictions(np.arange(4.0), [-3, -1, 0, 6], threshold=-2)
    # The median distance from the threshold is 1.5: 1, 2 and 8 above it are 0.67, 1.33 and 5.33.
    shares = np.log([1 + 1 / 1.5, 1 + 2 / 1.5, 1 + 8 / 1.5]) / np.log(10)
    np.testing.assert_allclose(
        below_zero.flagged_.get_facecolors(), EXCESS_COLORS(shares), atol=0.01
    )


def test_stretches_at_the_ends_single_ones_and_ties():
    scores = [2, 0, 1, 2, np.nan, 2]  # 1 is at the threshold: normal, as predict has it
    display = TimelineDisplay.from_predictions(np.arange(6), scores, threshold=1, window=3)
    np.testing.assert_array_equal(display.stretches_, [[-1.5, 0.5], [2.5, 3.5], [4.5, 6.5]])
    drawn = [path.get_extents().intervalx for path in display.flagged_.get_paths()]
    np.testing.assert_allclose(drawn, display.stretches_)


def test_no_threshold_flags_nothing():
    display = TimelineDisplay.from_predictions([1, 2], [5, 6])
    assert display.stretches_.shape == (0, 2)
    assert (display.threshold_line_, display.flagged_) == (None, None)
    assert legend_texts(display) == ["score"]


@pytest.mark.parametrize(
    ("seconds", "label", "tick"),
    [(120, "time (s)", None), (600, "time (min:s)", "2:00"), (8 * 3600, "time (h:min)", "2:00")],
)
def test_time_is_labelled_in_the_unit_of_its_length(seconds, label, tick):
    times = np.arange(0, seconds, 10) + 5
    display = TimelineDisplay.from_predictions(times, np.zeros(len(times)), threshold=1.0)
    ax = display.ax_
    assert ax.get_xlabel() == label
    display.figure_.draw_without_rendering()
    places = {text.get_text(): text.get_position()[0] for text in ax.get_xticklabels()}
    assert len(places) <= 11
    if tick is not None:
        assert places[tick] == {600: 120, 8 * 3600: 7200}[seconds]


class Level(OutlierMixin, BaseEstimator):
    """A detector of loud clips, whose threshold is not known to the displays."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def decision_function(self, X):
        return 1 - np.abs(X).max(axis=1)


class Samples(MelPatcher):
    """Hands the samples of its clips on."""

    def transform(self, X):
        return np.stack(X)


@pytest.mark.parametrize("kind", ["array", "pair", "path"])
def test_windows_cover_the_whole_recording(kind, tmp_path):
    pipeline = make_pipeline(Samples(duration=1.0), Level()).fit([np.ones(RATE)])
    recording = np.zeros(round(4.3 * RATE), dtype=np.float32)
    recording[round(2.2 * RATE)] = 3.0
    recording[-1] = 2.0
    clip = recording
    if kind == "pair":
        clip = (np.column_stack([recording, np.zeros_like(recording)]), RATE)
    elif kind == "path":
        clip = tmp_path / "recording.wav"
        soundfile.write(clip, recording, RATE, subtype="FLOAT")
    display = TimelineDisplay.from_estimator(pipeline, clip, window=1.0, hop=0.5)
    np.testing.assert_allclose(display.times, [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 3.8])
    np.testing.assert_allclose(display.anomaly_score, [-1, -1, -1, 2, 2, -1, -1, 1])
    np.testing.assert_allclose(display.stretches_, [[1.75, 2.75], [3.65, 4.3]])
    assert display.ax_.get_xlim() == (0, pytest.approx(4.3))


def test_window_is_by_default_what_the_pipeline_uses_of_a_clip(clip_pipeline, noise):
    recording = noise[:3].ravel()
    display = TimelineDisplay.from_estimator(clip_pipeline, recording)
    assert list(display.times) == [0.5, 1.0, 1.5, 2.0, 2.5]
    windows = [recording[start : start + RATE] for start in range(0, 2 * RATE + 1, RATE // 2)]
    expected = clip_pipeline.score_samples(windows) / clip_pipeline[-1].offset_
    np.testing.assert_allclose(display.anomaly_score, expected, rtol=1e-12)
    assert display.threshold == 1
    assert display.ax_.get_ylabel() == "anomaly score (1 = threshold)"
    whole = TimelineDisplay.from_estimator(clip_pipeline, recording[:RATE])
    np.testing.assert_allclose(whole.ax_.get_xlim(), [0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 2.0}, "at most 1, which is what the pipeline uses of a clip. Got 2.0"),
        ({"window": 0}, "window must be a number of seconds above 0"),
        ({"hop": 1.5}, "hop must be .* at most 1, the window, .* Got 1.5"),
        ({"hop": "1"}, "Got '1' instead"),
    ],
)
def test_windows_out_of_range_are_refused(settings, message, clip_pipeline, noise):
    with pytest.raises(ValueError, match=message):
        TimelineDisplay.from_estimator(clip_pipeline, noise.ravel(), **settings)


def test_recording_shorter_than_a_window_is_refused(clip_pipeline, noise):
    with pytest.raises(ValueError, match=r"a window of 1 seconds. Got 0.5 seconds"):
        TimelineDisplay.from_estimator(clip_pipeline, noise[0, : RATE // 2])


@pytest.mark.parametrize(
    ("times", "scores", "message"),
    [
        ([1, 2, 3], [0.1, 0.2], "one entry per score"),
        ([1, 3, 2], [0.1, 0.2, 0.3], "ascending and without NaN"),
        ([1, np.nan, 2], [0.1, 0.2, 0.3], "ascending and without NaN"),
        ([1], [0.1], "window must be given where there is a single score"),
    ],
)
def test_times_that_do_not_fit_are_refused(times, scores, message):
    with pytest.raises(ValueError, match=message):
        TimelineDisplay.from_predictions(times, scores)
