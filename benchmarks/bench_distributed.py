"""Measure how long the network waits for patches, and what processes that share a batch change.

    python benchmarks/bench_distributed.py
    torchrun --nproc-per-node 2 benchmarks/bench_distributed.py

One process: fine-tuning of anopatch-tiny on lazy patches of clips of 10 s with 0 and 1 workers, one
thread each. Waiting is the time in the data loader's ``next`` over that of the epochs after the
first batch, which the workers compute while they start. Several processes: the loss of each epoch.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import soundfile
import torch
from environment import print_environment
from sklearn import config_context

from skanopatch import AnoPatchEmbedder, FineTuning, MelPatcher
from skanopatch.embedding.net import FineTuningNet

SEED, SAMPLE_RATE, SECONDS, N_CLIPS, N_EPOCHS = 0, 16000, 10.0, 160, 2


class TimedBatches:
    """A data loader that adds up the seconds in which a batch is waited for."""

    def __init__(self, loader, record):
        self.loader = loader
        self.record = record

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        batches = iter(self.loader)
        start = perf_counter()
        for i, batch in enumerate(batches):
            waited = perf_counter() - start
            if i:  # not the first one
                self.record["waited"] += waited
            start = perf_counter()
            yield batch
            if i:
                self.record["step"] += perf_counter() - start
            start = perf_counter()


def share_of_waiting(patches, labels, n_workers):
    """Return the share of the training in which the network waits, and the seconds of a step."""
    record = {"waited": 0.0, "step": 0.0}
    original = FineTuningNet.get_iterator

    def timed(net, dataset, training=False):
        return TimedBatches(original(net, dataset, training=training), record)

    FineTuningNet.get_iterator = timed
    try:
        AnoPatchEmbedder(
            fine_tuning=FineTuning(max_epochs=N_EPOCHS, n_workers=n_workers), random_state=SEED
        ).fit(patches, labels=labels)
    finally:
        FineTuningNet.get_iterator = original
    n_steps = N_EPOCHS * (-(-N_CLIPS // 32) - 1)
    return record["waited"] / (record["waited"] + record["step"]), record["step"] / n_steps


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    labels = np.arange(N_CLIPS) % 4
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        patches = rng.normal(15, 6, size=(N_CLIPS, 12, 8, 256)).astype(np.float32)
        embedder = AnoPatchEmbedder(
            fine_tuning=FineTuning(max_epochs=N_EPOCHS, distributed=True), random_state=SEED
        ).fit(patches, labels=labels)
        if os.environ["RANK"] == "0":
            print_environment(SEED)
            print("losses", [round(epoch["train_loss"], 4) for epoch in embedder.history_])
        return
    print_environment(SEED)
    with TemporaryDirectory() as folder, config_context(working_memory=1):
        paths = [str(Path(folder) / f"{i}.wav") for i in range(N_CLIPS)]
        for path in paths:
            samples = 0.1 * rng.normal(size=round(SECONDS * SAMPLE_RATE))
            soundfile.write(path, samples, SAMPLE_RATE)
        patches = MelPatcher(duration=SECONDS).fit_transform(paths)
        for n_workers in (0, 1):
            waiting, step = share_of_waiting(patches, labels, n_workers)
            print(
                f"{n_workers} workers, {N_CLIPS} clips of {SECONDS:g} s: the network waits for "
                f"{100 * waiting:.1f} % of the time; a step of 32 clips takes {step:.2f} s"
            )


if __name__ == "__main__":
    main()
