"""Augmentation of log-mel spectrograms in training."""

from __future__ import annotations

import numpy as np
import torch

# A mask covers at most this share of its axis, so that short clips are not masked as a whole.
_MAX_MASKED = 0.5

# The kinds of `change`.
CHANGES = ("none", "higher", "lower", "faster", "slower", "brighter", "darker")
_SHIFT = 3  # mel bins
_RATE = 1.25
_TILT = 1.0  # added to the highest mel bin and subtracted from the lowest, in nepers of power


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
        length = log_mel.shape[axis]
        width = min(width, int(_MAX_MASKED * length))
        if width:
            widths = width * torch.rand_like(log_mel[:, :1, :1])
            starts = ((length - widths) * torch.rand_like(widths)).long()
            position = torch.arange(length, device=log_mel.device)
            position = position[:, None] if axis == 1 else position
            masked = (position >= starts) & (position < starts + widths.long())
            log_mel = log_mel.masked_fill(masked, 0.0)
    return log_mel


def mixup(
    log_mel: torch.Tensor, target: torch.Tensor, *, probability: float
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Mix spectrograms of a batch with others of it.

    Zhang et al. 2018 (ICLR), eq. 1 with alpha = 1: the weight of a mixed clip is uniform in [0, 1].

    Parameters
    ----------
    log_mel : Tensor of shape (n_clips, n_frames, n_mels)
    target : Tensor of shape (n_clips,)
        Class indices.
    probability : float
        With which a clip is mixed; the others have the weight 1.

    Returns
    -------
    mixed : Tensor of shape (n_clips, n_frames, n_mels)
    target : tuple of Tensor of shape (n_clips,)
        Class of the clip, class of the other, and weight of the clip.
    """
    n_clips = len(log_mel)
    weight = torch.where(torch.rand(n_clips) < probability, torch.rand(n_clips), torch.ones(()))
    other = torch.randperm(n_clips).to(target.device)
    weight = weight.to(log_mel.device, log_mel.dtype)
    factor = weight[:, None, None]
    mixed = factor * log_mel + (1 - factor) * log_mel[other.to(log_mel.device)]
    return mixed, (target, target[other], weight)


def random_segment(log_mel: np.ndarray, n_frames: int, rate: float = 1.0) -> np.ndarray:
    """Cut a segment at a random start out of a spectrogram, and change its tempo by `rate`.

    Parameters
    ----------
    log_mel : ndarray of shape (n_frames_of_clip, n_mels)
    n_frames : int
        Frames of the result.
    rate : float, default=1.0
        Frames of the clip per frame of the result, interpolated linearly. A clip that is too short
        is repeated.
    """
    n_spare = max(0, int(len(log_mel) - rate * n_frames))
    start = int(torch.randint(n_spare + 1, ()))
    position = (start + rate * np.arange(n_frames)) % len(log_mel)
    before = position.astype(int)
    weight = (position - before)[:, None].astype(log_mel.dtype)
    if not weight.any():
        return log_mel[before]
    return (1 - weight) * log_mel[before] + weight * log_mel[(before + 1) % len(log_mel)]


def change(log_mel: np.ndarray, kind: str, n_frames: int) -> np.ndarray:
    """Cut a random segment and change it as the sounds of machines change.

    Parameters
    ----------
    log_mel : ndarray of shape (n_frames_of_clip, n_mels)
        In natural logarithms of power.
    kind : str
        One of `CHANGES`. "higher" and "lower" move the spectrum by 3 mel bins, "faster" and
        "slower" multiply and divide the tempo by 1.25, "brighter" and "darker" tilt the spectrum by
        2 (8.7 dB) from the lowest to the highest bin.
    n_frames : int
        Frames of the result.
    """
    rate = {"faster": _RATE, "slower": 1 / _RATE}.get(kind, 1.0)
    segment = random_segment(log_mel, n_frames, rate)
    if kind in ("higher", "lower"):
        # Bins without a source repeat the bin at the edge.
        shift = _SHIFT if kind == "lower" else -_SHIFT
        bins = np.arange(segment.shape[1]) + shift
        segment = segment[:, bins.clip(0, segment.shape[1] - 1)]
    if kind in ("brighter", "darker"):
        tilt = np.linspace(-_TILT, _TILT, segment.shape[1], dtype=segment.dtype)
        segment = segment + (tilt if kind == "brighter" else -tilt)
    return segment
