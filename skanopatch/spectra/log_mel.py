"""The log-mel spectrogram of one clip, as Kaldi defines it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import gen_batches
from torchaudio.compliance.kaldi import get_mel_banks

# The mel matrix is multiplied in this many bands of mel bins: each needs the FFT bins under its
# own filters only, which saves two thirds of the product.
_N_MEL_BANDS = 4


@dataclass(frozen=True)
class FrontEnd:
    """The settings that take samples to patches; hashable, so that its filters are cached."""

    sample_rate: int
    n_mels: int
    frame_length: float
    frame_shift: float
    f_min: float
    f_max: float | None
    window: str
    preemphasis: float
    scale: float
    patch_size: int

    @property
    def window_samples(self) -> int:
        """Samples a frame; Kaldi rounds down, here after removing float noise."""
        return int(round(self.sample_rate * self.frame_length, 6))

    @property
    def shift_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(round(self.sample_rate * self.frame_shift, 6))

    @property
    def fft_samples(self) -> int:
        """Samples a frame is padded to: the next power of two."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def min_samples(self) -> int:
        """The shortest clip that fills one patch on the time axis."""
        return self.window_samples + (self.patch_size - 1) * self.shift_samples

    def grid_shape(self, n_samples: int) -> tuple[int, int]:
        """Return the patches along time and along frequency of a clip of that many samples."""
        n_frames = 1 + (n_samples - self.window_samples) // self.shift_samples
        return n_frames // self.patch_size, self.n_mels // self.patch_size

    def bin_edges(self) -> np.ndarray:
        """Return the frequencies in Hz halfway, on the mel scale, between the tips of the filters.

        Bin i lies between edges i and i + 1: there are `n_mels` + 1.
        """
        top = self.sample_rate / 2 if self.f_max is None else self.f_max
        lowest, highest = hertz_to_mel(np.array([self.f_min, top]))
        spacing = (highest - lowest) / (self.n_mels + 1)
        return mel_to_hertz(lowest + spacing * (np.arange(self.n_mels + 1) + 0.5))

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """Return the Kaldi log-mel spectrogram of one clip, (n_frames, n_mels), float32.

        The operations before the FFT are Kaldi's, in Kaldi's order and rounding, since the
        logarithm magnifies what differs where a band is nearly silent.
        """
        waveform = torch.from_numpy(samples * np.float32(self.scale))
        frames = waveform.unfold(0, self.window_samples, self.shift_samples)
        frames = frames - frames.mean(dim=1, keepdim=True)
        window, bands = _filters(self)
        padded = torch.zeros(len(frames), self.fft_samples)
        emphasised = padded[:, : self.window_samples]
        torch.sub(frames[:, 1:], self.preemphasis * frames[:, :-1], out=emphasised[:, 1:])
        torch.sub(frames[:, :1], self.preemphasis * frames[:, :1], out=emphasised[:, :1])
        emphasised *= window
        spectrum = torch.fft.rfft(padded)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        mel = torch.empty(len(frames), self.n_mels)
        for band in bands:
            torch.mm(power[:, band.bins], band.weights, out=mel[:, band.mels])
        return mel.clamp_min_(torch.finfo(torch.float32).eps).log_().numpy()


def hertz_to_mel(hertz: np.ndarray) -> np.ndarray:
    """Return Kaldi's mel of frequencies in Hz."""
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    """Return the frequencies in Hz of Kaldi's mel."""
    return 700.0 * np.expm1(np.asarray(mel) / 1127.0)


class _MelBand(NamedTuple):
    mels: slice
    bins: slice
    weights: torch.Tensor  # (n_bins, n_mels) of the band


@lru_cache(maxsize=8)
def _filters(front_end: FrontEnd) -> tuple[torch.Tensor, list[_MelBand]]:
    """Return the window and the mel matrix, cut into bands of mel bins."""
    mel_banks, _ = get_mel_banks(
        front_end.n_mels,
        front_end.fft_samples,
        float(front_end.sample_rate),
        front_end.f_min,
        0.0 if front_end.f_max is None else front_end.f_max,  # Kaldi: 0 is Nyquist
        vtln_low=100.0,
        vtln_high=-500.0,
        vtln_warp_factor=1.0,
    )
    weights = torch.nn.functional.pad(mel_banks, (0, 1)).T
    bands = []
    for mels in gen_batches(front_end.n_mels, -(-front_end.n_mels // _N_MEL_BANDS)):
        used = torch.nonzero(weights[:, mels].any(dim=1)).ravel().tolist() or [0]
        bins = slice(used[0], used[-1] + 1)
        bands.append(_MelBand(mels, bins, weights[bins, mels].contiguous()))
    window = WINDOWS[front_end.window](front_end.window_samples)
    return window, bands


def _blackman_window(n_samples: int) -> torch.Tensor:
    """Return Kaldi's form: near its ends it is so small that torch's rounds differently."""
    phase = 2 * math.pi / (n_samples - 1) * torch.arange(n_samples)
    return 0.42 - 0.5 * torch.cos(phase) + 0.08 * torch.cos(2 * phase)


# Kaldi's windows by Kaldi's names; all are symmetric.
WINDOWS: dict[str, Callable[[int], torch.Tensor]] = {
    "povey": lambda n: torch.hann_window(n, periodic=False).pow(0.85),
    "hanning": lambda n: torch.hann_window(n, periodic=False),
    "hamming": lambda n: torch.hamming_window(n, periodic=False, alpha=0.54, beta=0.46),
    "blackman": _blackman_window,
    "rectangular": torch.ones,
}
