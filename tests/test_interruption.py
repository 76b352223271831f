"""Processes that are killed at random moments, and disks that are full."""

import contextlib
import csv
import os
import re
import resource
import shutil
import signal
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

pytestmark = pytest.mark.slow  # processes of their own


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
    files = sorted(map(str, (folder / "recordings/normal").rglob("*.wav")))
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
        expected = [
            model.score_samples(interruption.clips()) for model in interruption.two_models()
        ]
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


# --- Full disks ---------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path):
    """Return a function that mounts a small file system, or skip where one must not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True)
        except FileNotFoundError:
            pytest.skip("there is no mount on this machine")
        if done.returncode:
            pytest.skip(f"a file system may not be mounted here: {done.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def command(words, folder, limit=None, **environment):
    """Run a command, whose files may have at most `limit` bytes."""

    def set_limit():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "skanopatch", *words.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=set_limit,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
    )


FIT = "fit recordings/normal -o model.skano --no-maps"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (FIT, "model.skano"),
        (UPDATE, "model.skano"),
        (REPORT, "page.html"),
        ("score model.skano recordings/new --csv scores.csv", "scores.csv"),
        (EVALUATE, ".joblib"),
    ],
    ids=lambda value: value.split()[0],
)
def test_a_file_that_is_too_large_is_named_and_what_was_there_is_kept(
    workspace, tmp_path, words, named
):
    folder = tmp_path / "workspace"
    shutil.copytree(workspace, folder)
    for name in ("page.html", "scores.csv"):
        (folder / name).write_text("as before")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = command(words, folder, limit=100)
    assert done.returncode == 1
    assert re.fullmatch(rf"Error: '.*{named}': File too large\.", done.stderr.splitlines()[-1])
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_checkpoint_that_is_too_large_is_named_and_the_last_one_is_kept(tmp_path):
    finish(interruption.fit_with_checkpoints, tmp_path)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    content = kept.read_bytes()
    process = start(interruption.fit_on_a_full_disk, tmp_path)
    process.join(interruption.PATIENCE)
    assert process.exitcode == 1
    message = rf"OSError: .*File too large: '{tmp_path}/checkpoints/.*\.pt'"
    assert re.search(message, (tmp_path / "log").read_text())
    assert [*(tmp_path / "checkpoints").iterdir()] == [kept]
    assert kept.read_bytes() == content


def fill(folder):
    """Write until there is no space, and return the file."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def test_a_full_disk_keeps_the_model_that_was_there(workspace, full_disk):
    disk = full_disk("4m")
    shutil.copy(workspace / "model.skano", disk)
    content = (disk / "model.skano").read_bytes()
    filler = fill(disk)
    words = f"update {disk}/model.skano recordings/confirmed"
    done = command(words, workspace)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: '{disk}/model.skano': No space left on device."
    )
    assert (disk / "model.skano").read_bytes() == content
    assert sorted(path.name for path in disk.iterdir()) == ["filler", "model.skano"]
    filler.unlink()
    assert command(words, workspace).returncode == 0


def test_a_watch_whose_disk_was_full_goes_on_where_its_history_ends(workspace, full_disk):
    disk = full_disk("1m")
    words = f"watch model.skano recordings/days --once --settle 0 --to sqlite:{disk}/history.db"
    half = words.replace("days", "days/0.wav")
    assert command(half, workspace).returncode == 0
    filler = fill(disk)
    full = command(words, workspace)
    assert full.returncode == 1
    assert f"'{disk}/history.db'" in full.stderr
    assert re.search("disk is full|disk I/O error", full.stderr)
    filler.unlink()
    assert command(words, workspace).returncode == 0
    with History(disk / "history.db") as opened:
        rows = opened.windows()
    windows = zip(rows.source, rows.start, strict=True)
    assert sorted((Path(source).name, start) for source, start in windows) == [
        (f"{day}.wav", float(start)) for day in range(4) for start in range(5)
    ]


def test_a_table_lacks_no_window_that_the_history_has(workspace, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from skanopatch.streaming.sinks.csv_table import CSVSink\n"
        "def killed(self, results):\n"
        "    os.kill(os.getpid(), 9)\n"
        "CSVSink._store = killed\n"
    )
    words = (
        f"watch model.skano recordings/days --once --settle 0 --to sqlite:{tmp_path}/h.db "
        f"--to csv:{tmp_path}/rows.csv"
    )
    killed = command(words, workspace, PYTHONPATH=str(tmp_path))
    assert killed.returncode == -signal.SIGKILL
    assert command(words, workspace).returncode == 0
    with (tmp_path / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 20
