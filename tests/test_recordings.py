"""Real recordings, where there are any; nothing else in the suite needs them.

Set SKANOPATCH_DATA to a folder laid out as `benchmarks/bench_recipes.py` says.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.compliance.kaldi import fbank

from skanopatch import (
    AnomalousSoundDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    unpatchify,
)
from skanopatch.audio import load_clip
from skanopatch.metrics import auc_score

DATA = os.environ.get("SKANOPATCH_DATA")
RECORDINGS = sorted(Path(DATA).rglob("*.[wfo][alg][vag]*")) if DATA else []

pytestmark = pytest.mark.skipif(
    not RECORDINGS, reason="SKANOPATCH_DATA names no folder of recordings; none are shipped"
)


def test_log_mel_of_real_recordings_is_as_exact_as_torchaudio():
    """Float32 of either is off by 1e-4 and more in bins of almost no power."""
    for path in RECORDINGS[:: max(1, len(RECORDINGS) // 25)]:
        log_mel = unpatchify(MelPatcher(duration=None).fit_transform([path]))[0]
        samples = torch.from_numpy(load_clip(path))[None] * 2**15
        theirs, exact = (
            fbank(x, num_mel_bins=128, sample_frequency=16000).numpy()[: len(log_mel)]
            for x in (samples, samples.double())
        )
        error, their_error = np.abs(log_mel - exact), np.abs(theirs - exact)
        assert error.mean() <= 1.2 * their_error.mean(), path
        assert error.max() <= 4 * their_error.max(), path
        is_loud = exact > exact.max(axis=1, keepdims=True) - np.log(1e4)  # within 40 dB
        assert error[is_loud].max() < 1e-4, path


def of_state(folder, normal, anomalous):
    """Return the normal and the anomalous recordings of a machine; skip where there are none."""
    paths = [path for path in RECORDINGS if folder in path.parts]
    found = [[path for path in paths if is_meant(path)] for is_meant in (normal, anomalous)]
    if not all(found):
        pytest.skip(f"there are no recordings in a folder {folder!r}")
    return found


def the_fan():
    return of_state(
        "fan",
        lambda path: path.parent.name == "normal",
        lambda path: path.parent.name == "abnormal",
    )


def test_a_broken_fan_is_found():
    normal, abnormal = the_fan()
    embed = MelPatcher().fit(normal).transform
    statistics = MelStatistics()
    detector = MahalanobisDetector().fit(statistics.fit_transform(embed(normal[::2])))
    score = detector.anomaly_score(statistics.transform(embed(normal[1::2] + abnormal)))
    y = np.repeat([1, -1], [len(normal[1::2]), len(abnormal)])
    assert auc_score(y, score) > 0.85


def test_most_faults_of_a_fan_are_found_by_ten_clips():
    normal, abnormal = the_fan()
    model = AnomalousSoundDetector(map_detector="drop").fit(normal[::2])
    assert (model.predict(normal[1::2]) == -1).mean() <= 0.3  # of ten
    assert (model.predict(abnormal) == -1).mean() >= 0.45
    y = np.repeat([1, -1], [len(normal[1::2]), len(abnormal)])
    assert auc_score(y, model.anomaly_score(normal[1::2] + abnormal)) > 0.9


@pytest.mark.parametrize("name", ["labels", "domains"])
def test_patterns_of_a_valve_help_where_clips_are_few(name):
    normal, anomalous = of_state(
        "valve", lambda path: "_normal_" in path.name, lambda path: "_anomaly_" in path.name
    )
    patterns = [path.stem.rpartition("pat_")[2] for path in normal]
    y = np.repeat([1, -1], [len(normal[1::2]), len(anomalous)])
    aucs = []
    for metadata in ({}, {name: patterns[::2]}):
        model = AnomalousSoundDetector(map_detector="drop").fit(normal[::2], **metadata)
        aucs.append(auc_score(y, model.anomaly_score(normal[1::2] + anomalous)))
        assert model.members_ == ["statistics"]  # 25 clips: no network
    assert aucs[1] > max(0.75, aucs[0])
