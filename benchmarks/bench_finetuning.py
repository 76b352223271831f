"""Time a step of fine-tuning against the machine's own large matrix product.

    python benchmarks/bench_finetuning.py

The floating-point operations of a step are counted by torch while it runs (matrix products and
attention, forward and backward), and divided by the seconds of the step.
"""

import numpy as np
import torch
from environment import print_environment, time_in_turns
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from skanopatch.embedding.arcface import ArcFace
from skanopatch.embedding.module import EmbeddingNetwork
from skanopatch.embedding.net import FineTuningNet
from skanopatch.spectra.patches import PatchGrid

# torch counts the attention of CUDA by itself, that of the CPU not.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *args, **kwargs: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, value, *args, **kwargs: sdpa_backward_flop_count(
            grad, query, key, value
        )
    ),
}

SEED, REPEATS, BATCH_SIZE, SIZE = 0, 7, 32, 4096


def make_step(backbone, n_frames):
    """Return a function that does one training step, and its floating-point operations."""
    net = FineTuningNet(
        EmbeddingNetwork,
        module__backbone=backbone,
        module__grid=PatchGrid(n_time=n_frames // 16, n_freq=8, height=16, width=16),
        module__n_dims=256,
        module__time_mask=80,
        module__frequency_mask=80,
        criterion=ArcFace,
        criterion__n_dims=256,
        criterion__n_classes=4,
        optimizer=torch.optim.AdamW,
        verbose=0,
    ).initialize()
    log_mel = torch.from_numpy(
        np.random.default_rng(SEED).normal(15, 6, size=(BATCH_SIZE, n_frames, 128))
    ).float()
    batch = log_mel, torch.arange(BATCH_SIZE) % 4
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        net.train_step(batch)
    return lambda: net.train_step(batch), counter.get_total_flops()


def main():
    print_environment(SEED)
    torch.manual_seed(SEED)
    square = torch.randn(SIZE, SIZE)
    for backbone, seconds, n_frames in (
        ("vit_tiny", 2, 192),
        ("vit_tiny", 10, 992),
        ("timm:vit_small_patch16_224", 2, 192),
    ):
        step, flops = make_step(backbone, n_frames)
        taken, product = time_in_turns([step, lambda: square @ square], REPEATS)
        achieved, possible = flops / taken / 1e9, 2 * SIZE**3 / product / 1e9
        print(
            f"{backbone}, {seconds} s clips: {1e3 * taken / BATCH_SIZE:.1f} ms a clip, "
            f"{achieved:.0f} of {possible:.0f} GFLOP/s: ratio {achieved / possible:.2f}"
        )


if __name__ == "__main__":
    main()
