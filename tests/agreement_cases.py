"""Every public estimator at work on a few clips, for tests of agreement; also run as a program.

python agreement_cases.py OUT.npz     writes the scores of a process of its own
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.pipeline import make_pipeline

import skanopatch as s

RATE, SECONDS = 16000, 0.5


def clips(n_clips: int, seed: int = 0) -> np.ndarray:
    """Return noise with a hum that differs from clip to clip."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(RATE * SECONDS)) / RATE
    hum = 0.1 * np.sin(2 * np.pi * np.outer(rng.uniform(200, 400, n_clips), time))
    return (hum + 0.05 * rng.normal(size=hum.shape)).astype(np.float32)


NORMAL, NEW = clips(18), clips(5, seed=1)
LABELS = ["pump", "fan", "valve"] * 6


def pipeline(*steps):
    """Return a pipeline from clips on."""
    return make_pipeline(s.MelPatcher(duration=SECONDS), *steps)


def recipe():
    """Return the recipe with windows of the clips' length."""
    return s.AnomalousSoundDetector(s.MelPatcher(duration=SECONDS))


def embedder(**parameters):
    """Return the small network, its statistics left out."""
    return s.AnoPatchEmbedder(statistics=False, random_state=0, **parameters)


def tuned():
    """Return the small network, to be trained for two epochs."""
    return embedder(fine_tuning=s.FineTuning(max_epochs=2))


# What is fitted, with what metadata. Together they hold every public estimator.
CASES = {
    "AnomalousSoundDetector": (
        lambda: s.AnomalousSoundDetector(s.MelPatcher(duration=SECONDS)),
        {},
    ),
    "AnomalousSoundDetector, groups": (
        lambda: s.AnomalousSoundDetector(s.MelPatcher(duration=SECONDS)),
        {"groups": LABELS},
    ),
    "AnoPatchEmbedder": (
        lambda: pipeline(tuned(), s.KNNDetector()),
        {"anopatchembedder__labels": LABELS},
    ),
    "AnoPatchEmbedder, frozen": (lambda: pipeline(embedder(), s.MahalanobisDetector()), {}),
    "BandStatistics, MahalanobisDetector": (
        lambda: pipeline(s.BandStatistics(), s.MahalanobisDetector()),
        {},
    ),
    "MelStatistics, KNNDetector": (lambda: pipeline(s.MelStatistics(), s.KNNDetector()), {}),
    "GMMDetector": (lambda: pipeline(s.MelStatistics(), s.GMMDetector(random_state=0)), {}),
    "GroupedDetector": (
        lambda: pipeline(s.MelStatistics(), s.GroupedDetector(s.KNNDetector())),
        {"groupeddetector__groups": LABELS},
    ),
    "JoinedDetector": (
        lambda: pipeline(
            s.MelStatistics(),
            s.JoinedDetector([("near", s.KNNDetector()), ("far", s.MahalanobisDetector())]),
        ),
        {},
    ),
    "CalibratedDetector": (
        lambda: pipeline(s.MelStatistics(), s.CalibratedDetector(s.GMMDetector(random_state=0))),
        {},
    ),
    "PatchStatistics, SubbandKNNDetector": (
        lambda: pipeline(s.PatchStatistics(), s.SubbandKNNDetector()),
        {},
    ),
    "PatchKNNDetector": (
        lambda: pipeline(
            s.PatchStatistics(), s.PatchKNNDetector(max_bank_size=100, random_state=0)
        ),
        {},
    ),
    "FitOnNormal": (lambda: s.FitOnNormal(pipeline(s.MelStatistics(), s.KNNDetector())), {}),
}


def fit(name):
    """Return a case, fitted."""
    make, metadata = CASES[name]
    model = make()
    if isinstance(model, s.FitOnNormal):
        return model.fit(np.concatenate([NORMAL, 9 * NEW]), [1] * len(NORMAL) + [-1] * len(NEW))
    return model.fit(NORMAL, **metadata)


if __name__ == "__main__":
    # In reverse, so that other fits came before each.
    np.savez(sys.argv[1], **{name: fit(name).score_samples(NEW) for name in reversed(CASES)})
