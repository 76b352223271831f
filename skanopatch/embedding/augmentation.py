"""What changes clips while a backbone is trained."""

from __future__ import annotations

import numpy as np
import torch
from torchaudio.functional import mask_along_axis_iid

# A mask covers at most this share of its axis, so that something is left of short clips.
_MAX_MASKED = 0.5

# The changes that `change` makes.
CHANGES = ("none", "higher", "lower", "faster", "slower", "brighter", "darker")
_SHIFT = 3  # mel bins
_RATE = 1.25
_TILT = 1.0  # added at the highest bin and taken at the lowest, as a natural logarithm of power


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


def random_segment(log_mel: np.ndarray, n_frames: int, rate: float = 1.0) -> np.ndarray:
    """Take a stretch of a spectrogram at a random place, at another tempo if asked for.

    Parameters
    ----------
    log_mel : ndarray of shape (n_frames_of_clip, n_mels)
    n_frames : int
        Frames of the result.
    rate : float, default=1.0
        Frames of the clip a frame of the result; between frames it is interpolated linearly. A
        clip that is too short starts over.
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
    """Take a random segment, changed in one of the ways in which machines change.

    Parameters
    ----------
    log_mel : ndarray of shape (n_frames_of_clip, n_mels)
        In natural logarithms of power.
    kind : str
        One of `CHANGES`: all moved by 3 mel bins, 1.25 times the tempo or one over that, or tilted
        by 2 (8.7 dB) from the lowest to the highest bin.
    n_frames : int
        Frames of the result.
    """
    rate = {"faster": _RATE, "slower": 1 / _RATE}.get(kind, 1.0)
    segment = random_segment(log_mel, n_frames, rate)
    if kind in ("higher", "lower"):
        # The bins that move in repeat the one at the edge.
        shift = _SHIFT if kind == "lower" else -_SHIFT
        bins = np.arange(segment.shape[1]) + shift
        segment = segment[:, bins.clip(0, segment.shape[1] - 1)]
    if kind in ("brighter", "darker"):
        tilt = np.linspace(-_TILT, _TILT, segment.shape[1], dtype=segment.dtype)
        segment = segment + (tilt if kind == "brighter" else -tilt)
    return segment
