"""Fine-tuning: from an embedder's parameters to a skorch net, and to a trained module."""

from __future__ import annotations

import math
from numbers import Integral
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.model_selection import train_test_split
from skorch.callbacks import GradientNormClipping, ProgressBar
from skorch.helper import predefined_split

from skanopatch.finetuning.arcface import ArcFace
from skanopatch.finetuning.augmentation import CHANGES
from skanopatch.finetuning.devices import autocast_dtype, memory_errors
from skanopatch.finetuning.head import keep_varying_directions, standardize_head
from skanopatch.finetuning.layers import recomputed_layers
from skanopatch.finetuning.module import PatchEmbedding
from skanopatch.finetuning.net import (
    EpochSeed,
    FineTuningNet,
    PatchDataset,
    ResumableCheckpoint,
    ResumableEarlyStopping,
    WarmupCosine,
    callback_by_name,
    optimizer_by_name,
)
from skanopatch.patches import LazyPatches

# What `max_epochs="auto"` comes to: two to four minutes on two cores, the same for 200
# clips as for 4,000. Few clips have to be heard often, or their classes stay untold.
_CLIPS_TO_HEAR, _LEAST_EPOCHS, _MOST_EPOCHS = 20_000, 5, 100

# Parameters of an embedder that do not change the weights.
_NO_MATTER = (
    "checkpoint_dir",
    "device",
    "gradient_checkpointing",
    "n_workers",
    "output",
    "statistics",
    "verbose",
)


def default_epochs(n_clips: int) -> int:
    """Return how often `max_epochs="auto"` hears each of so many training clips."""
    return min(_MOST_EPOCHS, max(_LEAST_EPOCHS, round(_CLIPS_TO_HEAR / n_clips)))


def fine_tune(
    embedder: Any,
    X: Any,
    target: np.ndarray,
    usable: np.ndarray,
    *,
    module_params: dict[str, Any],
    seed: int,
    device: torch.device,
) -> tuple[PatchEmbedding, list[dict[str, Any]]]:
    """Train backbone, pooling and head with skorch, from a checkpoint if there is one.

    Of a head whose embeddings come beside statistics, the directions that vary are kept.

    Parameters
    ----------
    embedder : AnoPatchEmbedder
        Whose parameters say how.
    X : ndarray or LazyPatches of shape (n_clips, n_patches, patch_area)
    target : ndarray of shape (n_clips,), int
        Classes from 0.
    usable : ndarray of int
        The clips to train on.
    module_params : dict
        Parameters of `PatchEmbedding`.
    seed : int
        Seed of order and augmentation.
    device : torch.device

    Returns
    -------
    module : PatchEmbedding
    history : list of dict
        An entry an epoch.
    """
    train, valid = usable, None
    if embedder.early_stopping is not None:
        train, valid = _split(usable, target, embedder.validation_fraction, seed)
    changes = CHANGES if embedder.pretext == "augmentation" else CHANGES[:1]
    max_epochs = embedder.max_epochs
    if max_epochs == "auto":
        max_epochs = default_epochs(len(train))
    n_steps = max_epochs * math.ceil(len(train) / embedder.batch_size)
    checkpoint = _checkpoint(embedder, X, target)
    net = FineTuningNet(
        PatchEmbedding,
        **{f"module__{name}": value for name, value in module_params.items()},
        criterion=ArcFace,
        criterion__n_dims=embedder.n_dims,
        criterion__n_classes=(int(target.max()) + 1) * len(changes),
        criterion__n_subcenters=embedder.n_subcenters,
        criterion__scale=embedder.scale,
        criterion__margin=embedder.margin,
        optimizer=optimizer_by_name(embedder.optimizer),
        optimizer__weight_decay=embedder.weight_decay,
        lr=embedder.lr,
        max_epochs=max_epochs,
        batch_size=embedder.batch_size,
        iterator_train__shuffle=True,
        iterator_train__num_workers=embedder.n_workers,
        iterator_train__pin_memory=device.type == "cuda",
        callbacks=_callbacks(embedder, n_steps, seed, checkpoint),
        autocast_dtype=autocast_dtype(device, embedder.precision),
        mixup_alpha=embedder.mixup,
        layer_decay=embedder.layer_decay,
        device=str(device),
        verbose=0,
    )
    with memory_errors(embedder.batch_size):
        net.initialize()
        embedder._check_module(net.module_)
        n_freq, segment = module_params["grid"].n_freq, net.module_.backbone.segment
        train_set = PatchDataset(
            X,
            target,
            train,
            n_freq=n_freq,
            segment=segment,
            changes=changes,
            log_unit=embedder._log_unit,
        )
        net.train_split = None
        if valid is not None:
            # Validation hears whole clips as they are: class 0 of the changes.
            net.train_split = predefined_split(
                PatchDataset(X, target * len(changes), valid, n_freq=n_freq)
            )
        is_finished = checkpoint is not None and checkpoint.restore(net)
        if not net.history:
            standardize_head(net.module_, train_set, embedder.batch_size, device)
        if not is_finished:
            recompute = embedder.gradient_checkpointing
            with recomputed_layers(net.module_.backbone, enabled=recompute):
                net.train_on(train_set)
        if embedder._has_statistics and embedder.output == "clip":
            clips = PatchDataset(X, target, usable, n_freq=n_freq)
            keep_varying_directions(net.module_, clips, embedder.batch_size, device)
    history = [
        {key: value for key, value in epoch.items() if key != "batches"} for epoch in net.history
    ]
    return net.module_, history


def _callbacks(
    embedder: Any, n_steps: int, seed: int, checkpoint: ResumableCheckpoint | None
) -> list[Any]:
    callbacks: list[Any] = [EpochSeed(seed), WarmupCosine(n_steps, embedder.warmup)]
    if embedder.gradient_clip is not None:
        callbacks.append(GradientNormClipping(embedder.gradient_clip))
    if embedder.early_stopping is not None:
        callbacks.append(ResumableEarlyStopping(patience=embedder.early_stopping, load_best=True))
    if embedder.verbose:
        callbacks.append(ProgressBar())
    callbacks += [callback_by_name(name) for name in embedder.callbacks or ()]
    if checkpoint is not None:
        callbacks.append(checkpoint)
    return callbacks


def _checkpoint(embedder: Any, X: Any, target: np.ndarray) -> ResumableCheckpoint | None:
    if embedder.checkpoint_dir is None:
        return None
    if not isinstance(embedder.random_state, Integral):
        raise ValueError(
            "checkpoint_dir needs a random_state that is an int, by which a fit that goes on "
            f"is told from a new one. Got random_state={embedder.random_state!r} instead."
        )
    params = {k: v for k, v in embedder.get_params().items() if k not in _NO_MATTER}
    clips = X.identity() if isinstance(X, LazyPatches) else X
    fingerprint = joblib.hash((params, clips, target))
    return ResumableCheckpoint(Path(embedder.checkpoint_dir) / f"{fingerprint}.pt")


def _split(
    usable: np.ndarray, target: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Set clips aside for validation, class by class where the classes are large enough."""
    classes, counts = np.unique(target[usable], return_counts=True)
    n_least = min(fraction, 1 - fraction) * len(usable)
    can_stratify = counts.min() >= 2 and int(n_least) >= len(classes)
    return train_test_split(
        usable,
        test_size=fraction,
        stratify=target[usable] if can_stratify else None,
        random_state=seed,
    )
