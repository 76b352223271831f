"""The command line: help, report, info, backbones, demo, evaluate, and what goes wrong."""

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
from command_line import FAST, FIT, SCORE, fit_model, make_workspace, run
from safetensors.numpy import load_file
from sklearn.pipeline import make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    FitOnNormal,
    KNNDetector,
    MelPatcher,
    MelStatistics,
    __version__,
    evaluate_dcase,
    load_model,
    save_model,
)
from skanopatch.backbones import list_backbones
from skanopatch.backbones.anopatch_tiny import WEIGHTS
from skanopatch.cli import main
from skanopatch.datasets import layout, make_miniature_dcase

COMMANDS = [
    "fit",
    "update",
    "forget",
    "export",
    "score",
    "watch",
    "trend",
    "report",
    "evaluate",
    "demo",
    "info",
    "backbones",
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(autouse=True)
def stand_in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def model(workspace):
    return fit_model(workspace)


# --- Help ---------------------------------------------------------------------------------


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
    assert load_model("fan.skano").map_pipeline_ is not None
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


# --- Report, info, backbones, demo --------------------------------------------------------


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
    assert 'class="label"' not in page.read_text()
    assert page.read_text().count('data-media="clip-') == 1
    for kind, name in [("normal", "a"), ("Anomaly", "b")]:
        (tmp_path / kind).mkdir()
        sound = (workspace / f"recordings/new/{name}.wav").read_bytes()
        (tmp_path / kind / f"{name}.wav").write_bytes(sound)
    run("report", model, tmp_path, "-o", page)
    assert "<dt>AUC</dt><dd>1.000</dd>" in page.read_text()


def test_a_report_of_a_model_whose_training_clips_are_gone(tmp_path, workspace):
    shutil.copytree(workspace / "recordings/normal", tmp_path / "normal")
    run("fit", tmp_path / "normal", "-o", tmp_path / "m.skano", *FAST)
    (tmp_path / "normal").rename(tmp_path / "elsewhere")
    page = tmp_path / "page.html"
    result = run("report", tmp_path / "m.skano", "recordings/new", "-o", page)
    assert result.exit_code == 0, result.output
    assert 'data-normal-name="monday/' in page.read_text()


def test_info_says_what_is_in_a_model(model, workspace):
    facts = json.loads(run("info", model, "--json").stdout)
    loaded = load_model(model)
    assert facts["normal clips"] == len(facts["clips"]) == 12
    assert facts["duration"] == 1.0
    assert facts["sample rate"] == 16000
    assert facts["members"] == ["statistics"]
    assert facts["separation"] is None
    assert facts["channel"] == 0
    assert facts["threshold distance"] == -loaded.offset_
    assert facts["false-alarm rate"] == 0.1
    assert facts["estimator"].startswith("AnomalousSoundDetector(")
    assert facts["maps"] is False
    table = run("info", model).stdout
    assert re.search(r"^maps +no$", table, re.M)
    assert f"skanopatch {__version__}" in table


@pytest.mark.parametrize("kind", ["FitOnNormal", "Pipeline", "KNNDetector", "MelStatistics"])
def test_info_takes_the_model_of_any_estimator(tmp_path, kind):
    normal = sorted(map(str, Path("recordings/normal").rglob("*.wav")))
    patcher = MelPatcher(duration=1.0)
    fitted = {
        "FitOnNormal": lambda: FitOnNormal(
            AnomalousSoundDetector(patcher, map_detector="drop")
        ).fit(normal, [1] * 11 + [-1]),
        "Pipeline": lambda: make_pipeline(patcher, MelStatistics(), KNNDetector()).fit(normal),
        "KNNDetector": lambda: KNNDetector().fit(np.eye(4)),
        "MelStatistics": lambda: MelStatistics().fit(patcher.fit_transform(normal)),
    }[kind]()
    save_model(tmp_path / "m.skano", fitted)
    facts = json.loads(run("info", tmp_path / "m.skano", "--json").stdout)
    assert facts["estimator"].startswith(f"{kind}(")
    n_clips = {"FitOnNormal": 11, "Pipeline": 12, "KNNDetector": 4, "MelStatistics": None}[kind]
    assert facts["normal clips"] == n_clips
    assert facts["duration"] == (1.0 if kind in ("FitOnNormal", "Pipeline") else None)
    result = run("info", tmp_path / "m.skano")
    assert result.exit_code == 0, result.output


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


# --- What goes wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("fit gone -o m.skano", 1, "Error: There is no file or folder 'gone'."),
        ("fit gone/*.wav -o m.skano", 1, "Error: No file or folder matches 'gone/*.wav'."),
        ("fit nothing -o m.skano", 1, "Error: The folder 'nothing' holds no recording (.aif, "),
        ("fit - -o m.skano", 1, "Error: There is no recording to work on: standard input is"),
        (f"{FIT} --channel left", 2, "'left' is not a valid integer range."),
        (f"{FIT} --channel 1", 1, "channel=1 was asked for, but it has 1 channel(s)"),
        (f"{FIT} --sample-rate 0", 2, "0 is not in the range x>=1."),
        (
            "fit recordings/new/a.wav -o m.skano",
            1,
            "are needed for maps (2 with --no-maps). Got 1.",
        ),
        ("fit recordings/new/a.wav -o m.skano --no-maps", 1, "At least 2 normal clips are needed"),
        (f"{FIT} --window 0.5 --hop 0.6", 1, "hop must be at most the 0.5 s of a window"),
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
        (f"{FIT} --sessions gone.csv", 2, "File 'gone.csv' does not exist."),
        (f"{FIT} --sessions two.csv", 1, "must have the columns file and session. Got ['file'"),
        (f"{FIT} --false-alarm-rate 0.6", 2, "0.6 is not in the range 0<x<=0.5"),
        (f"{SCORE} --false-alarm-rate 0", 2, "0.0 is not in the range 0<x<=0.5"),
        ("score gone.skano recordings/new", 2, "File 'gone.skano' does not exist."),
        ("score recordings/new/a.wav recordings", 1, "'recordings/new/a.wav' is damaged, or is no"),
        ("score model.skano", 2, "Error: Missing argument 'CLIPS...'."),
        ("score model.skano gone.wav", 1, "Error: There is no file or folder 'gone.wav'."),
        (f"{SCORE} --csv - --json -", 2, "Error: --csv and --json cannot both"),
        (f"{SCORE} --threshold 0", 2, "0.0 is not in the range x>0."),
        (f"{SCORE} --threshold 2 --false-alarm-rate 0.2", 2, "-rate and --threshold exclude each"),
        (f"{SCORE} --csv gone/x.csv", 2, "There is no folder '"),
        (f"{SCORE} --group fan", 1, "a machine that the model knows (none). Got 'fan'."),
        ("report model.skano recordings/new", 2, "Error: Missing option '-o' / '--output'."),
        ("report model.skano recordings -o x.html --labels one.csv", 1, "'one.csv' must have"),
        ("info recordings/new/a.wav", 1, "is damaged, or is no 'skanopatch model'"),
        ("info nothing", 2, "'nothing' is a directory."),
        ("demo --clips recordings/normal", 2, "Error: --clips (normal recordings) and --test need"),
        ("demo --clips gone --test gone", 2, "'--clips': Directory 'gone' does not exist."),
        (
            "demo --clips nothing --test nothing",
            1,
            "Error: The folder 'nothing' holds no recording",
        ),
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
    assert first == "Fitting on 12 clips of 1 s ...\n"
    assert (process.returncode, rest) == (130, "Interrupted.\n")
    assert list(tmp_path.iterdir()) == []


# --- Evaluate ------------------------------------------------------------------------------

PIPELINE = [
    "--embedder",
    "mel-statistics",
    "--detector",
    "knn",
    "--set",
    "detector__metric=euclidean",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_miniature_dcase(
        tmp_path_factory.mktemp("dcase"), year=2026, machines=["Sander"], random_state=0
    )


def test_evaluate_prints_and_writes_what_evaluate_dcase_returns(root, tmp_path):
    result = run(
        *("evaluate", root, "--year", 2026, "--subset", "evaluation", "--machine", "Sander"),
        *("--ground-truth", root / "evaluator", "--output", tmp_path, "--cache", tmp_path / "c"),
        *(
            *PIPELINE,
            "--set",
            "detector__n_neighbors=2",
            "--set",
            "patcher__channel=1",
            "--no-domains",
        ),
    )
    assert result.exit_code == 0, result.output
    expected = evaluate_dcase(
        make_pipeline(MelPatcher(channel=1), MelStatistics(), KNNDetector(2, metric="euclidean")),
        root,
        year=2026,
        machine="Sander",
        subset="evaluation",
        ground_truth=root / "evaluator",
        domains=False,
    )
    assert str(expected) in result.output
    assert re.search(r"official score 2026: 0\.\d{4} ± \d\.\d{4}", result.output)
    clips = pd.read_csv(tmp_path / "clips.csv")
    assert clips.anomaly_score.tolist() == pytest.approx(expected.clips.anomaly_score.tolist())
    assert list((tmp_path / "c").rglob("Sander_*.joblib"))


def test_evaluate_takes_the_mahalanobis_detector_by_default():
    (option,) = [o for o in main.commands["evaluate"].params if o.name == "detector"]
    assert option.default == "mahalanobis"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--year", 2026, "--machine", "drill"], 1, "Error: machine must be of ['ToyCar'"),
        (["--year", 2026, "--output", f"{__file__}/x"], 2, "test_cli.py' that can be written to."),
        (["--year", 2019], 2, "2019 is not in the range 2020<=x<=2026"),
        (["--year", 2026, "--set", "detector"], 2, "'detector' is not of the form"),
        (["--year", 2026, "--set", "detector__k=1"], 1, "Error: Invalid parameter 'k'"),
    ],
)
def test_wrong_input_to_evaluate_is_one_sentence(root, arguments, code, message):
    result = run("evaluate", root, *PIPELINE, *arguments)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


def test_version_and_help():
    assert __version__ in run("--version").output
    assert "evaluate" in run("--help").output
