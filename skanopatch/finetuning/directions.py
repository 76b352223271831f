"""The directions in which fine-tuned embeddings vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.utils import gen_batches

from skanopatch.finetuning.devices import memory_errors
from skanopatch.finetuning.module import PatchEmbedding

_SHARE_OF_VARIANCE = 0.95
_MOST_CLIPS = 1000


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
    sample = np.sort(np.random.default_rng(0).permutation(usable)[:_MOST_CLIPS])
    module.to(device).eval()
    embeddings = np.empty((len(sample), module.n_dims), dtype=np.float32)
    with torch.inference_mode(), memory_errors(batch_size):
        for rows in gen_batches(len(sample), batch_size):
            patches = torch.from_numpy(np.asarray(X[sample[rows]], dtype=np.float32))
            embeddings[rows] = module(patches.to(device)).cpu().numpy()
    _, index = np.unique(target[sample], return_inverse=True)
    means = np.stack([embeddings[index == k].mean(axis=0) for k in range(index.max() + 1)])
    deviations = embeddings - means[index]
    if deviations.any():
        pca = PCA(_SHARE_OF_VARIANCE, svd_solver="full").fit(deviations)
        module.project(torch.from_numpy(pca.components_).to(device))
