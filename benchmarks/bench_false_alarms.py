"""False alarms on new normal clips, where labels shape the statistics and one in ten is wanted.

    python benchmarks/bench_false_alarms.py

Five simulated machines with four siblings in one room, new ones for each of three seeds: statistics
alone, fitted on 8 to 100 clips a unit, with a `MahalanobisDetector` a unit at
``contamination=0.1``, tested on 100 other normal clips a unit. Mean and standard deviation over the
seeds of the share that is called an anomaly: without labels, with the units as labels, with one
detector for all units, and with labels where the embeddings were made a plain array, so that the
detector does not know that it is fitted on the very clips that the subspace was.
"""

import warnings

import numpy as np
import pandas as pd
from bench_recipes import MACHINES, SEEDS, simulate_siblings
from environment import print_environment

from skanopatch import (
    BandStatistics,
    GroupedDetector,
    MahalanobisDetector,
    MelPatcher,
    SharedSubspace,
)

N_CLIPS, N_TESTED = (8, 15, 30, 60, 100), 100


def false_alarms(fitted_on, units, new, new_units):
    """Return the share of new normal clips that are called anomalies; units are groups or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # 8 clips place no quantile at 0.1
        detector = GroupedDetector(MahalanobisDetector()).fit(fitted_on, groups=units)
    return np.mean(detector.predict(new, groups=new_units) == -1)


def main():
    print_environment(SEEDS)
    rows = []
    for machine in MACHINES:
        for seed in SEEDS:
            n_normal = max(N_CLIPS) + N_TESTED
            sounds = simulate_siblings(machine, seed, n_normal=n_normal, n_anomalous=0)
            patches = MelPatcher(duration=None).fit_transform(sounds.clips)
            statistics = BandStatistics().fit_transform(patches)
            is_new = sounds.groups >= max(N_CLIPS)
            new, new_units = statistics[is_new], sounds.units[is_new]
            for n_clips in N_CLIPS:
                is_seen = sounds.groups < n_clips
                seen, units = statistics[is_seen], sounds.units[is_seen]
                subspace = SharedSubspace().fit(seen, labels=units)
                known, told = subspace.transform(seen), subspace.transform(new)
                rates = {
                    "no labels": false_alarms(seen, units, new, new_units),
                    "labels": false_alarms(known, units, told, new_units),
                    "labels, one detector": false_alarms(known, None, told, None),
                    "labels, plain array": false_alarms(np.asarray(known), units, told, new_units),
                }
                rows.append({"clips a unit": n_clips, "seed": seed, **rates})
    by_seed = pd.DataFrame(rows).groupby(["clips a unit", "seed"]).mean()
    mean, std = by_seed.groupby("clips a unit").mean(), by_seed.groupby("clips a unit").std(ddof=1)
    print((mean.map("{:.2f}".format) + " ± " + std.map("{:.2f}".format)).to_markdown())


if __name__ == "__main__":
    main()
