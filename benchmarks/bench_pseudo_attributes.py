"""Measure pseudo-attributes on simulated machines whose operating states are hidden.

    python benchmarks/bench_pseudo_attributes.py [--results FILE] [--without-network] [--snr DB]

Each unit runs in six states, three speeds and two loads. `make_pseudo_attributes` clusters the
normal clips of each unit by their frozen embeddings, `BandStatistics` or the tokens of the small
network. The adjusted Rand index says how well the clusters agree with speeds and with states; "cut
to 6" is Ward's tree cut to the true number of states, which nobody knows.

AUC compares what the labels are good for: none but the unit, the clusters, and the true states;
with labels as domains of a `MahalanobisDetector` on statistics (a label of one clip joins the
cluster of its nearest other clip), and with labels as classes of fine-tuning, followed by a
`KNNDetector` a unit. Test clips have no labels. Means and standard deviations over seeds.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from environment import print_environment
from scipy.cluster.hierarchy import fcluster, ward
from sklearn.metrics import adjusted_rand_score

from skanopatch import (
    AnoPatchEmbedder,
    FineTuning,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    make_pseudo_attributes,
)
from skanopatch.datasets import make_machine_sounds
from skanopatch.metrics import auc_score

SEEDS = (0, 1, 2)
MACHINES = ("bearing", "fan", "gearbox", "slider", "valve")
N_TRAIN, N_TESTED, SECONDS, EPOCHS = 64, 16, 2.0, 10


def measure(seed, with_network, snr=6.0):
    """Yield rows of machine, what was measured, what by, and the value."""
    sounds = make_machine_sounds(
        MACHINES,
        n_train=N_TRAIN,
        n_normal=N_TESTED,
        n_anomalous=N_TESTED,
        severity=1.5,
        snr=snr,
        duration=SECONDS,
        random_state=200 + seed,
    )
    patches = np.asarray(MelPatcher().fit_transform(sounds.clips))
    train = np.flatnonzero(sounds.split == "train")
    units = np.array(
        [f"{machine}/{unit}" for machine, unit in zip(sounds.machine, sounds.section, strict=True)]
    )
    speeds = np.array([f"{speed:.2f}" for speed in sounds.attributes.speed_cpm])
    states = np.array(
        [f"{speed} {load}" for speed, load in zip(speeds, sounds.attributes["load"], strict=True)]
    )
    labels = {"unit": [(unit,) for unit in units[train]]}
    for frozen, statistics in (("statistics", True), ("network", False)):
        embedder = AnoPatchEmbedder(statistics=statistics, random_state=seed)
        X = embedder.fit(patches[train]).transform(patches)
        labels[f"clusters of {frozen}"] = clusters = make_pseudo_attributes(
            X[train], machines=units[train], random_state=seed
        )
        numbers = np.array([number for *_, number in clusters])
        for unit in dict.fromkeys(units):
            rows = units[train] == unit
            machine = unit.partition("/")[0]
            of_unit = numbers[rows]
            yield machine, "clusters", frozen, len(set(of_unit.tolist()))
            cut = fcluster(ward(X[train][rows]), 6, "maxclust")
            for name, true in (("speed", speeds), ("state", states)):
                for by, found in ((frozen, of_unit), (f"{frozen}, cut to 6", cut)):
                    index = adjusted_rand_score(true[train][rows], found)
                    yield machine, f"Rand index, {name}", by, index
        if statistics:
            of_statistics = X
    labels["true states"] = list(zip(units[train], states[train], strict=True))

    test = np.flatnonzero(sounds.split == "test")
    for name, own in labels.items():
        domains = _without_single_clips(own, of_statistics[train], units[train])
        detector = GroupedDetector(MahalanobisDetector())
        detector.fit(of_statistics[train], groups=units[train], domains=domains)
        yield from _aucs(detector, of_statistics, sounds, units, test, "AUC, domains", name)
    for name, own in labels.items() if with_network else ():
        embedder = AnoPatchEmbedder(fine_tuning=FineTuning(max_epochs=EPOCHS), random_state=seed)
        X = embedder.fit(patches[train], labels=own).transform(patches)
        detector = GroupedDetector(KNNDetector()).fit(X[train], groups=units[train])
        yield from _aucs(detector, X, sounds, units, test, "AUC, fine-tuning", name)


def _aucs(detector, X, sounds, units, test, measured, name):
    for unit in dict.fromkeys(units):
        rows = test[units[test] == unit]
        scores = detector.anomaly_score(X[rows], groups=units[rows])
        yield unit.partition("/")[0], measured, name, auc_score(sounds.y[rows], scores)


def _without_single_clips(labels, X, units):
    """Return the labels, where each has two clips or more: a domain of one has no deviation."""
    labels = list(labels)
    for i in [i for i, label in enumerate(labels) if labels.count(label) == 1]:
        others = np.flatnonzero((units == units[i]) & (np.arange(len(X)) != i))
        labels[i] = labels[others[np.linalg.norm(X[others] - X[i], axis=1).argmin()]]
    return labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("bench_pseudo_attributes.jsonl"))
    parser.add_argument("--without-network", action="store_true", help="leave fine-tuning out")
    parser.add_argument("--snr", type=float, default=6.0, help="machine over noise, in dB")
    arguments = parser.parse_args()
    print_environment(SEEDS)
    results = []
    if arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
        results = [row for row in results if row["snr"] == arguments.snr]
    for seed in sorted(set(SEEDS) - {row["seed"] for row in results}):
        rows = [
            dict(zip(("machine", "measured", "by", "value"), row, strict=True))
            | {"seed": seed, "snr": arguments.snr}
            for row in measure(seed, not arguments.without_network, arguments.snr)
        ]
        with arguments.results.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        results += rows
    keys = ["measured", "by"]
    frame = pd.DataFrame(results)
    means = frame.groupby([*keys, "machine", "seed"], sort=False).value.mean()
    everything = means.groupby([*keys, "seed"], sort=False).mean()
    means = pd.concat([means.unstack("machine"), everything.rename("mean")], axis=1)
    by_row = means.groupby(keys, sort=False)
    mean, std = by_row.mean(), by_row.std(ddof=1)
    cells = mean.map("{:.3f}".format) + " ± " + std.map("{:.3f}".format)
    print(cells.reset_index().to_markdown(index=False))


if __name__ == "__main__":
    main()
