"""Score real recordings of machines: the baseline and the ViT under each detector.

    python benchmarks/bench_recordings.py FOLDER [--results FILE]

FOLDER holds what is there of

* ``mimii/fan/id_00/{normal,abnormal}`` (MIMII's layout; no labels, so nothing is fine-tuned),
* ``dcase2023t2/dev_data/raw/valve/test`` (DCASE 2023 Task 2; labels: the attribute and domain),
* ``propellers/{normal,anomaly}`` (UAV-Propeller-Anomaly-Audio-Dataset; labels: the trajectory).
  Every clip is brought to one RMS and pink noise is added at -15 and -20 dB, since level alone
  tells clean recordings apart.

Three folds over the normal clips (whole flights of the propellers): a pipeline is fitted on two
and tested on the third with all anomalous clips; AUC and pAUC are means over folds. A seed sets
folds, noise, weights and order. All parameters are defaults, but for ``normalization="fit"`` of the
network and propeller clips of their own length; nothing was chosen on these clips.

Each result is appended to FILE (JSON lines), and what is in it is not computed again, so that an
interrupted run goes on.
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from environment import print_environment
from sklearn.base import clone
from sklearn.model_selection import GroupKFold

from skanopatch import (
    AnoPatchEmbedder,
    GMMDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
)
from skanopatch.audio import load_clip
from skanopatch.metrics import auc_score, pauc_score

SEEDS, N_FOLDS = (0, 1, 2), 3


@dataclass
class Recordings:
    """Clips of one machine."""

    clips: list  # paths or arrays
    is_normal: np.ndarray
    groups: np.ndarray  # what a fold must not cut through
    labels: list | None = None  # what fine-tuning may tell apart


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


def make_sets(folder):
    """Return name -> function of a seed, for what is in the folder."""
    candidates = {
        "fan": ("mimii/fan/id_00", load_fan),
        "valve": ("dcase2023t2/dev_data/raw/valve/test", load_valve),
        "propellers -15 dB": ("propellers", lambda f, seed: load_propellers(f, seed, -15)),
        "propellers -20 dB": ("propellers", lambda f, seed: load_propellers(f, seed, -20)),
    }
    return {
        name: lambda seed, load=load, where=folder / where: load(where, seed)
        for name, (where, load) in candidates.items()
        if (folder / where).is_dir()
    }


def make_embeddings(seed):
    """Return name -> (embedder, whether it takes labels)."""
    return {
        "statistics": (MelStatistics(), False),
        "ViT frozen": (AnoPatchEmbedder(normalization="fit", random_state=seed), False),
        "ViT fine-tuned": (AnoPatchEmbedder(normalization="fit", random_state=seed), True),
    }


def make_detectors(seed):
    return {
        "KNN": KNNDetector(),
        "GMM": GMMDetector(random_state=seed),
        "Mahalanobis": MahalanobisDetector(),
    }


def measure(recordings, embedding, seed, *, with_labels):
    """Return the mean over folds of AUC and pAUC for each detector."""
    normal = np.flatnonzero(recordings.is_normal)
    anomalous = np.flatnonzero(~recordings.is_normal)
    duration = None if isinstance(recordings.clips[0], np.ndarray) else 10.0
    patches = MelPatcher(duration=duration).fit_transform(recordings.clips)
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    results = {name: [] for name in make_detectors(seed)}
    for train, test in folds.split(normal, groups=recordings.groups[normal]):
        train, test = normal[train], np.concatenate([normal[test], anomalous])
        labels = [recordings.labels[i] for i in train] if with_labels else None
        embedder = clone(embedding).fit(patches[train], **({"labels": labels} if labels else {}))
        embedded, tested = embedder.transform(patches[train]), embedder.transform(patches[test])
        y = np.where(recordings.is_normal[test], 1, -1)
        for name, detector in make_detectors(seed).items():
            score = detector.fit(embedded).anomaly_score(tested)
            results[name].append((auc_score(y, score), pauc_score(y, score)))
    return {name: np.mean(folds, axis=0).tolist() for name, folds in results.items()}


def table(results):
    """Return mean and standard deviation over seeds, a row a system."""
    frame = pd.DataFrame(results)
    grouped = frame.groupby(["recordings", "embedding", "detector"], sort=False)
    mean, std = grouped.mean(numeric_only=True), grouped.std(numeric_only=True, ddof=1)
    rows = {
        metric: [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[metric], std[metric], strict=True)]
        for metric in ("auc", "pauc")
    }
    return pd.DataFrame(rows, index=mean.index).reset_index()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path("bench_recordings.jsonl"))
    arguments = parser.parse_args()
    print_environment(SEEDS)

    sets = make_sets(arguments.folder)
    if not sets:
        parser.error(f"there are no recordings of the known layouts in {arguments.folder}")
    results = []
    if arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    done = {(row["recordings"], row["embedding"], row["seed"]) for row in results}
    for embedding in make_embeddings(0):  # the quick ones first
        for name, load in sets.items():
            for seed in SEEDS:
                if (name, embedding, seed) in done:
                    continue
                recordings = load(seed)
                embedder, with_labels = make_embeddings(seed)[embedding]
                if with_labels and recordings.labels is None:
                    continue
                measured = measure(recordings, embedder, seed, with_labels=with_labels)
                rows = [
                    {
                        "recordings": name,
                        "embedding": embedding,
                        "detector": detector,
                        "seed": seed,
                        **dict(zip(("auc", "pauc"), values, strict=True)),
                    }
                    for detector, values in measured.items()
                ]
                with arguments.results.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
                results += rows
                print(*(f"{row['detector']} {row['auc']:.3f}" for row in rows), name, embedding)
    print(table(results).sort_values("recordings", kind="stable").to_markdown(index=False))


if __name__ == "__main__":
    main()
