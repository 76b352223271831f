"""The head of a network in fine-tuning: how it starts, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches
from torch.utils.data import Dataset

from skanopatch.finetuning.devices import memory_errors
from skanopatch.finetuning.module import PatchEmbedding

_SHARE_OF_VARIANCE = 0.95
_MOST_CLIPS = 1000


def standardize_head(
    module: PatchEmbedding, dataset: Dataset, batch_size: int, device: torch.device
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
    sample = _sample(np.arange(len(dataset)))  # type: ignore[arg-type]

    def read(rows: NDArray[np.int_]) -> NDArray:
        return np.stack([patches for patches, _ in dataset.__getitems__(rows)])  # type: ignore

    features = _computed(module, module.pooled, read, sample, batch_size, device)
    scaler = StandardScaler().fit(features.astype(np.float64))
    mean, scale = (torch.from_numpy(x).float().to(device) for x in (scaler.mean_, scaler.scale_))
    module.standardize(mean, scale)


def keep_varying_directions(
    module: PatchEmbedding,
    X: Any,
    target: NDArray[np.int_],
    usable: NDArray[np.int_],
    batch_size: int,
    device: torch.device,
) -> None:
    """Leave the head those principal directions in which clips vary within their classes.

    In the others training clips hardly differ, so that a distance that takes their covariance
    into account would take noise for anomalies.

    Parameters
    ----------
    module : PatchEmbedding
        With a head. It is set to evaluation.
    X : ndarray or LazyPatches of shape (n_clips, n_patches, patch_area)
    target : ndarray of shape (n_clips,), int
        The class of each clip.
    usable : ndarray of int
        The clips that are not NaN; of many, a sample is embedded.
    batch_size : int
        Clips embedded at a time.
    device : torch.device
    """
    sample = _sample(usable)

    def read(rows: NDArray[np.int_]) -> NDArray:
        return np.asarray(X[rows], dtype=np.float32)

    embeddings = _computed(module, module, read, sample, batch_size, device)
    _, index = np.unique(target[sample], return_inverse=True)
    means = np.stack([embeddings[index == k].mean(axis=0) for k in range(index.max() + 1)])
    deviations = embeddings - means[index]
    if deviations.any():
        pca = PCA(_SHARE_OF_VARIANCE, svd_solver="full").fit(deviations)
        module.project(torch.from_numpy(pca.components_).to(device))


def _sample(clips: NDArray[np.int_]) -> NDArray[np.int_]:
    return np.sort(np.random.default_rng(0).permutation(clips)[:_MOST_CLIPS])


def _computed(
    module: PatchEmbedding,
    function: Callable[[torch.Tensor], torch.Tensor],
    read: Callable[[NDArray[np.int_]], NDArray],
    sample: NDArray[np.int_],
    batch_size: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """Return what the module's function gives for each clip of the sample, (n_clips, n_dims)."""
    module.to(device).eval()
    with torch.inference_mode(), memory_errors(batch_size):
        return np.concatenate(
            [
                function(torch.from_numpy(read(sample[rows])).to(device)).cpu().numpy()
                for rows in gen_batches(len(sample), batch_size)
            ]
        )
