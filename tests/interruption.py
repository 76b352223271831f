"""Work that tests interrupt: each function runs in a process of its own, in a folder of its own.

Processes are forked from one that has imported what they need, so that a random moment is one of
the work and not of the import of torch.
"""

import multiprocessing
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "sklearn.pipeline",
        "torch._dynamo",  # what an optimizer imports when it is made
        "skanopatch.backbones.vit",
        "skanopatch.cli",
        "skanopatch.embedding.embedder",
        "skanopatch.embedding.module",
        "skanopatch.embedding.training",
        "skanopatch.model_selection",
        "skanopatch.persistence.model_files",
        "skanopatch.recipes.sound_detector",
        "skanopatch.report",
        "skanopatch.streaming.scoring",
        "skanopatch.streaming.sinks",
        "skanopatch.streaming.watching",
    ]
)
PATIENCE = 300  # seconds
RESULT = "result.npy"

EVALUATE = "evaluate dcase --year 2023 --embedder mel-statistics --cache cache --output tables"
REPORT = "report model.skano recordings/new -o page.html"
UPDATE = "update model.skano recordings/confirmed"
WATCH = (
    "watch model.skano recordings/days --once --settle 0 --to sqlite:history.db --to csv:rows.csv"
)


def start(work, folder):
    """Start a process that works in a folder. It says in ``log`` what it says."""
    process = CONTEXT.Process(target=_run, args=(work, str(folder)))
    process.start()
    return process


def finish(work, folder):
    """Run to the end, and return the seconds that it took."""
    began = time.perf_counter()
    process = start(work, folder)
    process.join(PATIENCE)
    assert process.exitcode == 0, Path(folder, "log").read_text()
    return time.perf_counter() - began


def _run(work, folder):
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    if isinstance(work, str):
        from skanopatch.cli import main

        sys.argv = ["skanopatch", *work.split()]
        main()
    else:
        work()


def clips():
    return np.random.default_rng(0).normal(size=(12, 8000)).astype(np.float32)


def fit_on_a_full_disk():
    """Fit with another seed, where no file may have more than 100,000 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    fit_with_checkpoints(seed=1)


def fit_with_checkpoints(seed=0):
    """Fine-tune a network for 3 epochs, with a checkpoint after each, and write embeddings."""
    from skanopatch import AnoPatchEmbedder, FineTuning, MelPatcher

    patches = MelPatcher(duration=0.3).fit_transform(clips())
    tuning = FineTuning("lora", max_epochs=3, checkpoint_dir="checkpoints")
    embedder = AnoPatchEmbedder(fine_tuning=tuning, random_state=seed)
    embedder.fit(patches, labels=["fan", "pump"] * 6)
    np.save(RESULT, embedder.transform(patches))


def two_models():
    """Return two fitted models of a large and a small file."""
    from sklearn.pipeline import make_pipeline

    from skanopatch import BandStatistics, KNNDetector, MelPatcher, MelStatistics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return [
            make_pipeline(MelPatcher(duration=0.5), features, KNNDetector()).fit(clips())
            for features in (MelStatistics(), BandStatistics())
        ]


def save_models():
    """Write two models to one file in turn, the second one last."""
    from skanopatch import save_model

    models = two_models()
    for _ in range(25):
        for model in models:
            save_model("model.skano", model)


def fit_with_memory():
    """Fit a pipeline that keeps what its steps give, and write scores."""
    from sklearn.pipeline import make_pipeline

    from skanopatch import KNNDetector, MelPatcher, MelStatistics

    scores = []
    for duration in np.linspace(0.3, 0.5, 10):
        steps = MelPatcher(duration=float(duration)), MelStatistics(), KNNDetector()
        pipeline = make_pipeline(*steps, memory="cache").fit(clips())
        scores.append(pipeline.score_samples(clips()))
    np.save(RESULT, scores)
