"""A model file of a stranger is read, scores and is refused without touching anything else."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from skanopatch import AnoPatchEmbedder, KNNDetector, MelPatcher, save_model

pytestmark = pytest.mark.slow  # processes of their own

# Forbids network, processes and what writes outside a folder; the process ends with 9 at once.
GUARDED = """
import os, sys
FOLDER, FILE, IMPORTS, DEED = sys.argv[1:]
exec(IMPORTS)
FORBIDDEN = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
    "os.startfile", "pty.spawn", "ctypes.dlopen", "pickle.find_class", "os.kill", "os.putenv",
)
CHANGES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link",
    "os.symlink", "os.truncate", "os.utime", "shutil.",
)
def outside(path):
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False
    return not os.path.realpath(os.fsdecode(path)).startswith(FOLDER + os.sep)
def guard(event, args):
    writes = event == "open" and (
        isinstance(args[1], str) and set(args[1]) & set("wax+")
        or isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )
    changes = writes or event.startswith(CHANGES)
    if event.startswith(FORBIDDEN) or changes and any(map(outside, args[:2])):
        os.write(2, f"forbidden: {event} {args!r}".encode()[:500])
        os._exit(9)
sys.dont_write_bytecode = True
sys.addaudithook(guard)
exec(DEED)
"""
IMPORTS = """
import numpy as np
import soundfile, torch, sklearn.pipeline
from skanopatch import AnoPatchEmbedder, KNNDetector, MelPatcher, load_model
import skanopatch.embedding.module, skanopatch.backbones.anopatch_tiny
"""
READ = """
try:
    model = load_model(FILE)
    scores = model.score_samples(np.random.default_rng(0).normal(size=(3, 8000)))
    print("scored", np.isfinite(scores).all())
except ValueError as error:
    print("refused", FILE in str(error))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    clips = np.random.default_rng(0).normal(size=(12, 8000)).astype(np.float32)
    embedder = AnoPatchEmbedder(random_state=0)
    file = tmp_path_factory.mktemp("stranger").resolve() / "fan.skano"
    save_model(file, make_pipeline(MelPatcher(duration=0.5), embedder, KNNDetector()).fit(clips))
    return file


def guarded(file, deed=READ, imports=IMPORTS):
    words = [sys.executable, "-W", "ignore", "-c", GUARDED]
    words += [str(file.parent), str(file), imports, deed]
    return subprocess.run(words, capture_output=True, text=True)


def test_a_file_with_a_network_is_read_and_scores_with_nothing_else_touched(path):
    before = path.read_bytes()
    done = guarded(path)
    assert (done.returncode, done.stdout) == (0, "scored True\n"), done.stderr
    assert [path] == [*path.parent.glob("*.skano")]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a class", {"class": "os.system", "number": 99, "state": {"args": ["touch hit"]}}),
        ("a function", {"function": "builtins.eval"}),
        ("a path", {"array": "/etc/passwd"}),
        ("a backbone", {"class": "AnoPatchEmbedder", "number": 98, "state": {}}),
    ],
)
def test_a_forged_file_is_refused_with_nothing_touched(path, tmp_path, name, value):
    forged = tmp_path.resolve() / "forged.skano"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(forged, "w") as made:
        for member in archive.namelist():
            content = archive.read(member)
            if member == "model.json":
                schema = json.loads(content)
                schema["state"]["steps"][-1]["tuple"][1]["state"]["offset_"] = value
                content = json.dumps(schema)
            made.writestr(member, content)
    done = guarded(forged)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused True\n"
    assert [file.name for file in tmp_path.iterdir()] == ["forged.skano"]


@pytest.mark.parametrize(
    "deed",
    [
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
        "os.system('true')",
        "os.fork()",
        "open(os.path.join(os.path.dirname(FOLDER), 'outside'), 'w')",
        "os.open(os.path.join(os.path.dirname(FOLDER), 'outside'), os.O_CREAT | os.O_WRONLY)",
        "os.mkdir(os.path.join(os.path.dirname(FOLDER), 'outside'))",
        "os.rename(FILE, os.path.join(os.path.dirname(FOLDER), 'outside'))",
        "import pickle; pickle.loads(pickle.dumps(os.getcwd))",
    ],
)
def test_the_guard_sees_what_it_forbids(path, deed):
    done = guarded(path, deed, imports="")
    assert done.returncode == 9
    assert "forbidden: " in done.stderr
    assert not (path.parent.parent / "outside").exists()
