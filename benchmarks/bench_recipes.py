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

Five folds over the normal clips (whole flights of the propellers): a pipeline is fitted on four
and tested on the fifth with all anomalous clips; AUC and pAUC are means over folds. A seed sets
folds, noise, weights and order. The features of PyOD come from its audio encoder, which needs
``pip install pyod==3.6.7 librosa``; they are left out where it is not there.

Each result is appended to FILE (JSON lines), and what is in it is not computed again, so that an
interrupted run goes on.
"""

import argparse
import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from environment import print_environment
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch import (
    AnoPatchEmbedder,
    BandStatistics,
    GMMDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    SharedSubspace,
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


@dataclass
class Recipe:
    """Features of clips, learnt from some of them, and detectors on top."""

    detectors: dict
    embedder: object = None  # None stands for PyOD's audio encoder
    with_labels: bool = False
    pools_units: bool = False  # one detector, to which units are domains


def make_recipes(seed):
    """Return name -> Recipe; the quick ones first."""
    mahalanobis = {"Mahalanobis": MahalanobisDetector()}
    ours = {"Mahalanobis": MahalanobisDetector(), "KNN": KNNDetector()}
    embedder = partial(AnoPatchEmbedder, random_state=seed)
    network = partial(embedder, statistics=False)
    recipes = {
        "MelStatistics": Recipe(ours | {"GMM": GMMDetector(random_state=seed)}, MelStatistics()),
        "default, no labels": Recipe(ours, embedder()),
        "ViT frozen": Recipe(mahalanobis, network()),
        "default, no labels, pooled covariance": Recipe(mahalanobis, embedder(), pools_units=True),
        "statistics alone, labels": Recipe(
            mahalanobis, make_pipeline(BandStatistics(), SharedSubspace()), True
        ),
        "default, labels": Recipe(mahalanobis, embedder(), True),
        # The network alone, to see what its first weights are worth.
        "ViT, labels, 10 epochs": Recipe(mahalanobis, network(max_epochs=10), True),
        "ViT from scratch, labels, 30 epochs": Recipe(
            mahalanobis, network("vit_tiny", max_epochs=30), True
        ),
    }
    if AudioFeatureEncoder is not None:
        pyod = {
            "KNN": PyODDetector(KNN()),
            "LOF": PyODDetector(LOF()),
            "GMM": PyODDetector(GMM(random_state=seed)),
            "ECOD": PyODDetector(ECOD()),
            "IForest": PyODDetector(IForest(random_state=seed)),
        }
        recipes["PyOD audio features"] = Recipe(pyod)
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
        """Return how odd each clip is."""
        return self.detector.decision_function(self.scaler.transform(X))


def compute_features(recordings, recipe):
    """Return what needs no fit: patches, or PyOD's features."""
    is_array = isinstance(recordings.clips[0], np.ndarray)
    if recipe.embedder is not None:
        return MelPatcher(duration=None if is_array else 10.0).fit_transform(recordings.clips)
    clips = recordings.clips if is_array else [load_clip(path) for path in recordings.clips]
    return AudioFeatureEncoder().encode(clips, show_progress=False)


def measure(recordings, recipe, seed):
    """Return detector -> (AUC, pAUC), means over folds and units, and the seconds of a fit."""
    normal = np.flatnonzero(recordings.is_normal)
    anomalous = np.flatnonzero(~recordings.is_normal)
    units = np.zeros(len(recordings.is_normal)) if recordings.units is None else recordings.units
    features = compute_features(recordings, recipe)
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    results, seconds = {name: [] for name in recipe.detectors}, []
    for train, test in folds.split(normal, groups=recordings.groups[normal]):
        train, test = normal[train], np.concatenate([normal[test], anomalous])
        start = perf_counter()
        embedded, tested = features[train], features[test]
        if recipe.embedder is not None:
            labels = [recordings.labels[i] for i in train] if recipe.with_labels else None
            is_pipeline = isinstance(recipe.embedder, Pipeline)
            told = "sharedsubspace__labels" if is_pipeline else "labels"
            recipe.embedder.fit(embedded, **({told: labels} if labels else {}))
            embedded = recipe.embedder.transform(embedded)
            seconds.append(perf_counter() - start)
            tested = recipe.embedder.transform(tested)
        for name, detector in recipe.detectors.items():
            if recipe.pools_units:
                detector.fit(embedded, domains=units[train])
            for unit in np.unique(units):
                of_unit = units[test] == unit
                y = np.where(recordings.is_normal[test], 1, -1)[of_unit]
                if not recipe.pools_units:
                    detector.fit(embedded[units[train] == unit])
                score = detector.anomaly_score(tested[of_unit])
                results[name].append((auc_score(y, score), pauc_score(y, score)))
    means = {name: np.mean(values, axis=0).tolist() for name, values in results.items()}
    return means, float(np.mean(seconds)) if seconds else None


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
        for metric in ("auc", "pauc")
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
    done = {(row["recordings"], row["recipe"], row["seed"]) for row in results}
    names = [arguments.only] if arguments.only else list(make_recipes(0))
    on = [arguments.on] if arguments.on else list(sets)
    todo = [(recipe, name, seed) for recipe in names for name in on for seed in SEEDS]
    for name, set_name, seed in todo:
        if (set_name, name, seed) in done:
            continue
        recordings, recipe = sets[set_name](seed=seed), make_recipes(seed)[name]
        if (recipe.with_labels and recordings.labels is None) or (
            recipe.pools_units and recordings.units is None
        ):
            continue
        means, seconds = measure(recordings, recipe, seed)
        rows = [
            {
                "recordings": set_name,
                "recipe": name,
                "detector": detector,
                "seed": seed,
                "auc": auc,
                "pauc": pauc,
                "seconds": seconds,
            }
            for detector, (auc, pauc) in means.items()
        ]
        with arguments.results.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        results += rows
        scores = (f"{row['detector']} {row['auc']:.3f} {row['pauc']:.3f}" for row in rows)
        print(set_name, name, seed, *scores, flush=True)
    print(table(results).sort_values("recordings", kind="stable").to_markdown(index=False))


if __name__ == "__main__":
    main()
