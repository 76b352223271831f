"""What changes a batch of clips while a backbone is trained."""

from __future__ import annotations

import torch
from torchaudio.functional import mask_along_axis_iid

# A mask covers at most this share of its axis, so that short clips keep something to hear.
_MAX_MASKED = 0.5


def spec_augment(log_mel: torch.Tensor, *, time_mask: int, frequency_mask: int) -> torch.Tensor:
    """Mask one stretch of time and one of frequency in each spectrogram.

    Park et al. 2019 (Interspeech), without time warping. Widths are uniform from 0 to the largest
    allowed, and to half of the axis at most.

    Parameters
    ----------
    log_mel : Tensor of shape (n_clips, n_frames, n_mels)
        Normalised, so that 0, which fills the masks, is the mean.
    time_mask : int
        Largest width in frames.
    frequency_mask : int
        Largest width in mel bins.
    """
    for axis, width in ((1, time_mask), (2, frequency_mask)):
        log_mel = mask_along_axis_iid(log_mel, width, 0.0, axis=axis, p=_MAX_MASKED)
    return log_mel


def mixup(
    patches: torch.Tensor, target: torch.Tensor, *, alpha: float
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, float]]:
    """Mix each clip of a batch with another one.

    Zhang et al. 2018 (ICLR), eq. 1: one weight a batch, drawn from Beta(alpha, alpha).

    Returns
    -------
    mixed : Tensor of the shape of `patches`
    target : tuple (target, target of the other clip, weight of the first)
    """
    weight = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(patches), device=patches.device)
    return weight * patches + (1 - weight) * patches[other], (target, target[other], weight)
