"""The report: what it says of clips, what it embeds of them, and that it is a safe page."""

import re
import warnings
from copy import copy

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from report_pages import RATE, Page, cells, decode, hum
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skanopatch import (
    AnomalousSoundDetector,
    FitOnNormal,
    GMMDetector,
    KNNDetector,
    MelPatcher,
)
from skanopatch.audio import Segment, load_clip
from skanopatch.inspection.style import MAP_TOP
from skanopatch.metrics import pauc_score
from skanopatch.report import make_report


@pytest.fixture(scope="module")
def normal_clips():
    return [hum(seed) for seed in range(24)]


@pytest.fixture(scope="module")
def model(normal_clips):
    return AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop").fit(normal_clips)


@pytest.fixture(scope="module")
def map_model(normal_clips):
    return AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(normal_clips)


@pytest.fixture
def model_of_files(normal_clips, tmp_path):
    """A model of recordings, and their folder."""
    folder = tmp_path / "normal"
    folder.mkdir()
    for i, clip in enumerate(normal_clips):
        soundfile.write(folder / f"{i}.wav", clip, RATE, subtype="FLOAT")
    files = [folder / f"{i}.wav" for i in range(len(normal_clips))]
    detector = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop")
    return detector.fit(files), folder


@pytest.fixture(scope="module")
def clips():
    """Two normal clips, a loud fault and a faint one."""
    return [hum(100), hum(101, whine=0.1), hum(102), hum(103, whine=0.02)]


def test_clips_are_ranked_by_distance_over_that_of_the_threshold(model, clips):
    page = Page(make_report(model, clips))
    score = model.score_samples(clips) / model.offset_
    order = np.argsort(-score)
    assert_allclose([row["score"] for row in page.rows], score[order], rtol=1e-12)
    assert [row["data-media"] for row in page.rows] == [f"clip-{i}" for i in order]
    called = np.where(model.predict(clips)[order] == -1, "anomaly", "normal")
    assert [row["data-verdict"] for row in page.rows] == called.tolist()
    assert called[0] == "anomaly"


def test_scores_and_maps_are_those_of_the_group_of_a_clip(normal_clips, clips):
    low = [hum(seed, whine=0.02) for seed in range(12)]
    grouped = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(
        [*normal_clips[:12], *low], groups=["fan"] * 12 + ["pump"] * 12
    )
    of_clips = ["pump", "fan", "fan", "pump"]
    html = make_report(grouped, clips, groups=of_clips)
    score = grouped.score_samples(clips, groups=of_clips) / grouped.offset_
    order = np.argsort(-score)
    page = Page(html)
    assert_allclose([row["score"] for row in page.rows], score[order], rtol=1e-12)
    assert cells(html, "machine") == [of_clips[i] for i in order]
    assert "a score above 1" in html
    assert re.findall(r"<option>(fan|pump)</option>", html) == ["fan", "pump"]
    maps = grouped.anomaly_map(clips, groups=of_clips)
    assert_allclose([page.media(f"clip-{i}")["map"] for i in range(4)], maps, atol=0.0051)


@pytest.mark.parametrize("detector", [GMMDetector(random_state=0), KNNDetector()])
def test_one_scale_serves_every_detector(normal_clips, clips, detector):
    other = AnomalousSoundDetector(
        MelPatcher(duration=1.0), detector=detector, map_detector="drop"
    ).fit(normal_clips)
    html = make_report(other, clips)
    for row in Page(html).rows:
        assert (row["score"] > 1) == (row["data-verdict"] == "anomaly")
    assert "a score above 1" in html


@pytest.mark.parametrize("y", [[1, -1, 1, -1], ["normal", "whine", "normal", "faint whine"]])
def test_roc_counts_every_label_but_normal_as_anomalous(model, clips, y):
    html = make_report(model, clips, y=y)
    score = -model.score_samples(clips)
    auc = roc_auc_score([0, 1, 0, 1], score)
    assert f"<dt>AUC</dt><dd>{auc:.3f}</dd>" in html
    assert f"{pauc_score([1, -1, 1, -1], score):.3f}</dd>" in html
    assert 'class="roc"' in html
    assert set(cells(html, "label")) == ({"normal", "anomaly"} if y[0] == 1 else set(y))


def test_roc_leaves_out_clips_without_a_label_or_a_score(model, clips):
    more = [*clips, hum(104, whine=0.5), np.zeros(0)]
    html = make_report(model, more, y=["normal", "a", "normal", "a", None, "normal"])
    auc = roc_auc_score([0, 1, 0, 1], -model.score_samples(clips))
    assert f"<dt>AUC</dt><dd>{auc:.3f}</dd>" in html
    n_alarms = int((model.predict([clips[0], clips[2]]) == -1).sum())
    assert f"<dt>false alarms</dt><dd>{n_alarms} of 2 ({n_alarms / 2:.0%})</dd>" in html


@pytest.mark.parametrize("y", [[1, 1, 1, 1], ["a", "b", "a", "b"], [None, -1, None, None]])
def test_without_both_kinds_of_labels_there_is_a_sentence_instead_of_a_roc(model, clips, y):
    html = make_report(model, clips, y=y)
    assert "No ROC: it needs normal and anomalous clips" in html
    assert 'class="roc"' not in html


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"y": [0, 1, 0, 1]},
            "y must hold +1 or 'normal' for normal clips, -1 or another string for anomalous ones, "
            "and None where it is not known. Got 0.",
        ),
        ({"y": [1, -1]}, "y must have one entry per clip. Got 2 for 4."),
        ({"groups": ["fan"]}, "groups must have one entry per clip. Got 1 for 4."),
    ],
)
def test_wrong_input_is_named(model, clips, settings, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make_report(model, clips, **settings)


def test_nearest_normal_clip_is_nearest_among_standardized_statistics(model_of_files, clips):
    model, _ = model_of_files
    page = Page(make_report(model, clips))
    scaler = StandardScaler().fit(model.normal_statistics_)
    search = NearestNeighbors(n_neighbors=1).fit(scaler.transform(model.normal_statistics_))
    statistics = model.statistics_.transform(model.patcher_.transform(clips))
    expected = search.kneighbors(scaler.transform(statistics))[1].ravel()
    found = {row["data-media"]: row["data-normal"] for row in page.rows}
    assert found == {f"clip-{i}": f"normal-{n}" for i, n in enumerate(expected)}
    assert page.rows[0]["data-normal-name"] == page.rows[0]["data-normal"][7:] + ".wav"
    embedded = [name for name in page.contents if name.startswith("normal-")]
    assert sorted(embedded) == sorted({f"normal-{n}" for n in expected})  # each once
    assert {"picture", "sound"} <= set(page.media(page.rows[0]["data-normal"]))


@pytest.mark.parametrize("rounding", [0.0, 3e-7])
def test_a_clip_of_the_fit_is_compared_with_another_one(model, normal_clips, rounding):
    changed = copy(model)
    noise = np.random.default_rng(0).uniform(1 - rounding, 1 + rounding, size=(24, 1))
    changed.normal_statistics_ = (model.normal_statistics_ * noise).astype(np.float32)
    for row in Page(make_report(changed, normal_clips[:3])).rows:
        assert row["data-media"][5:] != row["data-normal"][7:]


def test_a_file_of_the_fit_is_compared_with_another_one(model_of_files):
    model, folder = model_of_files
    soundfile.write(folder / "0.wav", hum(0), RATE, subtype="PCM_16")  # it is not quite the same
    (row,) = Page(make_report(model, [folder / "0.wav"])).rows
    assert row["data-normal"] != "normal-0"


@pytest.mark.parametrize("wrong", [MelPatcher(), "passthrough"])
def test_a_model_that_takes_no_clips_is_refused(normal_clips, wrong):
    if wrong == "passthrough":
        patches = MelPatcher(duration=1.0).fit_transform(normal_clips)
        wrong = AnomalousSoundDetector("passthrough", map_detector="drop").fit(patches)
    with pytest.raises(ValueError, match=r"odel must be an AnomalousSoundDetector.* Got .* inst"):
        make_report(wrong, normal_clips)


def test_a_model_that_left_out_anomalies_makes_a_page(model, normal_clips, clips):
    wrapped = FitOnNormal(clone(model)).fit([*normal_clips, clips[1]], [1] * 24 + [-1])
    assert cells(make_report(wrapped, clips), "score") == cells(make_report(model, clips), "score")


def test_clip_that_cannot_be_read_is_listed_last_with_the_reason(model, clips, tmp_path):
    (tmp_path / "broken.wav").write_text("no sound at all")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = make_report(model, [tmp_path / "broken.wav", *clips, tmp_path / "missing.wav"])
    rows = Page(html).rows
    assert [row["data-verdict"] for row in rows[-2:]] == ["unreadable", "unreadable"]
    assert cells(html, "file")[-2:] == [
        "broken.wav libsndfile cannot read it (Format not recognised)",
        "missing.wav there is no such file",
    ]
    assert cells(html, "score")[-1] == "–"  # noqa: RUF001
    assert rows[-1]["data-media"] == ""
    assert model.patcher_.on_error == "raise"  # the caller's model is as it was


def test_a_page_of_nothing_but_unreadable_clips(model):
    html = make_report(model, ["/nowhere/a.wav"], y=[1])
    assert cells(html, "verdict") == ["unreadable"]


def test_normal_clip_whose_file_is_gone_leaves_its_name(model_of_files, clips):
    model, folder = model_of_files
    (folder / "monday").mkdir()
    for i in range(24):
        (folder / f"{i}.wav").rename(folder / "monday" / f"{i}.wav")
    page = Page(make_report(model, clips))
    assert page.media(page.rows[0]["data-normal"]) == {}
    assert {row["data-normal-name"] for row in page.rows} <= {f"{i}.wav" for i in range(24)}


def test_normal_clip_that_was_no_file_leaves_its_index(model, clips):
    page = Page(make_report(model, clips))
    for row in page.rows:
        assert row["data-normal-name"] == "clip " + row["data-normal"][7:]
        assert page.media(row["data-normal"]) == {}


def test_sounds_are_what_the_patcher_uses_and_keep_their_loudness(model):
    stereo = np.stack([hum(0, whine=0.05, seconds=3), hum(1, seconds=3)], axis=1)
    # A second of channel 0; half as loud; repeated until it is a second long.
    clips = [(stereo, RATE), stereo[:, 0] / 2, hum(2, seconds=0.4)]
    page = Page(make_report(model, clips))
    sounds = [decode(page.media(f"clip-{i}")) for i in range(3)]
    assert [rate for _, rate in sounds] == [RATE] * 3
    for i, (clip, (sound, _)) in enumerate(zip(clips, sounds, strict=True)):
        start = page.media(f"clip-{i}")["start"]
        length = 1.0 if start == 0 else None
        heard = load_clip(clip, channel=0, duration=length)[round(start * RATE) :][:RATE]
        assert len(sound) == len(heard)
        assert np.corrcoef(sound, heard)[0, 1] > 0.98
    levels = [np.std(sound) for sound, _ in sounds]
    assert levels[0] / levels[1] == pytest.approx(2, rel=0.02)
    assert np.abs(sounds[0][0]).max() == pytest.approx(0.9, rel=0.1)


def test_sounds_of_a_rate_that_mp3_lacks_are_resampled():
    clips = [hum(seed) for seed in range(12)]
    detector = AnomalousSoundDetector(MelPatcher(10000, duration=1.0), map_detector="drop")
    page = Page(make_report(detector.fit(clips), clips[:1]))
    sound, rate = decode(page.media("clip-0"))
    assert (rate, len(sound)) == (16000, 16000)
    tone = np.abs(np.fft.rfft(sound)).argmax()
    assert tone == pytest.approx(100 * 10 / 16, abs=1)  # a bare array is at the patcher's rate


def test_silence_makes_a_page(model):
    page = Page(make_report(model, [np.zeros(RATE)]))
    assert_array_equal(decode(page.media("clip-0"))[0], 0)


def test_only_the_most_anomalous_clips_have_players(model, clips):
    page = Page(make_report(model, clips, max_players=2))
    assert [bool(row["data-media"]) for row in page.rows] == [True, True, False, False]
    assert len([name for name in page.contents if name.startswith("clip-")]) == 2


def test_map_marks_where_the_fault_sounds(map_model):
    html = make_report(map_model, [hum(200, whine=0.1, start=0.6)])
    media = Page(html).media("clip-0")
    assert np.shape(media["map"]) == (6, 8)  # 98 frames
    (worst,) = media["moments"]  # a band, and not five times of it
    assert worst["value"] > 10
    burst = next(words for words in media["words"] if words["text"].startswith("A burst"))
    assert burst["times"] == [pytest.approx(0.6, abs=0.02)]
    low, high = re.fullmatch(r"([\d.]+) to ([\d.]+) kHz", worst["band"]).groups()
    assert float(low) <= 3.0 <= float(high)


def test_all_maps_of_a_page_share_the_scale_of_the_display(map_model, clips):
    html = make_report(map_model, clips)
    page = Page(html)
    assert page.media("page")["mapTop"] == MAP_TOP
    assert "10 times the threshold and more" in html
    for i, own in enumerate(map_model.anomaly_map(clips)):
        assert page.media(f"clip-{i}")["highest"] == pytest.approx(own.max(), abs=1e-9)


def test_a_model_without_maps_makes_a_page_without_them(model, clips):
    media = Page(make_report(model, clips)).media("clip-0")
    assert set(media) == {"picture", "sound", "start", "words", "spectrum", "bands"}


def test_clips_may_be_a_table_of_samples(model, clips):
    listed, table = make_report(model, clips), make_report(model, np.array(clips))
    assert [row["score"] for row in Page(table).rows] == [row["score"] for row in Page(listed).rows]


def test_of_a_long_clip_the_worst_window_is_shown_and_named(map_model):
    long = hum(200, whine=0.1, start=2.3, seconds=3.5)
    html = make_report(map_model, [long, hum(201)])
    page = Page(html)
    with pytest.warns(UserWarning, match="recorded in another way"):
        windows = map_model.score_windows([long])
    assert windows["start"].tolist() == [0.0, 1.0, 2.0, 2.5]
    start = windows["start"][windows["score"].argmin()]
    assert page.media("clip-0")["start"] == start >= 2
    window = long[round(start * RATE) :][:RATE]
    sound, _ = decode(page.media("clip-0"))
    assert np.corrcoef(sound, window)[0, 1] > 0.98
    assert cells(html, "file")[0].startswith(
        f"clip 0 worst of 4 windows: {start:g} to {start + 1:g} s"
    )
    (map_of_window,) = map_model.anomaly_map([window])
    assert_allclose(page.media("clip-0")["map"], map_of_window, atol=0.0051)


def test_the_nearest_window_of_a_long_normal_file_is_played(tmp_path):
    long = np.concatenate([hum(seed) for seed in range(24)])
    soundfile.write(tmp_path / "normal.wav", long, RATE, subtype="FLOAT")
    detector = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop")
    page = Page(make_report(detector.fit([tmp_path / "normal.wav"]), [hum(100)]))
    row = int(page.rows[0]["data-normal"][7:])
    assert row > 0
    sound, _ = decode(page.media(page.rows[0]["data-normal"]))
    assert np.corrcoef(sound, long[row * RATE :][:RATE])[0, 1] > 0.98


def test_another_way_of_recording_is_noted_beside_the_name(model, clips):
    html = make_report(model, [clips[0], 20 * clips[0]])
    remarks = dict(zip(cells(html, "file"), Page(html).rows, strict=True))
    assert "clip 0" in remarks
    assert any(re.match(r"clip 1 \d+ dB louder than any normal clip", text) for text in remarks)


def test_the_nearest_normal_clip_of_segments_is_the_stretch_that_was_fitted(tmp_path):
    long = np.concatenate([hum(seed) for seed in range(24)])
    soundfile.write(tmp_path / "shift.wav", long, RATE, subtype="FLOAT")
    starts = np.arange(0, 23, 2) + 0.25  # no multiple of the window
    segments = [Segment(tmp_path / "shift.wav", start, start + 1) for start in starts]
    detector = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop")
    page = Page(make_report(detector.fit(segments), [hum(100)]))
    row = int(page.rows[0]["data-normal"][7:])
    sound, _ = decode(page.media(page.rows[0]["data-normal"]))
    fitted = long[round(starts[row] * RATE) :][:RATE]
    assert np.corrcoef(sound, fitted)[0, 1] > 0.98


def test_each_clip_is_explained_as_by_the_model(model, clips):
    page = Page(make_report(model, clips))
    explanations = model.explain(clips)
    for i, explanation in enumerate(explanations):
        media = page.media(f"clip-{i}")
        assert [words["text"] for words in media["words"]] == explanation.sentences()[1:]
        assert len(media["bands"]) == sum(e.low is not None for e in explanation.events)
    spectra = page.media("page")["spectra"]
    bins = np.round(np.array(spectra["places"]) * 128 - 0.5).astype(int)
    normal = explanations[0].normal_spectra
    assert_allclose(spectra["lowest"], normal.min(axis=0)[bins], atol=0.06)
    assert_allclose(spectra["highest"], normal.max(axis=0)[bins], atol=0.06)
    assert_allclose(page.media("clip-1")["spectrum"], explanations[1].spectrum[bins], atol=0.06)
    low, high = spectra["levels"]
    assert low <= min(spectra["lowest"])
    assert high >= max(page.media("clip-1")["spectrum"])


def test_the_spectrum_of_the_nearest_normal_clip_is_on_the_same_scale(model_of_files, clips):
    model, _ = model_of_files
    page = Page(make_report(model, clips))
    row = int(page.rows[0]["data-normal"][7:])
    (explanation,) = model.explain([model.clip_names_[row]])
    places = np.array(page.media("page")["spectra"]["places"])
    bins = np.round(places * 128 - 0.5).astype(int)
    spectrum = page.media(f"normal-{row}")["spectrum"]
    assert_allclose(spectrum, explanation.spectrum[bins], atol=0.06)


def test_bars_are_as_long_as_scores_are_high(model, clips):
    html = make_report(model, clips)
    widths = [float(width) for width in re.findall(r'<rect width="([\d.]+)%"', html)]
    assert len(widths) == len(clips)
    assert widths == sorted(widths, reverse=True)
    (threshold,) = set(re.findall(r'class="threshold" x1="([\d.]+)%"', html))
    called = [verdict == "anomaly" for verdict in cells(html, "verdict")]
    assert [width > float(threshold) for width in widths] == called


def test_times_of_events_are_in_the_window_that_is_played(map_model):
    long = hum(200, whine=0.1, start=2.3, seconds=3.5)
    page = Page(make_report(map_model, [long]))
    media = page.media("clip-0")
    (explanation,) = map_model.explain([long])
    assert explanation.start == media["start"] > 0
    begins = [begin for event in explanation.events for begin, _ in event.times]
    of_page = [media["start"] + time for words in media["words"] for time in words["times"]]
    assert begins
    assert_allclose(of_page, begins, atol=0.001)
