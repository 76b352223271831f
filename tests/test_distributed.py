"""Fine-tuning by two processes against one with the same batches."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mini_beats import CFG, save_mini_beats
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import RandomSampler

from skanopatch import (
    AnoPatchEmbedder,
    BandStatistics,
    FineTuning,
    KNNDetector,
    MelPatcher,
    load_model,
)
from skanopatch.embedding.distributed import SharedOrder, make_accelerator

EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed_fine_tuning.py"
LAUNCH = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def run_example(folder, *launch, model="embedder.skano", **options):
    """Return what the example prints and the embedder that it saves."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, *launch, EXAMPLE, f"--model={folder / model}", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1]), load_model(folder / model)


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_the_same_batches(tmp_path):
    pytest.importorskip("accelerate")
    # Nothing random in a step: no dropout, no masks, no segments.
    cfg = {**CFG, "dropout": 0.0, "attention_dropout": 0.0}
    backbone = save_mini_beats(tmp_path / "mini.pt", cfg=cfg)
    options = {"backbone": backbone, "batch_size": 16, "masks": 0}
    one, embedder_of_one = run_example(tmp_path, distributed=0, model="one.skano", **options)
    two, embedder_of_two = run_example(tmp_path, *LAUNCH, model="two.skano", **options)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["losses"][0] > one["losses"][-1] > 0
    # float32 sums in another order
    assert_allclose(two["losses"], one["losses"], rtol=1e-4)
    clips = np.random.default_rng(0).normal(size=(4, 16000))
    patches = MelPatcher(duration=1.0).fit_transform(clips)
    assert_allclose(
        embedder_of_two.transform(patches), embedder_of_one.transform(patches), atol=1e-3, rtol=1e-3
    )


@pytest.mark.slow
def test_two_processes_resume_where_they_were_stopped(tmp_path):
    pytest.importorskip("accelerate")
    options = {"checkpoint_dir": tmp_path / "run", "max_epochs": 2, "batch_size": 32}
    first, embedder = run_example(tmp_path, *LAUNCH, **options)
    (checkpoint,) = (tmp_path / "run").iterdir()
    written = checkpoint.stat().st_mtime_ns
    second, resumed = run_example(tmp_path, *LAUNCH, **options)
    assert checkpoint.stat().st_mtime_ns == written  # it was complete
    assert second["losses"] == first["losses"]
    patches = MelPatcher(duration=1.0).fit_transform(
        np.random.default_rng(0).normal(size=(4, 16000))
    )
    assert_array_equal(resumed.transform(patches), embedder.transform(patches))


def test_distributed_training_without_accelerate_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    patches = np.random.default_rng(0).normal(size=(4, 2, 8, 256)).astype(np.float32)
    embedder = AnoPatchEmbedder("vit_tiny", fine_tuning=FineTuning(distributed=True))
    with pytest.raises(ImportError, match=r"pip install skanopatch\[distributed\]"):
        embedder.fit(patches, labels=[0, 1, 0, 1])


def test_a_batch_that_processes_cannot_share_equally_is_an_error(monkeypatch):
    fake = SimpleNamespace(
        Accelerator=lambda **kwargs: SimpleNamespace(num_processes=3),
        DataLoaderConfiguration=dict,
        DistributedDataParallelKwargs=dict,
    )
    monkeypatch.setitem(sys.modules, "accelerate", fake)
    with pytest.raises(ValueError, match=r"multiple of the 3 processes .* Got 16 instead"):
        make_accelerator(16, torch.device("cpu"))


def test_processes_take_one_order_and_draw_other_masks():
    clips, orders, draws = list(range(50)), [], []
    with torch.random.fork_rng():
        for process in (0, 1):
            torch.manual_seed(0)
            orders.append(list(SharedOrder(clips, process)))
            draws.append(float(torch.rand(())))
        torch.manual_seed(0)
        assert orders == [list(RandomSampler(clips))] * 2
    assert draws[0] != draws[1]


def test_a_grid_on_statistics_computed_once_scores_as_one_on_clips():
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(20, 16000)) * rng.uniform(0.5, 2, size=(20, 1))
    grid = {"knndetector__n_neighbors": [1, 3]}
    scores = []
    for steps, X in (
        ((MelPatcher(duration=1.0), AnoPatchEmbedder()), clips),
        (
            (StandardScaler(with_mean=False),),
            make_pipeline(MelPatcher(duration=1.0), BandStatistics()).fit_transform(clips),
        ),
    ):
        search = GridSearchCV(
            make_pipeline(*steps, KNNDetector()),
            grid,
            scoring=lambda estimator, X, y=None: estimator.score_samples(X).mean(),
            cv=KFold(5),
        ).fit(X)
        scores.append(search.cv_results_["mean_test_score"])
    assert scores[0][0] != scores[0][1]
    assert_allclose(scores[1], scores[0], rtol=1e-4)
