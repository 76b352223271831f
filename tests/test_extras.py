"""An install without extras: what needs one says which, and all else works."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import write
from sklearn.pipeline import make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    KNNDetector,
    MelPatcher,
    OnnxScorer,
    export_onnx,
)
from skanopatch.datasets import fetch_dcase
from skanopatch.streaming.live import BlockQueue, Stop, open_microphone
from skanopatch.streaming.sinks import open_sink

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
PACKAGE = PROJECT.parent / "skanopatch"
OPTIONAL = {  # module: extra
    "accelerate": "distributed",
    "imblearn": "smote",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "paho": "mqtt",
    "pooch": "fetch",
    "requests": "fetch",
    "sounddevice": "microphone",
}
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
BROUGHT_BY = {"cycler": "matplotlib", "markupsafe": "jinja2"}


@pytest.fixture
def take_away(monkeypatch):
    """Return a function after which a package cannot be imported."""

    def take(name):
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)

    return take


@pytest.fixture
def model():
    clips = np.random.default_rng(0).normal(size=(12, 8000)).astype(np.float32)
    return AnomalousSoundDetector(MelPatcher(duration=0.5), map_detector="drop").fit(clips)


def enlarge(model, folder):
    X = np.random.default_rng(0).normal(size=(12, 4))
    KNNDetector(smote=0.5).fit(X, domains=[0] * 9 + [1] * 3)


def network():
    clips = np.random.default_rng(0).normal(size=(12, 8000)).astype(np.float32)
    embedder = AnoPatchEmbedder(statistics=False, random_state=0)
    return make_pipeline(MelPatcher(duration=0.5), embedder, KNNDetector()).fit(clips)


USES = {
    "imblearn": [enlarge],
    "onnx": [lambda model, folder: export_onnx(model, folder / "m.onnx")],
    "onnxruntime": [
        lambda model, folder: export_onnx(network(), folder / "m.onnx", precision="int8"),
    ],
    "onnxscript": [lambda model, folder: export_onnx(network(), folder / "m.onnx")],
    "paho": [lambda model, folder: open_sink("mqtt://localhost/fan")],
    "pooch": [lambda model, folder: fetch_dcase(2023, root=folder)],
    "sounddevice": [
        lambda model, folder: open_microphone(
            BlockQueue(Stop(), is_live=True), None, sample_rate=16000, n_channels=1
        )
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
def test_what_needs_an_extra_names_its_pip_line(take_away, model, tmp_path, name):
    take_away(name)
    for use in USES[name]:
        line = rf"pip install 'skanopatch\[{OPTIONAL[name]}\]'"
        with pytest.raises((ImportError, ValueError), match=line):
            use(model, tmp_path)


def imported():
    """Return the packages that the sources import."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"skanopatch", "__future__"}


def test_each_import_is_a_dependency_or_of_an_extra_and_each_dependency_is_imported():
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    required = {re.match(r"[\w.-]+", line).group().lower() for line in project["dependencies"]}
    needed = {
        BROUGHT_BY.get(name, DISTRIBUTIONS.get(name, name)).lower()
        for name in imported() - set(OPTIONAL)
    }
    assert needed == required
    assert imported() >= set(OPTIONAL) - {"onnxscript"}  # which torch imports
    assert {*OPTIONAL.values()} <= set(project["optional-dependencies"])


@pytest.mark.slow
def test_a_package_without_extras_fits_scores_and_reports(tmp_path):
    for i in range(6):
        write(tmp_path / f"{i}.wav", seed=i)
    code = (
        "import sys\n"
        f"for name in {sorted(OPTIONAL)!r}: sys.modules[name] = None\n"
        "from skanopatch.cli import main\n"
        "def run(*words):\n"
        "    code = 0\n"
        "    try: main([str(w) for w in words])\n"
        "    except SystemExit as error: code = error.code\n"
        "    assert code == 0, (words, code)\n"
        f"folder = {str(tmp_path)!r}\n"
        "run('fit', folder, '-o', folder + '/m.skano')\n"
        "run('score', folder + '/m.skano', folder, '--csv', folder + '/s.csv')\n"
        "run('report', folder + '/m.skano', folder, '-o', folder + '/page.html')\n"
        "run('watch', folder + '/m.skano', folder, '--once', '--settle', '0',\n"
        "    '--to', 'sqlite:' + folder + '/h.db')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 7


def test_a_scorer_of_onnx_files_asks_for_onnxruntime_alone(take_away, tmp_path):
    take_away("onnxruntime")
    with pytest.raises(ImportError, match="OnnxScorer needs onnxruntime: pip install onnxruntime"):
        OnnxScorer(tmp_path / "m.onnx")
