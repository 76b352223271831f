"""Fine-tuning: from settings to a skorch net, and to a trained module."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import GradientNormClipping, ProgressBar
from torch.utils.data import DataLoader, Subset

from skanopatch.embedding.arcface import ArcFace, SubClusterAdaCos
from skanopatch.embedding.devices import autocast_dtype, memory_errors
from skanopatch.embedding.layers import recomputed_layers
from skanopatch.embedding.lora import merge_lora
from skanopatch.embedding.module import EmbeddingNetwork
from skanopatch.embedding.net import (
    EpochSeed,
    FineTuningNet,
    ResumableCheckpoint,
    SpectrogramDataset,
    WarmupCosine,
    bare_module,
    optimizer_by_name,
)
from skanopatch.embedding.settings import FineTuning
from skanopatch.spectra.lazy_patches import LazyPatches

# `max_epochs="auto"`: 300 clips train for about as long as 4,000.
_CLIPS_IN_ALL, _LEAST_EPOCHS, _MOST_EPOCHS = 20_000, 5, 100

_LARGEST_GRADIENT = 1.0  # norm
_CLIPS_FOR_HEAD = 1000

# Settings that do not change the weights.
_WITHOUT_EFFECT = ("checkpoint_dir", "gradient_checkpointing", "n_workers")


def default_epochs(n_clips: int) -> int:
    """Return the epochs of `max_epochs="auto"`."""
    return min(_MOST_EPOCHS, max(_LEAST_EPOCHS, round(_CLIPS_IN_ALL / n_clips)))


def standardize_head(
    module: EmbeddingNetwork, dataset: SpectrogramDataset, batch_size: int, device: torch.device
) -> None:
    """Start a head on standardized features.

    Pooled features differ little between clips. Without standardization all cosines of ArcFace
    start near 1, and the first epochs are spent on finding differences.

    Parameters
    ----------
    module : EmbeddingNetwork
        With a head. It is set to evaluation.
    dataset : SpectrogramDataset
        Training clips. Mean and deviation are those of at most 1,000 of them.
    batch_size : int
        Clips embedded at a time.
    device : torch.device
    """
    sample = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_CLIPS_FOR_HEAD])
    module.to(device).eval()
    with torch.inference_mode():
        features = [
            module.pooled(part).cpu().numpy()
            for log_mel, _ in DataLoader(Subset(dataset, sample.tolist()), batch_size)
            for part in module.parts(log_mel.to(device))
        ]
    scaler = StandardScaler().fit(np.concatenate(features, dtype=np.float64))
    mean, scale = (torch.from_numpy(x).float().to(device) for x in (scaler.mean_, scaler.scale_))
    module.standardize(mean, scale)


def fine_tune(
    X: np.ndarray | LazyPatches,
    target: np.ndarray,
    usable: np.ndarray,
    *,
    settings: FineTuning,
    module_params: dict[str, Any],
    batch_size: int,
    seed: int,
    device: torch.device,
    verbose: bool,
) -> tuple[EmbeddingNetwork, list[dict[str, Any]]]:
    """Train backbone, pooling and head with skorch; resume from a checkpoint if there is one.

    Parameters
    ----------
    X : ndarray or LazyPatches of shape (n_clips, n_time, n_freq, patch_area)
    target : ndarray of shape (n_clips,), int
        Classes from 0.
    usable : ndarray of int
        The clips to train on.
    settings : FineTuning
    module_params : dict
        Parameters of `EmbeddingNetwork`.
    batch_size : int
        Clips per step.
    seed : int
        Seed of order and augmentation.
    device : torch.device
    verbose : bool
        Whether to show progress bars.

    Returns
    -------
    module : EmbeddingNetwork
        LoRA's updates are part of its weights.
    history : list of dict
        One entry per epoch.
    """
    max_epochs = settings.max_epochs
    if max_epochs == "auto":
        max_epochs = default_epochs(len(usable))
    n_steps = max_epochs * math.ceil(len(usable) / batch_size)
    if settings.warmup >= n_steps:
        warnings.warn(
            f"warmup={settings.warmup} steps take the whole training of {n_steps} steps, which "
            f"ends at {n_steps / settings.warmup:.0%} of lr={settings.lr}. Set fewer, or a share "
            "below 1.",
            UserWarning,
            stacklevel=3,
        )
    callbacks: list[Any] = [
        EpochSeed(seed),
        WarmupCosine(n_steps, settings.warmup),
        GradientNormClipping(_LARGEST_GRADIENT),
    ]
    criterion: type[torch.nn.Module] = SubClusterAdaCos
    criterion_params: dict[str, Any] = {}
    if settings.scale != "adaptive":
        criterion = ArcFace
        criterion_params = {
            "criterion__scale": settings.scale,
            "criterion__margin": settings.margin,
        }
    net_class: type[FineTuningNet] = FineTuningNet
    placement: dict[str, Any] = {"device": str(device)}
    if settings.distributed:
        from skanopatch.embedding.distributed import DistributedNet, make_accelerator

        accelerator = make_accelerator(batch_size, device)
        net_class = DistributedNet
        # With another sink, skorch prints the losses at any verbosity.
        placement = {"accelerator": accelerator, "callbacks__print_log__sink": print}
        device = accelerator.device
        verbose = verbose and accelerator.is_main_process
    if verbose:
        callbacks.append(ProgressBar())
    checkpoint = None
    if settings.checkpoint_dir is not None:
        params = {k: v for k, v in settings.get_params().items() if k not in _WITHOUT_EFFECT}
        source = X.identity() if isinstance(X, LazyPatches) else X
        fingerprint = joblib.hash((params, module_params, batch_size, seed, source, target))
        checkpoint = ResumableCheckpoint(Path(settings.checkpoint_dir) / f"{fingerprint}.pt")
        callbacks.append(checkpoint)
    net = net_class(
        EmbeddingNetwork,
        **{f"module__{name}": value for name, value in module_params.items()},
        criterion=criterion,
        criterion__n_dims=settings.n_dims,
        criterion__n_classes=int(target.max()) + 1,
        **criterion_params,
        optimizer=optimizer_by_name(settings.optimizer),
        optimizer__weight_decay=settings.weight_decay,
        lr=settings.lr,
        max_epochs=max_epochs,
        batch_size=batch_size,
        iterator_train__shuffle=True,
        iterator_train__num_workers=settings.n_workers,
        iterator_train__pin_memory=device.type == "cuda",
        train_split=None,
        callbacks=callbacks,
        autocast_dtype=autocast_dtype(device, settings.precision),
        layer_decay=settings.layer_decay,
        mixup=settings.mixup,
        **placement,
        verbose=0,
    )
    with memory_errors(batch_size):
        net.initialize()
        module = bare_module(net.module_)
        backbone = module.backbone
        clips = SpectrogramDataset(X, target, usable, segment=backbone.segment)
        is_finished = checkpoint is not None and checkpoint.restore(net)
        if not net.history:
            standardize_head(module, clips, batch_size, device)
            net.share_parameters()
        if not is_finished:
            with recomputed_layers(backbone, enabled=settings.gradient_checkpointing):
                net.train_on(clips)
    merge_lora(backbone)
    history = [{k: v for k, v in epoch.items() if k != "batches"} for epoch in net.history]
    return module, history
