"""What labels are worth: fine-tuning on units of real machines, from our weights and from scratch.

    python benchmarks/bench_labels.py FOLDER [--results FILE]

FOLDER holds what is there of three public data sets of vibration, which are taken for
sound at 16 kHz; nothing in this package was trained on them:

* ``bearings/Bearing{1_1,1_2,...}.npz``, array ``x`` of shape (n_acquisitions, 2, 2560): bearings
  run to failure (FEMTO, PRONOSTIA; Nectoux et al. 2012). A clip is 13 acquisitions of the
  horizontal axis; normal are those between 5 and 45 % of a bearing's life, anomalous those
  between 60 and 98 %. A unit is a bearing; six of condition 2. Short clips are 5 acquisitions, of
  the bearings of condition 1, which give two and a half times as many; the fourth has too few
  normal ones to hold any back.
* ``gearbox/{h,b}30hz{0,10,...,90}.csv`` (maybe ``.gz``), four columns: a gearbox with healthy and
  with broken teeth at ten loads (Gearbox Fault Diagnosis Data, OEDI). A unit is an accelerometer.
  Short clips are half as long.
* ``motor/*.csv``, the first four columns separated by semicolons: a motor with balanced and
  imbalanced loads, a bent and a misaligned shaft, and faulty bearings, at five speeds with and
  without a load (Analog Devices, CbM-Datasets). A clip is a fifth of a recording of 2 s. A unit
  is an axis of the accelerometer.

Each of these clips is brought to one deviation, and pink noise is added, so that neither level nor
clean recordings give the fault away. A third of the normal clips, in stretches of time, is held
back. Beside them, five simulated machines, new ones for each seed: four siblings in one room with
175 clips of 2 s each to fit on, 60 normal and 60 with faults to test on.

AUC and pAUC are means over units, whose new clips are scored with the unit given, or without.
False alarms are those on the normal clips that are held back, at `false_alarm_rate` = 0.1. A seed
sets split, noise, weights and order. Each result is appended to FILE (JSON lines), and what is in
it is not computed again.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from bench_recipes import MACHINES, pink_noise, simulate_siblings, table
from environment import print_environment
from sklearn.pipeline import make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    GroupedDetector,
    MahalanobisDetector,
    MelPatcher,
)
from skanopatch.metrics import auc_score, pauc_score

SEEDS = (10, 11, 12)

# Pairs of recipes whose difference is printed, paired by recordings and seed.
COMPARED = [
    ("labels", "statistics, labels"),
    ("labels", "no labels"),
    ("statistics, labels", "no labels"),
    ("network alone, labels", "network alone, from scratch, labels"),
]


def load_bearings(folder, condition, n_acquisitions):
    """Return rows (samples, unit, is normal, stretch of time)."""
    for unit in (1, 2, 3, 5, 6, 7) if condition == 1 else range(1, 7):
        axis = np.load(folder / "bearings" / f"Bearing{condition}_{unit}.npz")["x"][:, 0]
        n_clips = len(axis) // n_acquisitions
        clips = axis[: n_clips * n_acquisitions].reshape(n_clips, -1)
        for i, samples in enumerate(clips):
            life = i / n_clips
            if 0.05 < life < 0.45 or 0.6 < life < 0.98:
                yield samples, unit, life < 0.45, i * n_acquisitions // 52


def load_gearbox(folder, n_samples):
    """Return rows (samples, unit, is normal, stretch of time)."""
    for state in "hb":
        for load in range(0, 100, 10):
            path = next((folder / "gearbox").glob(f"{state}30hz{load}.csv*"))
            axes = pd.read_csv(path).to_numpy(float)[:, :4]
            for i in range((len(axes) - 1) // n_samples):
                for unit in range(4):
                    samples = axes[i * n_samples : (i + 1) * n_samples, unit]
                    yield samples, unit, state == "h", load * 100 + i


def load_motor(folder):
    """Return rows (samples, unit, is normal, stretch of time)."""
    n = 8000
    for number, path in enumerate(sorted((folder / "motor").glob("*.csv"))):
        axes = pd.read_csv(path, sep=";", header=None, usecols=[1, 2, 3]).to_numpy(float)
        for i in range(len(axes) // n):
            for unit in range(3):
                is_normal = "_GoB_GS_BaLo_WA_" in path.name
                yield axes[i * n : (i + 1) * n, unit], unit, is_normal, number * 10 + i


# Name -> loader, signal-to-noise ratio in dB, and seconds from frame to frame: 176 or 192
# frames a clip.
SETS = {
    "bearings": (partial(load_bearings, condition=2, n_acquisitions=13), -10, 0.010),
    "bearings, short clips": (partial(load_bearings, condition=1, n_acquisitions=5), -10, 0.004),
    "gearbox": (partial(load_gearbox, n_samples=15760), -12, 0.005),
    "gearbox, short clips": (partial(load_gearbox, n_samples=7880), -12, 0.0025),
    "motor": (load_motor, -10, 0.0025),
}


def make_recipes(seed):
    """Return name -> (estimator of patches, whether it takes labels)."""
    detect = partial(AnomalousSoundDetector, "passthrough", map_detector="drop", random_state=seed)

    def network(backbone):
        detector = GroupedDetector(MahalanobisDetector(), pooled=True)
        return make_pipeline(AnoPatchEmbedder(backbone, random_state=seed), detector)

    return {
        "no labels": (detect(), False),
        "statistics, labels": (detect(embedder="drop"), True),
        "labels": (detect(), True),
        "network alone, labels": (network("anopatch-tiny"), True),
        "network alone, from scratch, labels": (network("vit_tiny"), True),
    }


def prepare(name, folder, seed):
    """Return patches, units, which clips are normal, and which are for training."""
    if name.startswith("siblings"):
        sounds = simulate_siblings(name.split()[1], seed, n_normal=235, n_anomalous=60, severity=1)
        patches = MelPatcher(duration=None).fit_transform(sounds.clips)
        return patches, sounds.units, sounds.is_normal, sounds.groups < 175
    load, snr, shift = SETS[name]
    samples, unit, is_normal, stretch = zip(*load(folder), strict=True)
    unit, is_normal, stretch = np.array(unit), np.array(is_normal), np.array(stretch)
    rng = np.random.default_rng(seed)
    clips = []
    for clip in samples:
        clip = (clip - clip.mean()) / clip.std()
        noisy = clip + 10 ** (-snr / 20) * pink_noise(len(clip), rng)
        clips.append((0.05 * noisy).astype(np.float32))
    patches = MelPatcher(duration=None, frame_shift=shift).fit_transform(clips)[:, : 12 * 8]
    stretches = np.unique(stretch[is_normal])
    trained = rng.permutation(stretches)[: round(0.65 * len(stretches))]
    return patches, unit, is_normal, is_normal & np.isin(stretch, trained)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("nowhere"))
    parser.add_argument("--results", type=Path, default=Path("bench_labels.jsonl"))
    parser.add_argument("--on", help="one set of recordings")
    parser.add_argument("--only", help="one recipe")
    arguments = parser.parse_args()
    print_environment(SEEDS)
    results = []
    if arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    done = {(row["recordings"], row["recipe"], row["seed"]) for row in results}
    present = [name for name in SETS if (arguments.folder / name.split(",")[0]).is_dir()]
    present += [f"siblings {machine}" for machine in MACHINES]
    for name in [arguments.on] if arguments.on else present:
        for seed in SEEDS:
            patches, unit, is_normal, train = prepare(name, arguments.folder, seed)
            for recipe, (estimator, takes_labels) in make_recipes(seed).items():
                if (name, recipe, seed) in done or arguments.only not in (None, recipe):
                    continue
                start = perf_counter()
                fit(estimator, patches[train], unit[train].tolist(), takes_labels)
                seconds = perf_counter() - start
                for is_given in (True, False):
                    held_back = patches[~train], unit[~train], is_normal[~train]
                    scores = judge(estimator, *held_back, groups=is_given)
                    row = {"recordings": name, "recipe": recipe}
                    row |= {"detector": "unit given" if is_given else "unit not given"}
                    row |= {"seed": seed, **scores, "seconds": seconds}
                    row["members"] = "+".join(getattr(estimator, "members_", ["network"]))
                    results.append(row)
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(*row.values(), flush=True)
    print(table(results).to_markdown(index=False))
    frame = pd.DataFrame(results)
    is_simulated = frame["recordings"].str.startswith("siblings")
    for kind, rows in (("real machines", ~is_simulated), ("simulated siblings", is_simulated)):
        for detector, scores in frame[rows].groupby("detector", sort=False):
            compare(scores, f"{kind}, {detector}")


def fit(estimator, patches, units, takes_labels):
    """Fit an estimator, with the units as groups and as labels."""
    if isinstance(estimator, AnomalousSoundDetector):
        labels = units if takes_labels else None
        estimator.fit(patches, labels=labels, groups=units)
    else:
        names = "anopatchembedder__labels", "groupeddetector__groups"
        estimator.fit(patches, **dict.fromkeys(names, units))


def judge(estimator, patches, unit, is_normal, groups=True):
    """Return AUC and pAUC, means over units, and the false-alarm rate, of clips held back."""
    given = {"groups": unit.tolist()} if groups else {}
    if isinstance(estimator, AnomalousSoundDetector):
        decision = estimator.decision_function(patches, **given)
    else:
        decision = estimator[-1].decision_function(estimator[:-1].transform(patches), **given)
    y = np.where(is_normal, 1, -1)
    scores = []
    for u in np.unique(unit):
        mine = unit == u
        scores.append((auc_score(y[mine], -decision[mine]), pauc_score(y[mine], -decision[mine])))
    auc, pauc = np.mean(scores, axis=0).tolist()
    return {"auc": auc, "pauc": pauc, "false_alarms": float(np.mean(decision[is_normal] < 0))}


def compare(frame, kind):
    """Print paired differences of recipes over sets of recordings and seeds."""
    scores = frame.pivot(index=["recordings", "seed"], columns="recipe", values=["auc", "pauc"])
    for better, than in COMPARED:
        if {better, than} <= set(frame["recipe"]):
            difference = scores.xs(better, axis=1, level=1) - scores.xs(than, axis=1, level=1)
            difference = difference.dropna()
            print(f"\n{better}, over {than}:")
            print(f"mean and standard error of {len(difference)} pairs on {kind}")
            print(difference.agg(["mean", "sem"]).to_string(float_format="%.3f"))


if __name__ == "__main__":
    main()
