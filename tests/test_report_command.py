"""The report on the command line: labels that a page saved are read again."""

import pandas as pd
import pytest
from command_line import fit_model, make_workspace, run


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def model(workspace):
    return fit_model(workspace)


def test_a_table_of_some_labels_is_enough(model, workspace, tmp_path):
    # As a page saves it, in the folder of the recordings.
    table = workspace / "recordings/new/labels.csv"
    pd.DataFrame({"file": ["a.wav", "d.wav"], "label": ["normal", "anomaly"]}).to_csv(
        table, index=False
    )
    page = tmp_path / "page.html"
    result = run("report", model, workspace / "recordings/new", "-o", page, "--labels", table)
    assert result.exit_code == 0, result.output
    assert f"2 of 4 recordings have no label in '{table}'." in result.stderr
    assert "<dt>AUC</dt><dd>1.000</dd>" in page.read_text()
    assert "<dt>missed anomalies</dt><dd>0 of 1 (0%)</dd>" in page.read_text()


def test_a_table_of_other_recordings_is_an_error(model, workspace, tmp_path):
    table = tmp_path / "labels.csv"  # a.wav is not beside it
    pd.DataFrame({"file": ["a.wav"], "label": ["normal"]}).to_csv(table, index=False)
    clip = workspace / "recordings/new/a.wav"
    result = run("report", model, clip, "-o", tmp_path / "page.html", "--labels", table)
    assert result.exit_code == 1
    assert f"'{table}' has no label for '{clip}'" in result.stderr


def test_names_that_a_page_saved_join_the_model(model, workspace, monkeypatch, tmp_path):
    monkeypatch.chdir(workspace / "recordings/new")
    updated = tmp_path / "updated.skano"
    result = run("update", model, "-", "-o", updated, stdin="a.wav\nc.wav\n")
    assert result.exit_code == 0, result.output
    assert "12 normal clips became 14" in result.stderr
