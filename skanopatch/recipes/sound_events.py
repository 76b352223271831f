"""Sound events: what a clip has and normal clips have not, with times and frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, median_filter, uniform_filter1d

from skanopatch.spectra.patches import iterate_batches, take_clips, unpatchify

Reference = dict[str, NDArray]

DECIBELS = 10 / math.log(10)  # per neper of power
_MOST_CLIPS = 100  # that a reference is learnt from
_BATCH_SIZE = 8  # clips

_WIDTHS = (1, 3, 9, 27)  # frames that moments are averaged over
_NARROWEST = 4  # bins of the bands that are compared
_NEIGHBORHOOD = 25  # bins that a tone stands out of
_LOW = 0.1  # quantile over time: it rises with a tone more than with noise
_N_NEAREST = 4  # normal clips that a spectrum is compared with

_ENVELOPE = 0.9  # quantile of normal clips
_N_DEVIATIONS = 4.0  # of how far single normal clips lie above the others
_LEAST_DEVIATION = 0.5  # dB
_EMPTY = 1e-3  # dB: a narrow filter without any bin of the FFT is the same in all clips
_LEAST_STEADY, _LEAST_MOMENT, _LEAST_STEP, _LEAST_DROP = 1.5, 3.0, 2.0, 6.0  # dB
_SILENCE = 30.0  # dB below the loud frames, and below the deepest moments of normal clips
_STEP_MARGIN = 1.3  # over the largest step of a normal clip
_LONGEST_KNOCK = 20  # frames
_LEAST_FRAMES = 16  # that are left without dropouts
_LONGEST_DROPOUT = 0.45  # of the clip, unless it is silence
_MAIN_LOBE = 3.2  # width of a tone in units of 1 / frame length
_ALL_THE_TIME = 0.9
_EXTENT = 0.3  # of the highest excess in dB, which a band reaches from end to end
_PLATEAU = 0.999  # of the peak, which clipped samples reach
_LEAST_CLIPPED = 10  # samples


@dataclass
class Event:
    """One event of a clip, such as a tone or a knock.

    Attributes
    ----------
    kind : {"tone", "louder band", "quieter band", "knock", "burst", "step", "dropout", "clipping"}
    low, high : float or None
        The band, in the unit of the edges of the mel bins, most often Hz; None is all of it.
    times : list of (float, float)
        Beginnings and ends in seconds; empty means all the time.
    decibels : float or None
        For a tone or band, the level above that of the most similar normal clips; for a knock,
        burst or dropout, the level relative to the clip's own median; for a step, its size.
    strength : float
        1 is the limit of what normal clips have; higher is more unusual.
    share : float or None
        For clipping, the share of clipped samples.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    times: list[tuple[float, float]] = field(default_factory=list)
    decibels: float | None = None
    strength: float = 1.0
    share: float | None = None


@dataclass(frozen=True)
class Axes:
    """Frequencies and times of a spectrogram.

    Attributes
    ----------
    edges : ndarray of shape (n_mels + 1,)
        Of the mel bins, in Hz.
    frame_length, frame_shift : float
        In seconds.
    frames : ndarray or None
        Which frames of the clip the rows are; None is all.
    first_frame : float or None
        Seconds to the middle of the first frame of a clip; None is half the frame.
    """

    edges: NDArray[np.float64]
    frame_length: float
    frame_shift: float
    frames: NDArray | None = None
    first_frame: float | None = None

    def time(self, row: float) -> float:
        """Return the time of the middle of a frame."""
        frame = row if self.frames is None else float(self.frames[int(row)])
        first = self.frame_length / 2 if self.first_frame is None else self.first_frame
        return first + frame * self.frame_shift

    def stretch(self, start: int, stop: int) -> tuple[float, float]:
        """Return where frames begin and end, each drawn around its middle."""
        half = self.frame_shift / 2
        return self.time(start) - half, self.time(stop - 1) + half

    def band(self, start: int, stop: int) -> tuple[float, float]:
        """Return the edges of mel bins."""
        return float(self.edges[start]), float(self.edges[stop])


def reference_rows(n_clips: int) -> NDArray[np.intp]:
    """Return which clips `learn_reference` takes of so many: at most 100."""
    return np.unique(np.linspace(0, n_clips - 1, min(n_clips, _MOST_CLIPS)).astype(int))


def learn_reference(patches: Any, *, log_unit: float = 1.0) -> Reference:
    """Learn what the spectra and the moments of normal clips are like.

    Parameters
    ----------
    patches : ndarray or LazyPatches of shape (n_clips, n_time, n_freq, patch_area)
        Of normal clips; NaN for those that could not be read. Of many, 100 are taken.
    log_unit : float, default=1.0
        What a unit of the patches is as a natural logarithm of power.

    Returns
    -------
    reference : dict of ndarray
        In dB: "spectra" and "low_spectra" (n_clips, n_mels) are the mean and a low quantile over
        time. For tones, bands and moments, "..._limit" is the highest value that is normal, and
        "..._unit" is how far that is beyond most normal clips. "step" is the largest of a clip.

    Raises
    ------
    ValueError
        If fewer than 2 clips could be read.
    """
    rows = reference_rows(len(patches))
    spectra, lows, maxima, minima, steps = [], [], [], [], []
    for batch in iterate_batches(take_clips(patches, rows), _BATCH_SIZE):
        for log_mel in unpatchify(batch[np.isfinite(batch).all(axis=(1, 2, 3))]):
            levels = log_mel.astype(np.float64) * (log_unit * DECIBELS)
            deviations = levels - np.median(levels, axis=0)
            averages = _averages(deviations)
            spectra.append(levels.mean(axis=0))
            lows.append(np.quantile(levels, _LOW, axis=0))
            maxima.append(averages.max(axis=0).ravel())
            minima.append(averages.min(axis=0).ravel())
            steps.append(np.abs(_step_sizes(deviations.mean(axis=1))).max())
    if len(spectra) < 2:
        raise ValueError(
            f"At least 2 normal clips that can be read are needed. Got {len(spectra)}."
        )
    reference: Reference = {"spectra": np.stack(spectra), "low_spectra": np.stack(lows)}
    compared = [
        _compare(*pair, _without(reference, i))
        for i, pair in enumerate(zip(spectra, lows, strict=True))
    ]
    bands = np.stack([_band_means(excess) for excess, _ in compared])
    widths = np.diff(_bands(len(spectra[0])), axis=1)[:, 0]
    kinds = (np.arange(len(_WIDTHS))[:, np.newaxis] * 1000 + widths).ravel()
    tones = np.stack([tone for _, tone in compared])
    spreads = maximum_filter1d(tones.std(axis=0), 13, mode="nearest")
    for name, values, deviations in (
        ("tone", tones, spreads),
        ("louder", bands, bands.std(axis=0)),
        ("quieter", -bands, bands.std(axis=0)),
        ("high", np.stack(maxima), _robust_deviations(np.stack(maxima), kinds)),
        ("deep", -np.stack(minima), _robust_deviations(np.stack(minima), kinds)),
    ):
        limits = _limits(values, deviations, dilation=3 if name == "tone" else 1)
        shape = (len(_WIDTHS), -1) if name in ("high", "deep") else (-1,)
        for part, of_limits in zip(("limit", "unit"), limits, strict=True):
            reference[f"{name}_{part}"] = of_limits.reshape(shape)
    reference["step"] = np.max(steps, keepdims=True)
    return {name: values.astype(np.float32) for name, values in reference.items()}


def find_events(log_mel: NDArray, reference: Reference, axes: Axes) -> list[Event]:
    """Return what a clip has and normal clips have not, the strongest first.

    Parameters
    ----------
    log_mel : ndarray of shape (n_frames, n_mels)
        In dB.
    reference : dict
        Of normal clips, see `learn_reference`.
    axes : Axes
    """
    levels = np.asarray(log_mel, dtype=np.float64)
    dropouts, is_dropped = _dropouts(levels, reference, axes)
    levels, axes = levels[~is_dropped], replace(axes, frames=np.flatnonzero(~is_dropped))
    steps, even = _step(levels, reference, axes)
    events = dropouts + steps + _moments(even, reference, axes) + _steady(levels, reference, axes)
    return sorted(events, key=lambda event: -event.strength)


def find_clipping(samples: NDArray) -> list[Event]:
    """Return an event if samples of a clip (n_samples,) pile up at a peak, of either sign."""
    n_clipped = 0
    for side in (samples, -samples):
        peak = float(side.max(initial=0))
        at_peak = side >= _PLATEAU * peak
        below = side[~at_peak]
        if peak <= 0 or not len(below):
            continue
        n_next, n_at = (
            int(np.sum(below >= min(0.95 * peak, float(below.max())))),
            int(at_peak.sum()),
        )
        if n_at >= max(_LEAST_CLIPPED, n_next):
            n_clipped += n_at
    share = n_clipped / max(1, len(samples))
    return [Event("clipping", share=share, strength=5 + 100 * share)] if n_clipped else []


def _dropouts(levels: NDArray, reference: Reference, axes: Axes) -> tuple[list[Event], NDArray]:
    """Return stretches in which most of the spectrum falls, and which frames they cover."""
    n_frames, level = len(levels), levels.mean(axis=1)
    depth = np.quantile(level, 0.9) - level
    is_silent = depth > _SILENCE + float(reference["deep_limit"].max())
    if is_silent.all() or (~is_silent).sum() < _LEAST_FRAMES:
        return [], np.zeros(n_frames, dtype=bool)
    deviations = levels - np.median(levels[~is_silent], axis=0)
    is_wide = np.diff(_bands(levels.shape[1]), axis=1)[:, 0] >= levels.shape[1] // 2
    excess = _excess(-_averages(deviations), reference, "deep")[:, :, is_wide].max(axis=(1, 2))
    depth, margin = median_filter(-deviations.mean(axis=1), 5), _margin(n_frames)
    is_dropped, strength, decibels = is_silent.copy(), 0.0, 0.0
    times: list[tuple[int, int]] = []
    for start, stop in _runs(excess > 1):
        frame = start + int(np.argmax(depth[start:stop]))
        if depth[frame] < _LEAST_DROP or any(a <= frame < b for a, b in times):
            continue
        start, stop = _around(depth, frame, depth[frame] / 2)
        is_to_an_end = stop - start > margin and not margin <= start < stop <= n_frames - margin
        is_step = is_to_an_end or stop - start > _LONGEST_DROPOUT * n_frames
        if is_silent[frame] or not is_step:
            is_dropped[max(0, start - 4) : stop + 4] = True
            times.append((start, stop))
            strength = max(strength, float(excess[frame]))
            decibels = max(decibels, float(depth[frame]))
    if (~is_dropped).sum() < _LEAST_FRAMES:
        is_dropped = is_silent
    spans = [axes.stretch(start, stop) for start, stop in times]
    dropped = Event("dropout", times=spans, decibels=-decibels, strength=strength)
    return [dropped] if times else [], is_dropped


def _step(
    levels: NDArray, reference: Reference, axes: Axes
) -> tuple[list[Event], NDArray[np.float64]]:
    """Return a lasting change of level, and the levels without it."""
    sizes = np.abs(_step_sizes((levels - np.median(levels, axis=0)).mean(axis=1)))
    frame = int(np.argmax(sizes))
    strength = float(sizes[frame]) / max(_STEP_MARGIN * float(reference["step"][0]), 1e-6)
    if strength < 1:
        return [], levels
    parts = levels[:frame], levels[frame:]
    means = [part.mean(axis=0) for part in parts]
    decibels = float(np.median(means[1] - means[0]))
    if abs(decibels) < _LEAST_STEP:
        return [], levels
    time = axes.time(frame) - axes.frame_shift / 2
    even = np.concatenate([part - mean for part, mean in zip(parts, means, strict=True)])
    return [Event("step", times=[(time, time)], decibels=decibels, strength=2 * strength)], even


def _moments(levels: NDArray, reference: Reference, axes: Axes) -> list[Event]:
    """Return knocks and bursts: stretches in which bands rise more than in normal clips."""
    deviations = levels - np.median(levels, axis=0)
    averages = _averages(deviations)
    excess = _excess(averages, reference, "high")
    strongest = excess.max(axis=(1, 2))
    moments: dict[str, list[tuple[int, int, int]]] = {"knock": [], "burst": []}
    for start, stop in _runs(maximum_filter1d(strongest, 9) > 1):
        frame = start + int(np.argmax(strongest[start:stop]))
        curve = averages[(slice(None), *np.unravel_index(excess[frame].argmax(), excess.shape[1:]))]
        if curve[frame] >= _LEAST_MOMENT:
            begin, end = _around(curve, frame, curve[frame] / 2)
            kind = "knock" if end - begin <= _LONGEST_KNOCK else "burst"
            if (begin, end) not in [moment[:2] for moment in moments[kind]]:
                moments[kind].append((begin, end, frame))
    events = []
    for kind, stretches in moments.items():
        if stretches:
            parts = [
                deviations[max(0, f - 1) : f + 2] if kind == "knock" else deviations[a:b]
                for a, b, f in stretches
            ]
            profile = _smooth(np.mean([part.mean(axis=0) for part in parts], axis=0))
            peak = int(np.argmax(profile))
            low, high = _around(profile, peak, max(_LEAST_MOMENT, _EXTENT * profile[peak]))
            spans = [
                (axes.time(f), axes.time(f)) if kind == "knock" else axes.stretch(a, b)
                for a, b, f in stretches
            ]
            events.append(
                Event(
                    kind,
                    *axes.band(low, high),
                    times=spans,
                    decibels=float(profile[peak]),
                    strength=float(max(strongest[f] for *_, f in stretches)),
                )
            )
    return events


def _steady(levels: NDArray, reference: Reference, axes: Axes) -> list[Event]:
    """Return tones and bands that are louder or quieter than in the most similar normal clips."""
    spectrum = levels.mean(axis=0)
    excess, tones = _compare(spectrum, np.quantile(levels, _LOW, axis=0), reference)
    means, bands, n_mels = _band_means(excess), _bands(len(excess)), len(excess)
    candidates = [
        (strength, 1, bin_, bin_ + 1)
        for bin_, strength in enumerate(_excess(tones, reference, "tone"))
    ]
    for sign, name in ((1, "louder"), (-1, "quieter")):
        strengths = np.where(
            sign * means > _LEAST_STEADY, _excess(sign * means, reference, name), 0
        )
        candidates += [(s, sign, *band) for s, band in zip(strengths, bands.tolist(), strict=True)]
    events: list[Event] = []
    is_used = np.zeros(n_mels, dtype=bool)
    for strength, sign, low, high in sorted(candidates, reverse=True):
        if strength < 1:
            break
        curve = sign * excess
        peak = low + int(np.argmax(curve[low:high]))
        kind, decibels = "louder band" if sign > 0 else "quieter band", float(curve[peak])
        if is_used[low:high].any() or decibels < _LEAST_STEADY:
            continue
        start, stop = _around(curve, peak, decibels / 2)
        near = slice(max(0, peak - 2), peak + 3)
        middles = (axes.edges[1:] + axes.edges[:-1])[near] / 2
        width = _MAIN_LOBE / axes.frame_length + 2 * (axes.edges[peak + 1] - axes.edges[peak])
        if sign > 0 and axes.edges[stop] - axes.edges[start] <= width:
            normal = spectrum - excess
            power = np.maximum(10 ** (spectrum[near] / 10) - 10 ** (normal[near] / 10), 0)
            kind, band = "tone", (float(power @ middles / power.sum()),) * 2
        else:
            curve = _smooth(curve)
            peak = low + int(np.argmax(curve[low:high]))
            decibels = float(curve[peak])
            start, stop = _around(curve, peak, max(1.0, _EXTENT * decibels))
            band = axes.band(start, stop)
        if is_used[start:stop].any():
            continue
        is_used[max(0, start - 3) : stop + 3] = True
        rise = sign * (levels - spectrum + excess)[:, start:stop].mean(axis=1)
        times = _when(rise, axes)
        events.append(Event(kind, *band, times=times, decibels=decibels, strength=float(strength)))
    return events


def _when(rise: NDArray, axes: Axes) -> list[tuple[float, float]]:
    """Return when a level (n_frames,) above normal clips is nearer to its mean than to theirs."""
    width = max(1, min(25, len(rise) // 4))
    is_there = uniform_filter1d(rise, width, mode="nearest") > max(rise.mean(), 1e-9) / 2
    stretches = [(a, b) for a, b in _runs(is_there) if b - a >= width]
    if not stretches or sum(b - a for a, b in stretches) >= _ALL_THE_TIME * len(rise):
        return []
    return [axes.stretch(a, b) for a, b in stretches]


def _compare(
    spectrum: NDArray, low_spectrum: NDArray, reference: Reference
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a spectrum's excess over the most similar normal clips, and how its tones stand out.

    Levels are aligned by the median over the bins, and a normal clip is similar where it deviates
    little on average, so that a fault in few bins does not decide.
    """
    differences = spectrum - reference["spectra"].astype(np.float64)
    shifts = np.median(differences, axis=1, keepdims=True)
    nearest = np.argsort(np.abs(differences - shifts).mean(axis=1))[:_N_NEAREST]
    excess = (differences - shifts)[nearest].mean(axis=0)
    excess[np.ptp(reference["spectra"], axis=0) < _EMPTY] = np.median(excess)
    raised = low_spectrum - reference["low_spectra"][nearest].mean(axis=0)
    tones = raised - median_filter(raised, min(_NEIGHBORHOOD, len(raised)), mode="nearest")
    return excess - np.median(excess), tones


def _without(reference: Reference, row: int) -> Reference:
    return {name: np.delete(values, row, axis=0) for name, values in reference.items()}


def _limits(values: NDArray, deviations: NDArray, *, dilation: int) -> tuple[NDArray, NDArray]:
    """Return the limits of what is normal, and how far they are beyond the envelope.

    Parameters
    ----------
    values : ndarray of shape (n_clips, n_values)
        Of normal clips.
    deviations : ndarray of shape (n_values,)
    dilation : int
        Neighbouring values that are taken together.
    """

    def envelope(rows: NDArray) -> NDArray:
        return maximum_filter1d(np.quantile(rows, _ENVELOPE, axis=0), dilation, mode="nearest")

    scales = np.maximum(deviations, _LEAST_DEVIATION)
    beyond = np.array(
        [
            ((row - envelope(np.delete(values, i, axis=0))) / scales).max()
            for i, row in enumerate(values)
        ]
    )
    middle = np.median(beyond)
    margin = max(1.0, middle + _N_DEVIATIONS * 1.4826 * np.median(np.abs(beyond - middle)))
    return envelope(values) + margin * scales, margin * scales


def _excess(values: NDArray, reference: Reference, name: str) -> NDArray[np.float64]:
    """Return how far values are beyond the envelope of normal clips; 1 is the limit."""
    return 1 + (values - reference[f"{name}_limit"]) / reference[f"{name}_unit"]


def _robust_deviations(values: NDArray, kinds: NDArray) -> NDArray[np.float64]:
    """Return median absolute deviations over clips, at least their mean over those of one kind."""
    deviations = 1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    for kind in np.unique(kinds):
        own = kinds == kind
        deviations[own] = np.maximum(deviations[own], deviations[own].mean())
    return deviations


def _bands(n_mels: int) -> NDArray[np.intp]:
    """Return the first bin and the end of bands of 4, 8, 16, ... bins that overlap by half."""
    bands, width = [], min(_NARROWEST, n_mels)
    while width <= n_mels:
        step = max(1, width // 2)
        bands += [(start, start + width) for start in range(0, n_mels - width + 1, step)]
        width *= 2
    return np.array(bands)


def _band_means(values: NDArray) -> NDArray[np.float64]:
    """Return the means of values (..., n_mels) over the bands."""
    sums = np.cumsum(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(1, 0)]), axis=-1)
    starts, stops = _bands(values.shape[-1]).T
    return (sums[..., stops] - sums[..., starts]) / (stops - starts)


def _averages(deviations: NDArray) -> NDArray[np.float64]:
    """Return averages over bands and stretches around frames, (n_frames, n_widths, n_bands)."""
    means = _band_means(deviations)
    widths = [min(width, len(means)) for width in _WIDTHS]
    return np.stack([uniform_filter1d(means, w, axis=0, mode="reflect") for w in widths], axis=1)


def _margin(n_frames: int) -> int:
    """Return how many frames before and after a step there must be."""
    return max(8, n_frames // 20)


def _step_sizes(level: NDArray) -> NDArray[np.float64]:
    """Return how a level (n_frames,) from each frame on differs from that before it."""
    n, sizes, margin = len(level), np.zeros(len(level)), _margin(len(level))
    if n > 2 * margin:
        lowest, highest = np.quantile(level, [0.1, 0.9])  # what is short has no weight
        sums, before = np.cumsum(np.clip(level, lowest, highest)), np.arange(margin, n - margin)
        change = (sums[-1] - sums[before - 1]) / (n - before) - sums[before - 1] / before
        sizes[before] = change * np.sqrt(before * (n - before)) / (n / 2)
    return sizes


def _runs(mask: NDArray) -> list[list[int]]:
    """Return the beginning and the end of each stretch that is true."""
    padded = np.concatenate([[False], mask, [False]]).astype(np.int8)
    return np.flatnonzero(np.diff(padded)).reshape(-1, 2).tolist()


def _around(values: NDArray, peak: int, level: float) -> tuple[int, int]:
    """Return the stretch around a peak in which values are at least at a level."""
    is_low = values < level
    before, after = np.flatnonzero(is_low[:peak]), np.flatnonzero(is_low[peak + 1 :])
    start = int(before[-1]) + 1 if len(before) else 0
    return start, peak + 1 + int(after[0]) if len(after) else len(values)


def _smooth(values: NDArray) -> NDArray[np.float64]:
    return uniform_filter1d(values, 5, mode="nearest")
