"""The command line on clips of any length, channel and rate: windows, thresholds, training."""

import io
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import FAST, aged, fit_model, make_workspace, run, scores_of, write
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    KNNDetector,
    MelPatcher,
    MelStatistics,
    load_model,
    save_model,
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(autouse=True)
def stand_in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def model(workspace):
    return fit_model(workspace)


# --- Lengths, channels and rates -------------------------------------------------------------


def test_clips_of_a_tenth_of_a_second_are_fitted_as_in_python(tmp_path):
    files = [str(write(tmp_path / f"{i:02}.wav", 4800, 48000, seed=i)) for i in range(12)]
    output = tmp_path / "m.skano"
    result = run("fit", tmp_path, "-o", output, *FAST)
    assert result.exit_code == 0, result.stderr
    assert "Fitting on 12 clips of 0.1 s ..." in result.stderr
    patcher = MelPatcher(duration=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # only half of what 48 kHz hold is used
        fitted = AnomalousSoundDetector(patcher, map_detector="drop", random_state=0).fit(files)
    loaded = load_model(output)
    assert loaded.patcher_.duration_ == fitted.patcher_.duration_ == 0.175
    assert_array_equal(loaded.training_scores_, fitted.training_scores_)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "options", "part", "starts"),
    [
        ([1, 1, 1], [], "1 s", [0, 0, 0]),
        ([1, 2, 2], [], "1 to 2 s", [0, 0, 0]),
        ([12, 12, 12], [], "12 s, in windows of 10 s", [0, 2] * 3),
        ([5, 12, 600], [], "5 to 600 s, in windows of 10 s", [0, 0, 2, *range(0, 600, 10)]),
        ([1, 2, 2], ["--window", 1.5], "1 to 2 s, in windows of 1.5 s", [0, 0, 0.5, 0, 0.5]),
        ([1, 2, 2], ["--duration", 2], "1 to 2 s", [0, 0, 0]),
        ([1, 1, 1], ["--window", 0.3], "1 s, in windows of 0.3 s", [0, 0.3, 0.6, 0.7] * 3),
        (
            [1, 2, 2],
            ["--window", 1, "--hop", 0.5],
            "1 to 2 s, in windows of 1 s",
            [0, *[0, 0.5, 1] * 2],
        ),
    ],
)
def test_fit_and_score_take_clips_apart_into_windows(tmp_path, seconds, options, part, starts):
    for i, length in enumerate(seconds):
        # At a low rate, so that ten minutes are a small file.
        write(tmp_path / f"{i}.wav", 200 * length, 200, seed=i)
    output = tmp_path / "m.skano"
    result = run("fit", tmp_path, "-o", output, *FAST, *options)
    assert result.exit_code == 0, result.stderr
    assert f"Fitting on {len(seconds)} clips of {part} ...\n" in result.stderr
    loaded = load_model(output)
    assert len(loaded.clip_names_) == len(starts)
    table = pd.read_csv(io.StringIO(run("score", output, tmp_path, "--csv", "-").stdout))
    windows = pd.read_csv(
        io.StringIO(run("score", output, tmp_path, "--csv", "-", "--each-window").stdout)
    )
    assert len(table) == len(seconds)
    assert windows.start.tolist() == starts
    assert (windows.stop - windows.start).max() == pytest.approx(loaded.patcher_.duration_)
    assert windows.stop.tolist() == [round(stop, 6) for stop in windows.stop]
    files = [str(tmp_path / f"{i}.wav") for i in range(len(seconds))]
    of_model = loaded.score_windows(files)
    assert_allclose(windows.score, of_model["score"] / loaded.offset_, rtol=1e-6)
    for row in table.itertuples():
        own = windows[windows.file == row.file]
        assert row.start == own.start[own.score.idxmax()]


def test_a_single_long_recording_is_fitted_on_and_its_worst_window_is_named(tmp_path):
    samples = np.random.default_rng(0).normal(scale=0.02, size=60 * 8000)
    soundfile.write(tmp_path / "hour.wav", samples, 8000)
    samples[31 * 8000 : 32 * 8000] += 0.2 * np.sin(np.arange(8000) * 2 * np.pi * 0.3)
    soundfile.write(tmp_path / "new.wav", samples, 8000)
    for name in ("hour", "new"):
        aged(tmp_path / f"{name}.wav")
    output = tmp_path / "m.skano"
    result = run("fit", tmp_path / "hour.wav", "-o", output, *FAST, "--window", 2)
    assert result.exit_code == 0, result.stderr
    assert "Learnt from 30 windows of 1 clips." in result.stderr
    facts = json.loads(run("info", output, "--json").stdout)
    assert (facts["normal clips"], facts["windows"]) == (1, 30)
    assert facts["clips"] == [str(tmp_path / "hour.wav")]
    result = run("score", output, tmp_path / "new.wav")
    assert re.search(r"yes +\S*new\.wav, 30\.0 to 32\.0 s", result.stdout)
    assert result.stderr == ""  # all of the clip is used
    assert result.stdout.endswith("1 of 1 clips are anomalies (score above 1).\n")
    result = run("score", output, tmp_path / "new.wav", "--each-window")
    assert result.stdout.endswith("of 30 windows are anomalies (score above 1).\n")
    assert "new.wav, 30.0 to 32.0 s" in result.stdout.splitlines()[1]


def test_a_file_that_cannot_be_cut_into_windows_is_listed_as_unreadable(model):
    clips = ["broken/text.wav", "recordings/new/a.wav"]
    result = run("score", model, *clips, "--each-window", "--json", "-")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["start"] for row in rows] == [None, 0.0]
    assert "libsndfile cannot read it" in rows[0]["error"]
    assert result.exit_code == 1


def test_a_model_without_windows_says_what_part_of_clips_it_uses(tmp_path):
    normal = sorted(map(str, Path("recordings/normal").rglob("*.wav")))
    pipe = make_pipeline(MelPatcher(duration=1.0), MelStatistics(), KNNDetector()).fit(normal)
    save_model(tmp_path / "pipe.skano", pipe)
    for i, length in enumerate([1, 3, 3600]):
        write(tmp_path / f"new/{i}.wav", 200 * length, 200, seed=i)
    clips = [tmp_path / "new", "recordings/new", "broken/text.wav"]
    result = run("score", tmp_path / "pipe.skano", *clips)
    assert "Of 2 of 8 clips the first 1 of 3 to 3600 s are used.\n" in result.stderr
    assert "are used" not in run("score", tmp_path / "pipe.skano", "recordings/new").stderr
    result = run("score", tmp_path / "pipe.skano", tmp_path / "new/1.wav", "--each-window")
    assert "are used" not in result.stderr
    assert sorted(line.split(", ")[1] for line in result.stdout.splitlines()[1:4]) == [
        "0.0 to 1.0 s",
        "1.0 to 2.0 s",
        "2.0 to 3.0 s",
    ]


def with_squeal(path, seed, rate=48000, squeal=0.0, frequency=12000):
    rng = np.random.default_rng(seed)
    seconds = np.arange(rate) / rate
    channels = rng.normal(scale=0.02, size=(rate, 2))
    channels[:, 1] += squeal * np.sin(2 * np.pi * frequency * seconds)
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, channels, rate)
    aged(path)


@pytest.mark.parametrize(
    ("options", "is_heard"),
    [
        ([], False),
        (["--sample-rate", 48000], False),  # the squeal is in the other channel
        (["--channel", 1], False),  # above half of 16 kHz
        (["--channel", 1, "--sample-rate", 48000], True),
        (["--channel", "mean", "--sample-rate", 48000], True),
    ],
)
def test_channel_and_sample_rate_reach_the_model(tmp_path, options, is_heard):
    for i in range(12):
        with_squeal(tmp_path / f"normal/{i}.wav", i)
    with_squeal(tmp_path / "new.wav", 12, squeal=0.1)
    output = tmp_path / "m.skano"
    result = run("fit", tmp_path / "normal", "-o", output, *FAST, *options)
    assert result.exit_code == 0, result.stderr
    (score,) = scores_of(run("score", output, tmp_path / "new.wav", "--json", "-")).values()
    assert (score > 2) == is_heard
    facts = json.loads(run("info", output, "--json").stdout)
    settings = dict(zip(options[::2], options[1::2], strict=True))
    assert facts["sample rate"] == settings.get("--sample-rate", 16000)
    assert facts["channel"] == settings.get("--channel", 0)


# --- Thresholds and training -----------------------------------------------------------------


def test_a_threshold_moves_decisions_and_leaves_scores(model):
    command = ["score", model, "recordings/new"]
    table = pd.read_csv(io.StringIO(run(*command, "--csv", "-").stdout))
    between = float(np.sort(table.score)[-2:].mean())
    moved = run(*command, "--csv", "-", "--threshold", between, "--fail-on-anomaly")
    assert moved.exit_code == 3
    moved = pd.read_csv(io.StringIO(moved.stdout))
    assert_allclose(moved.score, table.score)
    assert moved.anomaly.tolist() == ["no", "no", "no", "yes"]
    last = run(*command, "--threshold", between).stdout.splitlines()[-1]
    assert last == f"1 of 4 clips are anomalies (score above {between:g})."
    none = run(*command, "--threshold", 1.01 * table.score.max(), "--fail-on-anomaly")
    assert none.exit_code == 0
    at_the_top = run(*command, "--threshold", repr(float(table.score.max())), "--fail-on-anomaly")
    assert at_the_top.exit_code == 0  # a tie is normal


def test_an_unreadable_clip_stays_so_with_a_threshold(model):
    result = run("score", model, "broken/text.wav", "--threshold", 0.1, "--json", "-")
    assert json.loads(result.stdout)["anomaly"] is None
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("n_clips", "options", "is_said"),
    [
        (64, ["--labels-from-folder"], True),
        (62, ["--labels-from-folder"], False),
        (64, [], False),
        (64, ["--labels-from-folder", "--embedder", "mel-statistics"], False),
    ],
)
def test_fit_says_before_it_that_a_network_may_be_trained(
    tmp_path, monkeypatch, n_clips, options, is_said
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(AnomalousSoundDetector, "fit", interrupt)
    for i in range(n_clips):
        write(tmp_path / f"{'fan' if i % 2 else 'pump'}/{i}.wav", 1600, seed=i)
    result = run("fit", tmp_path, "-o", tmp_path / "m.skano", *FAST, *options)
    assert result.exit_code == 130
    said = "If the labels sound different, a network is trained, which takes minutes ...\n"
    assert (said in result.stderr) == is_said


def test_a_single_session_is_a_warning(tmp_path):
    options = ["-o", tmp_path / "m.skano", *FAST, "--sessions", "folder"]
    result = run("fit", "recordings/normal/monday", *options)
    assert result.exit_code == 0
    assert "Warning: sessions are all the same for 6 clips" in result.stderr


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(tmp_path, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    result = run("fit", "recordings/normal", "-o", tmp_path / "m.skano")
    assert result.exit_code == 2
    assert f"There is no folder '{tmp_path}' that can be written to." in result.stderr
    assert "Fitting" not in result.stderr


def test_the_help_of_fit_shows_each_default_once():
    text = " ".join(run("fit", "--help").output.split())
    assert re.search(r"--duration FLOAT RANGE .*\[default: \(the longest clip, at most 10\)", text)
    assert len(re.findall(r"\[default: \(16000\)", text)) == 1
    assert "called anomalies. [default: 0.1; 0<x<=0.5]" in text
