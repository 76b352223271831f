"""OnnxScorer as an outlier detector of scikit-learn, and the command line with its files."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from command_line import fit_model, make_workspace, run, scores_of
from numpy.testing import assert_allclose, assert_array_equal
from onnx_models import CLIPS, NEW, NORMAL, RATE, assert_equal_to, export, make_clip, patcher
from sklearn.base import clone, is_outlier_detector
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted

from skanopatch import (
    AnomalousSoundDetector,
    BandStatistics,
    MahalanobisDetector,
    OnnxScorer,
    Segment,
    load_model,
)
from skanopatch.detectors.thresholds import place_threshold


@pytest.fixture(scope="module")
def model():
    return AnomalousSoundDetector(patcher(), embedder="drop", hop=0.6).fit(NORMAL)


@pytest.fixture(scope="module")
def scorer(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("onnx") / "m.onnx")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Return clips of many lengths, kinds and rates."""
    folder = tmp_path_factory.mktemp("recordings")
    long = np.concatenate([make_clip(200, seconds=2.3), make_clip(201, hertz=900.0), NORMAL[0]])
    soundfile.write(folder / "long.wav", long, RATE, subtype="FLOAT")
    soundfile.write(folder / "fast.wav", np.repeat(long, 2), 2 * RATE, subtype="FLOAT")
    stereo = np.stack([NEW[0], NEW[2]], axis=1)
    soundfile.write(folder / "stereo.wav", stereo, RATE, subtype="FLOAT")
    return [
        long,
        folder / "long.wav",
        str(folder / "fast.wav"),
        folder / "stereo.wav",
        (long, RATE),
        Segment(folder / "long.wav", 0.5, 3.0),
        (1e4 * NEW[0]).astype(np.int16),
        make_clip(202, seconds=0.3),
        make_clip(203, seconds=15.0),
    ]


# --- Scores ---------------------------------------------------------------------------------


def test_long_recordings_are_taken_apart_as_by_the_model(model, scorer, recordings):
    assert_equal_to(model, scorer, recordings)
    expected, made = model.examine(recordings), scorer.examine(recordings)
    assert made["n_windows"].max() == 25
    for name in ("start", "stop", "length"):
        assert_allclose(made[name], expected[f"{name}s"], rtol=1e-9)
    assert_array_equal(made["n_windows"], expected["n_windows"])
    assert_array_equal(scorer.predict(recordings), model.predict(recordings))
    assert {*scorer.predict(recordings)} == {-1, 1}


@pytest.mark.parametrize("number", [2, 256, 300, 5000])
def test_the_score_allows_for_any_number_of_windows(number, model, scorer, monkeypatch):
    distances, weights = -model.training_scores_, model.session_weights_
    rate = 1 - (1 - model.false_alarm_rate) ** (1 / number)
    ratio = place_threshold(distances, rate, model.threshold, weights) / -model.offset_
    clip = NEW[2]
    worst = scorer.score_samples([clip])[0]
    windows = [clip] * number, [0.0] * number, 1.0
    monkeypatch.setattr(scorer, "_windows", lambda _: windows)
    monkeypatch.setattr(scorer, "_samples", lambda window: window[:RATE])
    outputs = scorer._session.run(None, {"waveform": clip[None]})
    monkeypatch.setattr(scorer, "_session", Repeated(scorer._session, outputs))
    assert_allclose(scorer.score_samples([clip])[0], worst / ratio, rtol=1e-4)
    assert ratio > 1.05


class Repeated:
    """A session that gives the same for every clip of a batch."""

    def __init__(self, session, outputs):
        self.get_outputs = session.get_outputs
        self.outputs = outputs

    def run(self, names, inputs):
        return [np.repeat(values, len(inputs["waveform"]), axis=0) for values in self.outputs]


def test_methods_follow_from_scores(scorer):
    scores = scorer.score_samples(CLIPS)
    assert_array_equal(scorer.decision_function(CLIPS), scores - scorer.offset_)
    assert_array_equal(scorer.predict(CLIPS), np.where(scores >= scorer.offset_, 1, -1))
    assert_array_equal(scorer.anomaly_score(CLIPS), -scores)
    assert_array_equal(scorer.relative_scores(scores), scores / scorer.offset_)
    assert_array_equal(scorer.score_samples(np.stack(NORMAL)), scorer.score_samples(NORMAL))
    assert scores.dtype == np.float64


def test_a_pipeline_uses_the_first_window_of_a_long_clip(tmp_path):
    pipe = make_pipeline(patcher(), BandStatistics(), MahalanobisDetector()).fit(NORMAL)
    scorer = export(pipe, tmp_path / "m.onnx")
    assert scorer.hop_ is None
    long = np.concatenate([NEW[0], NEW[2]])
    with pytest.warns(UserWarning, match="clips are longer than the 1 s"):
        expected = pipe.score_samples([long])
    with pytest.warns(UserWarning, match="1 of 1 clips are longer than the 1 s that are scored"):
        scores = scorer.score_samples([long])
    assert_allclose(scores, expected, rtol=1e-4)


def test_clips_that_cannot_be_used_are_named(scorer, tmp_path):
    broken = np.where(np.arange(RATE) == 9, np.nan, NEW[0]).astype(np.float32)
    clips = [NEW[0], broken, tmp_path / "none.wav", np.empty(0, dtype=np.float32)]
    with pytest.raises(ValueError, match="3 of 4 clips cannot be used") as info:
        scorer.score_samples(clips)
    for reason in ("clip 1: it contains NaN", "none.wav': there is no such", "clip 3: it has no s"):
        assert reason in str(info.value)
    lenient = OnnxScorer(scorer.path, on_error="nan")
    with pytest.warns(UserWarning, match="3 of 4 clips cannot be used and score NaN"):
        scores = lenient.score_samples(clips)
    assert_array_equal(np.isnan(scores), [False, True, True, True])
    with pytest.warns(UserWarning, match="3 of 4"):
        assert_array_equal(lenient.predict(clips)[1:], -1)
    with pytest.warns(UserWarning, match="3 of 4"):
        assert np.isnan(lenient.anomaly_map(clips)[1:]).all()


# --- scikit-learn ---------------------------------------------------------------------------


def test_scikit_learn_takes_it_for_a_fitted_outlier_detector(scorer):
    assert is_outlier_detector(scorer)
    check_is_fitted(scorer)
    assert scorer.fit(NORMAL) is scorer
    expected = scorer.score_samples(NEW)
    for copy in (clone(scorer), pickle.loads(pickle.dumps(scorer)), make_pipeline(scorer)):
        assert_array_equal(copy.score_samples(NEW), expected)
    assert clone(scorer).set_params(on_error="nan").get_params()["on_error"] == "nan"
    with pytest.raises(ValueError, match="no parameter 'colour'"):
        scorer.set_params(colour=1)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        OnnxScorer(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph at all")
    with pytest.raises(ValueError, match=r"text\.onnx' is no file of skanopatch"):
        OnnxScorer(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"'raise' or 'nan'. Got 'skip'"):
        OnnxScorer(tmp_path / "text.onnx", on_error="skip")


def test_it_starts_with_numpy_and_onnxruntime_alone(scorer):
    script = (
        "import sys, numpy\n"
        "for name in ('sklearn', 'scipy', 'torch', 'pandas', 'soundfile', 'onnx', 'joblib'):\n"
        "    sys.modules[name] = None\n"  # importing it raises
        "from skanopatch import OnnxScorer\n"
        f"scorer = OnnxScorer({str(scorer.path)!r})\n"
        f"clip = numpy.sin(numpy.arange({3 * RATE})).astype('float32')\n"
        "print(scorer.predict([clip])[0], scorer.anomaly_map([clip]).shape)"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert made.stdout == "-1 (1, 6, 8)\n", made.stderr


# --- The command line -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = make_workspace(tmp_path_factory.mktemp("workspace"))
    fit_model(folder)
    return folder


def test_an_exported_model_scores_as_the_model(workspace, tmp_path):
    path = tmp_path / "m.onnx"
    result = run("export", workspace / "model.skano", path)
    assert result.exit_code == 0, result.output
    assert f"Wrote {path}" in result.stderr
    new = workspace / "recordings" / "new"
    expected = run("score", workspace / "model.skano", new, "--json", "-", "--p-values")
    made = run("score", path, new, "--json", "-", "--p-values")
    assert made.exit_code == 0, made.output
    scores, known = scores_of(made), scores_of(expected)
    assert list(scores) == list(known)
    assert_allclose(list(scores.values()), list(known.values()), rtol=1e-4)
    columns = [json.loads(line) for line in made.stdout.splitlines()]
    others = [json.loads(line) for line in expected.stdout.splitlines()]
    for name in ("anomaly", "p_value", "start", "stop"):
        assert [row[name] for row in columns] == [row[name] for row in others]
    assert [row["anomaly"] for row in columns] == [False, True, False, True]
    assert run("score", path, new, "--fail-on-anomaly").exit_code == 3


def test_each_window_and_unreadable_files_work_with_an_exported_model(workspace, tmp_path):
    path = tmp_path / "m.onnx"
    run("export", workspace / "model.skano", path, "--no-maps", "--precision", "int8")
    assert OnnxScorer(path).metadata_["precision"] == "int8"
    result = run("score", path, workspace / "recordings" / "new", "--each-window", "--csv", "-")
    rows = result.stdout.splitlines()
    assert rows[0].split(",")[:3] == ["file", "score", "anomaly"]
    assert len(rows) == 5
    result = run("score", path, workspace / "broken", "--json", "-")
    assert result.exit_code == 1
    assert "cannot be used" in result.stderr
    assert json.loads(result.stdout.splitlines()[0])["score"] is None


@pytest.mark.parametrize("option", [["--group", "fan"], ["--false-alarm-rate", "0.2"]])
def test_options_that_need_the_model_are_refused(option, workspace, tmp_path):
    run("export", workspace / "model.skano", tmp_path / "m.onnx")
    result = run("score", tmp_path / "m.onnx", workspace / "recordings/new", *option)
    assert result.exit_code == 1
    assert f"{option[0]} needs the model file itself" in result.output


def test_export_refuses_a_group_that_is_not_known(workspace, tmp_path):
    result = run("export", workspace / "model.skano", tmp_path / "m.onnx", "--group", "fan")
    assert result.exit_code == 1
    assert "model knows (none). Got 'fan'." in result.output
    assert load_model(workspace / "model.skano").groups_ == []
