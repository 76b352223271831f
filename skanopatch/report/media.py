"""What the report embeds of a clip: its picture, its sound and its worst moments."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import soundfile
from matplotlib.image import imsave
from scipy.signal import find_peaks
from tqdm.auto import tqdm

from skanopatch.audio.clips import Clip, load_clip
from skanopatch.inspection.decisions import read_patches, split_model
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.mel_patcher import MelPatcher
from skanopatch.spectra.patches import unpatchify

# Every browser plays MP3, and seeks exactly in it where its bit rate is constant. Other rates
# exist, but their frames are too small for the tag that tells players of the encoder's delay.
_MP3_RATES = (16000, 22050, 32000, 44100, 48000)
_MP3_COMPRESSION = 0.7  # about 56 kbit/s at 16 kHz

_LOUDEST = 0.9  # what the loudest sample of the page becomes

_BATCH = 64  # clips whose patches are in memory at a time
_PICTURE_COLUMNS = 512  # a spectrogram with more frames is averaged over neighbours
_TICKS = (200, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000)  # Hz

# The moments that are marked: those above the threshold, or else some, since every clip has a
# worst one. Two are at least that many seconds apart.
_MOST_MOMENTS = 5
_MOMENTS_BELOW_THRESHOLD = 3
_SECONDS_APART = 0.5


class Axes(NamedTuple):
    """Where the spectrogram of a patcher lies in seconds and Hz."""

    seconds: float
    """What all patches of a clip cover."""
    edges: np.ndarray
    """Edges of the mel bins in Hz, of shape (n_mels + 1,)."""

    @classmethod
    def of_patcher(cls, patcher: MelPatcher) -> Axes:
        """Return the axes of a fitted patcher's spectrograms."""
        front_end = patcher._front_end()
        n_bands = front_end.n_mels // front_end.patch_size
        n_patches = front_end.n_patches(round(patcher.duration_ * front_end.sample_rate))
        n_frames = n_patches // n_bands * front_end.patch_size
        seconds = n_frames * front_end.shift_samples / front_end.sample_rate
        return cls(seconds, front_end.bin_edges())

    def ticks(self) -> list[tuple[str, float]]:
        """Return the labels of the frequency axis and their heights, 0 to 1."""
        inside = [hz for hz in _TICKS if self.edges[0] <= hz <= 1.02 * self.edges[-1]]
        heights = np.interp(inside, self.edges, np.linspace(0, 1, len(self.edges)))
        return [(format_hz(hz), round(float(h), 4)) for hz, h in zip(inside, heights, strict=True)]


def format_hz(*hertz: float) -> str:
    """Write frequencies as "500 Hz", or as "0.9 to 1.2 kHz"."""
    if max(hertz) < 999.5:
        return " to ".join(f"{hz:.0f}" for hz in hertz) + " Hz"
    return " to ".join(f"{hz / 1000:.2g}" for hz in hertz) + " kHz"


class View(NamedTuple):
    """What a model makes of a clip."""

    log_mel: np.ndarray
    """The spectrogram, of shape (n_frames, n_mels), with neighbouring frames averaged."""
    statistics: np.ndarray
    """Those of `AnomalousSoundDetector.normal_statistics_`."""
    map: np.ndarray | None
    """How odd each patch is, of shape (n_time, n_freq)."""


def view_clips(
    model: AnomalousSoundDetector, clips: list[Clip], groups: list[Hashable] | None = None
) -> list[View]:
    """Compute the spectrogram, statistics and map of clips.

    Parameters
    ----------
    model : AnomalousSoundDetector
        Fitted on clips.
    clips : list of clips
        Those that cannot be read become NaN.
    groups : list of hashables of length n_clips, default=None
        The machine of each clip.
    """
    patcher, mapper = split_model(model)
    views: list[View] = []
    for rows in (slice(start, start + _BATCH) for start in range(0, len(clips), _BATCH)):
        patches = read_patches(patcher, clips[rows])
        spectrograms = _shrink(unpatchify(patches, patcher.n_mels // patcher.patch_size))
        statistics = model.statistics_.transform(patches)
        maps: Any = [None] * len(patches)
        if model.map_pipeline_ is not None:
            maps = mapper.anomaly_map(patches, groups=None if groups is None else groups[rows])
        views += map(View, spectrograms, statistics, maps)
    return views


def embed_clips(
    clips: list[Clip], views: list[View], patcher: MelPatcher, axes: Axes, *, verbose: int = 0
) -> list[dict[str, Any]]:
    """Return what the page needs to show and to play each clip.

    Parameters
    ----------
    clips : list of clips
    views : list of View
        Of the clips.
    patcher : MelPatcher
        Fitted.
    axes : Axes
        Of the patcher.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    media : list of dict
        `picture` and `sound`, and if there are maps also `map` and `moments`; empty for a clip
        that cannot be used.
    """
    media: list[dict[str, Any]] = [{} for _ in clips]
    readable = [i for i, view in enumerate(views) if np.isfinite(view.log_mel).all()]
    if not readable:
        return media
    # One scale of greys and one loudness for all, or else clips could not be compared.
    levels = np.array([np.percentile(views[i].log_mel, [1, 99.9]) for i in readable])
    darkest, brightest = np.median(levels[:, 0]), levels[:, 1].max()
    peak = max(float(np.abs(_load(clips[i], patcher)[0]).max()) for i in readable)
    for i in tqdm(readable, desc="Drawing", unit="clip", disable=not verbose, leave=False):
        samples, rate = _load(clips[i], patcher)
        media[i] = {
            "picture": _draw(views[i].log_mel, darkest, brightest),
            "sound": _encode(samples * (_LOUDEST / peak if peak else 1), rate),
        }
        odd = views[i].map
        if odd is not None:
            media[i]["map"] = np.round(odd, 2).tolist()
            media[i]["moments"] = worst_moments(odd, axes)
    return media


def _draw(log_mel: np.ndarray, darkest: float, brightest: float) -> str:
    """Return a spectrogram (n_frames, n_mels) as the data URL of a picture in greys."""
    file = io.BytesIO()
    imsave(
        file,
        log_mel.T,
        vmin=darkest,
        vmax=brightest,
        cmap="gray",
        origin="lower",
        format="webp",
        pil_kwargs={"quality": 60},
    )
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode("ascii")


def _shrink(log_mel: np.ndarray) -> np.ndarray:
    """Average neighbouring frames of spectrograms (..., n_frames, n_mels) to what is drawn."""
    *clips, n_frames, n_mels = log_mel.shape
    size = -(-n_frames // _PICTURE_COLUMNS)
    whole = log_mel[..., : n_frames // size * size, :]
    return whole.reshape(*clips, n_frames // size, size, n_mels).mean(axis=-2)


def _load(clip: Clip, patcher: MelPatcher) -> tuple[np.ndarray, int]:
    """Return the samples that a patcher uses of a clip, at a rate in Hz that MP3 can hold."""
    samples = load_clip(
        clip,
        sample_rate=patcher.sample_rate,
        channel=patcher.channel,
        duration=patcher.duration_,
    )
    rate = next((r for r in _MP3_RATES if r >= patcher.sample_rate), _MP3_RATES[-1])
    return load_clip((samples, patcher.sample_rate), sample_rate=rate), rate


def _encode(samples: np.ndarray, sample_rate: int) -> str:
    """Return samples as MP3 in base64."""
    file = io.BytesIO()
    soundfile.write(
        file,
        samples,
        sample_rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=_MP3_COMPRESSION,
    )
    return b64encode(file.getvalue()).decode("ascii")


def worst_moments(odd: np.ndarray, axes: Axes) -> list[dict]:
    """Find the moments of a clip that are most odd, the worst first.

    Parameters
    ----------
    odd : ndarray of shape (n_time, n_freq)
        The map of a clip; 1 is the threshold.
    axes : Axes
        What the map lies over.

    Returns
    -------
    moments : list of dict
        `time` in seconds, where the cell begins; `value` of the map; `band`, its frequencies.
    """
    n_time, n_freq = odd.shape
    seconds = axes.seconds / n_time
    worst = odd.max(axis=1)
    # The padding lets the first and the last moment be peaks.
    padded = np.pad(worst, 1, constant_values=-np.inf)
    peaks = find_peaks(padded, distance=max(1, _SECONDS_APART / seconds))[0] - 1
    peaks = peaks[np.argsort(-worst[peaks], kind="stable")]
    above = peaks[worst[peaks] > 1]
    edges = axes.edges[np.linspace(0, len(axes.edges) - 1, n_freq + 1).astype(int)]
    moments = []
    for peak in above[:_MOST_MOMENTS] if len(above) else peaks[:_MOMENTS_BELOW_THRESHOLD]:
        band = odd[peak].argmax()
        moments.append(
            {
                "time": round(float(peak * seconds), 3),
                "value": round(float(worst[peak]), 2),
                "band": format_hz(*edges[band : band + 2]),
            }
        )
    return moments
