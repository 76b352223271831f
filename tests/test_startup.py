"""What starting costs: which libraries are loaded, for which part of the package and model."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import skanopatch
from skanopatch import AnomalousSoundDetector, MelPatcher, save_model
from skanopatch.embedding.pooling import POOLINGS

pytestmark = pytest.mark.slow  # processes of their own

NETWORK = {"torch", "torchaudio", "torchvision", "timm", "skorch", "transformers", "safetensors"}
DRAWING = {"matplotlib"}
ESTIMATORS = {"numpy", "scipy", "sklearn", "pandas"}

MEMORY = 300  # MB that `skanopatch score` may take
SIZE = 1_000_000  # bytes of a model file without a network and maps


def run(script, *, cwd=None):
    """Run a script in a new process; return its standard output, the modules and the peak in MB."""
    script += """
import json, pathlib, sys
status = pathlib.Path("/proc/self/status")  # getrusage counts the process that started this one
peak = int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024 if status.exists() else 0
print("\\n" + json.dumps([sorted({name.split(".")[0] for name in sys.modules}), peak]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, timeout=300
    )
    assert result.returncode == 0, result.stderr
    output, _, last = result.stdout.strip().rpartition("\n")
    modules, peak = json.loads(last)
    return output, set(modules), peak


def run_command(*arguments, cwd):
    code = f"from skanopatch.cli import main\nmain({list(arguments)!r}, standalone_mode=False)"
    return run(code, cwd=cwd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with clips, and the file of a model that the command line fitted."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / "normal").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        soundfile.write(folder / "normal" / f"{i}.wav", 0.1 * rng.normal(size=16000), 16000)
    return folder


@pytest.fixture(scope="module")
def fitted(folder):
    _, modules, _ = run_command("fit", "normal", "-o", "fan.skano", cwd=folder)
    return folder, modules


# --- Names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(skanopatch.__all__) - {"FineTuning"}))
def test_a_public_name_loads_no_network_library(name):
    _, modules, _ = run(f"from skanopatch import {name}")
    assert modules & NETWORK == set()
    if not name.endswith("Display"):
        assert modules & DRAWING == set()


def test_the_package_loads_nothing_before_a_name_is_used():
    _, modules, _ = run("import skanopatch; skanopatch.__version__; dir(skanopatch)")
    assert modules & (NETWORK | DRAWING | ESTIMATORS) == set()


def test_mel_settings_of_a_backbone_load_no_network_library():
    script = "from skanopatch.backbones import make_patcher\nprint(make_patcher('ast:a/b'))"
    output, modules, _ = run(script)
    assert output.strip() == "MelPatcher(scale=1.0, window='hanning')"
    assert modules & NETWORK == set()


def test_an_embedder_names_the_poolings_that_there_are():
    (options,) = skanopatch.AnoPatchEmbedder._parameter_constraints["pooling"]
    assert options.options == set(POOLINGS)


# --- Models ---------------------------------------------------------------------------------


def test_fit_save_load_and_score_load_no_network_library(tmp_path):
    script = """
import numpy as np
from skanopatch import AnomalousSoundDetector, MelPatcher, load_model, save_model
clips = np.random.default_rng(0).normal(size=(12, 8000))
save_model("fan.skano", AnomalousSoundDetector(MelPatcher(duration=0.5)).fit(clips))
model = load_model("fan.skano")
print(model.score_samples(clips).shape, model.explain(clips[:1])[0].sentences() != "")
print(model.anomaly_map(clips[:1]).ndim, model.p_values(clips).ndim)
"""
    output, modules, _ = run(script, cwd=tmp_path)
    assert output.split("\n")[:2] == ["(12,) True", "3 1"]
    assert modules & (NETWORK | DRAWING | {"skops"}) == set()


def test_a_model_file_without_network_and_maps_is_small(tmp_path):
    clips = np.random.default_rng(0).normal(size=(100, 8000))
    model = AnomalousSoundDetector(MelPatcher(duration=0.5), map_detector="drop").fit(clips)
    save_model(tmp_path / "fan.skano", model)
    assert (tmp_path / "fan.skano").stat().st_size < SIZE


# --- The command line -----------------------------------------------------------------------


def test_help_loads_no_library():
    result = run("from skanopatch.cli import main\nmain(['--help'], standalone_mode=False)")
    assert "Learn from recordings" in result[0]
    assert result[1] & (NETWORK | DRAWING | ESTIMATORS) == set()


def test_fit_loads_no_network_library(fitted):
    _, modules = fitted
    assert "sklearn" in modules
    assert modules & (NETWORK | DRAWING | {"skops"}) == set()


def test_score_loads_no_network_library_and_takes_little_memory(fitted):
    output, modules, peak = run_command(
        "score", "fan.skano", "normal/0.wav", "--p-values", cwd=fitted[0]
    )
    assert "0 of 1 clips are anomalies" in output
    assert modules & (NETWORK | DRAWING | {"skops"}) == set()
    assert peak < MEMORY


def test_the_program_hardly_looks_for_garbage(fitted):
    """It would look hundreds of times at modules, which all live on, and once more at exit."""
    script = """
import atexit, gc, sys
from skanopatch.__main__ import run
sys.argv = ["skanopatch", "score", "fan.skano", "normal/0.wav"]
atexit.register(lambda: print(gc.get_freeze_count() > 10_000))  # the last registered runs first
before = sum(generation["collections"] for generation in gc.get_stats())
try:
    run()
except SystemExit:
    print(sum(generation["collections"] for generation in gc.get_stats()) - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=fitted[0], timeout=300
    )
    *_, n_collections, is_frozen = result.stdout.split()
    assert int(n_collections) < 20
    assert is_frozen == "True"


def test_info_loads_no_library(fitted):
    output, modules, _ = run_command("info", "fan.skano", cwd=fitted[0])
    assert "normal clips        12" in output
    assert modules & (NETWORK | DRAWING | ESTIMATORS) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "fan.skano", "normal/0.wav", "-o", "report.html"),
        ("update", "fan.skano", "normal/0.wav", "-o", "updated.skano"),
        ("info", "fan.skano", "--json"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_other_commands_load_no_network_library(fitted, arguments):
    _, modules, _ = run_command(*arguments, cwd=fitted[0])
    assert modules & NETWORK == set()
