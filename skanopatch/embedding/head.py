"""The head of a network: how it starts."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Subset

from skanopatch.embedding.module import EmbeddingNetwork
from skanopatch.embedding.net import SpectrogramDataset

_MOST_CLIPS = 1000


def standardize_head(
    module: EmbeddingNetwork, dataset: SpectrogramDataset, batch_size: int, device: torch.device
) -> None:
    """Let a head start on standardized features.

    What clips have in common is most of their pooled features. Without this the cosines of
    ArcFace are all near to 1 in the beginning, and the first epochs go by in finding differences.

    Parameters
    ----------
    module : EmbeddingNetwork
        With a head. It is set to evaluation.
    dataset : SpectrogramDataset
        The clips to train on. Mean and deviation are those of at most 1,000 of them.
    batch_size : int
        Clips embedded at a time.
    device : torch.device
    """
    sample = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_MOST_CLIPS])
    module.to(device).eval()
    with torch.inference_mode():
        features = [
            module.pooled(patches.to(device)).cpu().numpy()
            for patches, _ in DataLoader(Subset(dataset, sample.tolist()), batch_size)
        ]
    scaler = StandardScaler().fit(np.concatenate(features, dtype=np.float64))
    mean, scale = (torch.from_numpy(x).float().to(device) for x in (scaler.mean_, scaler.scale_))
    module.standardize(mean, scale)
