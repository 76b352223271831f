"""Processes that are killed at random moments, and disks that are full."""

import csv
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import interruption
import numpy as np
import pytest
import soundfile
from command_line import aged, fit_model, make_workspace
from interruption import EVALUATE, REPORT, RESULT, UPDATE, WATCH, finish, start

from skanopatch import load_model
from skanopatch.streaming.history import History


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = make_workspace(tmp_path_factory.mktemp("workspace"))
    fit_model(folder)
    rng = np.random.default_rng(1)
    for day in range(4):
        path = folder / f"recordings/days/{day}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.normal(scale=0.02 + 0.1 * (day == 2), size=5 * 16000), 16000)
        aged(path)
    return folder


# --- What a run leaves --------------------------------------------------------------------------


def numbers(folder):
    return np.load(folder / RESULT)


def scores_of_model(folder):
    return load_model(folder / "model.skano").score_samples(interruption.clips())


def scores_of_updated(folder):
    model = load_model(folder / "model.skano")
    files = sorted(map(str, (folder / "recordings/new").iterdir()))
    return np.append(model.score_samples(files), [model.offset_, len(model.clip_names_)])


def tables(folder):
    return {
        str(path.relative_to(folder)): path.read_text().replace(str(folder), "")
        for path in sorted((folder / "tables").rglob("*.csv"))
    }


def page(folder):
    return (folder / "page.html").read_text().replace(str(folder), "")


def history(folder):
    """Return the rows of the database; those of the table are the same, but for repetitions."""
    with History(folder / "history.db") as opened:
        rows = opened.windows()
    rows["source"] = rows["source"].str.replace(str(folder), "")
    with (folder / "rows.csv").open() as file:
        written = list(csv.DictReader(file))
    places = {(row["source"].replace(str(folder), ""), float(row["start"])) for row in written}
    assert places == set(zip(rows.source, rows.start, strict=True))
    return rows.sort_values(["source", "start"]).to_csv(index=False)


# --- What may be there after a kill -------------------------------------------------------------


def model_is_whole(folder):
    if (folder / "model.skano").exists():
        scores = scores_of_model(folder)
        expected = [model.score_samples(interruption.clips()) for model in interruption.two_models()]
        assert any(np.array_equal(scores, e) for e in expected)


def model_is_old_or_new(folder):
    assert len(load_model(folder / "model.skano").clip_names_) in (12, 14)


def page_is_whole(folder):
    if (folder / "page.html").exists():
        assert page(folder).rstrip().endswith("</html>")


def tables_are_whole(folder):
    for path in (folder / "tables").rglob("*.csv"):
        assert path.read_bytes().endswith(b"\n")


def anything(folder):
    pass


WORK = {
    "fit": (interruption.fit_with_checkpoints, numbers, anything),
    "save_model": (interruption.save_models, scores_of_model, model_is_whole),
    "cache": (interruption.fit_with_memory, numbers, anything),
    "evaluate": (EVALUATE, tables, tables_are_whole),
    "report": (REPORT, page, page_is_whole),
    "watch": (WATCH, history, anything),
    "update": (UPDATE, scores_of_updated, model_is_old_or_new),
}


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("n_kills", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_what_is_killed_and_run_again_ends_as_if_nothing_had_happened(
    workspace, tmp_path, name, n_kills
):
    work, outcome, check = WORK[name]

    def fresh(label):
        folder = tmp_path / label
        if isinstance(work, str):
            # To keep the times of files is to keep what results say of them.
            shutil.copytree(workspace, folder)
        else:
            folder.mkdir()
        return folder

    undisturbed = fresh("undisturbed")
    finish(work, undisturbed)
    expected = outcome(undisturbed)
    seconds = finish(work, fresh("timed"))
    rng = np.random.default_rng(0)
    for i in range(n_kills):
        folder = fresh(str(i))
        process = start(work, folder)
        time.sleep(seconds * (i + rng.uniform()) / n_kills)
        process.kill()
        process.join()
        check(folder)
        finish(work, folder)
        np.testing.assert_equal(outcome(folder), expected)
        shutil.rmtree(folder)
