"""Score recipes on real recordings of machines and on simulated ones, beside PyOD's.

    python benchmarks/bench_recipes.py [FOLDER] [--results FILE] [--only RECIPE] [--on RECORDINGS]

FOLDER holds what is there of

* ``mimii/fan/id_00/{normal,abnormal}`` (MIMII's layout; no labels, so nothing is fine-tuned),
* ``dcase2023t2/dev_data/raw/valve/test`` (DCASE 2023 Task 2; labels: the attribute and domain),
* ``propellers/{normal,anomaly}`` (UAV-Propeller-Anomaly-Audio-Dataset; labels: the trajectory).
  Every clip is brought to one RMS and pink noise is added at -15 and -20 dB, since level alone
  tells clean recordings apart.

Beside them, simulated machines (labels: the unit), new ones for each seed: two units in rooms of
their own with 48 clips each to fit on, and four siblings in one room with 20, whose faults are half
as strong again; with a detector a unit.

Five folds over the normal clips (whole flights of the propellers): a detector is fitted on four
and tested on the fifth with all anomalous clips; AUC and pAUC are means over folds. A seed sets
folds, noise, weights and order. The features of PyOD come from its audio encoder, which needs
``pip install pyod==3.6.7 librosa``; they are left out where it is not there. Where units have
recordings, each has a threshold of its own. With labels, `AnomalousSoundDetector` may train a
network; "statistics, labels" is the same without one.

Each result is appended to FILE (JSON lines), and what is in it is not computed again, so that an
interrupted run goes on.
"""

import argparse
import json
import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from environment import print_environment
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    GMMDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
)
from skanopatch.audio import load_clip
from skanopatch.datasets import make_machine_sounds
from skanopatch.datasets.factory import Unit
from skanopatch.metrics import auc_score, pauc_score

try:
    from pyod.models.ecod import ECOD
    from pyod.models.gmm import GMM
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.lof import LOF
    from pyod.utils.encoders.audio import AudioFeatureEncoder
except ImportError:
    AudioFeatureEncoder = None

SEEDS, N_FOLDS = (0, 1, 2), 5
MACHINES = ("bearing", "fan", "gearbox", "slider", "valve")


@dataclass
class Recordings:
    """Clips of one machine."""

    clips: list  # paths or arrays
    is_normal: np.ndarray
    groups: np.ndarray  # what a fold must not cut through
    labels: list | None = None  # what fine-tuning may tell apart
    units: np.ndarray | None = None  # each has a detector of its own


def load_fan(folder, seed):
    paths = sorted(folder.glob("normal/*.wav")) + sorted(folder.glob("abnormal/*.wav"))
    is_normal = np.array([path.parent.name == "normal" for path in paths])
    return Recordings(paths, is_normal, np.arange(len(paths)))


def load_valve(folder, seed):
    paths = sorted(folder.glob("*.wav"))
    is_normal = np.array(["_normal_" in path.name for path in paths])
    labels = [re.search(r"section_00_(\w+?)_.*(pat_\d\d)", path.name).groups() for path in paths]
    return Recordings(paths, is_normal, np.arange(len(paths)), labels)


def load_propellers(folder, seed, snr):
    paths = sorted(folder.glob("normal/*.flac")) + sorted(folder.glob("anomaly/*.flac"))
    rng = np.random.default_rng(seed)
    clips = []
    for path in paths:
        samples = load_clip(path)
        samples = samples / np.sqrt(np.mean(samples**2))
        noise = pink_noise(len(samples), rng)
        clips.append(0.05 * (samples + 10 ** (-snr / 20) * noise).astype(np.float32))
    flights = np.array([re.sub(r"_part_\d+", "", path.stem) for path in paths])
    labels = [re.search(r"cw_(f8|square)", path.name)[1] for path in paths]
    is_normal = np.array([path.parent.name == "normal" for path in paths])
    return Recordings(clips, is_normal, flights, labels)


def pink_noise(n_samples, rng):
    """Return noise of RMS 1 whose power falls as 1 / frequency."""
    spectrum = rng.normal(size=(2, n_samples // 2 + 1)).T @ [1, 1j]
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, n_samples)
    return noise / noise.std()


def simulate(machine, seed):
    sounds = make_machine_sounds(
        [machine], n_train=0, n_normal=60, n_anomalous=40, duration=2.0, random_state=100 + seed
    )
    units = np.asarray(sounds.section)
    groups = np.arange(len(units))
    return Recordings(list(sounds.clips), sounds.y == 1, groups, list(units), units)


def simulate_siblings(machine, seed, n_normal=25, n_anomalous=20, severity=1.5):
    """Record four units of one machine in one room."""
    n_units = 4
    duration, rate = 2 * 16000, 16000
    rng = np.random.default_rng([seed, *machine.encode()])
    units = [Unit(machine, duration, rate, unit_rng) for unit_rng in rng.spawn(n_units)]
    clips = []
    for unit in units:
        unit.room, unit.halls = units[0].room, units[0].halls
        faults = ["none"] * n_normal + list(unit.machine.faults) * (n_anomalous // 2)
        clips += [
            unit.record("source", fault, severity, 6.0, clip_rng)[0].astype(np.float32)
            for fault, clip_rng in zip(faults, rng.spawn(len(faults)), strict=True)
        ]
    of_unit = np.repeat(np.arange(n_units), n_normal + n_anomalous)
    is_normal = np.tile(np.arange(n_normal + n_anomalous) < n_normal, n_units)
    # A fold has the same share of each unit.
    within_unit = np.tile(np.arange(n_normal + n_anomalous), n_units)
    return Recordings(clips, is_normal, within_unit, list(of_unit), of_unit)


def make_sets(folder):
    """Return name -> function of a seed, for what is in the folder and for the simulator."""
    candidates = {
        "fan": ("mimii/fan/id_00", load_fan),
        "valve": ("dcase2023t2/dev_data/raw/valve/test", load_valve),
        "propellers -15 dB": ("propellers", partial(load_propellers, snr=-15)),
        "propellers -20 dB": ("propellers", partial(load_propellers, snr=-20)),
    }
    real = {
        name: partial(load, folder / where)
        for name, (where, load) in candidates.items()
        if folder is not None and (folder / where).is_dir()
    }
    simulated = {f"simulated {machine}": partial(simulate, machine) for machine in MACHINES}
    siblings = {f"siblings {machine}": partial(simulate_siblings, machine) for machine in MACHINES}
    return real | simulated | siblings


def make_recipes(seed):
    """Return name -> (features, detector, which metadata `fit` takes); the quick ones first.

    Features are of patches; None stands for PyOD's audio encoder. A detector of None is the whole
    recipe, from patches to scores.
    """
    grouped = {
        "Mahalanobis": GroupedDetector(MahalanobisDetector()),
        "KNN, cosine": GroupedDetector(KNNDetector()),
        "KNN, Euclidean": GroupedDetector(KNNDetector(metric="euclidean")),
        "GMM": GroupedDetector(GMMDetector(random_state=seed)),
    }
    detect = partial(AnomalousSoundDetector, "passthrough", map_detector="drop", random_state=seed)
    recipes = {("MelStatistics", name): (MelStatistics(), d, ()) for name, d in grouped.items()}
    # The embedder's statistics without labels, on one scale.
    recipes |= {
        ("default, no labels", name): (AnoPatchEmbedder(), d, ()) for name, d in grouped.items()
    }
    recipes |= {
        ("AnomalousSoundDetector", "no labels"): (detect(), None, ()),
        ("AnomalousSoundDetector", "statistics, labels"): (
            detect(embedder="drop"),
            None,
            ("labels",),
        ),
        ("AnomalousSoundDetector", "labels"): (detect(), None, ("labels",)),
    }
    if AudioFeatureEncoder is not None:
        pyod = {
            "KNN": KNN(),
            "LOF": LOF(),
            "GMM": GMM(random_state=seed),
            "ECOD": ECOD(),
            "IForest": IForest(random_state=seed),
        }
        recipes |= {
            ("PyOD audio features", name): (None, PyODDetector(detector), ())
            for name, detector in pyod.items()
        }
    return recipes


class PyODDetector:
    """A detector of PyOD on standardized features, with our method's name for its scores."""

    def __init__(self, detector):
        self.detector = detector

    def fit(self, X):
        """Fit the detector of PyOD."""
        self.scaler = StandardScaler().fit(X)
        self.detector.fit(self.scaler.transform(X))
        return self

    def anomaly_score(self, X):
        """Return how anomalous each clip is."""
        return self.detector.decision_function(self.scaler.transform(X))


def compute_features(recordings, of_pyod):
    """Return what needs no fit: patches, or PyOD's features."""
    is_array = isinstance(recordings.clips[0], np.ndarray)
    if not of_pyod:
        patcher = MelPatcher(duration=None if is_array else 10.0)
        return np.asarray(patcher.fit_transform(recordings.clips))
    clips = recordings.clips if is_array else [load_clip(path) for path in recordings.clips]
    return AudioFeatureEncoder().encode(clips, show_progress=False)


def measure(recordings, X, recipe, seed):
    """Return AUC and pAUC, means over folds and units, and the seconds of a fit."""
    features, detector, asked = recipe
    normal = np.flatnonzero(recordings.is_normal)
    anomalous = np.flatnonzero(~recordings.is_normal)
    units = np.zeros(len(recordings.is_normal)) if recordings.units is None else recordings.units
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    results, seconds = [], []
    for train, test in folds.split(normal, groups=recordings.groups[normal]):
        train, test = normal[train], np.concatenate([normal[test], anomalous])
        start = perf_counter()
        metadata = {"labels": [recordings.labels[i] for i in train]} if asked else {}
        if recordings.units is not None:
            metadata["groups"] = units[train]
        if detector is None:
            features.fit(X[train], **metadata)
            score = features.anomaly_score
            tested = X[test]
        elif features is None:
            score, tested = None, X[test]
        else:
            embedder = features.fit(X[train])
            detector.fit(embedder.transform(X[train]), **metadata)
            score, tested = detector.anomaly_score, embedder.transform(X[test])
        seconds.append(perf_counter() - start)
        for unit in np.unique(units):
            of_unit = units[test] == unit
            y = np.where(recordings.is_normal[test], 1, -1)[of_unit]
            if score is None:  # PyOD knows no groups
                detector.fit(X[train][units[train] == unit])
                scores = detector.anomaly_score(tested[of_unit])
            else:
                groups = {} if recordings.units is None else {"groups": units[test][of_unit]}
                scores = score(tested[of_unit], **groups)
            results.append((auc_score(y, scores), pauc_score(y, scores)))
    return (*np.mean(results, axis=0).tolist(), float(np.mean(seconds)))


def table(results):
    """Return mean and standard deviation over seeds, a row a recipe and detector."""
    frame = pd.DataFrame(results)
    frame["recordings"] = frame["recordings"].replace(
        {"simulated .*": "simulator", "siblings .*": "siblings"}, regex=True
    )
    keys = ["recordings", "recipe", "detector"]
    by_seed = frame.groupby([*keys, "seed"], sort=False).mean(numeric_only=True)
    grouped = by_seed.groupby(keys, sort=False)
    mean, std = grouped.mean(), grouped.std(ddof=1)
    rows = {
        metric: [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[metric], std[metric], strict=True)]
        for metric in ("auc", "pauc", "false_alarms")
        if metric in mean
    }
    return pd.DataFrame(rows, index=mean.index).reset_index()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--results", type=Path, default=Path("bench_recipes.jsonl"))
    parser.add_argument("--only", help="one recipe")
    parser.add_argument("--on", help="one set of recordings")
    arguments = parser.parse_args()
    print_environment(SEEDS)

    sets = make_sets(arguments.folder)
    results = []
    if arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    done = {(r["recordings"], r["recipe"], r["detector"], r["seed"]) for r in results}
    names = [name for name in make_recipes(0) if arguments.only is None or arguments.only in name]
    on = [arguments.on] if arguments.on else list(sets)
    for set_name, seed in ((s, seed) for s in on for seed in SEEDS):
        todo = [name for name in names if (set_name, *name, seed) not in done]
        recordings = sets[set_name](seed=seed) if todo else None
        features = cache(partial(compute_features, recordings))
        for name in todo:
            recipe = make_recipes(seed)[name]
            if recipe[2] and recordings.labels is None:
                continue
            auc, pauc, seconds = measure(recordings, features(recipe[0] is None), recipe, seed)
            row = {"recordings": set_name, "recipe": name[0], "detector": name[1], "seed": seed}
            row |= {"auc": auc, "pauc": pauc, "seconds": seconds}
            with arguments.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            results.append(row)
            print(*row.values(), flush=True)
    print(table(results).sort_values("recordings", kind="stable").to_markdown(index=False))


if __name__ == "__main__":
    main()
