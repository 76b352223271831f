"""Few target clips: what domains, SMOTE and normalization do on the valve recordings.

    python benchmarks/bench_domain_shift.py FOLDER

FOLDER is DCASE 2023's ``valve/test``: 25 clips each of source and target, normal and anomalous.
There is no training part. Five folds over the normal clips leave 20 source clips to train on, and
of the 20 target clips ``N_TARGET``, since the target domain is rare in the challenge. Anomalous
clips are never trained on.

A clip of either domain is compared with the anomalies of both, as the challenge does: AUC is the
share of (normal clip of the domain, anomalous clip) that a fold's model ranks right, over folds and
seeds. Intervals are of a bootstrap over clips (normal clips of each domain, anomalous clips), and
so are those of the paired differences from the first row of a table; the models are held fixed.
Seeds draw folds, target clips and SMOTE. The false alarms of the two domains, at
``false_alarm_rate=0.1``, tell how unequally one threshold treats them.

The nearest of all clips is the nearest of the best bank: for one neighbour and plain distances,
banks by domain are no other detector than one bank, and are left out.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from environment import print_environment
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch import KNNDetector, MahalanobisDetector, MelPatcher, MelStatistics

SEEDS, N_FOLDS, N_TARGET, N_BOOTSTRAPS = (0, 1, 2), 5, 4, 2000
DOMAINS = ("source", "target")


def make_detectors(metric, seed):
    """Return name -> (detector, whether its fit takes the domains)."""

    def knn(**parameters):
        return KNNDetector(metric=metric, random_state=seed, **parameters)

    detectors = {"kNN": (knn(), False), "kNN, SMOTE": (knn(smote=1.0), True)}
    for normalization in ("local_density", "variance_min"):
        detector = knn(normalization=normalization, n_density_neighbors=4)
        detectors[f"kNN, {normalization}"] = detector, False
        detectors[f"kNN, {normalization}, a bank a domain"] = detector, True
    detectors["Mahalanobis"] = MahalanobisDetector(), False
    detectors["Mahalanobis, selective"] = MahalanobisDetector(), True
    return detectors


def measure(X, is_normal, domains, metric, scaled):
    """Return name -> in which share of the seeds each pair ranks right, and each clip alarms.

    Of shape (n_normal, n_anomalous) and (n_normal,).
    """
    normal, anomalous = np.flatnonzero(is_normal), np.flatnonzero(~is_normal)
    ranks = {name: np.zeros((len(normal), len(anomalous))) for name in make_detectors(metric, 0)}
    alarms = {name: np.zeros(len(normal)) for name in ranks}
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(normal, domains[normal]):
            of_target = domains[normal[train]] == "target"
            few = rng.choice(train[of_target], N_TARGET, replace=False)
            train = np.concatenate([train[~of_target], few])
            scaler = StandardScaler().fit(X[normal[train]]) if scaled else None
            Z = scaler.transform(X) if scaled else X
            for name, (detector, with_domains) in make_detectors(metric, seed).items():
                told = domains[normal[train]] if with_domains else None
                fitted = clone(detector).fit(Z[normal[train]], domains=told)
                score = fitted.anomaly_score(Z)
                mine, theirs = score[normal[test], np.newaxis], score[anomalous]
                ranks[name][test] += ((theirs > mine) + 0.5 * (theirs == mine)) / len(SEEDS)
                alarms[name][test] += (fitted.predict(Z[normal[test]]) == -1) / len(SEEDS)
    return {name: (ranks[name], alarms[name]) for name in ranks}


def summarize(ranks, alarms, domains):
    """Return the AUC of each domain, their harmonic mean, and the false alarms of each domain."""
    of_domain = [domains == domain for domain in DOMAINS]
    source, target = (ranks[rows].mean() for rows in of_domain)
    return np.array(
        [
            source,
            target,
            2 / (1 / source + 1 / target),
            *(alarms[rows].mean() for rows in of_domain),
        ]
    )


def bootstrap(ranks, alarms, domains, rng):
    """Return the summaries of resampled clips, of shape (n_bootstraps, 5)."""
    rows = [np.flatnonzero(domains == domain) for domain in DOMAINS]
    found = []
    for _ in range(N_BOOTSTRAPS):
        drawn = np.concatenate([rng.choice(r, len(r)) for r in rows])
        columns = rng.integers(ranks.shape[1], size=ranks.shape[1])
        found.append(summarize(ranks[np.ix_(drawn, columns)], alarms[drawn], domains[drawn]))
    return np.array(found)


def with_interval(value, resampled, sign=""):
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def table(measured, domains):
    """Return a row a detector: AUCs, false alarms, intervals."""
    rows, reference = [], None
    for name, (ranks, alarms) in measured.items():
        found = summarize(ranks, alarms, domains)
        resampled = bootstrap(ranks, alarms, domains, np.random.default_rng(0))  # paired: one seed
        if reference is None:
            reference = found[2], resampled[:, 2]
        rows.append(
            {
                "detector": name,
                "AUC source": with_interval(found[0], resampled[:, 0]),
                "AUC target": with_interval(found[1], resampled[:, 1]),
                "harmonic mean": with_interval(found[2], resampled[:, 2]),
                "over the first": with_interval(
                    found[2] - reference[0], resampled[:, 2] - reference[1], "+"
                ),
                "false alarms": f"{found[3]:.2f} / {found[4]:.2f}",
                "target - source": with_interval(
                    found[4] - found[3], resampled[:, 4] - resampled[:, 3], "+"
                ),
            }
        )
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("section_00_*_test_*.wav"))
    if not paths:
        parser.error(f"there are no clips of DCASE's test set in {arguments.folder}")
    print_environment(SEEDS)
    is_normal = np.array(["_normal_" in path.name for path in paths])
    domains = np.array([path.name.split("_")[2] for path in paths])
    X = make_pipeline(MelPatcher(), MelStatistics()).fit_transform(paths)
    for metric, scaled in (("cosine", False), ("euclidean", True)):
        print(f"\n{metric} distance, {'standardized' if scaled else 'plain'} mel statistics\n")
        measured = measure(X, is_normal, domains, metric, scaled)
        print(table(measured, domains[is_normal]).to_markdown(index=False))


if __name__ == "__main__":
    main()
