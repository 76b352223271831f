"""The report: what it says of clips, what it embeds of them, and that it is a safe page."""

import base64
import io
import json
import os
import re
import warnings
from copy import copy
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torchaudio.compliance.kaldi import get_mel_banks

from skanopatch import (
    AnomalousSoundDetector,
    FitOnNormal,
    GMMDetector,
    KNNDetector,
    MelPatcher,
)
from skanopatch.audio import Segment, load_clip
from skanopatch.inspection.anomaly_map import MAP_TOP
from skanopatch.metrics import pauc_score
from skanopatch.report import make_report
from skanopatch.report.media import Axes, worst_moments

RATE = 16000


def hum(seed, *, whine=0.0, start=0.0, seconds=1.0):
    """Return a humming machine in noise, with a tone of 3 kHz from `start` on."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = whine * np.sin(2 * np.pi * 3000 * time) * (time >= start)
    return 0.1 * np.sin(2 * np.pi * 100 * time) + 0.02 * rng.normal(size=len(time)) + tone


class Page(HTMLParser):
    """What a browser would make of a page: its rows, its text and its scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.rows, self.contents = [], [], [], {}
        self._key = "outside"
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.attributes.append(attributes)
        if attributes.get("class") == "clip":
            self.rows.append(attributes)
        if tag == "td" and "data-value" in attributes:
            self.rows[-1]["score"] = float(attributes["data-value"])
        self._key = attributes.get("id") or tag

    def handle_data(self, data):
        self.contents[self._key] = self.contents.get(self._key, "") + data

    def handle_endtag(self, tag):
        self._key = "outside"

    def media(self, name):
        return json.loads(self.contents[name])


def cells(html, column):
    """Return the text of a column, row by row."""
    found = re.findall(rf'<td role="cell" class="{column}"[^>]*>(.*?)</td>', html)
    return [re.sub("<.*?>", "", cell) for cell in found]


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
    assert "<svg" not in html


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


def decode(media):
    return soundfile.read(io.BytesIO(base64.b64decode(media["sound"])))


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
    worst = media["moments"][0]
    assert worst["value"] > 1
    assert 0.48 <= worst["time"] <= 0.96  # a patch is 0.16 s
    low, high = re.fullmatch(r"([\d.]+) to ([\d.]+) kHz", worst["band"]).groups()
    assert float(low) <= 3.0 <= float(high)


def test_all_maps_of_a_page_share_the_scale_of_the_display(map_model, clips):
    html = make_report(map_model, clips)
    page = Page(html)
    assert page.media("page")["mapTop"] == MAP_TOP
    assert "red from 10 times the threshold on" in html
    for i, own in enumerate(map_model.anomaly_map(clips)):
        assert page.media(f"clip-{i}")["highest"] == pytest.approx(own.max(), abs=1e-9)


def test_a_model_without_maps_makes_a_page_without_them(model, clips):
    media = Page(make_report(model, clips)).media("clip-0")
    assert set(media) == {"picture", "sound", "start"}


AXES = Axes(seconds=10.0, edges=np.array([0.0, 100.0, 900.0, 1100.0, 8000.0]))


def test_moments_are_peaks_above_the_threshold_the_worst_first():
    odd = np.zeros((20, 2))
    odd[[3, 4, 10, 19], [0, 0, 1, 1]] = [1.5, 1.2, 2.0, 1.1]  # 4 is the slope of 3
    odd[7, 0] = 0.9
    assert worst_moments(odd, AXES) == [
        {"time": 5.0, "value": 2.0, "band": "0.9 to 8 kHz"},
        {"time": 1.5, "value": 1.5, "band": "0 to 900 Hz"},
        {"time": 9.5, "value": 1.1, "band": "0.9 to 8 kHz"},
    ]


def test_there_are_no_moments_where_no_cell_is_above_the_threshold():
    odd = np.zeros((100, 1))
    odd[[0, 30, 50, 70], 0] = [0.4, 0.9, 0.2, 1.0]
    assert worst_moments(odd, AXES) == []


def test_moments_are_half_a_second_apart_and_at_most_five():
    odd = np.full((100, 1), 1.0)
    odd[::2, 0] = 2 + np.arange(50) / 50  # peaks every 0.2 s, rising
    moments = worst_moments(odd, AXES)
    assert [moment["time"] for moment in moments] == [9.8, 9.2, 8.6, 8.0, 7.4]


@pytest.mark.parametrize("n_time", [1, 7])
def test_a_map_of_one_value_has_one_moment(n_time):
    assert len(worst_moments(np.full((n_time, 4), 1.5), AXES)) == 1


def test_frequency_axis_is_that_of_kaldi_s_filters():
    axes = Axes.of_patcher(MelPatcher(duration=2.0).fit([np.zeros(32000)]))
    banks, _ = get_mel_banks(128, 512, 16000.0, 20.0, 0.0, 100.0, -500.0, 1.0)
    tips = banks.argmax(dim=1).numpy() * 16000 / 512
    widths = np.diff(axes.edges)
    is_wide = widths > 16000 / 512  # elsewhere a filter is narrower than the bins of the FFT
    assert is_wide.sum() > 60
    assert (axes.edges[:-1] - 16000 / 512 <= tips)[is_wide].all()
    assert (tips <= axes.edges[1:] + 16000 / 512)[is_wide].all()
    assert axes.seconds == 12 * 16 * 0.01  # 198 frames are 12 patches
    labels, heights = zip(*axes.ticks(), strict=True)
    assert labels[-1] == "8 kHz"
    assert heights[-1] == 1
    assert (np.diff(heights) > 0.05).all()


HOSTILE_FILE = "<img src=x onerror=alert(1)>.wav"
HOSTILE_LABEL = "</script><script>alert(2)</script>"


def test_names_labels_and_title_are_text_and_nothing_else(clips, normal_clips, tmp_path):
    def report_of(name, labels, groups, title):
        files = [tmp_path / f"{i}{name}" for i in range(4)]
        for path, clip in zip(files, [*normal_clips[:3], clips[1]], strict=True):
            soundfile.write(path, clip, RATE)
        detector = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop")
        fitted = detector.fit(files[:3])
        return Page(make_report(fitted, files[2:], y=labels, groups=groups, title=title))

    hostile = report_of(
        HOSTILE_FILE,
        ["normal", HOSTILE_LABEL],
        ['" onclick="alert(3)', HOSTILE_LABEL],
        HOSTILE_LABEL,
    )
    tame = report_of(".wav", ["normal", "whine"], ["a", "b"], None)
    assert hostile.contents["h1"] == HOSTILE_LABEL
    count = ("img", "button", "style", "option", "svg", "td")
    assert [hostile.tags.count(tag) for tag in count] == [tame.tags.count(tag) for tag in count]
    assert HOSTILE_LABEL in {row["data-group"] for row in hostile.rows}
    assert not any(name.startswith("on") for names in hostile.attributes for name in names)


def test_page_refers_to_nothing_outside_and_runs_only_its_own_script(model, clips):
    html = make_report(model, clips)
    assert "://" not in html
    assert not re.search(r"url\(|@import|\b(src|href)=(?!\"data:)", html)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; media-src blob:;")
    for tag in ("style", "script"):
        allowed = re.search(rf"{tag}-src 'sha256-([^']+)'", policy)[1]
        contents = re.findall(rf'<{tag}(?: type="module")?>(.*?)</{tag}>', html, re.DOTALL)
        assert [base64.b64encode(sha256(c.encode()).digest()).decode() for c in contents] == [
            allowed
        ]
    assert " style=" not in html  # the policy would not let it through


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


def test_segments_are_named_by_their_file_and_their_seconds(model, tmp_path):
    soundfile.write(tmp_path / "shift.wav", hum(0, seconds=3), RATE)
    segments = [Segment(tmp_path / "shift.wav", start, start + 1) for start in (0, 1.5)]
    html = make_report(model, segments)
    assert set(cells(html, "file")) == {"shift.wav, 0 to 1 s", "shift.wav, 1.5 to 2.5 s"}


def test_file_names_that_are_no_utf_8_make_a_page_that_can_be_written(model, clips, tmp_path):
    name = os.fsencode(tmp_path) + b"/p\xfcmp.wav"
    with open(name, "wb") as file:
        soundfile.write(file, clips[0], RATE, format="WAV")
    html = make_report(model, [os.fsdecode(name)])
    assert cells(html, "file") == ["p\\xfcmp.wav"]
    assert html.encode("utf-8")


def test_file_names_leave_out_the_folder_that_all_share(model, clips, tmp_path):
    paths = [tmp_path / "hall 2" / "monday" / "a.wav", tmp_path / "hall 2" / "b.wav"]
    paths[0].parent.mkdir(parents=True)
    for path, clip in zip(paths, clips, strict=False):
        soundfile.write(path, clip, RATE)
    html = make_report(model, paths)
    assert {name.split()[0] for name in cells(html, "file")} == {"monday/a.wav", "b.wav"}
    assert str(tmp_path) not in html
