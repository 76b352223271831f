"""From samples to features in a graph of ONNX: log-mel, patches, statistics, networks, scalers.

Everything but networks is computed in float64, so that a result differs from that of the pipeline
by the pipeline's own rounding only: in a nearly silent band the logarithm magnifies it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

from skanopatch.persistence.onnx_graph import Graph, Tensor
from skanopatch.spectra.band_statistics import BandStatistics
from skanopatch.spectra.log_mel import (
    DECIBEL_RANGE,
    LEAST_POWER,
    FrontEnd,
    frame_window,
    mel_weights,
)
from skanopatch.spectra.mel_patcher import MelPatcher
from skanopatch.spectra.mel_statistics import MelStatistics
from skanopatch.spectra.patch_statistics import PatchStatistics
from skanopatch.spectra.patches import PatchGrid

_NORMAL_RMS = 0.1
_FLOOR = float(np.finfo(np.float32).eps)  # of the power, as in `FrontEnd.log_mel`
_TINY = float(np.finfo(np.float32).tiny)
_LOUD, _FLUCTUATING, _SWELLING, _SLOW = 32, 16, 4, 8  # as in `BandStatistics`
_LEVELS = np.linspace(-3.0, 3.0, 16, dtype=np.float32)  # as in `PatchStatistics`


def refuse(part: Any, why: str = "it has no form in ONNX") -> ValueError:
    """Return the error that names a part which cannot be exported."""
    return ValueError(f"{' '.join(repr(part).split())} cannot be exported: {why}.")


@dataclass
class Features:
    """What a step of a pipeline hands to the next one.

    Attributes
    ----------
    values : Tensor
        Float64. Spectrograms (n_clips, n_frames, n_mels) where there is a `grid`; tokens
        (n_clips, n_time, n_freq, n_dims) or features (n_clips, n_features) otherwise.
    shape : tuple of int
        Of the values without the first axis.
    grid : PatchGrid or None
        How patches lie on the spectrograms.
    """

    values: Tensor
    shape: tuple[int, ...]
    grid: PatchGrid | None = None

    def tokens(self) -> Features:
        """Return tokens on their grid; patches are tokens, and rows are one token a clip."""
        if self.grid is not None:
            cells = _cells(self.values, self.grid).transpose(0, 1, 3, 2, 4)
            shape = self.grid.n_time, self.grid.n_freq, self.grid.height * self.grid.width
            return Features(cells.reshape(-1, *shape), shape)
        if len(self.shape) == 1:
            return Features(self.values.expand_dims(1, 2), (1, 1, *self.shape))
        return self

    def rows(self, step: Any) -> Features:
        """Return features (n_clips, n_features), or raise for tokens."""
        if self.grid is not None or len(self.shape) != 1:
            raise refuse(step, "it takes one row a clip, and gets tokens")
        return self


def add_front_end(graph: Graph, waveform: Tensor, patcher: MelPatcher) -> Features:
    """Add what `MelPatcher` does: a clip of any length becomes a spectrogram of one length."""
    front_end, n_samples = patcher.front_end, window_samples(patcher)
    samples = waveform.take(_positions(graph, waveform, n_samples), axis=1)
    if patcher.level == "normalized":
        square = (samples * samples).mean(1, keepdims=True)
        gain = np.float32(_NORMAL_RMS) / square.sqrt()
        samples = samples * graph.where(square > 0, gain, 1.0)
    n_time, n_freq = front_end.grid_shape(n_samples)
    grid = PatchGrid(n_time, n_freq, front_end.patch_size, front_end.patch_size)
    if front_end.filterbank == "kaldi":
        log_mel = _log_mel(graph, samples, front_end, grid.n_frames)
    else:
        # Frames that fill no patch count too where the loudest bin is looked for.
        log_mel = _decibels(graph, samples, front_end, n_samples).cut(0, grid.n_frames, 1)
    return Features(log_mel, (grid.n_frames, grid.n_mels), grid)


def window_samples(patcher: MelPatcher) -> int:
    """Return the samples of a clip that a patcher uses."""
    return round(patcher.duration_ * patcher.sample_rate)


def _positions(graph: Graph, waveform: Tensor, n_samples: int) -> Tensor:
    """Return which samples are used: the first ones, again from the start of shorter clips."""
    length = graph.node("Shape", waveform, dtype=np.int64, start=1, end=2)
    bounds = [graph.constant(value, np.int64) for value in (0, n_samples, 1)]
    return graph.node("Range", *bounds) % length


def _log_mel(graph: Graph, samples: Tensor, front_end: FrontEnd, n_frames: int) -> Tensor:
    """Add Kaldi's filterbank, with the same operations before the Fourier transform."""
    n_window = front_end.window_samples
    frames = _frames(samples * np.float32(front_end.scale), front_end, n_frames)
    centered = frames - frames.mean(2, keepdims=True)
    before = graph.concatenate([centered.cut(0, 1, 2), centered.cut(0, n_window - 1, 2)], 2)
    emphasised = before * np.float32(-front_end.preemphasis) + centered
    return graph.maximum(_mel_power(graph, emphasised, front_end), _FLOOR).log()


def _decibels(graph: Graph, samples: Tensor, front_end: FrontEnd, n_samples: int) -> Tensor:
    """Add decibels of centred frames, at most so many below the loudest of all frames."""
    padding = graph.constant([0, front_end.padding] * 2, np.int64)
    padded = graph.node("Pad", samples * np.float32(front_end.scale), padding, mode="reflect")
    frames = _frames(padded, front_end, front_end.n_frames(n_samples))
    power = graph.maximum(_mel_power(graph, frames, front_end), LEAST_POWER)
    decibels = power.log() * (10.0 / math.log(10.0))
    loudest = decibels.max((1, 2), keepdims=True)
    return graph.maximum(decibels, loudest - DECIBEL_RANGE)


def _frames(samples: Tensor, front_end: FrontEnd, n_frames: int) -> Tensor:
    """Add frames (n_clips, n_frames, n_window) of samples (n_clips, n_samples)."""
    n_window = front_end.window_samples
    # Frames consist of blocks that they share: an index of single samples would take megabytes.
    size = math.gcd(n_window, front_end.shift_samples)
    starts = np.arange(n_frames)[:, np.newaxis] * (front_end.shift_samples // size)
    of_frame = starts + np.arange(n_window // size)
    n_blocks = int(of_frame[-1, -1]) + 1
    blocks = samples.cut(0, n_blocks * size, 1).reshape(-1, n_blocks, size)
    return blocks.take(of_frame, axis=1).reshape(-1, n_frames, n_window)


def _mel_power(graph: Graph, frames: Tensor, front_end: FrontEnd) -> Tensor:
    """Add the power of frames in each mel bin, in float64."""
    weights = mel_weights(front_end)
    bins = np.flatnonzero(weights.any(axis=1))
    windowed = (frames * frame_window(front_end)).cast(np.float64)
    power = _power_spectrum(graph, windowed, front_end, bins)
    return power @ weights[bins].astype(np.float64)


def _power_spectrum(graph: Graph, frames: Tensor, front_end: FrontEnd, bins: np.ndarray) -> Tensor:
    """Return the power of some bins of the Fourier transform of frames (n_clips, n_frames, n).

    About the middle of a frame, cosines are even and sines are odd: each is multiplied with the sum
    or the difference of its two halves. The float64 keeps rounding off quiet bands.
    """
    n_window = front_end.window_samples
    n_half = n_window // 2
    first, last = frames.cut(0, n_half, 2), frames.take(np.arange(n_window)[: -n_half - 1 : -1], 2)
    even = first + last
    times = np.arange(n_half) - (n_window - 1) / 2
    if n_window % 2:  # the sample in the middle has no partner
        even = graph.concatenate([even, frames.cut(n_half, n_half + 1, 2)], 2)
    angles = 2 * np.pi / front_end.fft_samples * np.outer(times, bins)
    cosines = np.cos(angles)
    if n_window % 2:
        cosines = np.vstack([cosines, np.ones(len(bins))])
    real, imaginary = even @ cosines, (first - last) @ np.sin(angles)
    return real * real + imaginary * imaginary


def _cells(log_mel: Tensor, grid: PatchGrid) -> Tensor:
    """Return a spectrogram as (n_clips, n_time, height, n_freq, width)."""
    return log_mel.reshape(-1, grid.n_time, grid.height, grid.n_freq, grid.width)


def add_step(graph: Graph, step: Any, features: Features, *, int8: bool) -> Features:
    """Add a transformer.

    Parameters
    ----------
    graph : Graph
    step : transformer, Pipeline of such, "passthrough", "drop" or None
        Fitted.
    features : Features
        What it takes.
    int8 : bool
        Whether networks are quantized.

    Raises
    ------
    ValueError
        If it has no form in ONNX.
    """
    if isinstance(step, FrozenEstimator):
        step = step.estimator
    if step is None or isinstance(step, str):
        return features
    if isinstance(step, Pipeline):
        for _, part in step.steps:
            features = add_step(graph, part, features, int8=int8)
        return features
    if isinstance(step, FeatureUnion):
        return _union(graph, step, features, int8)
    if type(step) in _OF_SPECTROGRAMS:
        if features.grid is None:
            raise refuse(step, "it takes patches, and gets features")
        return _OF_SPECTROGRAMS[type(step)](graph, step, features)
    if type(step).__name__ == "AnoPatchEmbedder":  # its room imports torch
        return _embedder(graph, step, features, int8)
    if type(step) in _OF_ROWS:
        values = _OF_ROWS[type(step)](graph, step, features.rows(step).values)
        return Features(values, (_n_outputs(step, features),))
    raise refuse(step)


def _n_outputs(step: Any, features: Features) -> int:
    if isinstance(step, PCA):
        return len(step.components_)
    return (
        int(step.get_support().sum()) if isinstance(step, VarianceThreshold) else features.shape[0]
    )


def _union(graph: Graph, union: FeatureUnion, features: Features, int8: bool) -> Features:
    parts = []
    for name, part in union.transformer_list:
        if part == "drop":
            continue
        made = add_step(graph, part, features, int8=int8).rows(part)
        weight = (union.transformer_weights or {}).get(name)
        parts.append(made if weight is None else Features(made.values * weight, made.shape))
    width = sum(part.shape[0] for part in parts)
    return Features(graph.concatenate([part.values for part in parts], 1), (width,))


# --- Of spectrograms ------------------------------------------------------------------------


def _mel_statistics(graph: Graph, step: MelStatistics, features: Features) -> Features:
    log_mel = features.values
    values = graph.concatenate([log_mel.mean(1), log_mel.std(1)], 1)
    return Features(values, (2 * features.shape[1],))


def _band_statistics(graph: Graph, step: BandStatistics, features: Features) -> Features:
    n_frames, n_mels = features.shape
    log_mel = features.values * step.log_unit
    loud_bands, fluctuating = _band_means(n_mels, _LOUD), _band_means(n_mels, _FLUCTUATING)
    swelling = np.hstack([_band_means(n_mels, n) for n in (_SWELLING, _SWELLING // 2, 1)])
    largest = log_mel.max((1, 2), keepdims=True)
    power = (log_mel - largest).exp()
    loud = graph.maximum(power @ loud_bands, _TINY).log()
    loudest = loud.max(1, keepdims=True)
    mean_square = ((loud - loudest) * 2.0).exp().mean(1)
    level = log_mel.mean(2)
    steps = (level.cut(1, n_frames, 1) - level.cut(0, n_frames - 1, 1)).abs().sum(1)
    width = min(_SLOW, n_frames)
    n_slow = n_frames // width
    slow = level.cut(0, n_slow * width, 1).reshape(-1, n_slow, width).mean(2)
    of_level = [level.std(1), steps / max(1, n_frames - 1), slow.std(1)]
    parts = [
        log_mel.mean(1),
        mean_square.log() / 2.0 + (loudest + largest).squeeze(1),
        log_mel.std(1) @ fluctuating,
        graph.maximum(power @ swelling, _TINY).log().std(1),
        graph.stack(of_level, 1),
    ]
    n_bands = sum(bands.shape[1] for bands in (loud_bands, fluctuating, swelling))
    return Features(graph.concatenate(parts, 1), (n_mels + n_bands + 3,))


def _band_means(n_mels: int, n_bands: int) -> np.ndarray:
    """Return a matrix that averages the bins of at most `n_bands` bands of equal width."""
    n_bands = math.gcd(n_mels, n_bands)
    return np.repeat(np.eye(n_bands), n_mels // n_bands, axis=0) * n_bands / n_mels


def _patch_statistics(graph: Graph, step: PatchStatistics, features: Features) -> Features:
    assert features.grid is not None
    grid = features.grid
    # (n_clips, n_time, n_freq, height, width)
    cells = _cells(features.values * step.log_unit, grid).transpose(0, 1, 3, 2, 4)
    spectra = cells.mean(3)
    peaks = cells.logsumexp(3) - math.log(grid.height) - spectra
    levels = cells.logsumexp(4)
    of_band = levels.mean((1, 3), keepdims=True)
    scaled = (levels - of_band).expand_dims(4) - _LEVELS
    shares = (scaled / float(_LEVELS[1] - _LEVELS[0])).sigmoid().mean(3)
    in_band = spectra - spectra.mean((1, 3), keepdims=True)
    values = graph.concatenate([in_band, peaks, shares], 3)
    return Features(values, (grid.n_time, grid.n_freq, 2 * grid.width + len(_LEVELS)))


_OF_SPECTROGRAMS: dict[type, Any] = {
    BandStatistics: _band_statistics,
    MelStatistics: _mel_statistics,
    PatchStatistics: _patch_statistics,
}


def _embedder(graph: Graph, step: Any, features: Features, int8: bool) -> Features:
    if features.grid is None:
        raise refuse(step, "it takes patches, and gets features")
    network, statistics = step.module_, step.statistics_
    if network is None:
        made = add_step(graph, statistics, features, int8=int8)
        scaler = step.scaler_
        return made if scaler is None else add_step(graph, scaler, made, int8=int8)
    from skanopatch.persistence.onnx_network import add_network

    gives_tokens = step.fitted_output_ == "patches"
    log_mel = features.values.cast(np.float32)
    shape = features.grid.n_frames, features.grid.n_mels
    values, made_shape = add_network(
        graph, network, log_mel, shape, gives_tokens=gives_tokens, int8=int8
    )
    return Features(values.cast(np.float64), made_shape)


# --- Of rows --------------------------------------------------------------------------------


def _scaler(graph: Graph, step: Any, values: Tensor) -> Tensor:
    """Add a scaler of features by a location and a scale, of which either may be missing."""
    location = getattr(step, "mean_", getattr(step, "center_", None))
    if location is not None and getattr(step, "with_mean", True):
        values = values - location
    scale = getattr(step, "scale_", None)
    return values if scale is None else values / scale


def _min_max(graph: Graph, step: MinMaxScaler, values: Tensor) -> Tensor:
    values = values * step.scale_ + step.min_
    if step.clip:
        low, high = step.feature_range
        values = graph.minimum(graph.maximum(values, low), high)
    return values


def _normalizer(graph: Graph, step: Normalizer, values: Tensor) -> Tensor:
    if step.norm == "l1":
        norms = values.abs().sum(1, keepdims=True)
    elif step.norm == "max":
        norms = values.abs().max(1, keepdims=True)
    else:
        norms = (values * values).sum(1, keepdims=True).sqrt()
    return values / graph.where(norms > 0, norms, 1.0)


def _pca(graph: Graph, step: PCA, values: Tensor) -> Tensor:
    values = (values - step.mean_) @ step.components_.T
    if step.whiten:
        scale = np.sqrt(step.explained_variance_)
        values = values / np.maximum(scale, np.finfo(scale.dtype).eps)
    return values


def _variance_threshold(graph: Graph, step: VarianceThreshold, values: Tensor) -> Tensor:
    return values.take(np.flatnonzero(step.get_support()), axis=1)


def _power(graph: Graph, step: PowerTransformer, values: Tensor) -> Tensor:
    """Add the power transform of each feature: Yeo and Johnson's on either side of 0."""
    lambdas = np.asarray(step.lambdas_, dtype=np.float64)

    def power(logs: Tensor, exponents: np.ndarray) -> Tensor:
        """Return (x ** exponent - 1) / exponent of the logarithms of x, and these for 0."""
        is_zero = np.abs(exponents) < np.spacing(1.0)
        safe = np.where(is_zero, 1.0, exponents)
        powers = ((logs * safe).exp() - 1.0) / safe
        return graph.where(graph.constant(is_zero, np.bool), logs, powers)

    if step.method == "box-cox":
        values = power(values.log(), lambdas)
    else:
        above = power((graph.maximum(values, 0.0) + 1.0).log(), lambdas)
        below = -power((graph.maximum(-values, 0.0) + 1.0).log(), 2 - lambdas)
        values = graph.where(values >= 0.0, above, below)
    return _scaler(graph, vars(step)["_scaler"], values) if step.standardize else values


def _function(graph: Graph, step: FunctionTransformer, values: Tensor) -> Tensor:
    if step.func is not None:
        raise refuse(step, "its function may be any")
    return values


_OF_ROWS: dict[type, Any] = {
    FunctionTransformer: _function,
    MaxAbsScaler: _scaler,
    MinMaxScaler: _min_max,
    Normalizer: _normalizer,
    PCA: _pca,
    PowerTransformer: _power,
    RobustScaler: _scaler,
    StandardScaler: _scaler,
    VarianceThreshold: _variance_threshold,
}
