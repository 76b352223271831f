"""The demo: its numbers, its table and picture, and what it says to wrong input."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.metrics import roc_auc_score

from skanopatch.cli import park as demo
from skanopatch.datasets import make_machine_sounds


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Hum of one machine; two of the test clips have a whine on top, one is no recording."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    seconds = np.arange(16000) / 16000

    def write(name, whine=0.0):
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        hum = 0.1 * np.sin(2 * np.pi * rng.uniform(98, 102) * seconds)
        sound = hum + 0.02 * rng.normal(size=16000) + whine * np.sin(2 * np.pi * 3000 * seconds)
        soundfile.write(path, sound, 16000)

    for i in range(12):
        write(f"normal/monday/{i:02}.wav" if i < 6 else f"normal/{i:02}.flac")
    for name, whine in [("a.wav", 0.0), ("b.wav", 0.1), ("c.wav", 0.0), ("d.wav", 0.3)]:
        write(f"new/{name}", whine)
    (folder / "new" / "broken.wav").write_text("no sound at all")
    return folder


@pytest.fixture(scope="module")
def small_park(tmp_path_factory):
    picture = tmp_path_factory.mktemp("park") / "scores.png"
    summaries = demo.run_park(
        picture, machines=["fan", "valve"], n_train=10, n_test=4, duration=1.0
    )
    return picture, summaries


def test_park_is_summarised_by_machine_and_drawn(small_park):
    picture, summaries = small_park
    assert list(summaries) == ["skanopatch", "mel statistics"]
    for summary in summaries.values():
        assert list(summary.index) == ["fan", "valve", "mean"]
        assert summary[["AUC", "pAUC", "false alarms"]].stack().between(0, 1).all()
        assert (summary["s/clip"] > 0).all()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", ["skanopatch", "mel statistics"])
def test_models_beat_chance_on_a_fault_of_severity_two(small_park, model):
    _, summaries = small_park
    assert summaries[model].loc["mean", "AUC"] > 0.6


def test_summary_averages_the_units_of_a_machine():
    y = np.tile([1, 1, -1, -1], 2)
    score = np.array([1.1, 0.6, 1.3, 1.0, 0.5, 0.4, 0.3, 0.9])
    clips = pd.DataFrame(
        {
            "machine": "fan",
            "unit": np.repeat(["fan 0", "fan 1"], 4),
            "y": y,
            "score": score,
            "prediction": np.where(score > 1, -1, 1),
            "seconds": 0.01,
        }
    )
    summary = demo.summarise(clips)
    expected = [roc_auc_score(y[part] == -1, score[part]) for part in (slice(4), slice(4, 8))]
    assert summary.loc["fan", "AUC"] == pytest.approx(np.mean(expected))
    assert summary.loc["fan", "false alarms"] == 0.25  # one of four normal clips is above 1


def test_table_is_aligned():
    summary = pd.DataFrame(
        {"AUC": [0.5, 1.0], "pAUC": [0.5, 1.0], "false alarms": [0.1, 0.0], "s/clip": [0.01, 0.02]},
        index=["fan", "mean"],
    )
    lines = demo.format_tables({"one": summary, "two": summary}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[3].split("|")[0].split() == ["fan", "0.500", "0.500", "0.10", "0.0100"]


def test_own_recordings_are_ranked_with_the_most_anomalous_first(
    recordings, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code = demo.main(["--clips", str(recordings / "normal"), "--test", str(recordings / "new")])
    out = capsys.readouterr().out
    assert code == 0
    listed = [line.split() for line in out.splitlines() if line.endswith(".wav")]
    assert [row[-1] for row in listed][:2] == ["d.wav", "b.wav"]
    assert [row[2] for row in listed][:2] == ["ANOMALY", "ANOMALY"]
    assert listed[-1] == ["5", "-", "not", "readable", "broken.wav"]
    assert "1 could not be read." in out
    assert (tmp_path / "demo_scores.png").read_bytes().startswith(b"\x89PNG")


def test_unreadable_recordings_alone_are_listed_without_a_picture(
    recordings, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.wav").write_text("no sound at all")
    assert demo.main(["--clips", str(recordings / "normal"), "--test", "new"]) == 0
    assert "   1        -  not readable  a.wav" in capsys.readouterr().out
    assert not (tmp_path / "demo_scores.png").exists()


def test_score_above_one_is_what_predict_calls_an_anomaly(recordings):
    model = demo.fit_recordings(demo.find_recordings(recordings / "normal", "--clips"))
    ranked = demo.rank_recordings(model, sorted((recordings / "new").glob("[a-d].wav")))
    predicted = model.predict(list(ranked.file))
    np.testing.assert_array_equal(np.where(ranked.score > 1, -1, 1), predicted)
    np.testing.assert_array_equal(np.where(ranked.decision == "anomaly", -1, 1), predicted)


def test_scores_of_a_park_are_relative_to_the_threshold_of_each_unit():
    sounds = make_machine_sounds(
        ["fan"], n_train=8, n_normal=4, n_anomalous=4, duration=1.0, random_state=0
    )
    model = demo.fit_park(demo.default_model(1.0), sounds)
    clips = demo.score_park(model, sounds)
    assert set(clips.unit) == set(model.groups_)
    np.testing.assert_array_equal(clips.prediction == -1, clips.score > 1)
    of_unit = model.score_samples(sounds.clips[sounds.split == "test"], groups=list(clips.unit))
    np.testing.assert_allclose(clips.score, of_unit / model.offset_)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--clips", "missing", "--test", "new"], "--clips: there is no folder 'missing'."),
        (["--clips", "normal", "--test", "missing"], "--test: there is no folder 'missing'."),
        (
            ["--clips", "empty", "--test", "new"],
            "--clips: The folder 'empty' holds no recording (.aif, .aiff, .flac, .mp3, .ogg, "
            ".wav).",
        ),
        (
            ["--clips", "new", "--test", "new"],
            "--clips: 'new/broken.wav' cannot be used, since libsndfile cannot read it "
            "(Format not recognised).",
        ),
        (
            ["--clips", "single", "--test", "new"],
            "--clips: at least 2 normal recordings are needed, 'single/a.wav' is one.",
        ),
        (
            ["--clips", "silent", "--test", "new"],
            "--clips: 'silent/b.wav' cannot be used, since it has no samples.",
        ),
        (["--clips", "normal"], "--clips needs --test, a folder of recordings to judge."),
        (
            ["--test", "new"],
            "--test needs --clips, a folder of normal recordings to fit on.",
        ),
    ],
)
def test_wrong_input_gives_one_sentence_and_exit_code_2(
    recordings, capsys, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(recordings)
    (recordings / "empty").mkdir(exist_ok=True)
    (recordings / "single").mkdir(exist_ok=True)
    (recordings / "silent").mkdir(exist_ok=True)
    for copy in ("single/a.wav", "silent/a.wav"):
        (recordings / copy).write_bytes((recordings / "new" / "a.wav").read_bytes())
    soundfile.write(recordings / "silent" / "b.wav", np.zeros(0), 16000)
    assert demo.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
