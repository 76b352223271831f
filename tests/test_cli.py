"""The command line on a miniature of DCASE."""

import re

import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.pipeline import make_pipeline

from skanopatch import KNNDetector, MelPatcher, MelStatistics, __version__, evaluate_dcase
from skanopatch.cli import main
from skanopatch.datasets import make_miniature_dcase

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


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


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


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--year", 2026, "--machine", "drill"], 1, "Error: machine must be of ['ToyCar'"),
        (["--year", 2026, "--output", f"{__file__}/x"], 2, "test_cli.py' is no folder that can be"),
        (["--year", 2019], 2, "2019 is not in the range 2020<=x<=2026"),
        (["--year", 2026, "--set", "detector"], 2, "'detector' is not of the form"),
        (["--year", 2026, "--set", "detector__k=1"], 1, "Error: Invalid parameter 'k'"),
    ],
)
def test_wrong_input_is_one_sentence(root, arguments, code, message):
    result = run("evaluate", root, *PIPELINE, *arguments)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


def test_version_and_help():
    assert __version__ in run("--version").output
    assert "evaluate" in run("--help").output
