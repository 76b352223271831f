"""Recordings on which the tests of the command line work, and how they run it."""

import json
import os
import time

import numpy as np
import soundfile
from click.testing import CliRunner

from skanopatch.cli import main
from skanopatch.datasets import make_miniature_dcase

FAST = ["--no-maps"]
FIT = "fit recordings/new -o m.skano"
SCORE = "score model.skano recordings/new"
DAYS = ["monday"] * 6 + ["tuesday"] * 6  # of recordings/normal


def make_workspace(folder):
    """Write hum of one machine; two of the new clips have a whine on top. A data set of DCASE."""
    rng = np.random.default_rng(0)
    seconds = np.arange(16000) / 16000

    def write(name, whine=0.0):
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        hum = 0.1 * np.sin(2 * np.pi * rng.uniform(98, 102) * seconds)
        sound = hum + 0.02 * rng.normal(size=16000) + whine * np.sin(2 * np.pi * 3000 * seconds)
        soundfile.write(path, sound, 16000)
        aged(path)

    for i in range(12):
        write(f"recordings/normal/{'monday' if i < 6 else 'tuesday'}/{i:02}.wav")
    for name, whine in [("a", 0.0), ("b", 0.1), ("c", 0.0), ("d", 0.3)]:
        write(f"recordings/new/{name}.wav", whine)
    for name in "ab":
        write(f"recordings/confirmed/{name}.wav")
    (folder / "broken").mkdir()
    (folder / "broken" / "text.wav").write_text("no sound at all")
    soundfile.write(folder / "broken" / "empty.wav", np.zeros(0), 16000)
    (folder / "nothing").mkdir()
    make_miniature_dcase(folder / "dcase", year=2023, machines=["valve"], random_state=0)
    return folder


def aged(path):
    """Let a file be an hour old: the command line waits for files that may still be written."""
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def write(path, n_samples=16000, rate=16000, seed=0, **kwargs):
    path.parent.mkdir(exist_ok=True, parents=True)
    noise = np.random.default_rng(seed).normal(scale=0.1, size=n_samples)
    soundfile.write(path, noise, rate, **kwargs)
    return aged(path)


def fit_model(workspace):
    """Write a model that is fast to fit and to load, and return its path."""
    path = workspace / "model.skano"
    result = run("fit", workspace / "recordings/normal", "-o", path, *FAST)
    assert result.exit_code == 0, result.output
    return path


def run(*arguments, stdin=None):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def scores_of(result):
    return {row["file"]: row["score"] for row in map(json.loads, result.stdout.splitlines())}
