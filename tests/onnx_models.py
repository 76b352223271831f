"""Clips and models that tests of ONNX share, and how close a file has to come to its model."""

import numpy as np
import onnx
from numpy.testing import assert_allclose

from skanopatch import MelPatcher, OnnxScorer, export_onnx
from skanopatch.detectors.metadata import call_with_groups

RATE, DURATION = 16000, 1.0
TOLERANCE = 1e-4  # of scores, relative; of maps, relative where they are above 1

# Whitening divides differences of float32's rounding by the least deviation of a statistic.
MAP_TOLERANCE = 2e-3


def make_clip(seed, *, seconds=DURATION, hertz=440.0, level=0.1):
    """Return a hum that swells, in noise that is louder at low frequencies."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    hum = np.sin(2 * np.pi * hertz * rng.uniform(0.99, 1.01) * times)
    noise = rng.normal(size=len(times) + 50)
    rumble = np.convolve(noise, np.exp(-np.arange(51) / 8), "valid")
    sound = level * hum * (1 + 0.3 * np.sin(2 * np.pi * 7 * times)) + rng.uniform(0.8, 1.2) * (
        0.03 * rumble + 0.01 * rng.normal(size=len(times))
    )
    return sound.astype(np.float32)


NORMAL = [make_clip(seed) for seed in range(24)]
NEW = [
    make_clip(100),
    make_clip(101),
    make_clip(102, hertz=900.0),
    make_clip(103, level=0.3),
    make_clip(104, seconds=0.4),
]
CLIPS = [*NEW, *NORMAL[:2]]  # training clips are not compared with themselves


def patcher(**params):
    return MelPatcher(duration=DURATION, **params)


def export(model, path, **params):
    """Write a file, check it as a whole, and return its scorer."""
    export_onnx(model, path, **params)
    onnx.checker.check_model(str(path), full_check=True)
    return OnnxScorer(path, n_threads=1)


def assert_equal_to(model, scorer, clips=None, *, group=None, map_tolerance=MAP_TOLERANCE):
    """Compare scores, decisions, p-values and, where there are some, maps."""
    clips = CLIPS if clips is None else clips
    groups = None if group is None else [group] * len(clips)

    def call(method):
        if hasattr(model, "examine"):
            return getattr(model, method)(clips, groups=groups)
        return call_with_groups(model, method, clips, groups)

    expected = call("score_samples")
    assert np.ptp(expected) > 0.01 * np.abs(expected).max()  # a constant would pass otherwise
    assert_allclose(scorer.score_samples(clips), expected, rtol=TOLERANCE, atol=1e-6)
    p_values, expected_p_values = scorer.p_values(clips), call("p_values")
    is_new = slice(len(NEW)) if clips is CLIPS else slice(None)
    assert_allclose(p_values[is_new], expected_p_values[is_new], rtol=1e-9)
    # A training clip and its nearest neighbour have the score of one of `fit`: rounding decides.
    steps = np.abs(p_values - expected_p_values) * (len(NORMAL) + 1)
    assert steps.max() < 2.001
    end = model if hasattr(model, "examine") else model[-1]
    assert_allclose(scorer.offset_, end.offset_, rtol=1e-12)
    if map_tolerance is not None and hasattr(end, "anomaly_map"):
        maps = call("anomaly_map")
        np.testing.assert_array_less(
            np.abs(scorer.anomaly_map(clips) - maps) / np.maximum(np.abs(maps), 1), map_tolerance
        )
