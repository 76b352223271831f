"""AnomalyMapDisplay: where in time and frequency a clip sounds odd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import Colormap, FuncNorm, LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array

from skanopatch.audio.clips import Clip
from skanopatch.inspection.style import VERMILION, new_axes, with_defaults
from skanopatch.recipes.pipelines import anomaly_map as map_of_clips
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.log_mel import FrontEnd, hertz_to_mel, mel_to_hertz
from skanopatch.spectra.patches import unpatchify

_TICKS = np.array([100, 250, 500, 1000, 2000, 4000, 8000, 16000])  # Hz
_FAINTEST = 0.05  # share of the spectrogram that may be too faint to be drawn
_THRESHOLD = 1.0  # of every map

_LEAST_TOP = 10.0  # of the scale of a map, so that most clips are drawn on the same one

# The threshold is in the middle. Nothing is laid over what is far below it, and what is above
# turns from yellow to red, and denser.
_OVERLAY = LinearSegmentedColormap.from_list(
    "anomaly",
    [
        (0.0, (0.94, 0.89, 0.26, 0.0)),
        (0.35, (0.94, 0.89, 0.26, 0.0)),
        (0.5, (0.94, 0.75, 0.15, 0.4)),
        (0.75, (0.84, 0.37, 0.0, 0.5)),
        (1.0, (0.65, 0.0, 0.15, 0.6)),
    ],
)


class AnomalyMapDisplay:
    """Spectrogram of a clip, with what is odd laid over it.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.

    Parameters
    ----------
    log_mel : array-like of shape (n_frames, n_mels)
        Natural logarithm of the power in each mel bin, as `unpatchify` gives it.
    anomaly_map : array-like of shape (n_time, n_freq)
        How odd each patch is; 1 is the threshold.
    front_end : FrontEnd
        The settings that the spectrogram was made with: the attribute `front_end` of the
        `MelPatcher`.

    Attributes
    ----------
    spectrogram_ : QuadMesh
        The level in dB below the loudest.
    map_ : QuadMesh
        The map, transparent where nothing is odd. Its scale is linear up to 1, the threshold,
        and logarithmic to 10 or, where the map goes beyond, to its highest.
    outline_ : LineCollection
        The border of what is above the threshold.
    ax_ : Axes
        Axes in seconds and, on the mel scale, in Hz.
    figure_ : Figure
        Figure with the axes.

    See Also
    --------
    anomaly_map : The maps of clips as arrays.
    make_map_pipeline : A pipeline for `from_estimator`.

    Notes
    -----
    A frame is drawn around its middle: the first one reaches from 7.5 to 17.5 ms where frames of
    25 ms follow each other by 10 ms. A cell of the map covers the frames and the bins of a patch,
    but a Vision Transformer sees the whole clip at each of them: an odd sound may also show in
    cells beside its own.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import AnomalyMapDisplay, MelPatcher, unpatchify
    >>> clip = np.random.default_rng(0).normal(size=16000)
    >>> patcher = MelPatcher(duration=1.0)
    >>> log_mel = unpatchify(patcher.fit_transform([clip]))[0]
    >>> anomaly_map = np.zeros((6, 8))
    >>> anomaly_map[3, 5] = 1.7
    >>> display = AnomalyMapDisplay.from_predictions(
    ...     log_mel, anomaly_map, front_end=patcher.front_end
    ... )
    >>> display.ax_.get_ylabel()
    'frequency (Hz, mel scale)'
    """

    spectrogram_: QuadMesh
    map_: QuadMesh
    outline_: LineCollection
    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(self, *, log_mel: ArrayLike, anomaly_map: ArrayLike, front_end: FrontEnd):
        self.log_mel = log_mel
        self.anomaly_map = anomaly_map
        self.front_end = front_end

    def plot(
        self,
        ax: Axes | None = None,
        *,
        cmap: str | Colormap = "gray_r",
        colorbar: bool = True,
        spectrogram_kwargs: Mapping[str, Any] | None = None,
        map_kwargs: Mapping[str, Any] | None = None,
        outline_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the spectrogram, the map over it and the outline of what is above the threshold.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.
        cmap : str or Colormap, default="gray_r"
            Colours of the spectrogram. Grey leaves colour to the map.
        colorbar : bool, default=True
            Whether to draw the scales of level and map.
        spectrogram_kwargs : dict, default=None
            Keywords for the spectrogram, as of `matplotlib.axes.Axes.pcolormesh`.
        map_kwargs : dict, default=None
            Keywords for the map, as of `matplotlib.axes.Axes.pcolormesh`.
        outline_kwargs : dict, default=None
            Keywords for the outline, as of `matplotlib.collections.LineCollection`.

        Returns
        -------
        display : AnomalyMapDisplay

        Raises
        ------
        ValueError
            If `log_mel` or `anomaly_map` is not 2-D or not finite, or if they do not belong to
            each other or to `front_end`.
        """
        log_mel = check_array(self.log_mel, dtype=np.float64, input_name="log_mel")
        odd = check_array(self.anomaly_map, dtype=np.float64, input_name="anomaly_map")
        front_end = self.front_end
        size = front_end.patch_size
        expected = len(log_mel) // size, log_mel.shape[1] // size
        if log_mel.shape[1] != front_end.n_mels:
            raise ValueError(
                f"log_mel must have the {front_end.n_mels} mel bins of front_end. "
                f"Got {log_mel.shape[1]} instead."
            )
        if odd.shape != expected:
            raise ValueError(
                f"anomaly_map must have shape {expected}, a cell for each patch of {size} frames "
                f"and {size} mel bins of log_mel. Got shape {odd.shape} instead."
            )
        seconds = _frame_edges(front_end, len(log_mel))
        hertz = front_end.bin_edges()
        cell_seconds, cell_hertz = seconds[: size * len(odd) + 1 : size], hertz[::size]

        if ax is None:
            ax = new_axes((8.0, 3.6))
        self.ax_, self.figure_ = ax, ax.figure
        level = 10 / np.log(10) * (log_mel - log_mel.max())
        style: dict[str, Any] = {"cmap": cmap, "vmin": np.quantile(level, _FAINTEST), "vmax": 0.0}
        self.spectrogram_ = ax.pcolormesh(
            seconds,
            hertz,
            level.T,
            **with_defaults(spectrogram_kwargs, {**style, "rasterized": True}, QuadMesh),
        )
        style = {"cmap": _OVERLAY, "norm": _map_norm(odd.max()), "rasterized": True}
        self.map_ = ax.pcolormesh(
            cell_seconds, cell_hertz, odd.T, **with_defaults(map_kwargs, style, QuadMesh)
        )
        style = {"color": VERMILION, "linewidth": 1.8, "capstyle": "projecting"}
        self.outline_ = LineCollection(
            _outline(odd > _THRESHOLD, cell_seconds, cell_hertz),
            **with_defaults(outline_kwargs, style, LineCollection),
        )
        ax.add_collection(self.outline_, autolim=False)

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
            self._add_colorbars()
        return self

    def _add_colorbars(self) -> None:
        place: dict[str, Any] = {"ax": self.ax_, "fraction": 0.04, "aspect": 25, "pad": 0.01}
        self.figure_.colorbar(
            self.spectrogram_, extend="min", label="level (dB re loudest)", **place
        )
        bar = self.figure_.colorbar(self.map_, **place)
        top = bar.ax.get_ylim()[1]
        ticks = [0, 0.5, _THRESHOLD, float(f"{top**0.5:.2g}"), top]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        bar.set_label("anomaly map (1 = threshold)")
        bar.ax.axhline(_THRESHOLD, color=VERMILION, linewidth=1.5)

    @classmethod
    def from_estimator(
        cls,
        estimator: Pipeline | AnomalousSoundDetector,
        clip: Clip,
        *,
        ax: Axes | None = None,
        cmap: str | Colormap = "gray_r",
        colorbar: bool = True,
        spectrogram_kwargs: Mapping[str, Any] | None = None,
        map_kwargs: Mapping[str, Any] | None = None,
        outline_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw a clip and its map.

        Parameters
        ----------
        estimator : Pipeline or AnomalousSoundDetector
            Fitted. A pipeline starts with a `MelPatcher` and ends in a detector with
            `anomaly_map`, such as that of `make_map_pipeline`.
        clip : str, Path, array of shape (n_samples,) or (array, sample_rate)
            One clip; a bare array is at the `sample_rate` of the patcher. What the patcher hears
            of it is drawn.
        ax, cmap, colorbar, spectrogram_kwargs, map_kwargs, outline_kwargs
            As for `plot`.

        Returns
        -------
        display : AnomalyMapDisplay

        Raises
        ------
        TypeError
            If the last step has no `anomaly_map`.
        ValueError
            If the clip cannot be read, or the backbone's patches are not those of the patcher.

        Examples
        --------
        >>> import numpy as np
        >>> from skanopatch import AnomalyMapDisplay, make_map_pipeline
        >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
        >>> pipe = make_map_pipeline(melpatcher__duration=1.0).fit(clips)
        >>> display = AnomalyMapDisplay.from_estimator(pipe, clips[0])
        """
        if isinstance(estimator, Pipeline):
            maps, patcher = map_of_clips(estimator, [clip]), estimator[0]
        else:
            maps, patcher = estimator.anomaly_map([clip]), estimator.patcher_
        front_end = patcher.front_end
        n_freq = front_end.n_mels // front_end.patch_size
        log_mel = unpatchify(patcher.transform([clip]), n_freq=n_freq)
        return cls.from_predictions(
            log_mel[0],
            maps[0],
            front_end=front_end,
            ax=ax,
            cmap=cmap,
            colorbar=colorbar,
            spectrogram_kwargs=spectrogram_kwargs,
            map_kwargs=map_kwargs,
            outline_kwargs=outline_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        log_mel: ArrayLike,
        anomaly_map: ArrayLike,
        *,
        front_end: FrontEnd,
        ax: Axes | None = None,
        cmap: str | Colormap = "gray_r",
        colorbar: bool = True,
        spectrogram_kwargs: Mapping[str, Any] | None = None,
        map_kwargs: Mapping[str, Any] | None = None,
        outline_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw a spectrogram and a map.

        Parameters
        ----------
        log_mel : array-like of shape (n_frames, n_mels)
            Natural logarithm of the power in each mel bin, as `unpatchify` gives it.
        anomaly_map : array-like of shape (n_time, n_freq)
            How odd each patch is; 1 is the threshold.
        front_end : FrontEnd
            The settings that the spectrogram was made with: the attribute `front_end` of the
            `MelPatcher`.
        ax, cmap, colorbar, spectrogram_kwargs, map_kwargs, outline_kwargs
            As for `plot`.

        Returns
        -------
        display : AnomalyMapDisplay

        Raises
        ------
        ValueError
            As `plot` does.
        """
        display = cls(log_mel=log_mel, anomaly_map=anomaly_map, front_end=front_end)
        return display.plot(
            ax,
            cmap=cmap,
            colorbar=colorbar,
            spectrogram_kwargs=spectrogram_kwargs,
            map_kwargs=map_kwargs,
            outline_kwargs=outline_kwargs,
        )


def _map_norm(highest: float) -> FuncNorm:
    """Return a scale that is linear up to the threshold and logarithmic above.

    Faults of other sizes are odd by orders of magnitude, and each shall show where it is oddest.
    """
    digits = 10 ** np.floor(np.log10(max(highest, _LEAST_TOP)) - 1)
    top = float(max(np.ceil(highest / digits) * digits, _LEAST_TOP))

    def forward(odd: NDArray) -> NDArray:
        above = 1 + np.log(np.maximum(odd, _THRESHOLD)) / np.log(top)
        return np.where(odd < _THRESHOLD, odd, above)

    def inverse(place: NDArray) -> NDArray:
        return np.where(place < 1, place, top ** (place - 1))

    return FuncNorm((forward, inverse), vmin=0.0, vmax=top)


def _frame_edges(front_end: FrontEnd, n_frames: int) -> NDArray[np.float64]:
    """Return the seconds halfway between the middles of the frames."""
    first = (front_end.window_samples - front_end.shift_samples) / 2
    return (first + front_end.shift_samples * np.arange(n_frames + 1)) / front_end.sample_rate


def _outline(
    is_inside: NDArray[np.bool_], x_edges: NDArray[np.float64], y_edges: NDArray[np.float64]
) -> list[list[tuple[float, float]]]:
    """Return the sides of cells that part inside from outside, as pairs of points."""
    padded = np.pad(is_inside, 1)
    upright = [
        [(x_edges[x], y_edges[y]), (x_edges[x], y_edges[y + 1])]
        for x, y in np.argwhere(np.diff(padded[:, 1:-1], axis=0))
    ]
    level = [
        [(x_edges[x], y_edges[y]), (x_edges[x + 1], y_edges[y])]
        for x, y in np.argwhere(np.diff(padded[1:-1], axis=1))
    ]
    return upright + level
