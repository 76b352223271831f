"""The command line with models: fit, score, report, info, demo and backbones."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner
from safetensors.numpy import load_file

from skanopatch import GroupedDetector, __version__, load_model
from skanopatch.backbones import list_backbones
from skanopatch.backbones.anopatch_tiny import WEIGHTS
from skanopatch.cli import main
from skanopatch.datasets import layout, make_miniature_dcase

FAST = ["--embedder", "mel-statistics", "--no-maps"]
FIT = "fit recordings/new -o m.skano"
SCORE = "score model.skano recordings/new"
COMMANDS = ["fit", "score", "report", "evaluate", "demo", "info", "backbones"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Hum of one machine; two of the new clips have a whine on top. A data set of DCASE."""
    folder = tmp_path_factory.mktemp("workspace")
    rng = np.random.default_rng(0)
    seconds = np.arange(16000) / 16000

    def write(name, whine=0.0):
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        hum = 0.1 * np.sin(2 * np.pi * rng.uniform(98, 102) * seconds)
        sound = hum + 0.02 * rng.normal(size=16000) + whine * np.sin(2 * np.pi * 3000 * seconds)
        soundfile.write(path, sound, 16000)

    for i in range(12):
        write(f"recordings/normal/{'monday' if i < 6 else 'tuesday'}/{i:02}.wav")
    for name, whine in [("a", 0.0), ("b", 0.1), ("c", 0.0), ("d", 0.3)]:
        write(f"recordings/new/{name}.wav", whine)
    (folder / "broken").mkdir()
    (folder / "broken" / "text.wav").write_text("no sound at all")
    soundfile.write(folder / "broken" / "empty.wav", np.zeros(0), 16000)
    (folder / "nothing").mkdir()
    make_miniature_dcase(folder / "dcase", year=2023, machines=["valve"], random_state=0)
    return folder


@pytest.fixture(autouse=True)
def stand_in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def model(workspace):
    """A model that is fast to fit and to load."""
    path = workspace / "model.skano"
    result = run("fit", workspace / "recordings/normal", "-o", path, *FAST)
    assert result.exit_code == 0, result.output
    return path


def run(*arguments, stdin=None):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def scores_of(result):
    return {row["file"]: row["score"] for row in map(json.loads, result.stdout.splitlines())}


# --- Help -----------------------------------------------------------------------------------


def test_every_command_is_tried_here():
    assert sorted(main.commands) == sorted(COMMANDS)


@pytest.mark.slow
def test_the_example_of_each_help_runs(workspace):
    for command in COMMANDS:
        text = run(command, "--help").output
        (example,) = re.findall(r"Example:\n +(skanopatch .*)", text)
        _, *arguments = shlex.split(example)
        assert arguments[0] == command
        result = run(*arguments)
        assert result.exit_code == 0, f"{example}: {result.output}"
    assert load_model("fan.skano").map_pipeline is not None
    assert "a.wav" in (workspace / "report.html").read_text()
    assert (workspace / "demo_scores.png").read_bytes().startswith(b"\x89PNG")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from skanopatch.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'torch', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.endswith("[]\n")
    assert "score" in result.stdout


def test_python_m_is_the_command():
    command = [sys.executable, "-m", "skanopatch", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"skanopatch, version {__version__}\n"


def test_what_evaluate_offers_is_what_there_is():
    offered = {option.name: option.type for option in main.commands["evaluate"].params}
    years = range(offered["year"].min, offered["year"].max + 1)
    assert list(years) == list(layout.CHALLENGES)
    assert tuple(offered["subset"].choices) == layout.SUBSETS


# --- Fit and score --------------------------------------------------------------------------


def test_scores_are_those_of_the_pipeline_relative_to_the_threshold(model):
    files = sorted(map(str, Path("recordings/new").glob("*.wav")))
    loaded = load_model(model)
    offset = loaded.pipeline[-1].offset_
    expected = loaded.pipeline.score_samples(files) / offset  # both are minus a distance
    result = run("score", model, "recordings/new", "--csv", "-")
    assert result.exit_code == 0
    table = pd.read_csv(io.StringIO(result.stdout))
    assert table.columns.tolist() == ["file", "score", "anomaly"]
    assert table.file.tolist() == files
    np.testing.assert_allclose(table.score, expected, rtol=1e-6)
    is_anomaly = loaded.pipeline.predict(files) == -1
    assert table.anomaly.tolist() == np.where(is_anomaly, "yes", "no").tolist()
    assert table.anomaly[[1, 3]].tolist() == ["yes", "yes"]
    lines = run("score", model, "recordings/new", "--json", "-").stdout.splitlines()
    for line, row in zip(lines, table.itertuples(), strict=True):
        score = pytest.approx(row.score, rel=1e-12)
        assert json.loads(line) == {
            "file": row.file,
            "score": score,
            "anomaly": row.anomaly == "yes",
        }


def test_the_table_begins_with_the_most_anomalous_clip(model):
    lines = run("score", model, "recordings/new").stdout.splitlines()
    rows = [line.split() for line in lines[1:5]]
    assert [row[2] for row in rows[:2]] == ["recordings/new/d.wav", "recordings/new/b.wav"]
    assert [float(row[0]) for row in rows] == sorted((float(row[0]) for row in rows), reverse=True)
    assert re.fullmatch(r"[234] of 4 clips are anomalies \(score above 1\)\.", lines[-1])


def test_a_model_keeps_the_normal_clips_and_their_embeddings(model, workspace):
    loaded = load_model(model)
    assert len(loaded.clips) == 12
    assert loaded.clips[0] == str(workspace / "recordings/normal/monday/00.wav")
    expected = loaded.pipeline[:-1].transform(loaded.clips)
    np.testing.assert_array_equal(loaded.embeddings, expected)
    assert loaded.pipeline[0].duration == 1.0


def test_clips_are_files_folders_patterns_and_lists(model, workspace):
    everything = scores_of(run("score", model, "recordings", "--json", "-"))
    assert len(everything) == 16
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
    assert result.stdout.splitlines()[2:] == [f"{name},," for name in clips.split()[1:]]
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
    assert len(load_model(output).clips) == 12


def test_a_clip_with_nan_is_skipped_where_that_is_asked_for(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    arguments = ["recordings/normal", tmp_path / "nan.wav", "-o", tmp_path / "m.skano", *FAST]
    result = run("fit", *arguments)
    assert result.exit_code == 1
    assert re.search(r"Error: 1 of 13 clips .*nan.wav'\): it contains NaN", result.stderr)
    assert run("fit", *arguments, "--skip-unreadable").exit_code == 0
    loaded = load_model(tmp_path / "m.skano")
    assert len(loaded.clips) == len(loaded.embeddings) == 12
    assert loaded.pipeline[0].on_error == "raise"
    facts = json.loads(run("info", tmp_path / "m.skano", "--json").stdout)
    assert facts["normal clips"] == len(facts["clips"]) == 12


def test_labels_give_each_machine_a_detector(tmp_path, workspace):
    by_folder, by_table = tmp_path / "folder.skano", tmp_path / "table.skano"
    run("fit", "recordings/normal", "-o", by_folder, *FAST, "--labels-from-folder")
    days = ["monday"] * 6 + ["tuesday"] * 6
    files = [f"normal/{day}/{i:02}.wav" for i, day in enumerate(days)]
    table = workspace / "recordings/labels.csv"  # whose folder the files are seen from
    pd.DataFrame({"file": files, "label": days}).to_csv(table)
    result = run("fit", "recordings/normal", "-o", by_table, *FAST, "--labels", table)
    assert result.exit_code == 0, result.output
    detectors = [load_model(path).pipeline[-1] for path in (by_folder, by_table)]
    for detector in detectors:
        assert isinstance(detector, GroupedDetector)
        assert list(detector.detectors_) == ["monday", "tuesday"]
    assert detectors[0].spreads_ == detectors[1].spreads_

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
    assert list(load_model(output).pipeline[-1].detectors_) == ["fan/id_00", "pump/id_00"]


def test_what_is_too_few_is_said_before_the_work(tmp_path, workspace):
    clips = sorted((workspace / "recordings/normal").rglob("*.wav"))
    result = run("fit", *clips[:2], "-o", tmp_path / "m.skano")
    assert result.exit_code == 1
    assert "Maps need 3 normal clips. Got 2; leave maps out by --no-maps." in result.stderr
    table = tmp_path / "labels.csv"
    labels = ["monday"] * 11 + ["mnoday"]
    pd.DataFrame({"file": list(map(str, clips)), "label": labels}).to_csv(table)
    result = run("fit", *clips, "-o", tmp_path / "m.skano", "--labels", table)
    assert result.exit_code == 1
    assert "Each machine needs 2 clips, and 'mnoday' has one" in result.stderr
    assert "Fitting" not in result.stderr


def test_the_score_of_a_mixture_is_its_height_above_the_threshold(tmp_path):
    output = tmp_path / "m.skano"
    run("fit", "recordings/normal", "-o", output, *FAST, "--detector", "gmm")
    result = run("score", output, "recordings/new", "--json", "-")
    pipeline = load_model(output).pipeline
    assert pipeline[-1].offset_ < 0  # which once made it a ratio
    for file, score in scores_of(result).items():
        assert score == pytest.approx(-pipeline.decision_function([file])[0], rel=1e-6)


def test_options_of_fit_reach_the_pipeline(tmp_path):
    output = tmp_path / "m.skano"
    options = ["--duration", 0.5, "--contamination", 0.2, "--detector", "gmm", "--seed", 3]
    run("fit", "recordings/normal", "-o", output, *FAST, *options)
    patcher, _, detector = load_model(output).pipeline
    assert patcher.duration == 0.5
    assert detector.contamination == 0.2
    assert detector.random_state == 3
    assert type(detector).__name__ == "GMMDetector"


# --- Report, info, backbones, demo ----------------------------------------------------------


def test_a_report_knows_labels_from_a_table_and_from_folders(model, tmp_path, workspace):
    page = tmp_path / "page.html"
    table = tmp_path / "labels.csv"
    files = [str(path) for path in sorted((workspace / "recordings/new").glob("*.wav"))]
    labels = ["normal", "whine", "normal", "whine"]
    pd.DataFrame({"file": files, "label": labels}).to_csv(table, index=False)
    result = run("report", model, "recordings/new", "-o", page, "--labels", table, "--title", "Hi")
    assert result.exit_code == 0, result.output
    assert "<title>Hi" in page.read_text()
    assert "<dt>AUC</dt>" in page.read_text()
    assert "has no maps" in result.stderr
    for of_normal in ("1", "+1", "Normal"):
        labels = [of_normal, "-1", of_normal, "whine"]
        pd.DataFrame({"file": files, "label": labels}).to_csv(table, index=False)
        result = run("report", model, "recordings/new", "-o", page, "--labels", table)
        assert "<dt>AUC</dt><dd>1.000</dd>" in page.read_text()
        assert "Warning: no label" not in result.stderr
    pd.DataFrame({"file": files, "label": ["ok", "whine"] * 2}).to_csv(table, index=False)
    result = run("report", model, "recordings/new", "-o", page, "--labels", table)
    assert "Warning: no label in" in result.stderr
    run("report", model, "recordings/new", "-o", page, "--players", 1)
    assert "<dt>AUC</dt>" not in page.read_text()
    assert page.read_text().count('data-media="clip-') == 1
    for kind, name in [("normal", "a"), ("Anomaly", "b")]:
        (tmp_path / kind).mkdir()
        sound = (workspace / f"recordings/new/{name}.wav").read_bytes()
        (tmp_path / kind / f"{name}.wav").write_bytes(sound)
    run("report", model, tmp_path, "-o", page)
    assert "<dt>AUC</dt><dd>1.000</dd>" in page.read_text()


def test_info_says_what_is_in_a_model(model, workspace):
    facts = json.loads(run("info", model, "--json").stdout)
    assert facts["normal clips"] == len(facts["clips"]) == 12
    assert facts["seconds heard"] == 1.0
    assert facts["pipeline"][1:] == ["MelStatistics()", "MahalanobisDetector()"]
    assert facts["maps"] is False
    table = run("info", model).stdout
    assert re.search(r"^maps +no$", table, re.M)
    assert f"skanopatch {__version__}" in table


def test_backbones_lists_them_all():
    rows = json.loads(run("backbones", "--json").stdout)
    assert [row["name"] for row in rows] == list_backbones()
    shipped = load_file(WEIGHTS)
    assert rows[0]["n_parameters"] == sum(weight.size for weight in shipped.values())
    assert {row["name"]: row["sample_rate"] for row in rows}["beats:<file>"] == 16000
    table = run("backbones").stdout.splitlines()
    assert [line.split("  ")[0].split()[0] for line in table[1:]] == [
        name.split()[0] for name in list_backbones()
    ]


def test_demo_draws_into_a_folder(tmp_path):
    folder = tmp_path / "new" / "folder"
    options = ["--clips", "recordings/normal", "--test", "recordings/new"]
    assert run("demo", *options, "-o", folder).exit_code == 0
    assert [path.name for path in folder.iterdir()] == ["demo_scores.png"]


# --- What goes wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("fit gone -o m.skano", 1, "Error: There is no file or folder 'gone'."),
        ("fit gone/*.wav -o m.skano", 1, "Error: No file or folder matches 'gone/*.wav'."),
        ("fit nothing -o m.skano", 1, "Error: The folder 'nothing' holds no recording (.aif, "),
        ("fit - -o m.skano", 1, "Error: There is no recording to work on: standard input is"),
        ("fit recordings/new/a.wav -o m.skano", 1, "At least 2 normal clips are needed. Got 1."),
        ("fit recordings/new", 2, "Error: Missing option '-o' / '--output'."),
        ("fit -o m.skano", 2, "Error: Missing argument 'NORMAL...'."),
        ("fit recordings/new -o gone/m.skano", 2, "There is no folder '"),
        ("fit recordings/new -o recordings", 2, "'recordings' is a directory."),
        (f"{FIT} --backbone beats:gone.pt", 1, "Error: There is no file or folder 'gone.pt'"),
        (f"{FIT} --backbone anopatch", 1, "Did you mean 'anopatch-tiny'?"),
        (f"{FIT} --duration 0.01", 1, "Error: duration=0.01 is too short"),
        (f"{FIT} --detector lof", 2, "'lof' is not one of"),
        (f"{FIT} --labels one.csv", 1, "must have the columns file and label. Got ['name', 'y']"),
        (f"{FIT} --labels two.csv", 1, "no label for 'recordings/new/b.wav', nor for 2 others."),
        (f"{FIT} --labels broken/text.wav", 1, "must have the columns file and label"),
        (f"{FIT} --labels nothing.csv", 1, "Error: 'nothing.csv' cannot be read as CSV: No col"),
        (f"{FIT} --labels two.csv --labels-from-folder", 2, "exclude each other."),
        ("score gone.skano recordings/new", 2, "File 'gone.skano' does not exist."),
        ("score recordings/new/a.wav recordings", 1, "'recordings/new/a.wav' is not a model file"),
        ("score model.skano", 2, "Error: Missing argument 'CLIPS...'."),
        ("score model.skano gone.wav", 1, "Error: There is no file or folder 'gone.wav'."),
        (f"{SCORE} --csv - --json -", 2, "Error: --csv and --json cannot both"),
        (f"{SCORE} --csv gone/x.csv", 2, "There is no folder '"),
        (f"{SCORE} --group fan", 1, "a machine that the model knows (none). Got 'fan'."),
        ("report model.skano recordings/new", 2, "Error: Missing option '-o' / '--output'."),
        ("report model.skano recordings -o x.html --labels one.csv", 1, "'one.csv' must have"),
        ("info recordings/new/a.wav", 1, "is not a model file of skanopatch"),
        ("info nothing", 2, "'nothing' is a directory."),
        ("demo --clips recordings/normal", 1, "Error: --clips needs --test, a folder of record"),
        ("demo --clips gone --test gone", 1, "Error: --clips: there is no folder 'gone'."),
        ("evaluate nothing --year 2023", 1, "Error: "),
        ("scor", 2, "Error: No such command 'scor'."),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_wrong_input_is_one_sentence(workspace, model, command, code, sentence):
    (workspace / "one.csv").write_text("name,y\na.wav,1\n")
    (workspace / "two.csv").write_text("file,label\nrecordings/new/a.wav,fan\n")
    (workspace / "nothing.csv").write_text("")
    result = run(*shlex.split(command), stdin="")
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)  # and no other, which would be a traceback
    assert sentence in result.stderr
    *_, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    assert not (workspace / "m.skano").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "recordings/normal", *FAST, "-o"),
        ("score", "model.skano", "recordings/new", "--csv"),
        ("score", "model.skano", "recordings/new", "--json"),
        ("report", "model.skano", "recordings/new", "-o"),
    ],
)
def test_ctrl_c_leaves_no_half_written_file(model, tmp_path, monkeypatch, arguments):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    result = run(*arguments, tmp_path / "output")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "Interrupted."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows cannot send SIGINT to a child process")
def test_ctrl_c_in_a_shell_ends_without_a_traceback(tmp_path):
    arguments = ["fit", "recordings/normal", "-o", str(tmp_path / "m.skano")]
    process = subprocess.Popen(
        [sys.executable, "-m", "skanopatch", *arguments], stderr=subprocess.PIPE, text=True
    )
    first = process.stderr.readline()  # then there are seconds of work to be done
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert first == "Fitting on 12 clips ...\n"
    assert (process.returncode, rest) == (130, "Interrupted.\n")
    assert list(tmp_path.iterdir()) == []
