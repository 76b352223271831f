"""Real recordings, where there are any; nothing else in the suite needs them.

Set SKANOPATCH_DATA to a folder laid out as `benchmarks/bench_recordings.py` says.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torchaudio.compliance.kaldi import fbank

from skanopatch import MahalanobisDetector, MelPatcher, MelStatistics, unpatchify
from skanopatch.audio import load_clip
from skanopatch.metrics import auc_score

DATA = os.environ.get("SKANOPATCH_DATA")
RECORDINGS = sorted(Path(DATA).rglob("*.[wfo][alg][vag]*")) if DATA else []

pytestmark = pytest.mark.skipif(
    not RECORDINGS, reason="SKANOPATCH_DATA names no folder of recordings; none are shipped"
)


def test_log_mel_of_real_recordings_equals_torchaudio():
    for path in RECORDINGS[:: max(1, len(RECORDINGS) // 25)]:
        log_mel = unpatchify(MelPatcher(duration=None).fit_transform([path]))[0]
        samples = torch.from_numpy(load_clip(path))[None] * 2**15
        expected = fbank(samples, num_mel_bins=128, sample_frequency=16000)
        assert_allclose(log_mel, expected[: len(log_mel)], rtol=0, atol=1e-4, err_msg=str(path))


def test_a_broken_fan_is_heard():
    paths = [path for path in RECORDINGS if "fan" in path.parts]
    if not paths:
        pytest.skip("there are no recordings of MIMII's fan")
    normal = [path for path in paths if path.parent.name == "normal"]
    abnormal = [path for path in paths if path.parent.name == "abnormal"]
    embed = MelPatcher().fit(normal).transform
    statistics = MelStatistics()
    detector = MahalanobisDetector().fit(statistics.fit_transform(embed(normal[::2])))
    score = detector.anomaly_score(statistics.transform(embed(normal[1::2] + abnormal)))
    y = np.repeat([1, -1], [len(normal[1::2]), len(abnormal)])
    assert auc_score(y, score) > 0.85
