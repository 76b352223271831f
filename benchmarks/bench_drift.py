"""How often `drift_test` finds a slow rise where there is none, and where there is one.

    python benchmarks/bench_drift.py

Simulated distances of windows, one in 10 minutes: the logarithm is a first-order autoregressive
sequence with a deviation of 0.1, noise of each window of 0.1, and a daily cycle of 0.1; the median
is 0.7 of the threshold. An hour a day has five times the distance. "Memory" is the hours in which
the autocorrelation falls to 1/e. Rises are in multiples of the threshold over the whole time.
Compared with the Mann-Kendall test with the variance of Hamed and Rao (1998) on the medians of the
same blocks.
"""

import argparse

import numpy as np
import pandas as pd
from environment import print_environment
from scipy.signal import lfilter
from scipy.special import ndtr
from scipy.stats import rankdata, theilslopes

from skanopatch.streaming.drift import DAY, drift_test

SEED = 0
ALPHA = 0.01
DAYS = (7, 14, 28)
MEMORIES = (0, 2, 6, 24)  # hours
RISES = (0.05, 0.1, 0.2)
N_RUNS = 400
N_RUNS_RISING = 100
HOP = 600.0  # seconds
DEVIATION, NOISE, CYCLE, MEDIAN = 0.1, 0.1, 0.1, 0.7
EVENT = 5.0  # times the distance


def simulate(days, memory, rise, rng):
    """Return the times and the distances of windows."""
    times = np.arange(0, days * DAY, HOP)
    keeps = np.exp(-HOP / 3600 / memory) if memory else 0.0
    steps = rng.normal(size=len(times)) * np.sqrt(1 - keeps**2)
    steps[0] = rng.normal()
    slow = DEVIATION * lfilter([1.0], [1.0, -keeps], steps)
    cycle = CYCLE * np.sin(2 * np.pi * times / DAY)
    distance = MEDIAN * np.exp(slow + cycle + NOISE * rng.normal(size=len(times)))
    distance += rise * times / times[-1]
    for day in range(days):
        event = day * DAY + rng.uniform(0, DAY - 3600)
        distance[(times >= event) & (times < event + 3600)] *= EVENT
    return times, distance


def hamed_rao(x):
    """Return the one-sided p-value of Mann-Kendall with the variance of Hamed and Rao."""
    n = len(x)
    s = sum(np.sign(x[lag:] - x[:-lag]).sum() for lag in range(1, n))
    ranks = rankdata(x - theilslopes(x).slope * np.arange(n))
    ranks -= ranks.mean()
    lags = np.arange(1, n - 2)
    r = np.array([ranks[lag:] @ ranks[:-lag] for lag in lags]) / (ranks @ ranks)
    r[np.abs(r) < 1.96 / np.sqrt(n)] = 0
    weights = (n - lags) * (n - lags - 1) * (n - lags - 2)
    correction = max(1 + 2 / (n * (n - 1) * (n - 2)) * (weights * r).sum(), 1e-3)
    variance = n * (n - 1) * (2 * n + 5) / 18 * correction
    return float(1 - ndtr((s - 1) / np.sqrt(variance)))


def rates(days, memory, rise, n_runs):
    """Return how often a rise is found: by `drift_test`, and by Hamed and Rao."""
    found = np.zeros(2)
    for run in range(n_runs):
        rng = np.random.default_rng([SEED, days, memory, round(1000 * rise), run])
        drift = drift_test(*simulate(days, memory, rise, rng), alpha=ALPHA)
        found += drift.is_rising, hamed_rao(drift.blocks[:, 1]) <= ALPHA
    return found / n_runs


def table(cells, column):
    """Return rows {days, memory, column: value} as a table of text."""
    wide = pd.DataFrame(cells).pivot(index=["days", "memory"], columns=column, values="value")
    return wide.map("{:.3f}".format).reset_index().to_markdown(index=False, disable_numparse=True)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print_environment(SEED)
    false_alarms, power = [], []
    for days in DAYS:
        for memory in MEMORIES:
            for name, value in zip(
                ("drift_test", "Hamed-Rao"), rates(days, memory, 0.0, N_RUNS), strict=True
            ):
                row = {"days": days, "memory": memory, "test": name, "value": value}
                false_alarms.append(row)
    print(f"\nFound without a rise, at alpha {ALPHA:g}, {N_RUNS} runs:\n", flush=True)
    print(table(false_alarms, "test"), flush=True)
    for days in DAYS:
        for memory in MEMORIES[1:]:
            for rise in RISES:
                value = rates(days, memory, rise, N_RUNS_RISING)[0]
                power.append({"days": days, "memory": memory, "rise": rise, "value": value})
    print(f"\nFound with a rise of so many thresholds in all, {N_RUNS_RISING} runs:\n")
    print(table(power, "rise"))


if __name__ == "__main__":
    main()
