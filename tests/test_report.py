"""The report: what it says of clips, what it embeds of them, and that it is a safe page."""

import base64
import io
import json
import re
import warnings
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchaudio.compliance.kaldi import get_mel_banks

from skanopatch import (
    GroupedDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    PatchKNNDetector,
)
from skanopatch.audio import load_clip
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
def pipeline(normal_clips):
    steps = MelPatcher(duration=1.0), MelStatistics(), MahalanobisDetector()
    return make_pipeline(*steps).fit(normal_clips)


@pytest.fixture(scope="module")
def map_pipeline(normal_clips):
    return make_pipeline(MelPatcher(duration=1.0), PatchKNNDetector()).fit(normal_clips)


@pytest.fixture(scope="module")
def clips():
    """Two normal clips, a loud fault and a faint one."""
    return [hum(100), hum(101, whine=0.1), hum(102), hum(103, whine=0.02)]


def test_clips_are_ranked_by_distance_over_that_of_the_threshold(pipeline, clips):
    page = Page(make_report(pipeline, clips))
    score = pipeline.score_samples(clips) / pipeline[-1].offset_
    order = np.argsort(-score)
    assert_allclose([row["score"] for row in page.rows], score[order], rtol=1e-12)
    assert [row["data-media"] for row in page.rows] == [f"clip-{i}" for i in order]
    called = np.where(pipeline.predict(clips)[order] == -1, "anomaly", "normal")
    assert [row["data-verdict"] for row in page.rows] == called.tolist()
    assert called[0] == "anomaly"


def test_scores_of_a_grouped_detector_are_those_of_each_group(normal_clips, clips):
    groups = ["fan"] * 12 + ["pump"] * 12
    pipe = make_pipeline(
        MelPatcher(duration=1.0), MelStatistics(), GroupedDetector(MahalanobisDetector())
    ).fit(normal_clips, groupeddetector__groups=groups)
    of_clips = ["pump", "fan", "fan", "pump"]
    html = make_report(pipe, clips, groups=of_clips)
    decision = pipe[-1].decision_function(pipe[:-1].transform(clips), groups=of_clips)
    order = np.argsort(decision)
    assert_allclose([row["score"] for row in Page(html).rows], -decision[order], rtol=1e-12)
    assert cells(html, "machine") == [of_clips[i] for i in order]
    assert "a score above 0" in html
    assert re.findall(r"<option>(fan|pump)</option>", html) == ["fan", "pump"]


@pytest.mark.parametrize("y", [[1, -1, 1, -1], ["normal", "whine", "normal", "faint whine"]])
def test_roc_counts_every_label_but_normal_as_anomalous(pipeline, clips, y):
    html = make_report(pipeline, clips, y=y)
    score = -pipeline.score_samples(clips)
    auc = roc_auc_score([0, 1, 0, 1], score)
    assert f"<dt>AUC</dt><dd>{auc:.3f}</dd>" in html
    assert f"{pauc_score([1, -1, 1, -1], score):.3f}</dd>" in html
    assert 'class="roc"' in html
    assert set(cells(html, "label")) == ({"normal", "anomaly"} if y[0] == 1 else set(y))


def test_roc_leaves_out_clips_without_a_label_or_a_score(pipeline, clips):
    more = [*clips, hum(104, whine=0.5), np.zeros(0)]
    html = make_report(pipeline, more, y=["normal", "a", "normal", "a", None, "normal"])
    auc = roc_auc_score([0, 1, 0, 1], -pipeline.score_samples(clips))
    assert f"<dt>AUC</dt><dd>{auc:.3f}</dd>" in html
    assert "<dt>false alarms</dt><dd>0 of 2 (0%)</dd>" in html


@pytest.mark.parametrize("y", [[1, 1, 1, 1], ["a", "b", "a", "b"], [None, -1, None, None]])
def test_without_both_kinds_of_labels_there_is_a_sentence_instead_of_a_roc(pipeline, clips, y):
    html = make_report(pipeline, clips, y=y)
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
        (
            {"normal_clips": [hum(0), hum(1)], "normal_embeddings": np.zeros((3, 4))},
            "normal_embeddings must have one row per clip of normal_clips. Got 3 for 2.",
        ),
    ],
)
def test_wrong_input_is_named(pipeline, clips, settings, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make_report(pipeline, clips, **settings)


def test_nearest_normal_clip_is_nearest_among_standardized_embeddings(
    pipeline, clips, normal_clips
):
    page = Page(make_report(pipeline, clips, normal_clips=normal_clips))
    normal = pipeline[:-1].transform(normal_clips)
    scaler = StandardScaler().fit(normal)
    search = NearestNeighbors(n_neighbors=1).fit(scaler.transform(normal))
    expected = search.kneighbors(scaler.transform(pipeline[:-1].transform(clips)))[1].ravel()
    found = {row["data-media"]: row["data-normal"] for row in page.rows}
    assert found == {f"clip-{i}": f"normal-{n}" for i, n in enumerate(expected)}
    assert page.rows[0]["data-normal-name"] == "clip " + page.rows[0]["data-normal"][7:]
    embedded = [name for name in page.contents if name.startswith("normal-")]
    assert sorted(embedded) == sorted({f"normal-{n}" for n in expected})  # each once


def test_a_clip_of_the_fit_is_compared_with_another_one(pipeline, normal_clips):
    embeddings = pipeline[:-1].transform(normal_clips)
    html = make_report(
        pipeline, normal_clips[:3], normal_clips=normal_clips, normal_embeddings=embeddings
    )
    for row in Page(html).rows:
        assert row["data-media"][5:] != row["data-normal"][7:]


def test_clip_that_cannot_be_read_is_listed_last_with_the_reason(pipeline, clips, tmp_path):
    (tmp_path / "broken.wav").write_text("no sound at all")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = make_report(pipeline, [tmp_path / "broken.wav", *clips, tmp_path / "missing.wav"])
    rows = Page(html).rows
    assert [row["data-verdict"] for row in rows[-2:]] == ["unreadable", "unreadable"]
    assert cells(html, "file")[-2:] == [
        "broken.wav libsndfile cannot read it (Format not recognised)",
        "missing.wav there is no such file",
    ]
    assert cells(html, "score")[-1] == "–"  # noqa: RUF001
    assert rows[-1]["data-media"] == ""
    assert pipeline[0].on_error == "raise"  # the caller's model is as it was


def test_a_page_of_nothing_but_unreadable_clips(pipeline):
    html = make_report(pipeline, ["/nowhere/a.wav"], normal_clips=[hum(0), hum(1)], y=[1])
    assert cells(html, "verdict") == ["unreadable"]


def test_normal_clip_whose_file_is_gone_leaves_its_name(pipeline, clips, normal_clips):
    embeddings = pipeline[:-1].transform(normal_clips[:2])
    gone = ["/nowhere/monday/a.wav", "/nowhere/b.wav"]
    html = make_report(pipeline, clips, normal_clips=gone, normal_embeddings=embeddings)
    page = Page(html)
    assert page.media(page.rows[0]["data-normal"]) == {}
    assert {row["data-normal-name"] for row in page.rows} <= {"monday/a.wav", "b.wav"}


def decode(media):
    return soundfile.read(io.BytesIO(base64.b64decode(media["sound"])))


def test_sounds_are_what_the_patcher_hears_and_keep_their_loudness(pipeline):
    stereo = np.stack([hum(0, whine=0.05, seconds=3), hum(1, seconds=3)], axis=1)
    # Channel 0, cut after a second; half as loud; repeated until it is a second long.
    clips = [(stereo, RATE), stereo[:, 0] / 2, hum(2, seconds=0.4)]
    page = Page(make_report(pipeline, clips))
    sounds = [decode(page.media(f"clip-{i}")) for i in range(3)]
    assert [rate for _, rate in sounds] == [RATE] * 3
    for clip, (sound, _) in zip(clips, sounds, strict=True):
        heard = load_clip(clip, channel=0, duration=1.0)
        assert len(sound) == len(heard)
        assert np.corrcoef(sound, heard)[0, 1] > 0.98
    levels = [np.std(sound) for sound, _ in sounds]
    assert levels[0] / levels[1] == pytest.approx(2, rel=0.02)
    assert np.abs(sounds[0][0]).max() == pytest.approx(0.9, rel=0.1)


def test_sounds_of_a_rate_that_mp3_lacks_are_resampled():
    clips = [hum(seed) for seed in range(12)]
    pipe = make_pipeline(MelPatcher(10000, duration=1.0), MelStatistics(), MahalanobisDetector())
    page = Page(make_report(pipe.fit(clips), clips[:1]))
    sound, rate = decode(page.media("clip-0"))
    assert (rate, len(sound)) == (16000, 16000)
    tone = np.abs(np.fft.rfft(sound)).argmax()
    assert tone == pytest.approx(100 * 10 / 16, abs=1)  # a bare array is at the patcher's rate


def test_silence_makes_a_page(pipeline):
    page = Page(make_report(pipeline, [np.zeros(RATE)]))
    assert_array_equal(decode(page.media("clip-0"))[0], 0)


def test_only_the_most_anomalous_clips_have_players(pipeline, clips):
    page = Page(make_report(pipeline, clips, max_players=2))
    assert [bool(row["data-media"]) for row in page.rows] == [True, True, False, False]
    assert len([name for name in page.contents if name.startswith("clip-")]) == 2


def test_map_marks_where_the_fault_sounds(pipeline, map_pipeline, normal_clips):
    html = make_report(pipeline, [hum(200, whine=0.1, start=0.6)], map_pipeline=map_pipeline)
    media = Page(html).media("clip-0")
    assert np.shape(media["map"]) == (6, 8)  # 98 frames
    worst = media["moments"][0]
    assert worst["value"] > 1
    assert 0.48 <= worst["time"] <= 0.96  # a patch is 0.16 s
    low, high = re.fullmatch(r"([\d.]+) to ([\d.]+) kHz", worst["band"]).groups()
    assert float(low) <= 3.0 <= float(high)


def test_without_a_detector_that_has_maps_there_are_none(pipeline, clips):
    assert set(Page(make_report(pipeline, clips)).media("clip-0")) == {"picture", "sound"}


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


def test_moments_are_the_worst_three_where_none_is_above_the_threshold():
    odd = np.zeros((100, 1))
    odd[[0, 30, 50, 70], 0] = [0.4, 0.9, 0.2, 0.3]
    moments = worst_moments(odd, AXES)
    assert [moment["time"] for moment in moments] == [3.0, 0.0, 7.0]


def test_moments_are_half_a_second_apart_and_at_most_five():
    odd = np.full((100, 1), 1.0)
    odd[::2, 0] = 2 + np.arange(50) / 50  # peaks every 0.2 s, rising
    moments = worst_moments(odd, AXES)
    assert [moment["time"] for moment in moments] == [9.8, 9.2, 8.6, 8.0, 7.4]


@pytest.mark.parametrize("n_time", [1, 7])
def test_a_map_of_one_value_has_one_moment(n_time):
    assert len(worst_moments(np.full((n_time, 4), 0.5), AXES)) == 1


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


def test_names_labels_and_title_are_text_and_nothing_else(pipeline, clips, tmp_path):
    soundfile.write(tmp_path / HOSTILE_FILE, clips[1], RATE)
    hostile = make_report(
        pipeline,
        [tmp_path / HOSTILE_FILE, clips[0]],
        y=[HOSTILE_LABEL, "normal"],
        groups=[HOSTILE_LABEL, '" onclick="alert(3)'],
        normal_clips=[tmp_path / HOSTILE_FILE] * 3,
        title=HOSTILE_LABEL,
    )
    tame = make_report(
        pipeline, clips[:2], y=["whine", "normal"], groups=["a", "b"], normal_clips=clips[:3]
    )
    hostile, tame = Page(hostile), Page(tame)
    assert hostile.contents["h1"] == HOSTILE_LABEL
    count = ("img", "button", "style", "option", "svg", "td")
    assert [hostile.tags.count(tag) for tag in count] == [tame.tags.count(tag) for tag in count]
    assert hostile.rows[0]["data-group"] == HOSTILE_LABEL
    assert not any(name.startswith("on") for names in hostile.attributes for name in names)


def test_page_refers_to_nothing_outside_and_runs_only_its_own_script(pipeline, clips):
    html = make_report(pipeline, clips, normal_clips=clips)
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


def test_clips_may_be_a_table_of_samples(pipeline, clips):
    listed, table = make_report(pipeline, clips), make_report(pipeline, np.array(clips))
    assert [row["score"] for row in Page(table).rows] == [row["score"] for row in Page(listed).rows]


def test_file_names_leave_out_the_folder_that_all_share(pipeline, clips, tmp_path):
    paths = [tmp_path / "hall 2" / "monday" / "a.wav", tmp_path / "hall 2" / "b.wav"]
    paths[0].parent.mkdir(parents=True)
    for path, clip in zip(paths, clips, strict=False):
        soundfile.write(path, clip, RATE)
    html = make_report(pipeline, paths)
    assert set(cells(html, "file")) == {"monday/a.wav", "b.wav"}
    assert str(tmp_path) not in html
