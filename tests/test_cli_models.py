"""The command line with models: fit and score."""

import io
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import DAYS, FAST, fit_model, make_workspace, run, scores_of
from numpy.testing import assert_array_equal
from sklearn.pipeline import make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    KNNDetector,
    MelPatcher,
    MelStatistics,
    load_model,
    save_model,
)
from skanopatch.cli.fitting import _describe_fit, _one_warning_of_each_kind

pytestmark = pytest.mark.filterwarnings("ignore:1 of 4 clips were recorded in another way")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(autouse=True)
def stand_in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def model(workspace):
    return fit_model(workspace)


def test_scores_are_those_of_the_model_relative_to_the_threshold(model):
    files = sorted(map(str, Path("recordings/new").glob("*.wav")))
    loaded = load_model(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # d.wav is louder than the normal clips
        expected = loaded.score_samples(files) / loaded.offset_  # both are minus a distance
        is_anomaly = loaded.predict(files) == -1
        notes = loaded.notes(files)
    result = run("score", model, "recordings/new", "--csv", "-")
    assert result.exit_code == 0
    table = pd.read_csv(io.StringIO(result.stdout))
    assert table.columns.tolist() == ["file", "score", "anomaly", "start", "stop", "note"]
    assert table.file.tolist() == files
    np.testing.assert_allclose(table.score, expected, rtol=1e-12)
    assert table.anomaly.tolist() == np.where(is_anomaly, "yes", "no").tolist()
    assert table.anomaly[[1, 3]].tolist() == ["yes", "yes"]
    lines = run("score", model, "recordings/new", "--json", "-").stdout.splitlines()
    for line, row in zip(lines, table.itertuples(), strict=True):
        score = pytest.approx(row.score, rel=1e-12)
        assert json.loads(line) == {
            "file": row.file,
            "score": score,
            "anomaly": row.anomaly == "yes",
            "start": 0.0,
            "stop": 1.0,
            "note": notes[row.Index],
        }
    assert "louder than any normal clip" in notes[3]


@pytest.mark.parametrize(
    ("options", "metadata"),
    [
        ([], {}),
        (["--labels-from-folder"], {"labels": DAYS, "groups": DAYS}),
        (["--sessions", "folder"], {"sessions": DAYS}),
    ],
    ids=["plain", "labels", "sessions"],
)
def test_command_line_and_python_agree_to_the_bit(tmp_path, options, metadata):
    normal = sorted(map(str, Path("recordings/normal").rglob("*.wav")))
    new = sorted(map(str, Path("recordings/new").glob("*.wav")))
    detector = AnomalousSoundDetector(MelPatcher(duration=1.0), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two sessions are few
        fitted = detector.fit(normal, **metadata)
    output = tmp_path / "m.skano"
    assert run("fit", "recordings/normal", "-o", output, *options).exit_code == 0
    loaded = load_model(output)
    assert loaded.offset_ == fitted.offset_
    assert_array_equal(loaded.training_scores_, fitted.training_scores_)
    assert_array_equal(loaded.score_samples(new), fitted.score_samples(new))
    assert_array_equal(loaded.anomaly_map(new[:1]), fitted.anomaly_map(new[:1]))
    scores = scores_of(run("score", output, *new, "--json", "-"))
    assert_array_equal(list(scores.values()), fitted.score_samples(new) / fitted.offset_)
    group = metadata.get("groups", [None])[-1]
    if group is not None:
        result = run("score", output, *new, "--json", "-", "--group", group)
        expected = fitted.score_samples(new, groups=[group] * 4) / fitted.offset_
        assert_array_equal(list(scores_of(result).values()), expected)


@pytest.mark.parametrize("detector", ["mahalanobis", "knn", "gmm"])
def test_a_clip_scores_the_same_alone_and_among_others(tmp_path, detector):
    output = tmp_path / "m.skano"
    run("fit", "recordings/normal", "-o", output, *FAST, "--detector", detector)
    among = scores_of(run("score", output, "recordings", "--json", "-"))
    for file in ("recordings/new/a.wav", "recordings/normal/monday/03.wav"):
        (alone,) = scores_of(run("score", output, file, "--json", "-")).values()
        assert alone == pytest.approx(among[file], rel=1e-5)  # float32 features


def test_the_false_alarm_rate_moves_the_threshold_as_a_new_fit_does(model, tmp_path):
    output = tmp_path / "m.skano"
    run("fit", "recordings/normal", "-o", output, *FAST, "--false-alarm-rate", 0.3)
    refitted = scores_of(run("score", output, "recordings/new", "--json", "-"))
    command = ["score", model, "recordings/new", "--json", "-"]
    moved = scores_of(run(*command, "--false-alarm-rate", 0.3))
    assert moved == refitted
    strict = scores_of(run(*command, "--false-alarm-rate", 0.01))
    before = scores_of(run(*command))
    assert all(moved[file] > before[file] > strict[file] for file in before)


def test_p_values_are_a_column_and_a_key(model):
    files = sorted(map(str, Path("recordings/new").glob("*.wav")))
    expected = load_model(model).p_values(files)
    command = ["score", model, "recordings/new", "--p-values"]
    table = pd.read_csv(io.StringIO(run(*command, "--csv", "-").stdout))
    assert table.columns.tolist()[:4] == ["file", "score", "anomaly", "p_value"]
    np.testing.assert_allclose(table.p_value, expected)
    assert table.p_value[3] == pytest.approx(1 / 13)  # no normal clip is as odd
    rows = map(json.loads, run(*command, "--json", "-").stdout.splitlines())
    assert [row["p_value"] for row in rows] == expected.tolist()
    lines = run(*command).stdout.splitlines()
    assert lines[0].split() == ["score", "p_value", "anomaly", "file"]
    assert lines[1].split()[1:4] == ["0.0769", "yes", "recordings/new/d.wav"]
    assert lines[3].split()[1:] == ["0.3077", "no", "recordings/new/a.wav"]
    line = run("score", model, "broken/text.wav", "--p-values", "--json", "-").stdout
    assert json.loads(line)["p_value"] is None


def test_a_model_of_any_estimator_scores(tmp_path):
    normal = sorted(map(str, Path("recordings/normal").rglob("*.wav")))
    new = sorted(map(str, Path("recordings/new").glob("*.wav")))
    pipe = make_pipeline(MelPatcher(duration=1.0), MelStatistics(), KNNDetector()).fit(normal)
    save_model(tmp_path / "pipe.skano", pipe)
    scores = scores_of(run("score", tmp_path / "pipe.skano", *new, "--json", "-"))
    assert_array_equal(list(scores.values()), pipe.score_samples(new) / pipe[-1].offset_)
    result = run("report", tmp_path / "pipe.skano", *new, "-o", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "Error: model must be an AnomalousSoundDetector. Got Pipeline" in result.stderr
    save_model(tmp_path / "detector.skano", KNNDetector().fit(np.eye(4)))
    result = run("score", tmp_path / "detector.skano", *new)
    assert result.exit_code == 1
    assert "Error: The model must be an AnomalousSoundDetector of clips" in result.stderr


def test_the_table_begins_with_the_most_anomalous_clip(model):
    lines = run("score", model, "recordings/new").stdout.splitlines()
    rows = [line.split() for line in lines[1:5]]
    assert [row[2] for row in rows[:2]] == ["recordings/new/d.wav", "recordings/new/b.wav"]
    assert [float(row[0]) for row in rows] == sorted((float(row[0]) for row in rows), reverse=True)
    assert " ".join(rows[0][3:]).startswith("(19 dB louder than any normal clip")
    assert re.fullmatch(r"[234] of 4 clips are anomalies \(score above 1\)\.", lines[-1])


def test_a_model_keeps_the_names_and_statistics_of_normal_clips(model, workspace):
    loaded = load_model(model)
    assert len(loaded.clip_names_) == len(loaded.normal_statistics_) == 12
    assert loaded.clip_names_[0] == str(workspace / "recordings/normal/monday/00.wav")
    assert loaded.patcher_.duration_ == 1.0


def test_clips_are_files_folders_patterns_and_lists(model, workspace):
    everything = scores_of(run("score", model, "recordings", "--json", "-"))
    assert len(everything) == 18
    pattern = scores_of(run("score", model, "recordings/normal/*/0[01].wav", "--json", "-"))
    assert list(pattern) == [f"recordings/normal/monday/0{i}.wav" for i in (0, 1)]
    listed = "recordings/new/d.wav\r\n\nrecordings/normal/tuesday\nrecordings/new/d.wav\n"
    names = list(scores_of(run("score", model, "-", "--json", "-", stdin=listed)))
    assert names[0] == "recordings/new/d.wav"
    assert len(names) == 7
    assert run("score", model, "recordings/new/a.wav", "recordings/new").stdout.count("a.wav") == 1
    (workspace / "[1].wav").write_bytes((workspace / "recordings/new/a.wav").read_bytes())
    assert list(scores_of(run("score", model, "[1].wav", "--json", "-"))) == ["[1].wav"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["recordings/new"], 0),
        (["recordings/new", "--fail-on-anomaly"], 3),
        (["recordings/normal/monday/03.wav", "--fail-on-anomaly"], 0),
        (["broken/text.wav"], 1),
        (["broken/text.wav", "recordings/new/d.wav", "--fail-on-anomaly"], 3),
        (["broken/text.wav", "recordings/normal/monday/03.wav", "--fail-on-anomaly"], 1),
        (["recordings/new", "--json"], 2),
    ],
)
def test_exit_codes(model, arguments, code):
    assert run("score", model, *arguments).exit_code == code


def test_unreadable_clips_have_no_score_and_their_reason_on_stderr(model):
    clips = "recordings/new/a.wav\nbroken/text.wav\nbroken/empty.wav\ngone.wav\n"
    result = run("score", model, "-", "--csv", "-", stdin=clips)
    assert result.stdout.splitlines()[2:] == [f"{name},,,,," for name in clips.split()[1:]]
    assert result.stderr.splitlines() == [
        "'broken/text.wav' cannot be used: libsndfile cannot read it (Format not recognised).",
        "'broken/empty.wav' cannot be used: it has no samples.",
        "'gone.wav' cannot be used: there is no such file.",
    ]
    line = run("score", model, "broken/text.wav", "--json", "-").stdout
    assert json.loads(line) == {
        "file": "broken/text.wav",
        "score": None,
        "anomaly": None,
        "start": None,
        "stop": None,
        "note": None,
        "error": "libsndfile cannot read it (Format not recognised)",
    }
    table = run("score", model, "broken/text.wav", "recordings/new/a.wav").stdout.splitlines()
    assert table[2].split() == ["unreadable", "broken/text.wav"]


def test_fit_names_clips_that_cannot_be_used(tmp_path):
    output = tmp_path / "m.skano"
    result = run("fit", "recordings/normal", "broken", "-o", output, *FAST)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "'broken/empty.wav' cannot be used: it has no samples.",
        "'broken/text.wav' cannot be used: libsndfile cannot read it (Format not recognised).",
        "Error: 2 of 14 clips cannot be used; leave them out with --skip-unreadable.",
    ]
    assert not output.exists()
    result = run("fit", "recordings/normal", "broken", "-o", output, *FAST, "--skip-unreadable")
    assert result.exit_code == 0
    assert len(load_model(output).clip_names_) == 12


def test_a_clip_with_nan_is_skipped_where_that_is_asked_for(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    arguments = ["recordings/normal", tmp_path / "nan.wav", "-o", tmp_path / "m.skano", *FAST]
    result = run("fit", *arguments)
    assert result.exit_code == 1
    assert re.search(r"Error: 1 of 13 clips .*nan.wav'\): it contains NaN", result.stderr)
    assert run("fit", *arguments, "--skip-unreadable").exit_code == 0
    loaded = load_model(tmp_path / "m.skano")
    assert loaded.patcher.on_error == loaded.patcher_.on_error == "raise"
    facts = json.loads(run("info", tmp_path / "m.skano", "--json").stdout)
    assert facts["normal clips"] == len(facts["clips"]) == 12


def test_labels_give_each_machine_a_threshold(tmp_path, workspace):
    by_folder, by_table = tmp_path / "folder.skano", tmp_path / "table.skano"
    result = run("fit", "recordings/normal", "-o", by_folder, *FAST, "--labels-from-folder")
    assert "Learnt from 12 clips of 2 machines. No network was trained" in result.stderr
    files = [f"normal/{day}/{i:02}.wav" for i, day in enumerate(DAYS)]
    table = workspace / "recordings/labels.csv"  # whose folder the files are seen from
    pd.DataFrame({"file": files, "label": DAYS}).to_csv(table)
    result = run("fit", "recordings/normal", "-o", by_table, *FAST, "--labels", table)
    assert result.exit_code == 0, result.output
    models = [load_model(path) for path in (by_folder, by_table)]
    for fitted in models:
        assert fitted.groups_ == ["monday", "tuesday"]
    assert_array_equal(models[0].training_scores_, models[1].training_scores_)

    lenient = scores_of(run("score", by_folder, "recordings/new", "--json", "-"))
    strict = {
        day: scores_of(run("score", by_folder, "recordings/new", "--json", "-", "--group", day))
        for day in ("monday", "tuesday")
    }
    for file, score in lenient.items():
        assert score == min(strict["monday"][file], strict["tuesday"][file])
    result = run("score", by_folder, "recordings/new", "--group", "friday")
    assert result.exit_code == 1
    assert "('monday', 'tuesday'). Got 'friday'" in result.stderr


def test_machines_of_one_folder_name_are_told_apart(tmp_path, workspace):
    for machine, day in (("fan", "monday"), ("pump", "tuesday")):
        shutil.copytree(workspace / "recordings/normal" / day, tmp_path / "all" / machine / "id_00")
    output = tmp_path / "m.skano"
    result = run("fit", tmp_path / "all", "-o", output, *FAST, "--labels-from-folder")
    assert result.exit_code == 0, result.output
    assert load_model(output).groups_ == ["fan/id_00", "pump/id_00"]


def test_sessions_are_left_out_as_a_whole(tmp_path, workspace):
    rng = np.random.default_rng(0)
    rows = []
    for shift in range(5):  # in each, the noise is something of its own
        noise = rng.normal(size=16000)
        for part in range(3):
            path = tmp_path / f"shift {shift}" / f"{part}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, 0.1 * (1 + shift) * noise + 1e-3 * rng.normal(size=16000), 16000)
            rows.append({"file": f"shift {shift}/{part}.wav", "session": shift})
    pd.DataFrame(rows).to_csv(tmp_path / "sessions.csv")
    by_folder, by_table = tmp_path / "folder.skano", tmp_path / "table.skano"
    result = run("fit", tmp_path, "-o", by_folder, *FAST, "--sessions", "folder")
    _, warning, learnt, _ = result.stderr.splitlines()
    assert warning.startswith("Warning: Clips of one session are much nearer to each other (")
    assert "rests on 5 sessions, not on 15 clips" in warning
    assert learnt.startswith("Learnt from 15 clips, 5 sessions.")
    table = tmp_path / "sessions.csv"
    assert run("fit", tmp_path, "-o", by_table, *FAST, "--sessions", table).exit_code == 0
    models = [load_model(path) for path in (by_folder, by_table)]
    assert_array_equal(models[0].training_scores_, models[1].training_scores_)
    assert models[0].session_weights_.sum() == pytest.approx(5)


def test_a_warning_of_each_detector_is_shown_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        with _one_warning_of_each_kind():
            for distance in ("1.2", "3.4e-05"):
                warnings.warn(f"Clips are near ({distance}).", UserWarning, stacklevel=1)
            warnings.warn("Another thing.", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == [
        "Clips are near (1.2).",
        "Another thing.",
    ]


def test_what_was_learnt_is_said():
    learnt = AnomalousSoundDetector()
    learnt.training_scores_ = np.zeros(90)
    learnt.clip_names_ = [f"{i}.wav" for i in range(90)]
    learnt.members_ = ["statistics", "network"]
    learnt.separation_ = {"network": 3.14159, "statistics": 2.0}
    metadata = {"labels": ["fan", "pump"] * 45, "sessions": list("abc") * 30}
    assert _describe_fit(learnt, metadata) == (
        "Learnt from 90 clips of 2 machines, 3 sessions. A network was trained and joins the "
        "statistics: clips that were held out of its training are 3.14 deviations nearer to their "
        "own label than to others by the network, 2.00 by the statistics."
    )
    learnt.members_ = ["statistics"]
    assert "and does not join the statistics: " in _describe_fit(learnt, metadata)
    learnt.separation_ = None
    assert "No network was trained (it takes 64 clips" in _describe_fit(learnt, metadata)
    assert "No network was trained (there are no labels)" in _describe_fit(learnt, {})
    learnt.clip_names_ = [f"{i // 3}.wav" for i in range(90)]
    assert _describe_fit(learnt, {}).startswith("Learnt from 90 windows of 30 clips. ")


def test_what_is_too_few_is_said_before_the_work(tmp_path, workspace):
    clips = sorted((workspace / "recordings/normal").rglob("*.wav"))
    result = run("fit", *clips[:2], "-o", tmp_path / "m.skano")
    assert result.exit_code == 1
    assert "At least 3 normal clips are needed for maps (2 with --no-maps). Got 2." in result.stderr
    table = tmp_path / "labels.csv"
    labels = ["monday"] * 11 + ["mnoday"]
    pd.DataFrame({"file": list(map(str, clips)), "label": labels}).to_csv(table)
    result = run("fit", *clips, "-o", tmp_path / "m.skano", "--labels", table)
    assert result.exit_code == 1
    assert "At least 3 normal clips of the machine 'mnoday' are needed for maps" in result.stderr
    assert "Fitting" not in result.stderr
    labels = ["monday"] * 10 + ["tuesday"] * 2
    pd.DataFrame({"file": list(map(str, clips)), "label": labels}).to_csv(table)
    result = run("fit", *clips, "-o", tmp_path / "m.skano", "--labels", table)
    assert "At least 3 normal clips of the machine 'tuesday' are needed for maps" in result.stderr
    both = ["--labels-from-folder", "--sessions", "folder"]
    result = run("fit", "recordings/normal", "-o", tmp_path / "m.skano", *both)
    assert result.exit_code == 1
    assert "At least 2 sessions of the machine 'monday' are needed. Got 1" in result.stderr


def test_options_of_fit_reach_the_model(tmp_path):
    output = tmp_path / "m.skano"
    options = ["--duration", 0.5, "--false-alarm-rate", 0.2, "--detector", "gmm", "--seed", 3]
    options += ["--embedder", "mel-statistics"]
    result = run("fit", "recordings/normal", "-o", output, *FAST, *options)
    assert "Scores are by MelStatistics alone, which was not trained." in result.stderr
    loaded = load_model(output)
    assert loaded.patcher_.duration_ == 0.5
    assert loaded.false_alarm_rate == 0.2
    assert loaded.random_state == 3
    assert repr(loaded.detector_[0]) == "MelStatistics()"
    assert repr(loaded.detector_[1]).startswith("GMMDetector(false_alarm_rate=0.2, random_state=3")
    assert loaded.map_pipeline_ is None
