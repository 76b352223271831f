"""The log-mel spectrogram of one clip, as Kaldi defines it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import rfft
from sklearn.utils import gen_batches

# The mel matrix is multiplied in this many bands of mel bins: each needs the FFT bins under its
# own filters only, which saves two thirds of the product.
_N_MEL_BANDS = 4

# Frames computed at once: their intermediate results stay in the processor's cache.
_N_FRAMES = 128

_FLOOR = np.finfo(np.float32).eps  # of the power, as in Kaldi

# Of decibels: the least power, and the range in dB below the loudest bin of a clip.
LEAST_POWER = 1e-10
DECIBEL_RANGE = 120.0


@dataclass(frozen=True)
class FrontEnd:
    """Settings of log-mel spectrograms and their patches; hashable, so that filters are cached."""

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
    filterbank: str = "kaldi"

    @property
    def window_samples(self) -> int:
        """Samples per frame, rounded down as in Kaldi; rounding errors of floats do not count."""
        return int(round(self.sample_rate * self.frame_length, 6))

    @property
    def shift_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(round(self.sample_rate * self.frame_shift, 6))

    @property
    def fft_samples(self) -> int:
        """Samples to which a frame is padded: the next power of two."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def padding(self) -> int:
        """Samples by which a clip is reflected at either end, so that frames are centred."""
        return self.window_samples // 2 if self.filterbank == "decibels" else 0

    @property
    def min_samples(self) -> int:
        """The shortest clip that fills one patch on the time axis."""
        last = (self.patch_size - 1) * self.shift_samples
        # What is reflected must be shorter than the clip.
        return max(self.window_samples - 2 * self.padding + last, self.padding + 1)

    @property
    def first_frame(self) -> float:
        """Seconds from the start of a clip to the middle of its first frame."""
        return (self.window_samples / 2 - self.padding) / self.sample_rate

    @property
    def log_unit(self) -> float:
        """The unit of a spectrogram in nepers of power: 1 for natural logarithms."""
        return math.log(10) / 10 if self.filterbank == "decibels" else 1.0

    def n_frames(self, n_samples: int) -> int:
        """Return the number of frames of a clip."""
        return 1 + (n_samples + 2 * self.padding - self.window_samples) // self.shift_samples

    def grid_shape(self, n_samples: int) -> tuple[int, int]:
        """Return the numbers of patches along time and along frequency of a clip."""
        return self.n_frames(n_samples) // self.patch_size, self.n_mels // self.patch_size

    def bin_edges(self) -> np.ndarray:
        """Return the `n_mels` + 1 edges of the mel bins in Hz; bin i lies between i and i + 1.

        An edge is halfway, on the mel scale, between the peaks of two neighbouring filters.
        """
        top = self.sample_rate / 2 if self.f_max is None else self.f_max
        lowest, highest = hertz_to_mel(np.array([self.f_min, top]))
        spacing = (highest - lowest) / (self.n_mels + 1)
        return mel_to_hertz(lowest + spacing * (np.arange(self.n_mels + 1) + 0.5))

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """Return the log-mel spectrogram of one clip, (n_frames, n_mels), float32.

        The operations before the FFT are Kaldi's, in Kaldi's order: in a nearly silent band the
        logarithm magnifies differences of rounding.
        """
        if self.filterbank == "decibels":
            return _decibels(self, samples)
        waveform = samples * np.float32(self.scale)
        frames = sliding_window_view(waveform, self.window_samples)[:: self.shift_samples]
        window, bands = _filters(self)
        padded = np.zeros((min(len(frames), _N_FRAMES), self.fft_samples), dtype=np.float32)
        mel = np.empty((len(frames), self.n_mels), dtype=np.float32)
        for rows in gen_batches(len(frames), _N_FRAMES):
            block = frames[rows]
            centered = block - block.mean(axis=1, keepdims=True)
            emphasised = padded[: len(block), : self.window_samples]
            factor = np.float32(-self.preemphasis)
            np.multiply(centered[:, :-1], factor, out=emphasised[:, 1:])
            np.multiply(centered[:, 0], factor, out=emphasised[:, 0])
            emphasised += centered
            emphasised *= window
            squares = rfft(padded[: len(block)]).view(np.float32)  # real and imaginary, in turns
            np.square(squares, out=squares)
            power = squares[:, ::2] + squares[:, 1::2]
            for band in bands:
                np.matmul(power[:, band.bins], band.weights, out=mel[rows, band.mels])
        return np.log(np.maximum(mel, _FLOOR, out=mel), out=mel)


def hertz_to_mel(hertz: np.ndarray) -> np.ndarray:
    """Return Kaldi's mel of frequencies in Hz."""
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    """Return the frequencies in Hz of Kaldi's mel."""
    return 700.0 * np.expm1(np.asarray(mel) / 1127.0)


def frame_window(front_end: FrontEnd) -> np.ndarray:
    """Return what a frame is multiplied with, float32: Kaldi's symmetric window, else periodic."""
    n_window, window = front_end.window_samples, WINDOWS[front_end.window]
    values = window(n_window) if front_end.filterbank == "kaldi" else window(n_window + 1)[:-1]
    return values.astype(np.float32)


@lru_cache(maxsize=8)
def mel_weights(front_end: FrontEnd) -> np.ndarray:
    """Return the mel filters of either filterbank, (n_bins of the FFT, n_mels), in float32."""
    return (_kaldi_triangles if front_end.filterbank == "kaldi" else _hertz_triangles)(front_end)


def _kaldi_triangles(front_end: FrontEnd) -> np.ndarray:
    """Return triangles over mel, rounded as Kaldi rounds them."""
    top = front_end.f_max or front_end.sample_rate / 2
    lowest, highest = hertz_to_mel(np.array([front_end.f_min, top])).tolist()
    spacing = (highest - lowest) / (front_end.n_mels + 1)
    left, center, right = (
        np.float32(lowest)
        + (np.arange(front_end.n_mels, dtype=np.float32) + i) * np.float32(spacing)
        for i in range(3)
    )
    n_bins = front_end.fft_samples // 2  # the filters end below half the sample rate
    hertz = np.arange(n_bins, dtype=np.float32)[:, None]
    hertz *= np.float32(front_end.sample_rate / front_end.fft_samples)
    # The logarithm in float64: libraries' float32 logarithms differ in the last bit.
    mel = np.float32(1127) * np.log(1 + hertz / 700, dtype=np.float64).astype(np.float32)
    slopes = np.minimum((mel - left) / (center - left), (right - mel) / (right - center))
    return np.pad(np.maximum(slopes, 0), ((0, 1), (0, 0)))


def _decibels(front_end: FrontEnd, samples: np.ndarray) -> np.ndarray:
    """Return decibels as torchaudio's `MelSpectrogram` and `AmplitudeToDB(top_db=120)` do."""
    n_window = front_end.window_samples
    window, weights = frame_window(front_end), mel_weights(front_end)
    waveform = np.pad(samples * np.float32(front_end.scale), front_end.padding, mode="reflect")
    frames = sliding_window_view(waveform, n_window)[:: front_end.shift_samples]
    mel = np.empty((len(frames), front_end.n_mels), dtype=np.float32)
    for rows in gen_batches(len(frames), _N_FRAMES):
        spectrum = rfft(frames[rows] * window, front_end.fft_samples)
        mel[rows] = (spectrum.real**2 + spectrum.imag**2) @ weights
    decibels = 10 * np.log10(np.maximum(mel, np.float32(LEAST_POWER)))
    return np.maximum(decibels, decibels.max() - np.float32(DECIBEL_RANGE))


def _hertz_triangles(front_end: FrontEnd) -> np.ndarray:
    """Return triangles over Hz, as torchaudio's."""
    top = front_end.f_max or front_end.sample_rate / 2
    lowest, highest = hertz_to_mel(np.array([front_end.f_min, top]))
    corners = mel_to_hertz(np.linspace(lowest, highest, front_end.n_mels + 2))
    hertz = np.linspace(0, front_end.sample_rate / 2, front_end.fft_samples // 2 + 1)[:, None]
    left, center, right = corners[:-2], corners[1:-1], corners[2:]
    slopes = np.minimum((hertz - left) / (center - left), (right - hertz) / (right - center))
    return np.maximum(slopes, 0).astype(np.float32)


class _MelBand(NamedTuple):
    mels: slice
    bins: slice
    weights: np.ndarray  # (n_bins, n_mels) of the band


@lru_cache(maxsize=8)
def _filters(front_end: FrontEnd) -> tuple[np.ndarray, list[_MelBand]]:
    """Return the window and the mel matrix, cut into bands of mel bins."""
    weights = mel_weights(front_end)
    bands = []
    for mels in gen_batches(front_end.n_mels, -(-front_end.n_mels // _N_MEL_BANDS)):
        used = np.flatnonzero(weights[:, mels].any(axis=1)).tolist() or [0]
        bins = slice(used[0], used[-1] + 1)
        bands.append(_MelBand(mels, bins, weights[bins, mels].copy()))
    return frame_window(front_end), bands


# Kaldi's windows by Kaldi's names; all are symmetric.
WINDOWS: dict[str, Callable[[int], np.ndarray]] = {
    "povey": lambda n: np.hanning(n) ** 0.85,
    "hanning": np.hanning,
    "hamming": np.hamming,
    "blackman": np.blackman,
    "rectangular": np.ones,
}
