"""What the report embeds of a clip: its picture, its sound, its map and its worst moments."""

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

from skanopatch.audio import Clip, load_clip
from skanopatch.inspection.decisions import read_patches, split_model
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.mel_patcher import MelPatcher
from skanopatch.spectra.patches import unpatchify

# Every browser plays MP3, and seeks exactly in it where its bit rate is constant. Other rates
# exist, but their frames are too small for the tag that tells players of the encoder's delay.
_MP3_RATES = (16000, 22050, 32000, 44100, 48000)
_MP3: dict[str, Any] = {
    "format": "MP3",
    "subtype": "MPEG_LAYER_III",
    "bitrate_mode": "CONSTANT",
    "compression_level": 0.7,  # about 56 kbit/s at 16 kHz
}
_LOUDEST = 0.9  # what the loudest sample of the page becomes

_BATCH_SIZE = 64  # clips whose patches are in memory at a time
_PICTURE_COLUMNS = 512  # a spectrogram with more frames is averaged over neighbours
_TICKS = (200, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000)  # Hz

# The moments that are marked are above the threshold, and at least that many seconds apart.
_MOST_MOMENTS = 5
_SECONDS_APART = 0.5


class Axes(NamedTuple):
    """Where the spectrogram of a patcher lies in seconds and Hz."""

    seconds: float  # that all patches of a clip cover
    edges: np.ndarray  # of the mel bins in Hz, of shape (n_mels + 1,)

    @classmethod
    def of_patcher(cls, patcher: MelPatcher) -> Axes:
        """Return the axes of a fitted patcher's spectrograms."""
        front_end = patcher.front_end
        n_time, _ = front_end.grid_shape(round(patcher.duration_ * front_end.sample_rate))
        n_samples = n_time * front_end.patch_size * front_end.shift_samples
        return cls(n_samples / front_end.sample_rate, front_end.bin_edges())

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

    log_mel: np.ndarray  # of shape (n_frames, n_mels), with neighbouring frames averaged
    statistics: np.ndarray  # as in `AnomalousSoundDetector.normal_statistics_`
    map: np.ndarray | None  # the anomaly map, of shape (n_time, n_freq)


def view_clips(
    model: AnomalousSoundDetector, clips: list[Clip], groups: list[Hashable] | None = None
) -> list[View]:
    """Return the views of clips by a fitted model; clips that cannot be read become NaN."""
    patcher, mapper = split_model(model)
    views: list[View] = []
    for rows in (slice(start, start + _BATCH_SIZE) for start in range(0, len(clips), _BATCH_SIZE)):
        patches = read_patches(patcher, clips[rows])
        statistics = model.statistics_.transform(patches)
        maps: Any = [None] * len(patches)
        if model.map_pipeline_ is not None:
            maps = mapper.anomaly_map(patches, groups=None if groups is None else groups[rows])
        views += map(View, _shrink(unpatchify(patches)), statistics, maps)
    return views


def embed_clips(
    clips: list[Clip], views: list[View], patcher: MelPatcher, axes: Axes, *, verbose: int = 0
) -> list[dict[str, Any]]:
    """Return what the page needs to show and to play each clip, empty for an unreadable one.

    It is `picture` and `sound`, and with maps also `map`, its `highest` value and the `moments`.
    """
    media: list[dict[str, Any]] = [{} for _ in clips]
    readable = [i for i, view in enumerate(views) if np.isfinite(view.log_mel).all()]
    if not readable:
        return media
    # One scale of greys and one loudness for all, so that clips can be compared.
    levels = np.array([np.percentile(views[i].log_mel, [1, 99.9]) for i in readable])
    darkest, brightest = np.median(levels[:, 0]), levels[:, 1].max()
    peak = max(float(np.abs(_load(clips[i], patcher)[0]).max()) for i in readable)
    for i in tqdm(readable, desc="Drawing", unit="clip", disable=not verbose, leave=False):
        samples, rate = _load(clips[i], patcher)
        media[i] = {
            "picture": _draw(views[i].log_mel, darkest, brightest),
            "sound": _encode(samples * (_LOUDEST / peak if peak else 1), rate),
        }
        anomaly_map = views[i].map
        if anomaly_map is not None:
            media[i]["map"] = np.round(anomaly_map, 2).tolist()
            media[i]["highest"] = float(anomaly_map.max())
            media[i]["moments"] = worst_moments(anomaly_map, axes)
    return media


def _draw(log_mel: np.ndarray, darkest: float, brightest: float) -> str:
    """Return a spectrogram (n_frames, n_mels) as the data URL of a picture in greys."""
    file = io.BytesIO()
    colours: dict[str, Any] = {"vmin": darkest, "vmax": brightest, "cmap": "gray"}
    webp: dict[str, Any] = {"format": "webp", "pil_kwargs": {"quality": 60}}
    imsave(file, log_mel.T, origin="lower", **colours, **webp)
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode("ascii")


def _shrink(log_mel: np.ndarray) -> np.ndarray:
    """Average neighbouring frames of spectrograms (n_clips, n_frames, n_mels) to what is drawn."""
    n_clips, n_frames, n_mels = log_mel.shape
    size = -(-n_frames // _PICTURE_COLUMNS)
    whole = log_mel[:, : n_frames // size * size]
    return whole.reshape(n_clips, n_frames // size, size, n_mels).mean(axis=2)


def _load(clip: Clip, patcher: MelPatcher) -> tuple[np.ndarray, int]:
    """Return the samples that a patcher uses of a clip, at a rate in Hz that MP3 can hold."""
    own_rate, duration = patcher.sample_rate, patcher.duration_
    samples = load_clip(clip, sample_rate=own_rate, channel=patcher.channel, duration=duration)
    rate = next((r for r in _MP3_RATES if r >= own_rate), _MP3_RATES[-1])
    return load_clip((samples, own_rate), sample_rate=rate), rate


def _encode(samples: np.ndarray, sample_rate: int) -> str:
    """Return samples as MP3 in base64."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, **_MP3)
    return b64encode(file.getvalue()).decode("ascii")


def worst_moments(anomaly_map: np.ndarray, axes: Axes) -> list[dict]:
    """Find the moments of a clip at which its map peaks above the threshold, the worst first.

    Parameters
    ----------
    anomaly_map : ndarray of shape (n_time, n_freq)
        The map of a clip; 1 is the threshold.
    axes : Axes
        What the map lies over.

    Returns
    -------
    moments : list of dict
        `time` in seconds, where the cell begins; `value` of the map; `band`, its frequencies.
    """
    n_time, n_freq = anomaly_map.shape
    seconds = axes.seconds / n_time
    worst = anomaly_map.max(axis=1)
    # The padding lets the first and the last moment be peaks.
    padded = np.pad(worst, 1, constant_values=-np.inf)
    peaks = find_peaks(padded, distance=max(1, _SECONDS_APART / seconds))[0] - 1
    peaks = peaks[worst[peaks] > 1]
    edges = axes.edges[np.linspace(0, len(axes.edges) - 1, n_freq + 1).astype(int)]
    bands = anomaly_map.argmax(axis=1)
    return [
        {
            "time": round(float(peak * seconds), 3),
            "value": round(float(worst[peak]), 2),
            "band": format_hz(*edges[bands[peak] :][:2]),
        }
        for peak in peaks[np.argsort(-worst[peaks], kind="stable")][:_MOST_MOMENTS]
    ]
