"""Does the map's highest cell hit the fault? Simulated faults, whose time and frequency are known.

    python benchmarks/bench_maps.py [--seeds 10 11 12] [--results FILE]

All five machines of `make_machine_sounds` by its defaults (two units each, 32 normal clips to fit
on, 8 normal and 8 anomalous ones of 10 s to test on, severity 1), a pipeline a unit.

Truth: clips of severity 1 and of severity 0 differ by the fault's own sound and nothing else. A
cell (160 ms by 16 mel bins) holds the fault if the power in it is higher by 1 dB or more, which is
the difference of level that one can just hear; 0.5, 2 and 3 dB are reported as well. Machines
without such a cell have no number.

AUROC: cells with the fault against all others of the test clips of a unit, normal clips included;
means over the units of a machine that have five cells with the fault or more. "Within clips" takes
the cells of each anomalous clip by themselves. "Hits": how often the highest cell of an anomalous
clip with the fault holds it; "by chance" is the share of its cells that do. "Clips" is the AUC of
clips by ``score_samples``; "false alarms" how many normal test clips have a cell above 1 at
``false_alarm_rate=0.1`` (half of them are of the target domain, of which training has a tenth).

What is compared: the two detectors with the statistics of patches (the default of
`make_map_pipeline` is the first), the same with the frozen tokens of the network, and per-cell
scores of the log of the patch's power: its deviation from the band's mean over training clips, in
standard deviations. PatchCore (anomalib's, for pictures) is the idea of `PatchKNNDetector` on the
tokens of a network.

The features and the detectors' metric were chosen on seeds 0, 1 and 2. "Seconds" are for fitting
one unit and for the maps of its 16 test clips, without the tokens. Each machine of each seed is
appended to FILE (JSON lines), and what is in it is not computed again.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from environment import print_environment
from sklearn.metrics import roc_auc_score

from skanopatch import (
    AnoPatchEmbedder,
    MelPatcher,
    PatchKNNDetector,
    SubbandKNNDetector,
)
from skanopatch.datasets import make_machine_sounds
from skanopatch.datasets.machines import MACHINES

THRESHOLDS = (0.5, 1.0, 2.0, 3.0)  # dB
LEAST_CELLS = 5  # with the fault, for an AUROC


class PowerDeviation:
    """The peer: how far the log of a patch's power is above its band's mean over normal clips."""

    def fit(self, X):
        """Learn each band's mean and deviation."""
        self.level_ = 1.0
        self.mean_, self.deviation_ = X.mean(axis=(0, 1)), X.std(axis=(0, 1))
        self.level_ = np.quantile(self.anomaly_map(X).max(axis=(1, 2)), 0.9)
        return self

    def anomaly_map(self, X):
        """Return the deviations, 1 for the highest cell of a tenth of the training clips."""
        return (X - self.mean_) / self.deviation_ / self.level_

    def score_samples(self, X):
        """Return minus the highest cell."""
        return -self.anomaly_map(X).max(axis=(1, 2))


def power(patches):
    """Return the power in each cell, (n_clips, n_time, n_freq)."""
    return np.exp(patches.astype(np.float64)).sum(axis=3)


def embed(**params):
    embedder = AnoPatchEmbedder(output="patches", random_state=0, **params)
    return lambda train, test: (embedder.fit(train).transform(train), embedder.transform(test))


def log_power(train, test):
    cells = (power(train), power(test))
    return tuple(np.log(p / p.mean(axis=(1, 2), keepdims=True)) for p in cells)


# What describes the cells, and the detectors that are given it.
METHODS = {
    "statistics": (
        embed(),
        {
            "statistics, SubbandKNN": SubbandKNNDetector(),
            "statistics, PatchKNN": PatchKNNDetector(random_state=0),
        },
    ),
    "network": (
        embed(statistics=False),
        {
            "network, SubbandKNN (cosine: BEAM)": SubbandKNNDetector(metric="cosine"),
            "network, PatchKNN (Euclidean: PatchCore)": PatchKNNDetector(
                metric="euclidean", random_state=0
            ),
        },
    ),
    "power": (log_power, {"deviation of the log power": PowerDeviation()}),
}
NAMES = [name for _, detectors in METHODS.values() for name in detectors]


def simulate(machine, seed):
    """Yield (section, training patches, test patches, labels, rise in dB) of each unit."""
    sounds = make_machine_sounds([machine], random_state=seed)
    healthy = make_machine_sounds([machine], n_train=0, severity=0.0, random_state=seed)
    patcher = MelPatcher()
    for section in np.unique(sounds.section):
        train, test = (
            (sounds.section == section) & (sounds.split == split) for split in ("train", "test")
        )
        test_patches = patcher.fit_transform(sounds.clips[test])
        healthy_patches = patcher.transform(healthy.clips[healthy.section == section])
        rise = 10 * np.log10(power(test_patches) / power(healthy_patches))
        yield section, patcher.transform(sounds.clips[train]), test_patches, sounds.y[test], rise


def measure(maps, y, rise, threshold):
    """Return how well maps tell cells with the fault, by the least rise of level in dB."""
    fault = rise >= threshold
    row = {"cells with the fault": fault[y == -1].mean(), "dB": threshold}
    if fault.sum() >= LEAST_CELLS:
        row["AUROC"] = roc_auc_score(fault.ravel(), maps.ravel())
    pairs = [(f.ravel(), m.ravel()) for f, m in zip(fault, maps, strict=True) if f.any()]
    if pairs:
        row["within clips"] = np.mean([roc_auc_score(f, m) for f, m in pairs])
        row["hits"] = np.mean([f[m.argmax()] for f, m in pairs])
        row["by chance"] = np.mean([f.mean() for f, _ in pairs])
    return row


def run(machine, seed):
    """Yield a row for each unit, method and threshold."""
    for section, train, test, y, rise in simulate(machine, seed):
        for describe, detectors in METHODS.values():
            tokens, test_tokens = describe(train, test)
            for name, detector in detectors.items():
                start = perf_counter()
                maps = detector.fit(tokens).anomaly_map(test_tokens)
                of_clips = {
                    "seconds": perf_counter() - start,
                    "clips": roc_auc_score(y, detector.score_samples(test_tokens)),
                    "false alarms": np.mean(maps[y == 1].max(axis=(1, 2)) > 1),
                }
                for threshold in THRESHOLDS:
                    row = {"seed": seed, "machine": machine, "section": section, "method": name}
                    row |= measure(maps, y, rise, threshold) | of_clips
                    yield {k: v.item() if hasattr(v, "item") else v for k, v in row.items()}


def with_spread(values):
    if values.isna().all():
        return "none"
    return f"{values.mean():.3f} ± {values.std(ddof=0):.3f}"


def by_machine(results, column, threshold):
    """Return a table of means and spreads over seeds, a row a method."""
    here = results[results["dB"] == threshold]
    of_seed = here.groupby(["method", "machine", "seed"], sort=False)[column].mean()
    table = of_seed.groupby(["method", "machine"], sort=False).apply(with_spread).unstack()
    mean = here.groupby(["method", "seed", "machine"])[column].mean()
    mean = mean.groupby(["method", "seed"]).mean().groupby("method").apply(with_spread)
    return table.loc[NAMES].assign(mean=mean)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--results", type=Path, default=Path("bench_maps.jsonl"))
    arguments = parser.parse_args()
    print_environment(arguments.seeds)
    rows = []
    if arguments.results.exists():
        rows = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    done = {(row["machine"], row["seed"]) for row in rows}
    for machine, seed in product(MACHINES, arguments.seeds):
        if (machine, seed) not in done:
            new = list(run(machine, seed))
            with arguments.results.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
            rows += new
    results = pd.DataFrame([row for row in rows if row["seed"] in arguments.seeds])
    for column in ("AUROC", "within clips", "hits"):
        print(f"\n{column}, cells whose level the fault raises by 1 dB or more:\n")
        print(by_machine(results, column, 1.0).to_markdown())
    print("\nAUROC by the least rise in dB, mean over the machines that have such cells:\n")
    of_threshold = [by_machine(results, "AUROC", t)["mean"].rename(f"{t:g} dB") for t in THRESHOLDS]
    print(pd.concat(of_threshold, axis=1).to_markdown())
    print(
        "\nThe first method by the least rise in dB: AUROC, (units that it is a mean of), and the"
    )
    print("share of the cells of anomalous clips that hold the fault:\n")
    of_machine = results[results["method"] == NAMES[0]].groupby(["machine", "dB"])
    auroc, n_units = of_machine["AUROC"].mean(), of_machine["AUROC"].count()
    share = of_machine["cells with the fault"].mean()
    cells = [f"{a:.3f} ({n}), {s:.2%}" for a, n, s in zip(auroc, n_units, share, strict=True)]
    print(pd.Series(cells, index=auroc.index).unstack().to_markdown())
    print("\nWhole clips:\n")
    columns = ["clips", "false alarms", "seconds"]
    print(results.groupby("method", sort=False)[columns].mean().round(3).to_markdown())


if __name__ == "__main__":
    main()
