"""False alarms on new normal clips, and faults found, from few clips to many.

    python benchmarks/bench_false_alarms.py [FOLDER]

Three questions, each at `false_alarm_rate` 0.01, 0.05 and 0.1, three seeds:

* five simulated machines with four siblings in one room, 8 to 100 clips a unit, tested on 100 other
  normal clips and 60 with faults a unit: without labels (a detector a unit), with labels (units
  share a covariance), with one detector for all units;
* each detector on the statistics of a simulated fan, 8 to 200 clips;
* FOLDER holds MIMII's fan, the valve of DCASE 2023 and the propellers as in `bench_recipes.py`: 40
  random splits of the normal clips, the rest and all anomalous ones to test on. "sessions" are the
  flights of the propellers, three clips each: with flights left out, and with single clips.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from bench_recipes import MACHINES, SEEDS, make_sets, simulate_siblings
from environment import print_environment

from skanopatch import (
    BandStatistics,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
)

RATES = (0.01, 0.05, 0.1)
N_CLIPS, N_TESTED, N_SPLITS = (8, 15, 30, 60, 100), 100, 40

DETECTORS = {
    "Mahalanobis": MahalanobisDetector(),
    "KNN, cosine": KNNDetector(standardize=True),
    "KNN, Euclidean": KNNDetector(metric="euclidean", standardize=True),
    "GMM": GMMDetector(random_state=0),
    "joined": JoinedDetector(
        [
            ("spread", MahalanobisDetector()),
            ("near", KNNDetector(metric="euclidean", standardize=True)),
        ]
    ),
}


def statistics_of(clips, duration=None):
    """Return the statistics of clips."""
    patches = MelPatcher(duration=duration).fit_transform(clips)
    return BandStatistics().fit_transform(np.asarray(patches))


def rates_of(detector, normal, anomalous, normal_groups=None, anomalous_groups=None):
    """Return false alarms and faults found at each rate."""
    found = {}
    given = [{} if g is None else {"groups": g} for g in (normal_groups, anomalous_groups)]
    for rate in RATES:
        detector.set_false_alarm_rate(rate)
        found[f"false alarms at {rate}"] = np.mean(detector.predict(normal, **given[0]) == -1)
        found[f"found at {rate}"] = np.mean(detector.predict(anomalous, **given[1]) == -1)
    return found


def siblings(seed):
    """Yield rows: units of one machine, with and without labels."""
    for machine in MACHINES:
        n_normal = max(N_CLIPS) + N_TESTED
        sounds = simulate_siblings(machine, seed, n_normal=n_normal, n_anomalous=60, severity=1.0)
        X, units = statistics_of(sounds.clips), np.asarray(sounds.units)
        place = sounds.groups
        new = sounds.is_normal & (place >= max(N_CLIPS))
        anomalous = ~sounds.is_normal
        for n_clips in N_CLIPS:
            seen = sounds.is_normal & (place < n_clips)
            for recipe, detector in {
                "no labels": GroupedDetector(MahalanobisDetector()),
                "labels": GroupedDetector(MahalanobisDetector(), pooled=True),
            }.items():
                detector.fit(X[seen], groups=units[seen].tolist())
                rates = rates_of(
                    detector, X[new], X[anomalous], units[new].tolist(), units[anomalous].tolist()
                )
                yield {"recipe": recipe, "clips": n_clips, "seed": seed, **rates}
            detector = MahalanobisDetector().fit(X[seen], domains=units[seen].tolist())
            yield {
                "recipe": "labels, unit not given",
                "clips": n_clips,
                "seed": seed,
                **rates_of(detector, X[new], X[anomalous]),
            }


def detectors(seed):
    """Yield rows: each detector on one simulated fan."""
    sounds = simulate_siblings("fan", seed, n_normal=400, n_anomalous=60, severity=1.0)
    mine = np.asarray(sounds.units) == np.asarray(sounds.units)[0]
    X = statistics_of([clip for clip, m in zip(sounds.clips, mine, strict=True) if m])
    normal, anomalous = X[sounds.is_normal[mine]], X[~sounds.is_normal[mine]]
    for n_clips in (*N_CLIPS, 200):
        for name, detector in DETECTORS.items():
            for draw in range(4):
                order = np.random.default_rng([seed, draw]).permutation(len(normal))
                detector.fit(normal[order[:n_clips]])
                rates = rates_of(detector, normal[order[n_clips:]], anomalous)
                yield {"recipe": name, "clips": n_clips, "seed": seed, **rates}


def recordings(folder, seed):
    """Yield rows: real recordings, split at random."""
    sets = make_sets(folder)
    for name in ("fan", "valve", "propellers -15 dB"):
        if name not in sets:
            continue
        found = sets[name](seed=seed)
        is_array = isinstance(found.clips[0], np.ndarray)
        X = statistics_of(found.clips, None if is_array else 10.0)
        normal, anomalous = X[found.is_normal], X[~found.is_normal]
        takes = found.groups[found.is_normal]
        for split in range(N_SPLITS if seed == SEEDS[0] else 0):
            rng = np.random.default_rng(split)
            order = rng.permutation(len(normal))
            for n_clips in (10, 15, 30):
                if n_clips > len(normal) - 5:
                    continue
                detector = MahalanobisDetector().fit(normal[order[:n_clips]])
                rates = rates_of(detector, normal[order[n_clips:]], anomalous)
                yield {"recipe": name, "clips": n_clips, "seed": seed, **rates}
            if not name.startswith("propellers"):
                continue
            flights = rng.permutation(np.unique(takes))[:20]
            seen = np.isin(takes, flights)
            for recipe, sessions in (("flights left out", takes[seen]), ("clips left out", None)):
                detector = MahalanobisDetector().fit(normal[seen], sessions=sessions)
                rates = rates_of(detector, normal[~seen], anomalous)
                yield {"recipe": f"{name}, {recipe}", "clips": seen.sum(), "seed": seed, **rates}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    print_environment(SEEDS)
    warnings.simplefilter("ignore", UserWarning)  # of sessions that are alike
    questions = [siblings, detectors]
    if arguments.folder is not None:
        questions.append(partial(recordings, arguments.folder))
    for question in questions:
        frame = pd.DataFrame([row for seed in SEEDS for row in question(seed)])
        by_seed = frame.groupby(["recipe", "clips", "seed"], sort=False).mean()
        by_recipe = by_seed.groupby(["recipe", "clips"], sort=False)
        mean, std = by_recipe.mean(), by_recipe.std(ddof=1).fillna(0)
        cells = mean.map("{:.2f}".format) + " ± " + std.map("{:.2f}".format)
        print(cells.reset_index().to_markdown(index=False), flush=True)


if __name__ == "__main__":
    main()
