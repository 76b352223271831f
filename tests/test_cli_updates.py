"""The command line: normal clips join a model file, or are taken out of it."""

import json

import pytest
from command_line import fit_model, make_workspace, run, write
from numpy.testing import assert_array_equal

from skanopatch import AnomalousSoundDetector, MelPatcher, load_model, make_anopatch_pipeline
from skanopatch import save_model as save


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(autouse=True)
def stand_in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def model(workspace):
    return fit_model(workspace)


def test_confirmed_normal_clips_join_as_in_python(model, tmp_path):
    clips = [str(write(tmp_path / "fine" / f"{i}.wav", seed=i)) for i in range(3)]
    result = run("update", model, tmp_path / "fine", "-o", tmp_path / "m.skano")
    assert "12 normal clips became 15, the distance of the threshold" in result.stderr
    expected = load_model(model).update(clips)
    assert_array_equal(
        load_model(tmp_path / "m.skano").score_samples(clips), expected.score_samples(clips)
    )
    assert len(load_model(model).windows_) == 12  # -o leaves it as it was
    facts = json.loads(run("info", tmp_path / "m.skano", "--json").stdout)
    assert [change.split(" at ")[0] for change in facts["changes"]] == [
        "fit with 12 clips",
        "update with 3 clips",
    ]
    assert facts["normal clips"] == 15


def test_forgetting_leads_back(model, tmp_path):
    write(tmp_path / "fine" / "0.wav")
    for file in ("a", "b"):
        write(tmp_path / "fine" / "more" / f"{file}.wav", seed=ord(file))
    path = tmp_path / "m.skano"
    run("update", model, tmp_path / "fine", "-o", path)
    (tmp_path / "fine" / "0.wav").unlink()
    result = run("forget", path, tmp_path / "fine" / "0.wav")
    assert "15 normal clips became 14" in result.stderr
    result = run("forget", path, tmp_path / "fine" / "more")  # a folder
    assert "14 normal clips became 12" in result.stderr
    assert load_model(path).offset_ == load_model(model).offset_


def test_clips_from_before_a_repair_are_replaced(model, tmp_path):
    for i in range(12):
        write(tmp_path / "fine" / f"{i}.wav", seed=i)
    new = tmp_path / "new.skano"
    run("update", model, tmp_path / "fine", "-o", new, "--replace-before", "2999-01-01")
    fitted = tmp_path / "fitted.skano"
    run("fit", tmp_path / "fine", "-o", fitted, "--no-maps")
    assert load_model(new).offset_ == load_model(fitted).offset_
    result = run("info", new)
    assert "update with 12 clips" in result.stdout
    assert "without those from before 2998-12-31" in result.stdout or "2999-01-01" in result.stdout


@pytest.mark.parametrize("source", ["folder", "csv"])
def test_machines_of_clips_come_from_folders_tables_or_a_name(tmp_path, source):
    for machine in ("pump", "fan"):
        for i in range(6):
            write(tmp_path / "n" / machine / f"{i}.wav", seed=i if machine == "fan" else 50 + i)
    run("fit", tmp_path / "n", "-o", tmp_path / "m.skano", "--no-maps", "--labels-from-folder")
    new = write(tmp_path / "new" / "fan" / "x.wav", seed=99)
    (tmp_path / "labels.csv").write_text(f"file,label\n{new},fan\n")
    labels = "folder" if source == "folder" else tmp_path / "labels.csv"
    run("update", tmp_path / "m.skano", new, "--labels", labels, "-o", tmp_path / "1.skano")
    run("update", tmp_path / "m.skano", new, "--group", "fan", "-o", tmp_path / "2.skano")
    one, two = (load_model(tmp_path / f"{i}.skano") for i in (1, 2))
    assert one.metadata_["groups"][-1] == two.metadata_["groups"][-1] == "fan"
    assert one.offset_ == two.offset_
    result = run("update", tmp_path / "m.skano", new)
    assert (
        "update needs the metadata that fit was given: labels, groups. Got none." in result.stderr
    )


def test_what_keeps_no_clips_cannot_be_updated(model, tmp_path):
    clips = [str(write(tmp_path / f"{i}.wav", seed=i)) for i in range(4)]
    pipeline = make_anopatch_pipeline().fit(clips)
    save(tmp_path / "p.skano", pipeline)
    result = run("update", tmp_path / "p.skano", clips[0])
    assert result.exit_code == 1
    assert "must hold an AnomalousSoundDetector, which keeps its normal clips" in result.stderr
    assert "Give FILES or --before" in run("forget", model).stderr
    result = run("forget", model, "other.wav")
    assert "1 of 1 files are not in the model" in result.stderr
    assert isinstance(load_model(model), AnomalousSoundDetector)
    assert isinstance(load_model(model).patcher_, MelPatcher)
