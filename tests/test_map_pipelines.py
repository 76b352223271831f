"""Pipelines that give maps: patches, what describes them, a detector of patches."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skanopatch import (
    AnoPatchEmbedder,
    KNNDetector,
    MelPatcher,
    PatchKNNDetector,
    PatchStatistics,
    SubbandKNNDetector,
    anomaly_map,
    make_map_pipeline,
)
from skanopatch.datasets import make_machine_sounds


@pytest.fixture(scope="module")
def slider():
    """Clips of a slider, its faults of severity 1 and of severity 0."""
    params = {"machines": ["slider"], "n_units": 1, "n_train": 24, "n_normal": 4, "n_anomalous": 4,
              "target_fraction": 0.0, "duration": 4.0, "random_state": 0}  # fmt: skip
    return make_machine_sounds(**params, severity=1.0), make_machine_sounds(**params, severity=0.0)


def test_the_map_finds_a_simulated_fault(slider):
    faulty, healthy = slider
    train, test = faulty.split == "train", faulty.y == -1
    pipe = make_map_pipeline(melpatcher__duration=4.0).fit(faulty.clips[train])
    maps = anomaly_map(pipe, faulty.clips[test])
    power = [
        np.exp(pipe[0].transform(s.clips[test]).astype(float)).sum(axis=3)
        for s in (faulty, healthy)
    ]
    truth = (10 * np.log10(power[0] / power[1]) >= 1).ravel()
    assert truth.mean() > 0.02
    assert roc_auc_score(truth, maps.ravel()) > 0.9


def test_map_pipeline_passes_parameters_on():
    pipe = make_map_pipeline(
        detector=PatchKNNDetector(), melpatcher__duration=2.0, patchknndetector__metric="cosine"
    )
    assert list(pipe.named_steps) == ["melpatcher", "anopatchembedder", "patchknndetector"]
    assert (pipe[0].duration, pipe[1].output, pipe[2].metric) == (2.0, "patches", "cosine")
    small = make_map_pipeline(melpatcher__patch_size=8, melpatcher__duration=1.0)
    assert small[0].patch_size == 8


@pytest.mark.parametrize("working_memory", [1024, 0.1])
def test_maps_in_batches_are_the_maps_at_once(monkeypatch, slider, working_memory):
    clips_ = list(slider[0].clips[:12])
    pipe = make_map_pipeline(melpatcher__duration=1.0).fit(clips_)
    new = list(slider[0].clips[12:19])
    at_once = pipe[-1].anomaly_map(pipe[:-1].transform(new))
    monkeypatch.setattr("skanopatch.recipes.pipelines._BATCH_SIZE", 3)
    with config_context(working_memory=working_memory):  # 0.1 MB makes patches lazy
        assert_allclose(anomaly_map(pipe, new), at_once)


def test_maps_of_tokens_need_no_patcher(slider):
    tokens = PatchStatistics().fit_transform(
        MelPatcher(duration=1.0).fit_transform(slider[0].clips[:12])
    )
    pipe = make_pipeline(FunctionTransformer(), SubbandKNNDetector()).fit(tokens)
    assert_array_equal(anomaly_map(pipe, tokens), pipe[-1].anomaly_map(tokens))


def test_unreadable_clips_have_maps_of_nan(slider):
    pipe = make_map_pipeline(melpatcher__duration=1.0, melpatcher__on_error="nan")
    pipe.fit(slider[0].clips[:12])
    with pytest.warns(UserWarning, match="1 of 3 clips cannot be used"):
        maps = anomaly_map(pipe, [slider[0].clips[12], "missing.wav", slider[0].clips[13]])
    assert np.isnan(maps).all(axis=(1, 2)).tolist() == [False, True, False]


def test_a_pipeline_without_maps_is_refused_by_the_name_of_its_last_step(slider):
    pipe = make_pipeline(MelPatcher(duration=1.0), AnoPatchEmbedder(), KNNDetector())
    pipe.fit(slider[0].clips[:12])
    with pytest.raises(TypeError, match=r"must have anomaly_map, .* Got KNNDetector\(\) instead"):
        anomaly_map(pipe, slider[0].clips)
