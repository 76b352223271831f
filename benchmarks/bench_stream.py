"""A day of sound as a stream: speed, memory, and the alarms that a normal machine raises.

Usage: python bench_stream.py

A pump is simulated whose speed, load and level wander. A model is fitted on recordings of five
minutes, one an hour, and scores other days of it, without a fault, faster than real time.
"""

import math
import warnings
from time import perf_counter

import numpy as np
import pandas as pd
import psutil
from environment import print_environment
from scipy.signal import lfilter
from scipy.special import ndtri

from skanopatch import AnomalousSoundDetector, MelPatcher, score_stream
from skanopatch.streaming.alarm_rates import (
    alarms_per_hour,
    false_alarm_rate_for,
    neighbour_correlation,
)
from skanopatch.streaming.alarms import make_alarm

SEEDS = (0, 1)
HOURS = 24
RATE = 16000
BLOCK = 10.0  # seconds
N_RECORDINGS = 24  # to fit on, of five minutes
PER_HOUR = (0.1, 1.0, 4.0)
PERSISTENCE = (1, 3)
N_SIMULATED_DAYS = 300


def pump(n_blocks, rng):
    """Yield blocks of a pump whose speed, flow and level change within half an hour."""
    n_samples = int(BLOCK * RATE)
    moments = (np.arange(n_samples) / RATE).astype(np.float32)
    memory = math.exp(-BLOCK / 1800)
    state, turns = rng.normal(size=3), 0.0
    for _ in range(n_blocks):
        state = memory * state + math.sqrt(1 - memory**2) * rng.normal(size=3)
        speed = 24.5 + 0.3 * state[0]
        phase = np.float32(2 * np.pi * turns) + np.float32(2 * np.pi * speed) * moments
        turns = (turns + speed * BLOCK) % 1
        tones = sum(np.sin(k * phase) / k for k in (1, 7))
        white = rng.standard_normal(n_samples + 1, dtype=np.float32)
        flow = white[1:] + np.float32(0.7) * white[:-1]
        sound = np.float32(0.05) * tones + np.float32(0.02 * math.exp(0.15 * state[1])) * flow
        yield np.float32(10 ** (state[2] / 20)) * sound


def fit(rng):
    """Fit on recordings of five minutes, each of another hour."""
    n_blocks = round(300 / BLOCK)
    recordings = [(np.concatenate(list(pump(n_blocks, rng))), RATE) for _ in range(N_RECORDINGS)]
    return AnomalousSoundDetector(MelPatcher(), map_detector="drop").fit(recordings)


def megabytes():
    return psutil.Process().memory_info().rss / 2**20


def listen(model, rng):
    """Return the results of a normal day, and the row of a table on speed and memory."""
    n_blocks = round(HOURS * 3600 / BLOCK)
    generating, held, scores = 0.0, [], []

    def blocks():
        nonlocal generating
        source = pump(n_blocks, rng)
        while True:
            start = perf_counter()
            block = next(source, None)
            generating += perf_counter() - start
            if block is None:
                return
            # As a sound card delivers it.
            yield from np.array_split(block, 40)

    start = perf_counter()
    for i, result in enumerate(score_stream(model, blocks(), RATE, start_time=0.0)):
        scores.append(result.score)
        if i >= 30:  # the first windows fill caches
            held.append(megabytes())
    seconds = perf_counter() - start - generating
    sixth = max(1, len(held) // 6)
    return np.array(scores), {
        "windows": len(scores),
        "times real time": HOURS * 3600 / seconds,
        "ms a window": 1000 * seconds / len(scores),
        "MB at first": np.mean(held[:sixth]),
        "MB at last": np.mean(held[-sixth:]),
        "highest MB": max(held),
    }


def count(distances, alarm):
    return sum(alarm.update(distance) == "on" for distance in distances)


def alarms_of(model, scores):
    """Yield rows: the alarms wanted, and those of a normal day."""
    known = neighbour_correlation(model, BLOCK)
    for n in PERSISTENCE:
        for per_hour in PER_HOUR:
            for rule, correlation in (("any dependence", None), ("correlation", known)):
                if rule == "correlation" and known is None:
                    continue
                rate = false_alarm_rate_for(per_hour, BLOCK, n, correlation)
                model.set_false_alarm_rate(rate)
                distances = scores / model.offset_
                n_alarms = count(distances, make_alarm(model, persistence=n))
                yield {
                    "rule": rule,
                    "windows in a row": n,
                    "alarms an hour, at most": per_hour,
                    "false-alarm rate": rate,
                    "beyond": (distances > 1).mean(),
                    "alarms an hour": n_alarms / HOURS,
                }


def sequences(rng, n_windows):
    """Yield names and normal scores, of marginal N(0, 1), with kinds of dependence."""
    for correlation in (0.0, 0.6, 0.9, 0.99):
        steps = rng.normal(size=n_windows) * math.sqrt(1 - correlation**2)
        yield f"correlation {correlation}", lfilter([1.0], [1.0, -correlation], steps)
    hours = np.repeat(rng.normal(size=-(-n_windows // 360)), 360)[:n_windows]
    yield "hours that differ", math.sqrt(0.5) * (hours + rng.normal(size=n_windows))


def simulated(rng):
    """Yield rows: alarms of sequences of scores whose false-alarm rate is exact."""
    n_windows = N_SIMULATED_DAYS * 8640
    hours = n_windows * BLOCK / 3600
    for name, scores in sequences(rng, n_windows):
        for n in PERSISTENCE:
            rate = false_alarm_rate_for(1.0, BLOCK, n)
            beyond = scores > -ndtri(rate)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], beyond.astype(int), [0]])))
            n_alarms = int((edges[1::2] - edges[::2] >= n).sum())
            row = {"sequence": name, "windows in a row": n, "false-alarm rate": rate}
            row |= {"alarms an hour": n_alarms / hours, "bound": 1.0}
            if name.startswith("correlation"):
                known = float(name.split()[1])
                row["bound"] = alarms_per_hour(rate, BLOCK, n, known)
            yield row


def main():
    print_environment(SEEDS)
    warnings.simplefilter("ignore", UserWarning)  # of sessions that are alike
    print(f"\n{N_SIMULATED_DAYS} days of simulated scores, at most 1 alarm an hour wanted")
    table = pd.DataFrame(simulated(np.random.default_rng(SEEDS[0])))
    print(table.to_markdown(index=False, floatfmt=".3g"), flush=True)
    alarms = []
    for seed in SEEDS:
        train_rng, day_rng = np.random.default_rng(seed).spawn(2)
        model = fit(train_rng)
        scores, row = listen(model, day_rng)
        print(f"\n{HOURS} h of sound, blocks of {BLOCK / 40:g} s, seed {seed}")
        print(pd.DataFrame([row]).to_markdown(index=False, floatfmt=".4g"))
        print(f"correlation of neighbouring windows: {neighbour_correlation(model, BLOCK)}")
        alarms += alarms_of(model, scores)
        keys = ["rule", "windows in a row", "alarms an hour, at most"]
        mean = pd.DataFrame(alarms).groupby(keys, sort=False).mean()
        print(f"alarms of normal days, mean of {len(alarms) // len(mean)}")
        print(mean.reset_index().to_markdown(index=False, floatfmt=".3g"), flush=True)


if __name__ == "__main__":
    main()
