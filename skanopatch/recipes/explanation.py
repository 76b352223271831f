"""Explanations: why a clip has its score, in parts that add up to it and in words."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skanopatch.audio import clip_name, read_clip
from skanopatch.detectors.contributions import contributions
from skanopatch.recipes.conditions import mean_spectra
from skanopatch.recipes.sound_events import (
    DECIBELS,
    Axes,
    Event,
    find_clipping,
    find_events,
)
from skanopatch.spectra.patches import iterate_batches, take_clips, unpatchify

_BATCH_SIZE = 16  # clips
_N_BANDS = 8  # of equal width on the mel scale, to which parts belong
_LOUD, _FLUCTUATING = 32, 16  # bands of `BandStatistics`
_LEAST_MOMENT = 1e-3  # of a map of moments, so that none is 0
_MOST_TIMES, _MOST_PARTS = 6, 3  # that are named
_PROPERTIES = ("steady spectrum", "loud moments", "fluctuation", "level over time")


@dataclass(frozen=True)
class Part:
    """A part of a clip's distance.

    Attributes
    ----------
    cause : str
        "steady spectrum", "loud moments", "fluctuation" or "level over time", the properties that
        `BandStatistics` measures; "network" or "embedder".
    low, high : float or None
        The band in Hz; None if the part belongs to no band.
    distance : float
        What it adds to the distance of a typical normal clip; below 0 if the clip deviates less.
    """

    cause: str
    low: float | None
    high: float | None
    distance: float


@dataclass
class Explanation:
    """Why a clip has its score.

    ``print(explanation)`` prints it in words. `ExplanationDisplay` draws it.

    Attributes
    ----------
    name : str
        The clip: its index in `X`, and its path if it is a file.
    score, offset : float
        The score of `score_samples`, and the score below which a clip is an anomaly. A clip that
        cannot be read has a score of NaN, no parts and no events.
    typical : float
        The distance of a typical normal clip.
    parts : list of Part
        ``typical + sum(part.distance for part in parts)`` is ``-score``.
    events : list of Event
        Events that normal clips do not have, the strongest first.
    notes : list of str
        How the recording differs from those of `fit`, such as "6 dB quieter than any normal clip".
    start, stop : float
        The explained window in seconds, the worst one of a long clip; NaN if unknown.
    spectrum : ndarray of shape (n_mels,)
        The mean log-mel spectrum in dB.
    normal_spectra : ndarray of shape (n_normal, n_mels)
        The spectra of at most 100 normal clips.
    edges : ndarray of shape (n_mels + 1,)
        The edges of the mel bins.
    unit : {"Hz", "bin"}
        The unit of frequencies. It is "bin" for patches without a `MelPatcher`; times are then in
        frames.
    """

    name: str
    score: float
    offset: float
    start: float
    stop: float
    spectrum: NDArray[np.floating]
    normal_spectra: NDArray[np.floating]
    edges: NDArray[np.float64]
    unit: str
    typical: float = math.nan
    parts: list[Part] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_anomaly(self) -> bool:
        """Whether the score is below the threshold, or unknown."""
        return not self.score >= self.offset

    @property
    def scale(self) -> float:
        """What distances are divided by for people, so that 1 is the threshold."""
        return -self.offset if self.offset < 0 else 1.0

    def by_cause(self) -> dict[str, float]:
        """Return the sum of the parts of each cause, the largest first."""
        sums: dict[str, float] = {}
        for part in self.parts:
            sums[part.cause] = sums.get(part.cause, 0.0) + part.distance
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def sentences(self) -> list[str]:
        """Return the explanation in words: the verdict, the events, and what the distance is."""
        if math.isnan(self.score):
            return [f"{self.name} cannot be read."]
        phrases = [describe_event(event, self.unit) for event in self.events] + self.notes
        if not phrases:
            phrases = ["No single tone, band or moment is out of the range of the normal clips."]
        return [self._verdict(), *map(_capital, phrases), self._sum()]

    def __str__(self) -> str:
        return "\n".join(self.sentences())

    def _verdict(self) -> str:
        ratio = f"{-self.score / self.scale:.2f} of the threshold"
        if self.offset >= 0:
            ratio = f"a score of {self.score:.3g}, the threshold is {self.offset:.3g}"
        which = f", {self.start:g} to {self.stop:g} s" if self.start > 0 else ""
        verdict = "anomaly" if self.is_anomaly else "normal, nothing exceeds the threshold"
        return f"{self.name}{which}: {verdict}, {ratio}."

    def _sum(self) -> str:
        words = [f"{self.typical / self.scale:.2f} as in a typical normal clip"]
        causes = self.by_cause()
        named = list(causes)[:_MOST_PARTS]
        for cause in named:
            own = [part for part in self.parts if part.cause == cause]
            most = max(own, key=lambda part: part.distance)
            band = ""
            if most.low is not None and most.high is not None and most.distance > 0:
                band = f" (most at {_band(most.low, most.high, self.unit)})"
            words.append(f"{causes[cause] / self.scale:+.2f} {cause}{band}")
        rest = sum(causes.values()) - sum(causes[cause] for cause in named)
        if len(causes) > len(named):
            words.append(f"{rest / self.scale:+.2f} the rest")
        return "Its distance, where the threshold is 1: " + ", ".join(words) + "."


def explain_clips(
    detector: Any, X: Any, *, groups: Iterable[Hashable] | None = None
) -> list[Explanation]:
    """Explain the scores of clips by a fitted `AnomalousSoundDetector`.

    Parameters
    ----------
    detector : AnomalousSoundDetector
        Fitted.
    X : sequence of clips, or array-like of shape (n_clips, n_samples)
        As for its `fit`. Of clips with several windows, the worst is explained.
    groups : iterable of hashables of length n_clips, default=None
        The machine of each clip, where `fit` was given groups.

    Returns
    -------
    explanations : list of Explanation
        One a clip.
    """
    groups = None if groups is None else list(groups)
    windows, _, (of_windows,) = detector._measure(X, groups, ("score_samples",))
    listed = detector._list_groups(len(windows.first), groups)
    scores, worst = detector._of_clips(windows, of_windows), windows.worst(of_windows)
    _, patches = detector._windows_and_patches(X)
    explanations: list[Explanation] = []
    for batch in iterate_batches(take_clips(patches, worst), _BATCH_SIZE):
        for own_patches in batch:
            clip = len(explanations)
            group = None if listed is None else [listed[clip]]
            explanation = _explain_window(
                detector, windows, worst[clip], own_patches[np.newaxis], scores[clip], group
            )
            explanation.name = clip_name(X.iloc[clip] if hasattr(X, "iloc") else X[clip], clip)
            explanations.append(explanation)
    return explanations


def score_maps(
    detector: Any,
    patches: Any,
    scores: NDArray,
    groups: list[Hashable] | None,
    moments: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Map the scores of clips to where in time and frequency they come from.

    Parameters
    ----------
    detector : AnomalousSoundDetector
        Fitted, with the statistics among its `members_`.
    patches : ndarray or LazyPatches of shape (n_clips, n_time, n_freq, patch_area)
    scores : ndarray of shape (n_clips,)
        Of these clips, as `score_samples` gives them.
    groups : list of hashables of length n_clips or None
    moments : ndarray of shape (n_clips, n_time, n_freq)
        Maps of `map_pipeline_`.

    Returns
    -------
    maps : ndarray of shape (n_clips, n_time, n_freq)
        The highest cell is the clip's distance over that of the threshold. A band has its share in
        the distance. That of the steady spectrum and of fluctuations lies there all the time, and
        that of loud moments and of the level over time follows the map of moments. NaN for clips
        that cannot be read.
    """
    maps = np.full(moments.shape, np.nan)
    n_freq, normal = moments.shape[2], detector.normal_statistics_
    cells = _cells(detector.statistics_.n_mels_, normal.shape[1], n_freq)
    start = 0
    for batch in iterate_batches(patches, _BATCH_SIZE):
        rows = np.flatnonzero(np.isfinite(scores[start : start + len(batch)]))
        clips, start = start + rows, start + len(batch)
        if not len(rows):
            continue
        _, parts = contributions(
            detector.detector_,
            batch[rows],
            groups=None if groups is None else [groups[clip] for clip in clips],
            normal=normal[np.isfinite(normal).all(axis=1)],
            blocks=_blocks(cells),
        )
        steady, passing = np.zeros((2, len(rows), n_freq))
        for index, (cause, bins, columns) in enumerate(cells):
            if bins is not None:
                of_cause = passing if cause == _PROPERTIES[1] else steady
                of_cause[:, index % n_freq] += parts[:, list(columns)].sum(axis=1)
        profile = moments[clips].clip(_LEAST_MOMENT)
        peaks = profile.max(axis=1, keepdims=True)
        # What belongs to no band, the level over time and embeddings, goes where moments stand out.
        of_no_band = parts.sum(axis=1) - (steady + passing).sum(axis=1)
        passing += of_no_band[:, np.newaxis] * (peaks / peaks.sum(axis=2, keepdims=True))[:, 0]
        steady, passing = steady.clip(0), passing.clip(0)
        own = steady[:, np.newaxis] + passing[:, np.newaxis] * profile / peaks
        most = own.max(axis=(1, 2), keepdims=True)
        shares = np.where(most > 0, own / np.where(most > 0, most, 1), 1.0)
        maps[clips] = shares * (scores[clips] / detector.offset_)[:, np.newaxis, np.newaxis]
    return maps


def _blocks(cells: list) -> list[NDArray[np.intp]]:
    """Return the columns of each cause."""
    blocks: dict[str, list] = {}
    for cause, _, columns in cells:
        blocks.setdefault(cause, []).extend(columns)
    return [np.array(columns) for columns in blocks.values()]


def _explain_window(
    detector: Any, windows: Any, row: int, patches: NDArray, score: float, group: list | None
) -> Explanation:
    front_end = getattr(detector.patcher_, "front_end", None)
    n_mels, to_decibels = detector.statistics_.n_mels_, detector.statistics_.log_unit * DECIBELS
    axes = Axes(np.arange(n_mels + 1.0), 1.0, 1.0)
    if front_end is not None:
        axes = Axes(
            front_end.bin_edges(),
            front_end.frame_length,
            front_end.frame_shift,
            first_frame=front_end.first_frame,
        )
    spectrum = mean_spectra(patches)[0]
    explanation = Explanation(
        name="",
        score=float(score),
        offset=float(detector.offset_),
        spectrum=spectrum * to_decibels,
        normal_spectra=detector.reference_["spectra"],
        edges=axes.edges,
        unit="bin" if front_end is None else "Hz",
        start=float(windows.starts[row]),
        stop=float(windows.stops[row]),
    )
    if math.isnan(score):
        return explanation
    normal = detector.normal_statistics_
    cells = _cells(n_mels, normal.shape[1]) if detector.members_[0] == "statistics" else []
    blocks = _blocks(cells)
    (typical,), (parts,) = contributions(
        detector.detector_,
        patches,
        groups=group,
        normal=normal[np.isfinite(normal).all(axis=1)],
        blocks=blocks,
    )
    if len(parts) > sum(map(len, blocks)):
        columns = range(sum(map(len, blocks)), len(parts))
        cells.append((detector.members_[-1], None, columns))
    # The score of a clip of several windows is that of the worst, over a number.
    ratio = -score / (typical + parts.sum())
    explanation.typical = float(typical * ratio)
    for cause, bins, columns in cells:
        low, high = (None, None) if bins is None else axes.edges[list(bins)].tolist()
        distance = float(parts[list(columns)].sum() * ratio)
        explanation.parts.append(Part(cause, low, high, distance))
    explanation.events = find_events(
        unpatchify(patches)[0] * to_decibels, detector.reference_, axes
    )
    if detector.patcher_ is not None:
        clip = windows.X[row]
        clipping = find_clipping(_samples(clip, getattr(detector.patcher_, "channel", 0)))
        explanation.events += clipping
        notes = detector.conditions_.notes(clip, spectrum, samples=True)
        explanation.notes = [n for n in notes if not (clipping and n.startswith("clipped"))]
    explanation.events.sort(key=lambda event: -event.strength)
    if explanation.start > 0:
        for event in explanation.events:
            event.times = [(a + explanation.start, b + explanation.start) for a, b in event.times]
    return explanation


def _cells(
    n_mels: int, n_statistics: int, n_bands: int = _N_BANDS
) -> list[tuple[str, tuple[int, int] | None, range]]:
    """Return the cause, the bins and the columns of each part of `BandStatistics`."""
    n_bands, start = math.gcd(n_mels, n_bands), 0
    cells: list[tuple[str, tuple[int, int] | None, range]] = []
    for cause, width in zip(
        _PROPERTIES, (n_mels, math.gcd(n_mels, _LOUD), math.gcd(n_mels, _FLUCTUATING)), strict=False
    ):
        for band in range(n_bands):
            columns = range(start + band * width // n_bands, start + (band + 1) * width // n_bands)
            bins = band * n_mels // n_bands, (band + 1) * n_mels // n_bands
            cells.append((cause, bins, columns))
        start += width
    return [*cells, (_PROPERTIES[-1], None, range(start, n_statistics))]


def _samples(clip: Any, channel: int | str) -> NDArray:
    """Return the samples of a channel of a clip, at their own rate."""
    samples, _ = read_clip(clip)
    return samples.mean(axis=1) if channel == "mean" else samples[:, int(channel)]


def describe_event(event: Event, unit: str) -> str:
    """Say an event in words, such as "a tone at 0.79 kHz, 14 dB above normal clips, all the time".

    Parameters
    ----------
    event : Event
    unit : {"Hz", "bin"}
        Of its frequencies.
    """
    band = "" if event.low is None or event.high is None else _band(event.low, event.high, unit)
    decibels = 0.0 if event.decibels is None else abs(event.decibels)
    second = "s" if unit == "Hz" else "frames"
    is_short = any(stop - start < 1 for start, stop in event.times) and event.kind == "dropout"
    digits = (2 if is_short else 1) if unit == "Hz" else 0
    if event.kind == "clipping":
        return f"clipped: {event.share:.2%} of the samples are at a limit"
    if event.kind == "step":
        verb = "rises" if (event.decibels or 0) > 0 else "falls"
        return f"the level {verb} by {decibels:.0f} dB at {event.times[0][0]:.{digits}f} {second}"
    if event.kind == "knock":
        times = _listed([f"{start:.{digits}f}" for start, _ in event.times], second)
        name = "a knock" if len(event.times) == 1 else "knocks"
        return f"{name} at {times}, {band}, {decibels:.0f} dB above the rest of the clip"
    spans = _listed([f"{a:.{digits}f} to {b:.{digits}f}" for a, b in event.times], second)
    when = f"from {spans}" if event.times else "all the time"
    if event.kind == "dropout":
        return f"the sound drops by {decibels:.0f} dB {when}"
    if event.kind == "burst":
        return f"a burst {when}, {band}, {decibels:.0f} dB above the rest of the clip"
    if event.kind == "tone":
        return f"a tone at {band}, {decibels:.0f} dB above similar normal clips, {when}"
    sign = "above" if event.kind == "louder band" else "below"
    return f"{band} is {decibels:.0f} dB {sign} similar normal clips, {when}"


def _band(low: float, high: float, unit: str) -> str:
    if unit != "Hz":
        return f"bin {low:.0f}" if low == high else f"bins {low:.0f} to {high:.0f}"
    if low == high:
        return f"{low / 1000:.3g} kHz" if low >= 1000 else f"{low / 1000:.2g} kHz"
    return f"{low / 1000:.2g} to {high / 1000:.2g} kHz"


def _listed(words: list[str], unit: str) -> str:
    """Join numbers by commas and "and", with their unit, and count those beyond the first few."""
    n_more = len(words) - (_MOST_TIMES - 1) if len(words) > _MOST_TIMES else 0
    if n_more:
        return f"{', '.join(words[:-n_more])} {unit} and {n_more} times more"
    joined = "".join(words) if len(words) < 2 else f"{', '.join(words[:-1])} and {words[-1]}"
    return f"{joined} {unit}"


def _capital(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}" + ("" if sentence.endswith(".") else ".")
