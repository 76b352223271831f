"""Where on the map of a clip something is above the threshold: bands, and the times in each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from skanopatch.spectra.mel_patcher import MelPatcher

_TICKS = (200, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000)  # Hz
_MOST_BANDS, _MOST_TIMES = 5, 6  # that are listed
_ALL_THE_TIME = 0.9  # of the clip
_STANDS_OUT = 1.5  # times the median of a band that is above the threshold all the time
_SECONDS_APART = 0.5  # times in one band that are nearer are one


class Axes(NamedTuple):
    """Where the spectrogram of a patcher lies in seconds and Hz."""

    seconds: float  # that all patches of a clip cover
    edges: NDArray[np.float64]  # of the mel bins in Hz, of shape (n_mels + 1,)

    @classmethod
    def of_patcher(cls, patcher: MelPatcher) -> Axes:
        """Return the axes of a fitted patcher's spectrograms."""
        front_end = patcher.front_end
        n_time, _ = front_end.grid_shape(round(patcher.duration_ * front_end.sample_rate))
        n_samples = n_time * front_end.patch_size * front_end.shift_samples
        return cls(n_samples / front_end.sample_rate, front_end.bin_edges())

    def height(self, hertz: Any) -> NDArray[np.float64]:
        """Return how high frequencies are on the axis, 0 to 1."""
        return np.interp(hertz, self.edges, np.linspace(0, 1, len(self.edges)))

    def ticks(self) -> list[tuple[str, float]]:
        """Return the labels of the frequency axis and their heights, 0 to 1."""
        inside = [hz for hz in _TICKS if self.edges[0] <= hz <= 1.02 * self.edges[-1]]
        return [(format_hz(hz), round(float(self.height(hz)), 4)) for hz in inside]


def format_hz(*hertz: float) -> str:
    """Write frequencies as "500 Hz", or as "0.9 to 1.2 kHz"."""
    if max(hertz) < 999.5:
        return " to ".join(f"{hz:.0f}" for hz in hertz) + " Hz"
    return " to ".join(f"{hz / 1000:.2g}" for hz in hertz) + " kHz"


class _Region(NamedTuple):
    """Cells of a map that belong together; ends are exclusive."""

    value: float  # the highest
    low: int  # bands
    high: int
    start: int  # columns
    stop: int


def worst_moments(
    anomaly_map: NDArray[np.float64], moments: NDArray[np.float64], axes: Axes
) -> list[dict[str, Any]]:
    """List the bands in which a map is above the threshold, and when, the worst first.

    Parameters
    ----------
    anomaly_map : ndarray of shape (n_time, n_freq)
        The map of a clip; 1 is the threshold.
    moments : ndarray of shape (n_time, n_freq)
        Its part that says when: without what the score of the clip adds to whole bands.
    axes : Axes
        What the map lies over.

    Returns
    -------
    entries : list of dict
        At most five, each of another band. `band`, its frequencies; `is_steady`, whether it is
        above the threshold over the whole clip; `times`, pairs of seconds in the order of time at
        which moments are above the threshold and stand out, at most six; `more`, how many times are
        left out; `value`, the highest of the map at these times, or the median of a steady band if
        that is higher.
    """
    n_time, n_freq = anomaly_map.shape
    seconds = axes.seconds / n_time
    edges = axes.edges[np.linspace(0, len(axes.edges) - 1, n_freq + 1).astype(int)]
    steady = _steady_bands(anomaly_map)
    limits = np.where(_is_steady(moments), _STANDS_OUT * np.median(moments, axis=0), 1.0)
    by_band: list[list[_Region]] = [[region] for region in steady]
    for region in sorted(_regions(moments, limits), key=lambda region: -region.value):
        entry = next((e for e in by_band if _is_same_band(e[0], region)), None)
        if entry is None:
            by_band.append([region])
        else:
            entry.append(region)
    by_band.sort(key=lambda regions: -max(region.value for region in regions))
    entries = []
    for regions in by_band[:_MOST_BANDS]:
        band = regions[0]
        times = _times([region for region in regions if region not in steady], seconds)
        entries.append(
            {
                "band": format_hz(edges[band.low], edges[band.high]),
                "value": round(max(region.value for region in regions), 2),
                "is_steady": band in steady,
                "times": times[:_MOST_TIMES],
                "more": max(0, len(times) - _MOST_TIMES),
            }
        )
    return entries


def _is_steady(anomaly_map: NDArray) -> NDArray[np.bool_]:
    """Return which bands are above the threshold all the time, but for short gaps."""
    return (anomaly_map > 1).mean(axis=0) >= _ALL_THE_TIME


def _steady_bands(anomaly_map: NDArray) -> list[_Region]:
    """Return the bands above the threshold all the time, adjoining ones as one."""
    medians = np.median(anomaly_map, axis=0)
    regions = []
    for (run,) in find_objects(label(_is_steady(anomaly_map))[0]):
        low, high = _extent(medians[run])
        value = float(medians[run].max())
        regions.append(_Region(value, run.start + low, run.start + high, 0, len(anomaly_map)))
    return regions


def _regions(anomaly_map: NDArray, limits: NDArray) -> list[_Region]:
    """Return the stretches of adjoining cells above the limit of their band."""
    labels, _ = label(anomaly_map > limits, np.ones((3, 3)))
    regions = []
    for number, (columns, bands) in enumerate(find_objects(labels), start=1):
        cells = np.where(labels[columns, bands] == number, anomaly_map[columns, bands], 0)
        start, stop = _extent(cells.max(axis=1))
        low, high = _extent(cells.max(axis=0))
        regions.append(
            _Region(
                float(cells.max()),
                bands.start + low,
                bands.start + high,
                columns.start + start,
                columns.start + stop,
            )
        )
    return regions


def _extent(values: NDArray) -> tuple[int, int]:
    """Return from where to where values exceed 1 by half of what the highest does."""
    inside = np.flatnonzero(values - 1 >= (values.max() - 1) / 2)
    return int(inside[0]), int(inside[-1]) + 1


def _is_same_band(a: _Region, b: _Region) -> bool:
    """Return whether two regions share at least half of the bands that either has."""
    common = min(a.high, b.high) - max(a.low, b.low)
    return 2 * common >= max(a.high, b.high) - min(a.low, b.low)


def _times(regions: list[_Region], seconds: float) -> list[tuple[float, float]]:
    """Return beginnings and ends in seconds, in the order of time; near ones become one."""
    times: list[tuple[float, float]] = []
    for start, stop in sorted((region.start, region.stop) for region in regions):
        if times and start * seconds - times[-1][1] < _SECONDS_APART:
            begin, end = times.pop()
            times.append((begin, max(end, round(stop * seconds, 3))))
        else:
            times.append((round(start * seconds, 3), round(stop * seconds, 3)))
    return times
