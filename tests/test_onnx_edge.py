"""The programs of examples/edge say of recordings what the model says, without the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose
from onnx_models import NEW, NORMAL, RATE, patcher

from skanopatch import AnomalousSoundDetector, export_onnx

EDGE = Path(__file__).parents[1] / "examples" / "edge"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Write a model and recordings of 16 bits, and return the folder with what to expect."""
    folder = tmp_path_factory.mktemp("edge")
    model = AnomalousSoundDetector(patcher(), embedder="drop").fit(NORMAL)
    export_onnx(model, folder / "m.onnx")
    for i, clip in enumerate(NEW):
        soundfile.write(folder / f"{i}.wav", np.clip(clip, -1, 1), RATE, subtype="PCM_16")
    files = [str(folder / f"{i}.wav") for i in range(len(NEW))]
    relative = model.score_samples(files) / model.offset_
    words = np.where(model.predict(files) > 0, "normal", "anomaly").tolist()
    assert {*words} == {"normal", "anomaly"}
    return folder, files, (relative, model.p_values(files), words)


def check(output, files, expected):
    rows = [line.split() for line in output.splitlines()]
    assert [row[3] for row in rows] == files
    scores, p_values, words = expected
    assert_allclose([float(row[0]) for row in rows], scores, rtol=1e-4)
    assert_allclose([float(row[1]) for row in rows], p_values, atol=1e-4)
    assert [row[2] for row in rows] == words


def run(*command, **kwargs):
    made = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, **kwargs
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_the_program_in_python_says_what_the_model_says(workspace):
    folder, files, expected = workspace
    check(run(sys.executable, "-I", EDGE / "score.py", folder / "m.onnx", *files), files, expected)
    code = (EDGE / "score.py").read_text()
    assert set(re.findall(r"^import (\w+)", code, re.MULTILINE)) == {
        *("numpy", "onnxruntime", "sys", "wave")
    }
    statements = code.partition('"""\n\n')[2]
    assert len(statements.splitlines()) <= 30


def test_the_program_in_cpp_says_what_the_model_says(workspace, tmp_path):
    folder, files, expected = workspace
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    root = Path(os.environ.get("ONNXRUNTIME_ROOT", "/usr"))
    if not (root / "include" / "onnxruntime_c_api.h").exists():
        pytest.skip("ONNXRUNTIME_ROOT names no folder with the headers of onnxruntime")
    library = root / "lib"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-I", root / "include"]
    links = ["-L", library, "-lonnxruntime", f"-Wl,-rpath,{library}"]
    run(compiler, *flags, EDGE / "score.cpp", "-o", tmp_path / "score", *links)
    check(run(tmp_path / "score", folder / "m.onnx", *files), files, expected)


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory):
    """Return a folder where Node finds onnxruntime-web."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None:
        pytest.skip("there is no Node")
    folder = Path(os.environ.get("ONNXRUNTIME_NODE", tmp_path_factory.mktemp("node")))
    if not (folder / "node_modules" / "onnxruntime-web").exists():
        if npm is None:
            pytest.skip("there is no npm to get onnxruntime-web with")
        (folder / "package.json").write_text('{"private": true}')
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-web"]
        try:
            made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
        except subprocess.TimeoutExpired:
            pytest.skip("npm did not get onnxruntime-web within 180 s")
        if made.returncode:
            pytest.skip(f"npm could not get onnxruntime-web: {made.stderr[-200:]}")
    return folder


@pytest.mark.slow
def test_the_program_for_node_says_what_the_model_says(workspace, node_folder, tmp_path):
    folder, files, expected = workspace
    program = shutil.copy(EDGE / "score.mjs", node_folder)
    check(run("node", program, folder / "m.onnx", *files, cwd=node_folder), files, expected)
