"""
Fine-tuning by several processes
================================

This script trains a network with several processes at the same time. The first command uses two
processes on a CPU, the second one all GPUs of a computer::

    pip install 'skanopatch[distributed]'
    torchrun --nproc-per-node 2 examples/distributed_fine_tuning.py
    accelerate launch examples/distributed_fine_tuning.py

Each process runs this script and computes an equal part of every batch. ``batch_size`` counts the
clips of all processes together. So the loss does not depend on the number of processes.
"""

import argparse
import json
import os

from skanopatch import AnoPatchEmbedder, FineTuning, MelPatcher, save_model
from skanopatch.datasets import make_machine_sounds

parser = argparse.ArgumentParser(description="Fine-tune a network with accelerate.")
parser.add_argument("--model", default="embedder.skano", help="file to save the embedder in")
parser.add_argument("--backbone", default="anopatch-tiny")
parser.add_argument("--batch-size", type=int, default=32, help="clips a step, of all processes")
parser.add_argument("--max-epochs", type=int, default=3)
parser.add_argument("--masks", type=int, default=40, help="largest masks of SpecAugment")
parser.add_argument("--distributed", type=int, default=1, help="0 trains in one process")
parser.add_argument("--checkpoint-dir", help="folder to save each epoch in, and to resume from")
arguments = parser.parse_args()

sounds = make_machine_sounds(
    ["fan"], n_units=4, n_train=24, n_normal=0, n_anomalous=0, duration=1.0,
    target_fraction=0.0, random_state=0,
)  # fmt: skip

settings = FineTuning(
    distributed=bool(arguments.distributed),
    max_epochs=arguments.max_epochs,
    checkpoint_dir=arguments.checkpoint_dir,
    time_mask=arguments.masks,
    frequency_mask=arguments.masks,
)
embedder = AnoPatchEmbedder(
    arguments.backbone, fine_tuning=settings, batch_size=arguments.batch_size, random_state=0
)
patches = MelPatcher(duration=1.0).fit_transform(sounds.clips)
embedder.fit(patches, labels=sounds.section)

# Every process has the same weights; the first one saves them.
if int(os.environ.get("RANK", 0)) == 0:
    save_model(arguments.model, embedder)
    losses = [epoch["train_loss"] for epoch in embedder.history_]
    print(json.dumps({"processes": int(os.environ.get("WORLD_SIZE", 1)), "losses": losses}))
