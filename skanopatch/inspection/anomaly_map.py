"""AnomalyMapDisplay: where in time and frequency a clip is anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from skanopatch.audio import Clip
from skanopatch.inspection.decisions import clips_from, patcher_of
from skanopatch.inspection.style import EXCESS_COLORS, MAP_TOP, VERMILION, Display
from skanopatch.recipes.pipelines import anomaly_map as map_of_clips
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.log_mel import FrontEnd, hertz_to_mel, mel_to_hertz
from skanopatch.spectra.patches import unpatchify

_TICKS = np.array([100, 250, 500, 1000, 2000, 4000, 8000, 16000])  # Hz
_FAINTEST = 0.05  # the share of the spectrogram that may be too faint to be drawn

_THRESHOLD = 1.0
_MAP_TICKS = [1, 2, 5, 10]
_MOST_OUTLINED = 0.5  # of the cells: an outline around more would look like one around the rest


@dataclass(kw_only=True, eq=False, repr=False)
class AnomalyMapDisplay(Display):
    """Draw the spectrogram of a clip, and its anomaly map in colour over it.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.

    Parameters
    ----------
    log_mel : array-like of shape (n_frames, n_mels)
        Power in each mel bin, as from `unpatchify`: natural logarithms, or decibels if the
        `MelPatcher` has ``filterbank="decibels"``.
    anomaly_map : array-like of shape (n_time, n_freq)
        How anomalous each patch is; 1 is the threshold.
    front_end : FrontEnd
        The settings of the spectrogram: the attribute `front_end` of the `MelPatcher`.
    start : float, default=0.0
        Seconds of the recording at which the spectrogram begins.

    Attributes
    ----------
    spectrogram_ : QuadMesh
        The level in dB below the loudest.
    map_ : QuadMesh
        The map, transparent below the threshold. The scale is the same for all clips: logarithmic
        from 1, the threshold, to 10; what is higher has the colour of 10.
    outline_ : LineCollection
        The line around the cells above `outline_level_`.
    outline_level_ : float
        1, the threshold, if at most half of the cells are above it; else the value that a quarter
        of the cells exceed.
    ax_, figure_ : Axes, Figure
        Axes in seconds and, on the mel scale, in Hz.

    See Also
    --------
    anomaly_map : The maps of clips as arrays.
    make_map_pipeline : A pipeline for `from_estimator`.

    Notes
    -----
    A frame is drawn around its middle: the first one reaches from 7.5 to 17.5 ms where frames of
    25 ms follow each other by 10 ms, and from -5 to 5 ms where frames are centred
    (``filterbank="decibels"``). A cell of the map covers the frames and the bins of a patch,
    but a Vision Transformer sees the whole clip at each of them: an anomalous sound may also show
    in cells beside its own.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import AnomalyMapDisplay, make_map_pipeline
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> pipe = make_map_pipeline(melpatcher__duration=1.0).fit(clips)
    >>> AnomalyMapDisplay.from_estimator(pipe, clips[0]).ax_.get_ylabel()
    'frequency (Hz, mel scale)'
    """

    log_mel: ArrayLike
    anomaly_map: ArrayLike
    front_end: FrontEnd
    start: float = 0.0

    def plot(self, ax: Axes | None = None, *, colorbar: bool = True) -> Self:
        """Draw the spectrogram, the map over it and the outline of what is above the threshold.

        If no cell is above the threshold, a text says so. If more than half of the cells are, the
        outline goes around the most anomalous quarter, and the text says above which value.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.
        colorbar : bool, default=True
            Whether to draw the scales of level and map.

        Raises
        ------
        ValueError
            If `log_mel` or `anomaly_map` is not 2-D or not finite, or if they do not belong to
            each other or to `front_end`.
        """
        log_mel, anomaly_map = self._validate()
        front_end = self.front_end
        size = front_end.patch_size
        seconds = self.start + _frame_edges(front_end, len(log_mel))
        hertz = front_end.bin_edges()
        cell_seconds, cell_hertz = seconds[: size * len(anomaly_map) + 1 : size], hertz[::size]

        ax = self._set_axes(ax, (8.0, 3.6))
        level = 10 / np.log(10) * front_end.log_unit * (log_mel - log_mel.max())
        style: dict[str, Any] = {"cmap": "gray_r", "vmin": np.quantile(level, _FAINTEST), "vmax": 0}
        self.spectrogram_ = ax.pcolormesh(seconds, hertz, level.T, rasterized=True, **style)
        style = {"cmap": EXCESS_COLORS, "norm": LogNorm(_THRESHOLD, MAP_TOP)}
        self.map_ = ax.pcolormesh(cell_seconds, cell_hertz, anomaly_map.T, rasterized=True, **style)
        self.outline_level_, words = _outline_level(anomaly_map)
        sides = _outline(anomaly_map > self.outline_level_, cell_seconds, cell_hertz)
        style = {"color": VERMILION, "linewidth": 1.8, "capstyle": "projecting"}
        self.outline_ = LineCollection(sides, **style)
        ax.add_collection(self.outline_, autolim=False)
        if words:
            style = {"ha": "right", "va": "top", "bbox": {"facecolor": "w", "alpha": 0.8, "lw": 0}}
            ax.annotate(words, (0.99, 0.96), xycoords="axes fraction", fontsize="small", **style)

        top = front_end.f_max or front_end.sample_rate / 2
        ax.set_yscale("function", functions=(hertz_to_mel, mel_to_hertz))
        ax.set(
            xlim=(seconds[0], seconds[-1]),
            ylim=(front_end.f_min, top),
            xlabel="time (s)",
            ylabel="frequency (Hz, mel scale)",
        )
        ticks = _TICKS[(front_end.f_min <= _TICKS) & (top >= _TICKS)]
        ax.set_yticks(ticks, [f"{tick:d}" for tick in ticks])
        ax.yaxis.set_minor_locator(NullLocator())
        if colorbar:
            bar: dict[str, Any] = {"ax": ax, "fraction": 0.04, "aspect": 25, "pad": 0.01}
            self.figure_.colorbar(
                self.spectrogram_, extend="min", label="level (dB re loudest)", **bar
            )
            bar |= {"extend": "max", "ticks": _MAP_TICKS, "format": "{x:g}"}
            self.figure_.colorbar(self.map_, label="anomaly map (1 = threshold)", **bar)
        return self

    def _validate(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return spectrogram and map as arrays, or raise if they do not belong together."""
        log_mel = check_array(self.log_mel, dtype=np.float64, input_name="log_mel")
        anomaly_map = check_array(self.anomaly_map, dtype=np.float64, input_name="anomaly_map")
        size, n_mels = self.front_end.patch_size, self.front_end.n_mels
        if log_mel.shape[1] != n_mels:
            raise ValueError(
                f"log_mel must have the {n_mels} mel bins of front_end. "
                f"Got {log_mel.shape[1]} instead."
            )
        expected = len(log_mel) // size, n_mels // size
        if anomaly_map.shape != expected:
            raise ValueError(
                f"anomaly_map must have shape {expected}, a cell for each patch of {size} frames "
                f"and {size} mel bins of log_mel. Got shape {anomaly_map.shape} instead."
            )
        return log_mel, anomaly_map

    @classmethod
    def from_estimator(
        cls, estimator: Any, clip: Clip, *, ax: Axes | None = None, colorbar: bool = True
    ) -> Self:
        """Draw a clip and its map.

        Parameters
        ----------
        estimator : AnomalousSoundDetector or Pipeline
            Fitted. A pipeline starts with a `MelPatcher` and ends in a detector with
            `anomaly_map`, such as that of `make_map_pipeline`.
        clip : str, Path, array of shape (n_samples,) or (array, sample_rate)
            One clip; a bare array is at the `sample_rate` of the patcher. What the patcher uses of
            it is drawn; of a long clip, the worst window of an `AnomalousSoundDetector`.
        ax, colorbar
            As for `plot`.

        Raises
        ------
        TypeError
            If the last step has no `anomaly_map`.
        ValueError
            If the clip cannot be read, or the backbone's patches are not those of the patcher.
        """
        patcher, start = patcher_of(estimator), 0.0
        if isinstance(estimator, AnomalousSoundDetector):
            (start,) = starts = estimator.examine([clip]).starts
            (clip,) = clips_from(estimator, [clip], starts)
        log_mel = unpatchify(patcher.transform([clip]))[0]
        (anomaly_map,) = map_of_clips(estimator, [clip])
        display = cls(
            log_mel=log_mel, anomaly_map=anomaly_map, front_end=patcher.front_end, start=start
        )
        return display.plot(ax, colorbar=colorbar)

    @classmethod
    def from_predictions(
        cls,
        log_mel: ArrayLike,
        anomaly_map: ArrayLike,
        *,
        front_end: FrontEnd,
        start: float = 0.0,
        ax: Axes | None = None,
        colorbar: bool = True,
    ) -> Self:
        """Draw a spectrogram and a map, given the parameters of the class and of `plot`."""
        display = cls(log_mel=log_mel, anomaly_map=anomaly_map, front_end=front_end, start=start)
        return display.plot(ax, colorbar=colorbar)


def _frame_edges(front_end: FrontEnd, n_frames: int) -> NDArray[np.float64]:
    """Return the seconds halfway between the middles of the frames."""
    shift = front_end.shift_samples / front_end.sample_rate
    return front_end.first_frame + shift * (np.arange(n_frames + 1, dtype=np.float64) - 0.5)


def _outline_level(anomaly_map: NDArray[np.float64]) -> tuple[float, str]:
    """Return the value above which cells are outlined, and what is to be said of it."""
    share = float((anomaly_map > _THRESHOLD).mean())
    if share == 0:
        return _THRESHOLD, f"nothing is above the threshold (highest: {anomaly_map.max():.2g})"
    if share <= _MOST_OUTLINED:
        return _THRESHOLD, ""
    # The highest values of equal cells are outlined too, unless that would be most of the picture.
    level = float(np.quantile(anomaly_map, 0.75))
    below = float(anomaly_map[anomaly_map < level].max(initial=_THRESHOLD))
    if (anomaly_map > level).any():
        return level, f"{share:.0%} are above the threshold; outlined: above {level:.2g}"
    if (anomaly_map > below).mean() <= _MOST_OUTLINED:
        return below, f"{share:.0%} are above the threshold; outlined: {level:.2g}"
    return level, f"{share:.0%} are above the threshold, most of them at {level:.2g}"


def _outline(
    is_inside: NDArray[np.bool_], x_edges: NDArray[np.float64], y_edges: NDArray[np.float64]
) -> list[list[tuple[float, float]]]:
    """Return the sides of cells between inside and outside, as pairs of points."""
    padded = np.pad(is_inside, 1)
    vertical = [
        [(x_edges[x], y_edges[y]), (x_edges[x], y_edges[y + 1])]
        for x, y in np.argwhere(np.diff(padded[:, 1:-1], axis=0))
    ]
    horizontal = [
        [(x_edges[x], y_edges[y]), (x_edges[x + 1], y_edges[y])]
        for x, y in np.argwhere(np.diff(padded[1:-1], axis=1))
    ]
    return vertical + horizontal
