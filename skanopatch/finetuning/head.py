"""The head of a network in fine-tuning: how it starts, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Subset

from skanopatch.finetuning.devices import memory_errors
from skanopatch.finetuning.module import PatchEmbedding
from skanopatch.finetuning.net import PatchDataset

# What features deviate by within a class, those of statistics and of a network beside them.
WITHIN_A_CLASS = np.float32(0.1)

_SHARE_OF_VARIANCE = 0.95
_MOST_CLIPS = 1000


def standardize_head(
    module: PatchEmbedding, dataset: PatchDataset, batch_size: int, device: torch.device
) -> None:
    """Let a head start on standardized features.

    What clips have in common is most of their pooled features. Without this the cosines of
    ArcFace are all near to 1 in the beginning, and the first epochs go by in finding differences.

    Parameters
    ----------
    module : PatchEmbedding
        With a head. It is set to evaluation.
    dataset : PatchDataset
        The clips to train on; of many, a sample is heard.
    batch_size : int
        Clips embedded at a time.
    device : torch.device
    """
    features, _ = _heard(module, module.pooled, dataset, batch_size, device)
    scaler = StandardScaler().fit(features.astype(np.float64))
    mean, scale = (torch.from_numpy(x).float().to(device) for x in (scaler.mean_, scaler.scale_))
    module.standardize(mean, scale)


def keep_varying_directions(
    module: PatchEmbedding, dataset: PatchDataset, batch_size: int, device: torch.device
) -> None:
    """Leave the head those principal directions in which clips vary within their classes.

    In the others training clips hardly differ, so that a distance that takes their covariance
    into account would take noise for anomalies. The mean variance along a direction becomes that
    of the statistics, which a nearest neighbour would not hear beside larger numbers.

    Parameters
    ----------
    module : PatchEmbedding
        With a head. It is set to evaluation.
    dataset : PatchDataset
        Clips as they are, and their classes; of many, a sample is heard.
    batch_size : int
        Clips embedded at a time.
    device : torch.device
    """
    embeddings, target = _heard(module, module, dataset, batch_size, device)
    _, index = np.unique(target, return_inverse=True)
    means = np.stack([embeddings[index == k].mean(axis=0) for k in range(index.max() + 1)])
    deviations = embeddings - means[index]
    if deviations.any():
        pca = PCA(_SHARE_OF_VARIANCE, svd_solver="full").fit(deviations)
        scale = WITHIN_A_CLASS / np.sqrt(pca.explained_variance_.mean())
        module.project(torch.from_numpy(scale * pca.components_).to(device))


def hear_classes(
    module: PatchEmbedding, dataset: PatchDataset, batch_size: int, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """Return where the module puts the classes, by some clips of each.

    Parameters
    ----------
    module : PatchEmbedding
        It is set to evaluation.
    dataset : PatchDataset
        Clips as they are, and their classes.
    batch_size : int
        Clips embedded at a time.
    device : torch.device

    Returns
    -------
    means : ndarray of shape (n_classes, n_dims)
    sizes : ndarray of shape (n_classes,)
        How many clips each class has in all.
    """
    classes, index = np.unique(dataset.target[dataset.indices], return_inverse=True)
    n_most = math.ceil(_MOST_CLIPS / len(classes))
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(index == k))[:n_most] for k in range(len(classes))]
    sample = np.concatenate(rows)
    embeddings, _ = _heard(module, module, dataset, batch_size, device, sample)
    means = [embeddings[index[sample] == k].mean(axis=0) for k in range(len(classes))]
    return np.stack(means), np.bincount(index)


def _heard(
    module: PatchEmbedding,
    function: Callable[[torch.Tensor], torch.Tensor],
    dataset: PatchDataset,
    batch_size: int,
    device: torch.device,
    sample: NDArray[np.intp] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """Return what a function of the module gives for each clip of a sample, and its class."""
    if sample is None:
        sample = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_MOST_CLIPS])
    module.to(device).eval()
    outputs, targets = [], []
    with torch.inference_mode(), memory_errors(batch_size):
        for patches, target in DataLoader(Subset(dataset, sample.tolist()), batch_size):
            outputs.append(function(patches.to(device)).cpu().numpy())
            targets.append(target.numpy())
    return np.concatenate(outputs), np.concatenate(targets)
