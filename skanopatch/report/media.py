"""What the report embeds of a clip: its picture, its sound, its map, and why it has its score."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import soundfile
from matplotlib.image import imsave
from numpy.typing import NDArray
from tqdm.auto import tqdm

from skanopatch.audio import Clip, load_clip
from skanopatch.detectors.metadata import call_with_groups
from skanopatch.inspection.decisions import read_patches, split_model
from skanopatch.recipes.explanation import Explanation
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.report.moments import Axes, worst_moments
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
_EXPLAINED_AT_A_TIME = 16  # clips
_EMPTY = 1e-3  # dB: a narrow filter without any bin of the FFT is the same in all clips
_MOST_TIMES = 6  # of an event
_BELOW_NORMAL = 20.0  # dB that the scale of spectra goes below the quietest normal clip


class View(NamedTuple):
    """What a model makes of a clip."""

    log_mel: np.ndarray  # of shape (n_frames, n_mels), with neighbouring frames averaged
    statistics: np.ndarray  # as in `AnomalousSoundDetector.normal_statistics_`
    map: np.ndarray | None  # the anomaly map, of shape (n_time, n_freq)
    moments: np.ndarray | None  # the same without the bands that the score of the clip comes from


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
        moments = maps
        if model.map_pipeline_ is not None:
            own = None if groups is None else groups[rows]
            maps = mapper.anomaly_map(patches, groups=own)
            moments = call_with_groups(model.map_pipeline_, "anomaly_map", patches, own)
        views += map(View, _shrink(unpatchify(patches)), statistics, maps, moments)
    return views


def embed_clips(
    clips: list[Clip], views: list[View], patcher: MelPatcher, axes: Axes, *, verbose: int = 0
) -> list[dict[str, Any]]:
    """Return what the page needs to show and to play each clip, empty for an unreadable one.

    It is `picture` and `sound`, and with maps also `map`, its `highest` value and the `moments`,
    see `worst_moments`.
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
        anomaly_map, moments = views[i].map, views[i].moments
        if anomaly_map is not None and moments is not None:
            media[i]["map"] = np.round(anomaly_map, 2).tolist()
            media[i]["highest"] = float(anomaly_map.max())
            media[i]["moments"] = worst_moments(anomaly_map, moments, axes)
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


def explain_clips(
    model: AnomalousSoundDetector,
    clips: list[Clip],
    groups: list[Hashable] | None = None,
    *,
    verbose: int = 0,
) -> list[Explanation]:
    """Explain the scores of clips that can be read, some at a time."""
    explanations: list[Explanation] = []
    starts = range(0, len(clips), _EXPLAINED_AT_A_TIME)
    for start in tqdm(starts, desc="Explaining", disable=not verbose, leave=False):
        rows = slice(start, start + _EXPLAINED_AT_A_TIME)
        own = None if groups is None else groups[rows]
        explanations += model.explain(clips[rows], groups=own)
    return explanations


def spectra_of(
    explanations: list[Explanation], normal_spectra: NDArray, axes: Axes
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the page needs to draw spectra over the range of the normal clips.

    Parameters
    ----------
    explanations : list of Explanation
    normal_spectra : ndarray of shape (n_normal, n_mels)
        Those of normal clips that are drawn too, in dB.
    axes : Axes
        Of all spectra.

    Returns
    -------
    shared : dict
        `places` of the mel bins on the axis, 0 to 1; `lowest` and `highest` normal level of each,
        in dB; `levels`, the ends of the one scale of all spectra. Empty without explanations.
    own : list of dict
        Of the explained clips, then of the normal ones, which have no `words`.
        `words`, sentences with the `times` in the window at which what they say begins, in seconds;
        `spectrum`, the level of each bin in dB; `bands`, the ends of the
        bands of its events, 0 to 1.
    """
    if not explanations:
        return {}, []
    normal = explanations[0].normal_spectra  # of all machines
    lowest, highest = normal.min(axis=0), normal.max(axis=0)
    bins = np.flatnonzero(highest - lowest > _EMPTY)
    if not len(bins):  # all normal clips are the same
        bins = np.arange(normal.shape[1])
    spectra = np.array([e.spectrum for e in explanations] + list(normal_spectra))[:, bins]
    bottom = max(lowest[bins].min() - _BELOW_NORMAL, min(spectra.min(), lowest[bins].min()))
    top = max(spectra.max(), highest[bins].max())
    shared = {
        "places": np.round((bins + 0.5) / normal.shape[1], 4).tolist(),
        "lowest": np.round(lowest[bins].astype(float), 1).tolist(),
        "highest": np.round(highest[bins].astype(float), 1).tolist(),
        "levels": [round(float(bottom), 1), round(float(top), 1)],
    }
    own: list[dict[str, Any]] = [
        {"spectrum": np.round(spectrum.astype(float), 1).tolist(), "bands": []}
        for spectrum in spectra
    ]
    for drawn, explanation in zip(own, explanations, strict=False):
        drawn["words"] = _words(explanation)
        for event in explanation.events:
            if event.low is not None:
                ends = axes.height([event.low, event.high])
                drawn["bands"].append(np.round(ends, 4).tolist())
    return shared, own


def _words(explanation: Explanation) -> list[dict[str, Any]]:
    """Return the sentences but for the first, which the row of the clip says, with their times."""
    start = explanation.start if explanation.start > 0 else 0.0
    times = [[round(begin - start, 3) for begin, _ in event.times] for event in explanation.events]
    sentences = explanation.sentences()[1:]
    times += [[]] * (len(sentences) - len(times))  # notes, and what the distance is the sum of
    return [
        {"text": text, "times": own[:_MOST_TIMES]}
        for text, own in zip(sentences, times, strict=True)
    ]
