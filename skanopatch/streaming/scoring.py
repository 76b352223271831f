"""Scores of streams: one result for each window."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np

from skanopatch.audio import Clip, load_clip, read_clip
from skanopatch.detectors.metadata import call_with_groups, last_step
from skanopatch.inspection.decisions import decider, relative_scores, split_model, unwrap
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.streaming.alarms import Alarm, make_alarm
from skanopatch.streaming.cutting import Window, WindowCutter
from skanopatch.streaming.results import LATE, WindowResult

_LEAST_CONSTANT = 0.1  # seconds of equal samples: shorter ones may be sound


def score_stream(
    model: Any,
    blocks: Iterable[Any],
    sample_rate: int,
    *,
    hop: float | None = None,
    source: str = "stream",
    start_time: float | None = None,
    alarm: Alarm | None = None,
    group: Hashable | None = None,
) -> Iterator[WindowResult]:
    """Score an endless stream, window by window.

    Parameters
    ----------
    model : estimator
        Fitted on clips: an `AnomalousSoundDetector`, or a pipeline from a `MelPatcher` to a
        detector.
    blocks : iterable
        Blocks of any length: arrays of floats or PCM, (n_samples,) or (n_samples, n_channels). A
        block with another rate is a pair (block, rate). If sound is missing, give a
        `streaming.cutting.Gap`, or None for a gap of unknown length. `streaming.pcm.decode_pcm`
        turns bytes into blocks.
    sample_rate : int
        Sample rate of the blocks in Hz.
    hop : float, default=None
        Seconds from the start of one window to that of the next, at most the length of a window.
        None is the `hop` of the model, or the length of a window.
    source : str, default="stream"
        Name of the stream in the results.
    start_time : float, default=None
        Unix time of the first sample. None is the time at which the first block comes.
    alarm : Alarm, default=None
        None is ``make_alarm(model)``, of `streaming.alarms`.
    group : hashable, default=None
        The machine, for models that were fitted with groups.

    Yields
    ------
    result : WindowResult
        One per hop. No window reaches over a gap or a change of rate. The last window before it,
        and the last one of the stream, end with the sound, so they may overlap the one before them
        more. Sound that is too short for a window has a result with the score NaN.

    Raises
    ------
    ValueError, TypeError
        If the model does not go from clips to decisions, `hop` is out of range, or a block is no
        sound.

    Notes
    -----
    The score of a window is what ``model.score_samples([(window, rate)])`` returns, to the bit;
    among other windows of one call it may differ in the last digit of a float64. Where the rate is
    not that of the model, each window is resampled alone, as if it were mirrored at its ends. Two
    windows and one block are held in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skanopatch import MahalanobisDetector, MelPatcher, MelStatistics, score_stream
    >>> rng = np.random.default_rng(0)
    >>> pipe = make_pipeline(MelPatcher(duration=1.0), MelStatistics(), MahalanobisDetector())
    >>> pipe.fit(rng.normal(size=(30, 16000)))
    Pipeline(...)
    >>> blocks = (rng.normal(size=4000) * (1 if i < 12 else 2) for i in range(24))
    >>> results = list(score_stream(pipe, blocks, 16000, start_time=0.0))
    >>> [(result.start, result.alarm) for result in results]
    [(0.0, ''), (1.0, ''), (2.0, ''), (3.0, ''), (4.0, ''), (5.0, 'on')]
    """
    scorer = WindowScorer(model, alarm=alarm, group=group)
    cutter = WindowCutter(scorer.duration, scorer.hop if hop is None else hop, sample_rate)
    return _score_blocks(scorer, cutter, blocks, source, start_time)


def _score_blocks(
    scorer: WindowScorer,
    cutter: WindowCutter,
    blocks: Iterable[Any],
    source: str,
    start_time: float | None,
) -> Iterator[WindowResult]:
    for block in blocks:
        start_time = time.time() if start_time is None else start_time
        for window in cutter.add(block):
            yield scorer.score_window(window, source=source, start_time=start_time)
    for window in cutter.end():
        yield scorer.score_window(window, source=source, start_time=start_time or 0.0)


class WindowScorer:
    """Scores one window after the other, and raises the alarm.

    Parameters
    ----------
    model : estimator
        As for `score_stream`.
    alarm : Alarm, default=None
        None is ``make_alarm(model)``, of `streaming.alarms`.
    group : hashable, default=None
        The machine, for models that were fitted with groups.
    """

    def __init__(self, model: Any, *, alarm: Alarm | None = None, group: Hashable | None = None):
        # A copy of the patcher, which gives NaN for what it cannot use.
        self.patcher, self._detector = split_model(model)
        self._offset = float(last_step(self._detector).offset_)
        inner = unwrap(model)
        self._recipe: AnomalousSoundDetector | None = None
        if isinstance(inner, AnomalousSoundDetector):
            self._recipe = copy(inner)
            self._recipe.patcher_ = self.patcher
        self.alarm = make_alarm(model) if alarm is None else alarm
        self.duration = float(self.patcher.duration_)
        self.hop = float(getattr(decider(model), "hop", None) or self.duration)
        self._groups = None if group is None else [group]

    def score_window(self, window: Window, *, source: str, start_time: float) -> WindowResult:
        """Score a window of a stream whose first sample has the Unix time `start_time`."""
        notes = [*window.notes, *_silence(window.samples, window.rate)]
        place: dict[str, Any] = {
            "source": source,
            "time": start_time + window.start,
            "start": window.start,
        }
        if window.is_short:
            length = window.stop - window.start
            notes.append(f"{length:.3g} s are too short for a window of {self.duration:g} s")
            return self._result(math.nan, math.nan, notes, stop=window.stop, **place)
        return self.score_clip(
            (window.samples, window.rate), notes=notes, stop=window.stop, **place
        )

    def score_clip(
        self,
        clip: Clip,
        *,
        source: str,
        time: float,
        start: float,
        stop: float,
        notes: Sequence[str] = (),
        is_late: bool = False,
    ) -> WindowResult:
        """Score a clip that is one window; one that `is_late` does not change the alarm."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            score, p_value, of_model = self._measure(clip)
        # What the model says of one clip is a note; one that cannot be used is explained below.
        of_model += [str(w.message) for w in caught if "cannot be used" not in str(w.message)]
        notes = [*notes, *(note for note in of_model if note not in notes)]
        if math.isnan(score):
            notes.append(f"no score: {self._why_unscored(clip)}")
        return self._result(
            score, p_value, notes, is_late, source=source, time=time, start=start, stop=stop
        )

    def _measure(self, clip: Clip) -> tuple[float, float, list[str]]:
        """Return the score, the p-value and the notes of a clip."""
        if self._recipe is not None:
            found = self._recipe.examine([clip], groups=self._groups)
            notes = [note for note in found.notes[0].split("; ") if note]
            return float(found.scores[0]), float(found.p_values[0]), notes
        patches = np.asarray(self.patcher.transform([clip]))
        score = call_with_groups(self._detector, "score_samples", patches, self._groups)[0]
        if not hasattr(last_step(self._detector), "p_values"):
            return float(score), math.nan, []
        p_value = call_with_groups(self._detector, "p_values", patches, self._groups)[0]
        return float(score), float(p_value), []

    def _result(
        self,
        score: float,
        p_value: float,
        notes: Sequence[str],
        is_late: bool = False,
        **place: Any,
    ) -> WindowResult:
        distance = float(relative_scores(np.array([score]), self._offset)[0])
        change = ""
        if is_late:
            notes = [*notes, LATE]
        else:
            change = self.alarm.update(distance)
        return WindowResult(
            score=score,
            distance=distance,
            p_value=p_value,
            alarm=change,
            in_alarm=self.alarm.in_alarm,
            note="; ".join(notes),
            **place,
        )

    def _why_unscored(self, clip: Clip) -> str:
        try:
            load_clip(clip, sample_rate=self.patcher.sample_rate, channel=self.patcher.channel)
        except ValueError as error:
            return str(error)
        return "the model returns NaN"


def silence_notes(clip: Clip) -> list[str]:
    """Return what of a clip is silent or constant, a phrase each; none of what cannot be read."""
    try:
        samples, rate = read_clip(clip)
    except ValueError:
        return []
    return _silence(samples, rate or 1)


def _silence(samples: np.ndarray, rate: int) -> list[str]:
    """Return which channels of samples are silent, and for how long all of them are constant."""
    columns = samples.reshape(len(samples), -1)
    is_dead = np.ptp(columns, axis=0) == 0
    if is_dead.all():
        return ["silent"]
    if is_dead.any():
        return [f"channel {channel} is silent" for channel in np.flatnonzero(is_dead)]
    # Stretches in which no channel changes are dropouts.
    edges = np.flatnonzero((np.diff(columns, axis=0) != 0).any(axis=1)) + 1
    runs = np.diff(edges, prepend=0, append=len(columns))
    seconds = float(runs[runs >= _LEAST_CONSTANT * rate].sum()) / rate
    return [f"constant for {seconds:.2g} of {len(columns) / rate:.3g} s"] if seconds else []
