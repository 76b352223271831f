"""Models chosen by pseudo-anomalies, tested on real ones: do they beat the defaults?

    python benchmarks/bench_selection.py FOLDER [--results FILE]

A grid of detectors and features of mel statistics (``GRID``) is searched by `GridSearchCV` with
pseudo-anomalies of the normal training clips, made in several ways (``WAYS``). What it chooses is
refitted on the training clips and tested on other normal clips and on anomalous ones, of which
nothing was known. Its AUC is compared with those of the defaults, of the grid on average (a blind
choice) and of the best of the grid (chosen by the test itself, which nothing can beat).

* The simulator: a unit of each of five machines, 40 normal clips to train on, 40 normal and 40
  anomalous ones to test on.
* FOLDER: the recordings of `bench_recipes.py`, in three folds.

The defaults of `make_pseudo_anomalies` were settled on units of the simulator with another seed.

Each result is appended to FILE (JSON lines), and what is in it is not computed again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from bench_recipes import make_sets
from environment import print_environment
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, ParameterGrid
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skanopatch import (
    FitOnNormal,
    GMMDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    make_anomaly_scorer,
    make_pseudo_anomalies,
)
from skanopatch.audio import load_clip
from skanopatch.datasets import make_machine_sounds

SEEDS, N_BOOTSTRAPS = (0, 1, 2), 10_000
RECORDINGS = ("fan", "valve", "propellers -15 dB")
FRAME_LENGTHS = (0.025, 0.1)  # seconds
BOTH = ("pitched", "band_stopped")

# Parameters of make_pseudo_anomalies, and whether it is given clips of other machines.
WAYS = {
    "pitched, band-stopped": ({}, False),  # the default
    "and mixed with others": ({"kinds": ("mixed", *BOTH)}, True),
    "other machines": ({"kinds": ("mixed",), "strength": 1.0}, True),
    "mixed": ({"kinds": ("mixed",)}, False),
    "pitched": ({"kinds": ("pitched",)}, False),
    "band-stopped": ({"kinds": ("band_stopped",)}, False),
}


def take(X, columns):
    return X[:, columns]


# Columns of the features: means and deviations of 128 bins for either frame length.
COLUMNS = [
    {"columns": slice(256 * i, 256 * i + width)}
    for i in range(len(FRAME_LENGTHS))
    for width in (128, 256)  # means; means and deviations
]
DEFAULT_COLUMNS = COLUMNS[1]
PIPELINE = Pipeline(
    [
        ("columns", FunctionTransformer(take, kw_args=DEFAULT_COLUMNS)),
        ("scaler", None),
        ("detector", KNNDetector()),
    ]
)
GRID = [
    {
        "columns__kw_args": COLUMNS,
        "detector": [KNNDetector(), MahalanobisDetector(), GMMDetector(random_state=0)],
    },
    {
        "columns__kw_args": COLUMNS,
        "scaler": [StandardScaler()],
        "detector": [
            KNNDetector(metric="euclidean"),
            KNNDetector(metric="euclidean", normalization="local_density"),
        ],
    },
]
DEFAULTS = {
    "default kNN": PIPELINE,
    "default Mahalanobis": clone(PIPELINE).set_params(detector=MahalanobisDetector()),
}


class ScorerOf:
    """Score the normal clips and the pseudo-anomalies of one way, told by the last column of X."""

    def __init__(self, way):
        self.way = way

    def __call__(self, estimator, X, y):
        """Return the AUC."""
        rows = (X[:, -1] == self.way) | (y == 1)
        return make_anomaly_scorer("auc")(estimator, X[rows], y[rows])


def describe(clips, duration=None):
    """Return the features of all columns."""
    return np.hstack(
        [
            make_pipeline(
                MelPatcher(frame_length=frame_length, duration=duration), MelStatistics()
            ).fit_transform(clips)
            for frame_length in FRAME_LENGTHS
        ]
    )


def measure(clips, groups, X, test_X, test_y, others, *, duration, seed):
    """Choose in each way and test all candidates.

    One search serves all ways: a candidate is fitted once a fold, to the same normal clips, and
    scored by the pseudo-anomalies of each way.
    """
    if groups is None:  # as make_pseudo_anomalies pairs what it mixes, alike for all ways
        groups = np.minimum(np.arange(len(clips)) // 2, len(clips) // 2 - 1)
    rows, labels, of_group = [np.c_[X, np.full(len(X), -1)]], [1] * len(X), [groups]
    for way, (parameters, with_others) in enumerate(WAYS.values()):
        pseudo = make_pseudo_anomalies(
            clips,
            groups=groups,
            other_clips=others if with_others else None,
            random_state=seed,
            **parameters,
        )
        made = describe(pseudo.clips[len(clips) :], duration)
        rows.append(np.c_[made, np.full(len(made), way)])
        labels += [-1] * len(made)
        of_group.append(groups)
    search = GridSearchCV(
        FitOnNormal(PIPELINE),
        [{f"estimator__{key}": value for key, value in part.items()} for part in GRID],
        scoring={str(way): ScorerOf(way) for way in range(len(WAYS))},
        cv=GroupKFold(min(4, len(np.unique(groups))), shuffle=True, random_state=seed),
        refit=False,
        error_score="raise",
    )
    search.fit(np.vstack(rows), np.array(labels), groups=np.concatenate(of_group))

    def test(model):
        return make_anomaly_scorer("auc")(clone(model).fit(X), test_X, test_y)

    candidates = [clone(PIPELINE).set_params(**candidate) for candidate in ParameterGrid(GRID)]
    real = np.array([test(candidate) for candidate in candidates])
    results = {name: test(model) for name, model in DEFAULTS.items()}
    results |= {"blind choice": real.mean(), "best of the grid": real.max()}
    for way, name in enumerate(WAYS):
        found = search.cv_results_[f"mean_test_{way}"]
        results[name] = real[found.argmax()]
        results[f"AUC in the search: {name}"] = found.max()
        constant = np.ptp(found) == 0 or np.ptp(real) == 0
        results[f"rank correlation: {name}"] = 0 if constant else spearmanr(found, real).statistic
    return {name: float(value) for name, value in results.items()}


def simulated(seed):
    """Yield (name, arguments of measure) for a unit of each machine."""
    sounds = make_machine_sounds(
        n_units=1, n_train=40, n_normal=40, n_anomalous=40, severity=2.0, duration=4.0,
        random_state=seed,
    )  # fmt: skip
    X = describe(list(sounds.clips))
    is_train = sounds.split == "train"
    rng = np.random.default_rng(seed)
    for machine in np.unique(sounds.machine):
        train = np.flatnonzero((sounds.machine == machine) & is_train)
        test = np.flatnonzero((sounds.machine == machine) & ~is_train)
        others = rng.choice(np.flatnonzero((sounds.machine != machine) & is_train), 40, False)
        yield (
            f"simulated {machine}",
            {
                "clips": [sounds.clips[i] for i in train],
                "groups": None,
                "X": X[train],
                "test_X": X[test],
                "test_y": sounds.y[test],
                "others": [sounds.clips[i] for i in others],
                "duration": None,
            },
        )


def recorded(folder, seed):
    """Yield (name, arguments of measure) for every fold of every set of recordings."""
    makers = {name: make for name, make in make_sets(folder).items() if name in RECORDINGS}
    sets = {name: make(seed) for name, make in makers.items()}
    rng = np.random.default_rng(seed)
    for name, recordings in sets.items():
        normal = np.flatnonzero(recordings.is_normal)
        anomalous = np.flatnonzero(~recordings.is_normal)
        duration = None if isinstance(recordings.clips[0], np.ndarray) else 10.0
        X = describe(recordings.clips, duration)
        others = [
            # As recordings.clips are: bare arrays at 16 kHz, or files of that rate.
            load_clip(other.clips[i]) if duration is None else as_pair(other.clips[i])
            for other_name, other in sets.items()
            if other_name != name
            for i in rng.choice(np.flatnonzero(other.is_normal), 20, replace=False)
        ]
        in_sessions = len(np.unique(recordings.groups)) < len(recordings.groups)
        folds = GroupKFold(3, shuffle=True, random_state=seed)
        for train, test in folds.split(normal, groups=recordings.groups[normal]):
            train, test = normal[train], np.concatenate([normal[test], anomalous])
            yield (
                name,
                {
                    "clips": [recordings.clips[i] for i in train],
                    "groups": recordings.groups[train] if in_sessions else None,
                    "X": X[train],
                    "test_X": X[test],
                    "test_y": np.where(recordings.is_normal[test], 1, -1),
                    "others": others,
                    "duration": duration,
                },
            )


def as_pair(clip):
    return load_clip(clip), 16000


def table(results):
    """Return the mean AUC of each way to choose, a row a set."""
    frame = pd.DataFrame(results).drop(columns=["seed", "part"])
    names = [name for name in frame.columns if ": " not in name]
    return frame[names].groupby("set", sort=False).mean().round(3).reset_index()


def summary(results):
    """Return what each way gains, over the simulated machines and over the recordings."""
    frame = pd.DataFrame(results).drop(columns="part")
    rows = []
    for is_simulated, here in frame.groupby(frame["set"].str.startswith("simulated"), sort=False):
        # What counts is a drawn unit of the simulator; of the recordings, one set in one seed.
        units = here.groupby(["set", "seed"]).mean()
        for name in WAYS:
            row = {"on": "simulator" if is_simulated else "recordings", "chosen by": name}
            for reference in (*DEFAULTS, "blind choice", "best of the grid"):
                row[f"over {reference}"] = gain(units[name] - units[reference])
            row["rank correlation"] = f"{units[f'rank correlation: {name}'].mean():.2f}"
            row["AUC in the search"] = f"{units[f'AUC in the search: {name}'].mean():.3f}"
            rows.append(row)
    return pd.DataFrame(rows)


def gain(differences):
    """Return the mean difference and its bootstrap interval over units."""
    values = differences.to_numpy()
    means = np.random.default_rng(0).choice(values, (N_BOOTSTRAPS, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path("bench_selection.jsonl"))
    arguments = parser.parse_args()
    print_environment(SEEDS)
    results = []
    if arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    done = {(row["set"], row["seed"], row["part"]) for row in results}
    for seed in SEEDS:
        for source in (simulated(seed), recorded(arguments.folder, seed)):
            for part, (name, given) in enumerate(source):
                if (name, seed, part) in done:
                    continue
                measured = measure(**given, seed=seed)
                results.append({"set": name, "seed": seed, "part": part, **measured})
                with arguments.results.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    print(table(results).to_markdown(index=False))
    print()
    print(summary(results).to_markdown(index=False))


if __name__ == "__main__":
    main()
