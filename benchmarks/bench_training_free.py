"""Compare the training-free recipe with the default one, on recordings and simulated machines.

    python benchmarks/bench_training_free.py [FOLDER] [--backbone NAME] [--results FILE] [--on SET]

FOLDER holds the recordings that `bench_recipes.py` describes, which has the folds, noise and
simulated machines too. No recipe gets labels. Mean and standard deviation of AUC and pAUC are over
seeds. Each row after the first changes one choice of `make_training_free_pipeline`.

Results are appended to FILE (JSON lines), and an interrupted run goes on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from bench_recipes import N_FOLDS, make_sets, table
from environment import print_environment
from sklearn.base import clone
from sklearn.model_selection import GroupKFold

from skanopatch import AnomalousSoundDetector, GroupedDetector, make_training_free_pipeline
from skanopatch.metrics import auc_score, pauc_score

SEEDS = (0, 1, 2)
CHOICES = {
    "default": {},
    "all layers": {"layers": "all"},
    "mean pooling": {"pooling": "mean"},
    "RDP pooling": {"pooling": "rdp"},
    "GeM pooling": {"pooling": "gem"},
    "mean of scores": {"joining": "mean"},
}
ALONE = {"nearest": "nearest alone", "density": "density alone", "mahalanobis": "Mahalanobis alone"}


def measure(recordings, backbone, seed):
    """Yield recipe, choice, AUC and pAUC, means over folds and units."""
    duration = None if isinstance(recordings.clips[0], np.ndarray) else 10.0
    embedded = {}  # by what the embedder is set to: a frozen one needs no folds
    for choice, parameters in CHOICES.items():
        pipe = make_training_free_pipeline(
            backbone,
            melpatcher__duration=duration,
            anopatchembedder__random_state=seed,
            **parameters,
        )
        key = parameters.get("layers"), parameters.get("pooling")
        if key not in embedded:
            embedded[key] = pipe[:-1].fit_transform(recordings.clips)
        yield "training-free", choice, *_folds(recordings, embedded[key], pipe[-1], seed)
        if choice == "default":
            for name, alone in ALONE.items():
                member = dict(pipe[-1].detectors)[name]
                yield "training-free", alone, *_folds(recordings, embedded[key], member, seed)
    patches = np.asarray(pipe[0].fit_transform(recordings.clips))
    default = AnomalousSoundDetector("passthrough", map_detector="drop", random_state=seed)
    yield "AnomalousSoundDetector", "no labels", *_folds(recordings, patches, default, seed)


def _folds(recordings, X, detector, seed):
    """Return mean AUC and pAUC of a detector that is fitted on four fifths of the normal clips."""
    normal, anomalous = (
        np.flatnonzero(is_it) for is_it in (recordings.is_normal, ~recordings.is_normal)
    )
    units = recordings.units
    takes_groups = isinstance(detector, AnomalousSoundDetector)
    if units is not None and not takes_groups:
        detector, takes_groups = GroupedDetector(detector), True
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    results = []
    for train, test in folds.split(normal, groups=recordings.groups[normal]):
        train, test = normal[train], np.concatenate([normal[test], anomalous])
        routed = {} if units is None else {"groups": units[train]}
        fitted = clone(detector).fit(X[train], **routed)
        y = np.where(recordings.is_normal[test], 1, -1)
        of_test = np.zeros(len(test)) if units is None else units[test]
        for unit in np.unique(of_test):
            rows = of_test == unit
            routed = {} if units is None else {"groups": of_test[rows]}
            scores = fitted.anomaly_score(X[test][rows], **routed)
            results.append((auc_score(y[rows], scores), pauc_score(y[rows], scores)))
    return np.mean(results, axis=0).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--backbone", default="anopatch-tiny")
    parser.add_argument("--results", type=Path, default=Path("bench_training_free.jsonl"))
    parser.add_argument("--on", help="one set of recordings")
    arguments = parser.parse_args()
    print_environment(SEEDS)
    results = []
    if arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
        results = [row for row in results if row["backbone"] == arguments.backbone]
    done = {(row["recordings"], row["seed"]) for row in results}
    sets = make_sets(arguments.folder)
    for name in [arguments.on] if arguments.on else sets:
        for seed in SEEDS:
            if (name, seed) in done:
                continue
            rows = [
                {
                    "recordings": name,
                    "recipe": recipe,
                    "detector": choice,
                    "seed": seed,
                    "backbone": arguments.backbone,
                    "auc": auc,
                    "pauc": pauc,
                }
                for recipe, choice, auc, pauc in measure(
                    sets[name](seed=seed), arguments.backbone, seed
                )
            ]
            with arguments.results.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            results += rows
            print(name, seed, *(f"{row['detector']} {row['auc']:.3f}" for row in rows), flush=True)
    print(table(results).sort_values("recordings", kind="stable").to_markdown(index=False))


if __name__ == "__main__":
    main()
