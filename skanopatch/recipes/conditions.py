"""Recording conditions: what of new clips is not as in the clips of `fit`, in words."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skanopatch.audio import Clip, clip_format, clip_name, read_clip
from skanopatch.spectra.lazy_patches import bullets
from skanopatch.spectra.patches import patch_grid

_DECIBEL = np.log(10) / 10  # as a natural logarithm of power

_LEVEL_MARGIN = 3.0  # dB beyond the levels of normal clips, below which nothing is said
_BAND_MARGIN = 10.0  # dB below the quietest normal clip, in every bin above or below an edge
_LEAST_BINS = 3  # that an edge leaves out
_CONSTANT = 1e-3
_FULL_SCALE = 0.999
_CLIPPED = 1e-4  # share of the samples at full scale
_OFFSET = 0.1  # of a clip's peak

# Words of the notes that are worth a warning. A level may be what a fault changes.
_WARNED = ("sampled", "channel", "silent", "no sound")


class Conditions:
    """What the recordings of `fit` are like, and how others differ.

    Attributes
    ----------
    own_formats : list of length n_clips
        The (sample rate in Hz, channels) of each clip of `fit`; None for bare arrays.
    faults : ndarray of shape (n_clips, 2)
        The share of samples at full scale and the constant part as a share of the peak, NaN for
        clips that were not looked at: of many, 50 are.
    formats : dict
        How many clips of `fit` there were of each (sample rate in Hz, channels); clips without a
        rate of their own do not count.
    lowest, highest : ndarray of shape (n_mels,)
        The range of the mean log-mel spectra of the clips of `fit`.
    level_range : tuple of float
        Of their levels, in dB.
    has_silent : bool
        Whether one of them was silent.
    edges : ndarray of shape (n_mels + 1,)
        Frequencies in Hz between the mel bins; bins are named by number where it is empty.
    clipped, offset : float
        The largest share of samples at full scale, and the largest constant part of a clip, as a
        share of its peak, among the clips of `fit` that were looked at.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        spectra: NDArray,
        edges: NDArray,
        *,
        sample_rate: int,
        n_most: int = 50,
    ):
        self.sample_rate, self.edges = sample_rate, edges
        self.own_formats: list[Any] = []
        self.faults = np.empty((0, 2))
        self.add(clips, n_most=n_most)
        self.summarize(spectra)
        above = max((rate for rate, _ in self.formats), default=0)
        if above > sample_rate > 0:
            n_above = sum(n for (rate, _), n in self.formats.items() if rate > sample_rate)
            warnings.warn(
                f"{n_above} of {len(clips)} clips are sampled at up to {above} Hz, and only sound "
                f"below {sample_rate / 2:g} Hz is used. Set sample_rate={above} of MelPatcher "
                f"(--sample-rate {above} on the command line) to use all of it.",
                UserWarning,
                stacklevel=4,
            )

    def add(self, clips: Sequence[Clip], *, n_most: int = 50) -> None:
        """Look at more clips, at the samples of at most `n_most`; `summarize` is to follow."""
        faults = np.full((len(clips), 2), np.nan)
        for row in np.linspace(0, len(clips) - 1, min(n_most, len(clips))).astype(int):
            faults[row] = _sample_faults(clips[row])
        self.faults = np.vstack([self.faults, faults])
        self.own_formats = [*self.own_formats, *(clip_format(clip) for clip in clips)]

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Forget all clips but some; `summarize` is to follow."""
        if self.own_formats:
            self.faults = self.faults[rows]
            self.own_formats = [self.own_formats[row] for row in rows]

    def summarize(self, spectra: NDArray) -> None:
        """Summarize the clips and their mean log-mel spectra (n_clips, n_mels)."""
        usable = spectra[np.isfinite(spectra).all(axis=1)]
        self.formats: dict[Any, int] = dict(Counter(f for f in self.own_formats if f is not None))
        self.lowest, self.highest = usable.min(axis=0), usable.max(axis=0)
        self.has_silent = bool((np.ptp(usable, axis=1) < _CONSTANT).any())
        levels = level_of(usable)
        self.level_range = (float(levels.min()), float(levels.max()))
        self.clipped, self.offset = np.nanmax(np.vstack([self.faults, [[0.0, 0.0]]]), axis=0)

    def notes(self, clip: Clip, spectrum: NDArray, *, samples: bool) -> list[str]:
        """Return how a clip differs from those of `fit`, a phrase each.

        Parameters
        ----------
        clip : clip
        spectrum : ndarray of shape (n_mels,)
            Its mean log-mel spectrum.
        samples : bool
            Whether to read its samples too, for clipping and constant parts.
        """
        if not np.isfinite(spectrum).all():
            return []
        phrases = self._format(clip_format(clip))
        level = float(level_of(spectrum))
        low, high = self.level_range
        if np.ptp(spectrum) < _CONSTANT:
            return phrases if self.has_silent else [*phrases, "silent"]
        if level < low - _LEVEL_MARGIN:
            phrases.append(f"{low - level:.0f} dB quieter than any normal clip")
        elif level > high + _LEVEL_MARGIN:
            phrases.append(f"{level - high:.0f} dB louder than any normal clip")
        phrases += self._bandwidth(spectrum + _DECIBEL * (np.clip(level, low, high) - level))
        if samples:
            clipped, offset = _sample_faults(clip)
            if clipped > max(_CLIPPED, 2 * self.clipped):
                phrases.append(
                    f"clipped: {clipped:.2%} of the samples at full scale, in fit up to "
                    f"{self.clipped:.2%}"
                )
            if offset > max(_OFFSET, 2 * self.offset):
                phrases.append(
                    f"a constant part of {offset:.0%} of the peak, in fit up to {self.offset:.0%}"
                )
        return phrases

    def _format(self, own: tuple[int, int] | None) -> list[str]:
        if own is None or not self.formats or own in self.formats:
            return []
        phrases = []
        rates, channels = ({f[i] for f in self.formats} for i in (0, 1))
        if own[0] not in rates:
            usual = " or ".join(f"{rate / 1000:g} kHz" for rate in sorted(rates)[:3])
            phrases.append(f"sampled at {own[0] / 1000:g} kHz, fitted at {usual}")
        if own[1] not in channels:
            usual = " or ".join(map(str, sorted(channels)[:3]))
            phrases.append(f"{own[1]} channel(s), fitted with {usual}")
        return phrases

    def _bandwidth(self, spectrum: NDArray) -> list[str]:
        quieter = spectrum < self.lowest - _DECIBEL * _BAND_MARGIN
        silent = quieter | (self.highest - self.lowest < _CONSTANT)  # bins may be empty in fit too
        if silent.all():
            return []
        phrases = []
        n_top, n_bottom = int(np.argmin(silent[::-1])), int(np.argmin(silent))
        if np.count_nonzero(quieter[len(quieter) - n_top :]) >= _LEAST_BINS:
            phrases.append(f"no sound above {self._hertz(len(quieter) - n_top)}, unlike in fit")
        if np.count_nonzero(quieter[:n_bottom]) >= _LEAST_BINS:
            phrases.append(f"no sound below {self._hertz(n_bottom)}, unlike in fit")
        return phrases

    def _hertz(self, edge: int) -> str:
        return f"{self.edges[edge] / 1000:.2g} kHz" if len(self.edges) else f"mel bin {edge}"


def warn_of_conditions(conditions: Conditions, clips: Sequence[Clip], spectra: NDArray) -> None:
    """Warn of clips that were recorded in another way than those of `fit`."""
    lines = []
    for i, (clip, spectrum) in enumerate(zip(clips, spectra, strict=True)):
        phrases = conditions.notes(clip, spectrum, samples=False)
        if any(word in phrase for phrase in phrases for word in _WARNED):
            lines.append(f"{clip_name(clip, i)}: {'; '.join(phrases)}")
    if lines:
        warnings.warn(
            f"{len(lines)} of {len(clips)} clips were recorded in another way than those of fit, "
            f"which may change their scores:{bullets(lines, most=5)}",
            UserWarning,
            stacklevel=5,
        )


def mean_spectra(patches: NDArray) -> NDArray[np.float32]:
    """Return the mean log-mel spectrum of each clip, (n_clips, n_mels), of its patches."""
    grid = patch_grid(patches)
    cells = patches.reshape(len(patches), grid.n_time, grid.n_freq, grid.height, grid.width)
    return cells.mean(axis=(1, 3)).reshape(len(patches), grid.n_mels)


def level_of(spectra: NDArray) -> NDArray[np.float64]:
    """Return the level of mean log-mel spectra (..., n_mels) in dB, relative to any reference."""
    return np.logaddexp.reduce(spectra.astype(np.float64), axis=-1) / _DECIBEL


def _sample_faults(clip: Clip) -> tuple[float, float]:
    """Return the share of samples at full scale, and the constant part as a share of the peak."""
    try:
        samples, _ = read_clip(clip)
    except ValueError:
        return 0.0, 0.0
    peak = float(np.abs(samples).max())
    if peak == 0:
        return 0.0, 0.0
    clipped = float((np.abs(samples) >= _FULL_SCALE).mean())
    return clipped, float(np.abs(samples.mean(axis=0)).max() / peak)
