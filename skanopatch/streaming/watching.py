"""Watching a source: a folder that grows, a long file or live sound, until someone stops it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from skanopatch.audio import clip_duration, file_state, files_in_writing, printable_path
from skanopatch.datasets.folder import find_recordings
from skanopatch.recipes.windows import cut_windows
from skanopatch.streaming.cutting import Gap, WindowCutter
from skanopatch.streaming.live import BlockQueue, Stop
from skanopatch.streaming.progress import Progress
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.scoring import WindowScorer, silence_notes

_PATIENCE = 10.0  # seconds since its last change after which a file that cannot be read is reported
_ROUNDING = 1e-6  # seconds


class Watch:
    """Scores what comes from a source, and hands the results to sinks.

    Parameters
    ----------
    scorer : WindowScorer
    sinks : sequence of `streaming.sinks.Sink`
    progress : Progress
        What was scored before, which is not scored again.
    stop : Stop
        Once set, the window in work is finished and no other begun.
    say : callable
        Takes sentences for people: alarms, files that wait, sound that was skipped.
    hop : float, default=None
        Seconds from the start of one window to that of the next. None is that of the model.

    Attributes
    ----------
    n_windows, n_alarms, n_unscored : int
        Windows with a result, alarms that began, and windows that could not be scored.
    """

    def __init__(
        self,
        scorer: WindowScorer,
        sinks: Sequence[Any],
        progress: Progress,
        *,
        stop: Stop,
        say: Callable[[str], Any],
        hop: float | None = None,
    ):
        self._scorer, self._sinks, self._progress = scorer, sinks, progress
        self._stop, self._say = stop, say
        self._hop = scorer.hop if hop is None else hop
        progress.resume(scorer.alarm)
        self._newest = 0  # modification time in ns of the newest file that was scored
        self.n_windows = self.n_alarms = self.n_unscored = 0

    def file(self, path: str) -> None:
        """Score the windows of a file, from where the last run stopped."""
        self._score_file(path, file_state(path))

    def folder(
        self,
        folder: str,
        *,
        every: float = 1.0,
        settle: float = 1.0,
        most_waiting: int = 10,
        once: bool = False,
    ) -> None:
        """Score the recordings in a folder and those that come into it.

        Parameters
        ----------
        folder : str
            It and the folders below it are listed.
        every : float, default=1.0
            Seconds from one listing to the next.
        settle : float, default=1.0
            A file is complete when it has not changed for so many seconds.
        most_waiting : int, default=10
            The oldest file comes first; if more than so many wait, the newest does.
        once : bool, default=False
            Whether to end when all are scored.
        """
        done: dict[str, tuple[int, int] | None] = {}
        is_behind = False
        while not self._stop.is_set():
            listed = time.monotonic()
            waiting = self._waiting(folder, done)
            in_writing = set(files_in_writing(waiting, settle))
            ready = sorted((f for f in waiting if f not in in_writing), key=_age)
            if not ready:
                if once and not waiting:
                    return
                self._stop.wait(every)
                continue
            if (len(ready) > most_waiting) != is_behind:
                is_behind = not is_behind
                self._say(
                    f"{len(ready)} files wait, more than {most_waiting}: the newest come first."
                    if is_behind
                    else "At most as many files wait as may: the oldest come first again."
                )
            for path in reversed(ready) if is_behind else ready:
                state = file_state(path)
                if state is not None and not self._may_be_incomplete(path, state):
                    self._score_file(path, state)
                    done[path] = state
                if self._stop.is_set() or time.monotonic() - listed > every:
                    break  # newer ones may have come
            else:
                self._stop.wait(every)

    def stream(self, queue: BlockQueue, source: str) -> None:
        """Score live sound; its clock goes on where that of the last run ended."""
        before = self._progress.last_stop(source)
        rate = self._scorer.patcher.sample_rate
        cutter = WindowCutter(self._scorer.duration, self._hop, rate, start=before or 0.0)
        if before is not None:
            list(cutter.add(Gap(reason="restart")))
        start_time, skipped = None, 0.0
        for block in queue:
            if start_time is None:
                start_time = time.time() - cutter.clock
            if queue.skipped > skipped:
                total, skipped = queue.skipped, queue.skipped
                self._say(f"Scoring is too slow: {total:.3g} s of sound were skipped so far.")
            for window in cutter.add(block):
                self._write(self._scorer.score_window(window, source=source, start_time=start_time))
            if isinstance(block, Gap):
                start_time = None  # nobody knows how long it was: the next block comes now
        for window in cutter.end():
            at = time.time() - cutter.clock if start_time is None else start_time
            self._write(self._scorer.score_window(window, source=source, start_time=at))

    def _waiting(self, folder: str, done: dict[str, tuple[int, int] | None]) -> list[str]:
        """Return the files that were not scored, or have changed since."""
        try:
            paths = [os.path.abspath(path) for path in find_recordings(folder)]
        except FileNotFoundError:
            if not os.path.isdir(folder):
                raise
            return []
        for path in set(done) - set(paths):
            del done[path]
        waiting = []
        for path in paths:
            if path in done and done[path] == file_state(path):
                continue
            if path not in done and self._was_scored(path):
                done[path] = file_state(path)
                continue
            waiting.append(path)
        return waiting

    def _was_scored(self, path: str) -> bool:
        """Return whether an earlier run scored all of a file."""
        last_stop = self._progress.last_stop(printable_path(path))
        if last_stop is None:
            return False
        try:
            return clip_duration(path, sample_rate=1) <= last_stop + _ROUNDING
        except ValueError:
            return True

    def _may_be_incomplete(self, path: str, state: tuple[int, int]) -> bool:
        """Return whether a file cannot be read, and has changed not long ago."""
        try:
            clip_duration(path, sample_rate=1)
        except ValueError:
            return time.time() - state[1] / 1e9 < _PATIENCE
        return False

    def _score_file(self, path: str, state: tuple[int, int] | None) -> None:
        path = os.path.abspath(path)
        source = printable_path(path)
        last_stop = self._progress.last_stop(source)
        rate = self._scorer.patcher.sample_rate
        windows = cut_windows(
            [path], duration=self._scorer.duration, hop=self._hop, sample_rate=rate
        )
        changed = time.time_ns() if state is None else state[1]
        is_late = changed < self._newest
        self._newest = max(self._newest, changed)
        length = float(windows.stops[-1]) if windows.stops[-1] > 0 else 0.0
        for clip, start, stop in zip(windows.X, windows.starts, windows.stops, strict=True):
            if self._stop.is_set():
                return
            stop = float(stop) if stop > 0 else 0.0  # NaN of a file that cannot be read
            if last_stop is not None and stop <= last_stop + _ROUNDING:
                continue
            result = self._scorer.score_clip(
                clip,
                source=source,
                time=changed / 1e9 - length + float(start),
                start=float(start),
                stop=stop,
                notes=silence_notes(clip),
                is_late=is_late,
            )
            self._write(result)

    def _write(self, result: WindowResult) -> None:
        for sink in self._sinks:
            sink.write(result)
        for sink in self._sinks:
            sink.flush()
        self._progress.record(result, self._scorer.alarm.run)
        self.n_windows += 1
        self.n_unscored += result.score != result.score
        self.n_alarms += result.alarm == "on"
        if result.alarm:
            moment = datetime.fromtimestamp(result.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            self._say(
                f"{moment}: alarm {result.alarm}, '{result.source}', {result.start:.1f} to "
                f"{result.stop:.1f} s, at {result.distance:.3g} times the threshold."
            )


def _age(path: str) -> int:
    state = file_state(path)
    return 0 if state is None else state[1]
