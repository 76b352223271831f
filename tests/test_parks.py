"""Parks of machines: one detector of many, taken apart, and one file of many models."""

import io
import json
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import run
from numpy.testing import assert_array_equal
from sklearn.pipeline import make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    load_model,
    save_model,
    save_models,
)
from skanopatch.datasets import make_machine_sounds
from skanopatch.persistence.header import read_header

SOUNDS = make_machine_sounds(
    ["fan", "gearbox"],
    n_units=1,
    n_train=12,
    n_normal=3,
    n_anomalous=3,
    duration=1.0,
    random_state=0,
)
IS_TRAIN = np.array(SOUNDS.split) == "train"
CLIPS, MACHINES = SOUNDS.clips[IS_TRAIN], SOUNDS.machine[IS_TRAIN].tolist()
NEW = SOUNDS.clips[~IS_TRAIN]


def make_detector(**parameters):
    return AnomalousSoundDetector(MelPatcher(duration=1.0), **parameters)


@pytest.fixture(scope="module")
def park():
    return make_detector().fit(CLIPS, groups=MACHINES)


@pytest.fixture(scope="module")
def file(park, tmp_path_factory):
    path = tmp_path_factory.mktemp("park") / "park.skano"
    save_models(path, ((name, park.select_group(name)) for name in park.groups_))
    return path


@pytest.mark.parametrize(
    "embedder",
    [None, AnoPatchEmbedder("anopatch-tiny", fine_tuning=None, statistics=False)],
    ids=["statistics", "network"],
)
@pytest.mark.parametrize("group", ["fan", "gearbox"])
def test_one_machine_scores_alone_as_in_the_park(embedder, group):
    park = make_detector(embedder=embedder).fit(CLIPS, groups=MACHINES)
    alone, groups = park.select_group(group), [group] * len(NEW)
    for method in ("score_samples", "p_values", "anomaly_map", "decision_function", "predict"):
        own = getattr(alone, method)(NEW)
        assert_array_equal(own, getattr(alone, method)(NEW, groups=groups))
        assert_array_equal(own, getattr(park, method)(NEW, groups=groups))
    assert len(alone.normal_statistics_) == len(alone.windows_) == 12
    assert alone.groups_ == [group]
    assert park.groups_ == ["fan", "gearbox"]


def test_notes_of_one_machine_compare_with_its_own_clips(park):
    quiet = 0.1 * CLIPS[:1]
    own = park.select_group("fan").conditions_
    is_fan = np.array(MACHINES) == "fan"
    levels = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(CLIPS[is_fan]).conditions_
    assert own.level_range == levels.level_range
    assert "quieter than any normal clip" in park.select_group("fan").notes(quiet)[0]


def test_one_machine_is_updated_as_one_that_was_fitted_alone(park):
    is_fan = np.array(MACHINES) == "fan"
    fans, more = (
        CLIPS[is_fan],
        make_machine_sounds(["fan"], n_units=1, n_train=4, duration=1.0, random_state=5),
    )
    more = more.clips[np.array(more.split) == "train"]
    updated = park.select_group("fan").update(more, groups=["fan"] * 4)
    expected = make_detector().fit(np.vstack([fans, more]), groups=["fan"] * 16)
    assert_array_equal(updated.training_scores_, expected.training_scores_)
    assert_array_equal(updated.score_samples(NEW), expected.score_samples(NEW))


def test_the_gain_of_a_clip_is_judged_by_its_own_machine():
    """Clips of a quiet machine with the spectrum of a loud one: the class is among its own."""
    rng = np.random.default_rng(0)
    quiet, loud = (gain * rng.normal(size=(10, 16000)) for gain in (0.01, 0.1))
    clips, groups = np.vstack([quiet, loud]), ["quiet"] * 10 + ["loud"] * 10
    park = make_detector(map_detector="drop").fit(clips, groups=groups)
    (tolerant,) = [step for _, step in park.detector_.steps[1:]]
    rows = park.normal_statistics_[10:] - np.float32(np.log(10) / 10 * 20)  # loud at 20 dB less
    gain = rows - tolerant.reduce_gain(rows, ["loud"] * 10)
    kept = tolerant.gain_deviation_ / tolerant.gain_tolerance
    np.testing.assert_allclose(
        np.median(gain[:, : tolerant.n_mels]), -(1 - kept) * 20 * np.log(10) / 10, rtol=0.02
    )
    assert np.abs(rows - tolerant.reduce_gain(rows, ["quiet"] * 10)).max() < 1


def test_members_that_are_joined_are_taken_apart_too():
    X = np.random.default_rng(0).normal(size=(40, 6))
    groups = ["a", "b"] * 20
    members = [
        ("spread", GroupedDetector(MahalanobisDetector())),
        ("near", GroupedDetector(KNNDetector())),
    ]
    joined = JoinedDetector(members).fit(X, groups=groups)
    alone, new = joined.select_group("b"), X + 0.5
    assert_array_equal(alone.score_samples(new), joined.score_samples(new, groups=["b"] * 40))
    assert_array_equal(alone.training_scores_, joined.training_scores_[1::2])


def test_what_cannot_be_taken_apart_is_said(park):
    with pytest.raises(ValueError, match=r"one of those of fit: 'fan', 'gearbox'. Got 'pump'."):
        park.select_group("pump")
    with pytest.raises(ValueError, match=r"those of fit: none. Got 'fan'."):
        make_detector(map_detector="drop").fit(CLIPS[:6]).select_group("fan")
    pooled = make_detector(map_detector="drop")
    pooled.fit(CLIPS, groups=MACHINES, domains=["source", "target"] * 12)
    with pytest.raises(ValueError, match=r"share one detector.*Fit without them"):
        pooled.select_group("fan")


def test_a_model_of_several_is_read_without_the_others(park, file, tmp_path):
    loaded = load_model(file, "gearbox")
    expected = park.score_samples(NEW, groups=["gearbox"] * len(NEW))
    assert_array_equal(loaded.score_samples(NEW), expected)

    with zipfile.ZipFile(file) as archive:
        other = archive.getinfo("0.skano")
    content = bytearray(file.read_bytes())
    start = other.header_offset + 100
    content[start : start + other.file_size // 2] = bytes(other.file_size // 2)
    damaged = tmp_path / "damaged.skano"
    damaged.write_bytes(content)
    assert_array_equal(load_model(damaged, "gearbox").score_samples(NEW), expected)
    with pytest.raises(ValueError, match="is damaged"):
        load_model(damaged, "fan")


def test_models_of_any_kind_share_a_file_and_names_stay(tmp_path):
    pipes = {
        name: make_pipeline(MelPatcher(duration=1.0), MelStatistics(), detector).fit(CLIPS)
        for name, detector in (("pump/1", KNNDetector()), ("Lüfter ../2", MahalanobisDetector()))
    }
    file = tmp_path / "several.skano"
    save_models(file, pipes)
    for name, pipe in pipes.items():
        assert_array_equal(load_model(file, name).score_samples(NEW), pipe.score_samples(NEW))
    header = read_header(file)
    assert header["models"] == list(pipes)
    assert header["facts"]["estimator"] == "2 models"
    assert read_header(file, "pump/1")["facts"]["normal clips"] == len(CLIPS)


def test_the_models_of_a_file_are_named_where_one_is_not_there(park, file, tmp_path):
    for name in (None, "pump"):
        with pytest.raises(ValueError, match=rf"2 models.*'fan', 'gearbox'. Got {name!r}."):
            load_model(file, name)
    one = tmp_path / "one.skano"
    save_model(one, park)
    for read in (load_model, read_header):
        with pytest.raises(ValueError, match=r"one model, without a name. Got name='fan'."):
            read(one, "fan")


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ({}, ValueError, "at least one model"),
        ([("a", "fitted"), ("a", "fitted")], ValueError, "Two models have the name 'a'"),
        ([(1, "fitted")], TypeError, "must be a str. Got 1."),
        ([("a", "fitted"), ("b", KNNDetector())], ValueError, "is not fitted"),
    ],
)
def test_a_file_of_models_that_cannot_be_written_leaves_nothing(
    models, error, message, park, tmp_path
):
    pairs = list(models.items()) if isinstance(models, dict) else models
    pairs = [(name, park if model == "fitted" else model) for name, model in pairs]
    with pytest.raises(error, match=message):
        save_models(tmp_path / "park.skano", pairs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("models", [{"fan": 0}, [["fan"]], ["fan", 7], "fan"])
def test_a_forged_list_of_models_is_refused(models, file, tmp_path):
    forged = tmp_path / "forged.skano"
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(forged, "w") as copy:
        for member in archive.namelist():
            content = archive.read(member)
            if member == "skanopatch.json":
                content = json.dumps({**json.loads(content), "models": models})
            copy.writestr(member, content)
    with pytest.raises(ValueError, match="list of models holds something else than names"):
        load_model(forged, "fan")


def test_commands_take_a_model_of_several_by_its_machine(file, park, tmp_path):
    clip = tmp_path / "new.wav"
    soundfile.write(clip, NEW[0], 16000)
    result = run("score", file, clip, "--group", "gearbox", "--csv", "-")
    assert result.exit_code == 0
    score = float(pd.read_csv(io.StringIO(result.stdout)).score[0])
    scores = load_model(file, "gearbox").score_samples([str(clip)])
    assert score == pytest.approx(-scores[0], rel=1e-12)

    missing = run("score", file, clip)
    assert missing.exit_code == 1
    assert "--group on the command line" in missing.stderr
    assert "'fan', 'gearbox'" in missing.stderr
    assert re.search(r"^machines +fan, gearbox$", run("info", file).stdout, re.M)
    assert re.search(r"^normal clips +12$", run("info", file, "--group", "fan").stdout, re.M)
    assert json.loads(run("info", file, "--json").stdout)["machines"] == ["fan", "gearbox"]
    refused = run("update", file, clip)
    assert "holds 2 models" in refused.stderr
    assert refused.exit_code == 1
