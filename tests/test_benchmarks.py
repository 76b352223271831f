"""The scripts of benchmarks/ on little: they run to their ends, and what they print makes sense.

How fast they find anything is not looked at. `bench_beats.py` is left out, whose networks of 90
million parameters take a minute to build; `test_backbones.py` compares small ones.
"""

import importlib
import json
import re
import shutil
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from skanopatch import MahalanobisDetector
from skanopatch.backbones import anopatch_tiny

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a script with some of its constants changed, and return what it prints."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.chdir(tmp_path)  # where results are written to

    def run(name, *arguments, **constants):
        script = importlib.import_module(name)
        for constant, value in constants.items():
            monkeypatch.setattr(script, constant, value)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        script.main()
        output = capsys.readouterr().out
        assert re.search(r"^Python 3.*, seed ", output, re.MULTILINE)
        return output

    return run


def numbers(pattern, output):
    """Return the numbers in the groups of each match; there has to be one."""
    found = re.findall(pattern, output)
    assert found, output
    return np.array(found, dtype=float)


def cells(output, row):
    """Return the numbers of the cells of a row of a Markdown table, without their spreads."""
    line = next(line for line in output.splitlines() if re.match(rf"\|\s*{row}\s*\|", line))
    return [float(number) for number in re.findall(r"\| *(\d\.\d+)", line)]


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_what_a_script_imports_is_there(monkeypatch, script):
    if script == "mutants":
        pytest.importorskip("cosmic_ray", reason="pip install cosmic-ray: no extra has it")
    monkeypatch.syspath_prepend(BENCHMARKS)
    importlib.import_module(script)


def test_mel(run):
    output = run("bench_mel", REPEATS=1)
    assert (numbers(r"ratios (\S+) and (\S+);", output) > 0).all()
    assert (numbers(r"largest difference (\S+)", output) < 1e-3).all()


def test_knn(run):
    output = run("bench_knn", REPEATS=1, N_REFERENCES=200, N_QUERIES=10, N_FEATURES=8)
    assert (numbers(r"ratio (\S+) \(", output) > 0).all()
    assert (numbers(r"over the bare product (\S+);", output) > 0).all()
    assert (numbers(r"distances differ by (\S+)", output) < 1e-4).all()


@pytest.mark.slow
def test_startup(run):
    output = run("bench_startup", REPEATS=1, SECONDS=1)
    rows = [line for line in output.splitlines() if line.startswith("| skanopatch")]
    memory = [float(row.split("|")[4]) for row in rows]  # info, score, score with a network
    assert memory == sorted(memory)
    assert numbers(r"(\S+) MB without maps", output) < 1


@pytest.mark.slow
def test_finetuning(run):
    output = run("bench_finetuning", REPEATS=1, BATCH_SIZE=2, SIZE=256)
    assert len(numbers(r": ratio (\d+\.\d+)", output)) == 3
    assert (numbers(r"([\d.]+) ms a clip", output) > 0).all()


@pytest.mark.slow
def test_embedding(run):
    output = run("bench_embedding", DURATION=1, REPEATS=1)
    without, tuned = numbers(r"(\d+) times real time", output)
    assert min(without, tuned) > 0
    assert len(numbers(r"clips: (\d+) s;", output)) == 1


@pytest.mark.slow
def test_report(run):
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are not on the PATH")
    output = run("bench_report", REPEATS=1, N_CLIPS=8, N_NORMAL=20, SECONDS=1)  # it asks for clip 7
    assert (numbers(r"load (\d+) ms, sort (\d+) ms, filter (\d+) ms, open", output) >= 0).all()


@pytest.mark.slow
def test_false_alarms(run):
    little = {"MACHINES": ("fan",), "SEEDS": (0,), "N_CLIPS": (8, 20), "N_TESTED": 20}
    detectors = {"Mahalanobis": MahalanobisDetector()}
    output = run("bench_false_alarms", **little, DETECTORS=detectors)
    for recipe in ("no labels", "labels", "labels, unit not given", "Mahalanobis"):
        *_, false_alarms, found = cells(output, rf"{recipe} +\| +20")
        assert false_alarms < min(0.3, found)


def test_drift(run):
    output = run(
        "bench_drift", DAYS=(7,), MEMORIES=(0, 2), RISES=(0.4,), N_RUNS=10, N_RUNS_RISING=5
    )
    false_alarms, found = output.split("Found with a rise")
    assert max(cells(false_alarms, r"7 +\| +2")) <= 0.3
    assert cells(found, r"7 +\| +2") == [1.0]


@pytest.mark.slow
def test_recipes(run):
    arguments = ["--on", "siblings fan", "--only", "MelStatistics"]
    output = run("bench_recipes", *arguments, SEEDS=(0,))
    assert len(re.findall(r"\| siblings +\| MelStatistics +\|", output)) == 4  # detectors
    auc, pauc = cells(output, r"siblings +\| MelStatistics +\| Mahalanobis")
    assert 0.6 < min(auc, pauc) <= max(auc, pauc) <= 1


@pytest.mark.slow
def test_training_free(run):
    output = run("bench_training_free", "--on", "siblings fan", SEEDS=(0,))
    script = sys.modules["bench_training_free"]
    choices = [*script.CHOICES, *script.ALONE.values()]
    areas = {name: cells(output, rf"siblings +\| training-free +\| {name}") for name in choices}
    assert all(len(both) == 2 and 0 < min(both) <= max(both) <= 1 for both in areas.values())
    assert len({tuple(both) for both in areas.values()}) > 5  # choices change something
    (auc, _) = cells(output, r"siblings +\| AnomalousSoundDetector +\| no labels")
    assert auc > 0.6
    again = run("bench_training_free", "--on", "siblings fan", SEEDS=(0,))
    assert again[again.index("|") :] == output[output.index("|") :]  # from what is there


@pytest.mark.slow
def test_pseudo_attributes(run):
    constants = {"SEEDS": (0,), "MACHINES": ("fan",), "N_TRAIN": 16, "N_TESTED": 4}
    constants |= {"SECONDS": 1.0, "EPOCHS": 1}
    output = run("bench_pseudo_attributes", **constants)
    for labels in ("unit", "clusters of statistics", "clusters of network", "true states"):
        for measured in ("AUC, domains", "AUC, fine-tuning"):
            of_machine, mean = cells(output, rf"{measured} +\| {labels}")
            assert 0.3 < of_machine == mean <= 1
    for by in ("statistics", "network"):
        (n_clusters, _) = cells(output, rf"clusters +\| {by}")
        assert 1 <= n_clusters <= 16
    results = Path("bench_pseudo_attributes.jsonl")
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    indices = [row["value"] for row in rows if row["measured"].startswith("Rand index")]
    assert len(indices) == 2 * 2 * 4  # units, names, and what by
    assert all(-0.5 <= index <= 1 for index in indices)
    run("bench_pseudo_attributes", "--without-network", **constants)
    assert len(results.read_text().splitlines()) == len(rows)  # from what is there


@pytest.mark.slow
def test_labels(run, tmp_path):
    """On bearings that whistle late in their lives."""
    rng, time = np.random.default_rng(0), np.arange(2560) / 16000
    (tmp_path / "bearings").mkdir()
    for unit in (1, 2, 3, 5, 6, 7):
        axis = rng.normal(size=(300, 2560)) + np.sin(2000 * unit * time)
        axis[150:] += np.sin(30000 * time)
        both = np.stack([axis, axis], axis=1).astype(np.float32)
        np.savez(tmp_path / "bearings" / f"Bearing1_{unit}.npz", x=both)
    name, recipes = "bearings, short clips", ("no labels", "statistics, labels")
    for recipe in recipes:
        output = run("bench_labels", tmp_path, "--on", name, "--only", recipe, SEEDS=(0,))
    for recipe in recipes:
        for detector in ("unit given", "unit not given"):
            auc, pauc = cells(output, rf"{name} +\| {recipe} +\| {detector}")[:2]
            assert min(auc, pauc) > 0.9
    assert output.count("statistics, labels, over no labels:") == 2
    again = run("bench_labels", tmp_path, "--on", name, "--only", recipes[0], SEEDS=(0,))
    assert again == output[: output.index("bearings")] + output[output.index("| recordings") :]


@pytest.mark.slow
def test_explanations(run):
    output = run(
        "bench_explanations", "--on", "simulated fan", "--n-fit", 10, SEEDS=(0,), N_TESTED=3
    )
    row = next(line for line in output.splitlines() if line.startswith("| simulated fan | 10 | 3"))
    named = numbers(r"(\d\.\d\d) \(", row)  # tone, band, knocks, step, dropout, clipping, gain
    assert len(named) == 7
    assert named.mean() > 0.8
    assert numbers(r"within (\S+)\.$", output) < 1e-9


@pytest.mark.slow
def test_maps(run):
    output = run("bench_maps", "--seeds", 10, MACHINES={"fan": None})
    script = sys.modules["bench_maps"]
    auroc = {name: cells(output, re.escape(name))[0] for name in script.NAMES}
    assert 0.5 < min(auroc.values()) <= max(auroc.values()) <= 1


@pytest.mark.slow
def test_selection(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    simulated = importlib.import_module("bench_selection").simulated
    output = run(
        "bench_selection",
        tmp_path,
        SEEDS=(0,),
        N_BOOTSTRAPS=10,
        simulated=lambda seed: islice(simulated(seed), 1),
    )
    aucs = cells(output, "simulated [a-z]+")
    assert len(aucs) >= 5
    assert 0 <= min(aucs) <= max(aucs) <= 1
    assert re.search(r"\| simulator +\|", output)


@pytest.mark.slow
def test_domain_shift(run, tmp_path):
    """On a fault that whistles, in a source with hiss and in a target with rumble."""
    rng, time = np.random.default_rng(0), np.arange(8000) / 16000
    for i in range(60):
        domain, state = ("source", "target")[i % 2], ("normal", "anomaly")[i // 2 % 2]
        clip = rng.normal(size=8000)
        clip = clip if domain == "source" else np.cumsum(clip) / 20
        clip += (state == "anomaly") * np.sin(20000 * time)
        name = f"section_00_{domain}_test_{state}_{i:04d}.wav"
        soundfile.write(tmp_path / name, 0.1 * clip, 16000)
    output = run("bench_domain_shift", tmp_path, SEEDS=(0,), N_BOOTSTRAPS=10)
    for name in sys.modules["bench_domain_shift"].make_detectors("cosine", 0):
        assert output.count(f"| {name} ") == 2
    for tested in output.split("euclidean distance"):
        # The AUC of source, of target, and their harmonic mean.
        assert min(cells(tested, "Mahalanobis, selective")[:3]) > 0.99
        assert min(cells(tested, "kNN")[:3]) > 0.85


@pytest.mark.slow
def test_pretrain(run, tmp_path, monkeypatch):
    """It learns, goes on to the same weights where it was broken off, and they are a backbone's."""
    rng, time = np.random.default_rng(0), np.arange(40 * 16000) / 16000
    (tmp_path / "sounds" / "deeper").mkdir(parents=True)
    for name, tone in (("a.wav", 440), ("deeper/b.flac", 1000), ("deeper/c.ogg", 2500)):
        clip = 0.1 * np.sin(2 * np.pi * tone * time) + 0.01 * rng.normal(size=len(time))
        soundfile.write(tmp_path / "sounds" / name, clip, 16000)
    (tmp_path / "sounds" / "notes.txt").write_text("no sound")
    few = {"simulate": lambda n_units, rng: [], "BATCH_SIZE": 16}

    def train(out):
        return run("pretrain", tmp_path / "sounds", out, "--epochs", 3, "--seed", 1, **few)

    output = train(tmp_path / "whole.safetensors")
    assert "48 pieces of recordings, 0 simulated" in output
    of_epoch = r"\n +\d +\x1b\[\d+m(\d+\.\d+)"
    losses = numbers(of_epoch, output)
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]

    script = importlib.import_module("pretrain")

    class Broken(script.GradientNormClipping):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 2:
                raise SystemError

    with monkeypatch.context() as patch:
        patch.setattr(script, "GradientNormClipping", Broken)
        with pytest.raises(SystemError):
            train(tmp_path / "broken.safetensors")
    assert not (tmp_path / "broken.safetensors").exists()
    output = train(tmp_path / "broken.safetensors")
    assert len(numbers(of_epoch, output)) == 2
    expected = load_file(tmp_path / "whole.safetensors")
    found = load_file(tmp_path / "broken.safetensors")
    shipped = load_file(anopatch_tiny.WEIGHTS)
    assert {name: (weight.shape, weight.dtype) for name, weight in found.items()} == {
        name: (weight.shape, weight.dtype) for name, weight in shipped.items()
    }
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight)
    # Another run does not go on from the end of this one.
    output = run(
        "pretrain", tmp_path / "sounds", tmp_path / "whole.safetensors", "--epochs", 1, **few
    )
    assert len(numbers(of_epoch, output)) == 1


@pytest.mark.slow
def test_stream(run):
    output = run("bench_stream", SEEDS=(0,), HOURS=0.15, N_RECORDINGS=5, N_SIMULATED_DAYS=5)
    times_real_time, *memory = numbers(r"\|\s+54 \| +(\S+) \| +\S+ \| +(\S+) \| +(\S+)", output)[0]
    assert times_real_time > 1
    assert memory[1] < 1.1 * memory[0]
    of_day = numbers(r"any dependence \| +(\d) \| +(\S+) \| +(\S+) \|", output)
    np.testing.assert_allclose(of_day[:, 2], of_day[:, 1] * of_day[:, 0] / 360, rtol=0.01)


@pytest.mark.slow
def test_peers(run, tmp_path):
    """On a fan whose faults whistle, and without peers, which CI does not install."""
    rng, time = np.random.default_rng(0), np.arange(16000) / 16000
    for state, n_clips in (("normal", 15), ("abnormal", 6)):
        folder = tmp_path / "mimii" / "fan" / "id_00" / state
        folder.mkdir(parents=True)
        for i in range(n_clips):
            clip = rng.normal(size=16000) + (state == "abnormal") * np.sin(20000 * time)
            soundfile.write(folder / f"{i}.wav", 0.1 * clip, 16000)
    few = {"SEEDS": (0,), "REPEATS": 1, "SECONDS": 1, "N_FITTED": 12, "N_SCORED": 5}
    output = run("bench_peers", tmp_path, **few)
    assert cells(output, "fan")[0] > 0.95  # AUC
    assert (tmp_path / "peers.png").exists()
    rows = (tmp_path / "bench_peers.jsonl").read_text()
    seconds = json.loads(rows.splitlines()[-1])
    assert 0 < seconds["score, processor"] < seconds["all, processor"]
    run("bench_peers", tmp_path, **few)
    assert (tmp_path / "bench_peers.jsonl").read_text() == rows  # nothing is computed again


@pytest.mark.slow
def test_cluster(run):
    output = run("bench_cluster", "--only", "machines", "--machines", 2, 4)
    two, four = (numbers(rf"\| {n} \| (\S+) \((\S+)\) \|", output)[0] for n in (2, 4))
    assert four[1] > two[1] > 0  # minutes of the processor
