"""The demo: its numbers, its tables and its pictures."""

import os
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import aged, run
from matplotlib.image import imread
from sklearn.metrics import roc_auc_score

from skanopatch.cli import park
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
        aged(path)

    for i in range(12):
        write(f"normal/monday/{i:02}.wav" if i < 6 else f"normal/{i:02}.flac")
    for name, whine in [("a.wav", 0.0), ("b.wav", 0.1), ("c.wav", 0.0), ("d.wav", 0.3)]:
        write(f"new/{name}", whine)
    (folder / "new" / "broken.wav").write_text("no sound at all")
    return folder


@pytest.fixture(scope="module")
def small_park(tmp_path_factory):
    picture = tmp_path_factory.mktemp("park") / "scores.png"
    sizes = {"machines": ["fan", "valve"], "n_train": 10, "n_test": 4, "duration": 1.0}
    return picture, park.run_park(picture, **sizes)


def test_park_is_summarised_by_machine_and_drawn(small_park):
    picture, summaries = small_park
    assert list(summaries) == ["skanopatch", "mel statistics"]
    for summary in summaries.values():
        assert list(summary.index) == ["fan", "valve", "mean"]
        assert summary.stack().between(0, 1).all()
    height, width, _ = imread(picture).shape
    assert width > 3 * height  # a column a model


@pytest.mark.parametrize("model", ["skanopatch", "mel statistics"])
def test_models_beat_chance_on_a_fault_of_severity_two(small_park, model):
    _, summaries = small_park
    assert summaries[model].loc["mean", "AUC"] > 0.6


def test_summary_averages_the_units_of_a_machine():
    y = np.tile([1, 1, -1, -1], 2)
    score = np.array([1.1, 0.6, 1.3, 1.2, 0.5, 0.4, 0.3, 0.9])
    units = np.repeat(["fan 0", "fan 1"], 4)
    table = pd.DataFrame({"machine": "fan", "unit": units, "y": y, "score": score})
    summary = park.summarise(table)
    expected = [roc_auc_score(y[part] == -1, score[part]) for part in (slice(4), slice(4, 8))]
    assert summary.loc["fan", "AUC"] == pytest.approx(np.mean(expected))
    assert summary.loc["fan", "false alarms"] == 0.25  # one of four normal clips is above 1


def test_the_table_of_the_park_has_a_row_a_machine_and_columns_a_model(capsys, tmp_path):
    sizes = {"machines": ["fan"], "n_train": 6, "n_test": 4, "duration": 1.0}
    summaries = park.run_park(tmp_path / "scores.png", **sizes)
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.startswith("fan "))
    expected = pd.concat(list(summaries.values()), axis=1).loc["fan"]
    assert row.split()[1:] == [f"{value:.3f}" for value in expected]
    assert "asked" in "".join(lines)


def test_scores_of_a_park_are_relative_to_the_threshold_of_each_unit():
    sounds = make_machine_sounds(
        ["fan"], n_train=8, n_normal=4, n_anomalous=4, duration=1.0, random_state=0
    )
    model = park.make_model(1.0)
    table = park.score_park(model, sounds)
    assert set(table.unit) == set(model.groups_) == {"fan 0", "fan 1"}
    is_test = sounds.split == "test"
    of_unit = model.score_samples(sounds.clips[is_test], groups=list(table.unit))
    np.testing.assert_allclose(table.score, of_unit / model.offset_)
    np.testing.assert_array_equal(table.y, sounds.y[is_test])


def test_the_park_is_fitted_and_scored_by_unit():
    class Recorder:
        offset_ = -2.0

        def fit(self, clips, *, groups):
            self.fitted = list(groups)

        def score_samples(self, clips, *, groups):
            self.scored = list(groups)
            return np.full(len(clips), -3.0)

    sounds = make_machine_sounds(
        ["fan"], n_train=3, n_normal=2, n_anomalous=1, n_units=2, duration=1.0, random_state=0
    )
    recorder = Recorder()
    table = park.score_park(recorder, sounds)
    assert recorder.fitted == ["fan 0"] * 3 + ["fan 1"] * 3
    assert recorder.scored == table.unit.tolist() == ["fan 0"] * 3 + ["fan 1"] * 3
    assert table.score.tolist() == [1.5] * 6


def test_own_recordings_are_ranked_with_the_most_anomalous_first(recordings, tmp_path):
    folders = ["--clips", recordings / "normal", "--test", recordings / "new"]
    result = run("demo", *folders, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if ".wav" in line]
    assert [os.path.basename(row[2]) for row in rows[:-1]] == ["d.wav", "b.wav", "a.wav", "c.wav"]
    assert [row[1] for row in rows][:2] == ["yes", "yes"]
    assert rows[-1] == ["unreadable", f"{recordings}/new/broken.wav"]
    assert "Fitting on 12 clips of 1 s ..." in result.stdout
    closing = r"\d of 4 clips are anomalies \(score above 1\)\. 1 could not be read\."
    assert re.search(closing, result.stdout)
    assert imread(tmp_path / "demo_scores.png").ndim == 3


def test_the_demo_scores_as_fit_and_score_do(recordings, tmp_path):
    folders = ["--clips", recordings / "normal", "--test", recordings / "new"]
    of_demo = run("demo", *folders, "-o", tmp_path).stdout
    run("fit", recordings / "normal", "-o", tmp_path / "m.skano", "--no-maps")
    of_score = run("score", tmp_path / "m.skano", recordings / "new").stdout
    assert of_score in of_demo


def test_names_that_look_like_formulas_are_drawn(recordings, tmp_path):
    (tmp_path / "new").mkdir()
    for name in ("$x^$.wav", "a$b_{.wav"):
        shutil.copy(recordings / "new" / "a.wav", tmp_path / "new" / name)
    folders = ["--clips", recordings / "normal", "--test", tmp_path / "new"]
    assert run("demo", *folders, "-o", tmp_path).exit_code == 0
    assert (tmp_path / "demo_scores.png").exists()


def test_normal_recordings_that_cannot_be_used_are_named_and_left_out(recordings, tmp_path):
    normal = shutil.copytree(recordings / "normal", tmp_path / "normal")
    (normal / "broken.wav").write_text("no sound at all")
    result = run("demo", "--clips", normal, "--test", recordings / "new", "-o", tmp_path)
    assert result.exit_code == 0
    assert f"'{normal}/broken.wav' cannot be used: libsndfile cannot" in result.stderr
    assert "Fitting on 12 clips" in result.stdout


def test_unreadable_recordings_alone_are_listed_without_a_picture(recordings, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.wav").write_text("no sound at all")
    folders = ["--clips", recordings / "normal", "--test", tmp_path / "new"]
    result = run("demo", *folders, "-o", tmp_path)
    assert result.exit_code == 0
    assert f"unreadable  {tmp_path}/new/a.wav" in result.stdout
    assert not (tmp_path / "demo_scores.png").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_demo_runs_the_command_with_its_folders():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    line = ["make", "--dry-run", "--always-make", "demo", "CLIPS=a b", "TEST=new"]
    # Under `make test`, the outer make's flags would reach this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    commands = subprocess.run(
        line, cwd=root, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert 'python -m skanopatch demo --clips "a b" --test "new"' in commands.splitlines()[-1]


def test_a_demo_with_one_recording_asks_for_two(recordings, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(recordings / "new" / "a.wav", tmp_path / "one")
    folders = ["--clips", tmp_path / "one", "--test", recordings / "new"]
    result = run("demo", *folders, "-o", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == "Error: At least 2 normal clips are needed. Got 1.\n"
