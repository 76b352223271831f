"""Alarms with hysteresis and persistence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skanopatch.inspection.decisions import decider, relative_scores

_OFF = 0.8  # of the distance at which an alarm begins
_NORMAL_SHARE = 0.75  # of normal windows that are to be nearer than where it ends


@dataclass
class Alarm:
    """An alarm with hysteresis and persistence.

    It begins when `persistence` windows in a row have a distance above `on`. It ends when as many
    in a row have a distance below `off`. Windows without a score do not count.

    Parameters
    ----------
    on, off : float, default=1.0, 0.8
        Distances, where 1 is the threshold; ``0 < off <= on``.
    persistence : int, default=3
        Number of windows in a row.

    Attributes
    ----------
    in_alarm : bool
        Whether the alarm is on.
    run : int
        Number of windows in a row that would change the alarm.

    Examples
    --------
    >>> from skanopatch.streaming.alarms import Alarm
    >>> alarm = Alarm(persistence=2)
    >>> [alarm.update(distance) for distance in [1.2, 1.3, 0.9, 0.7, 1.1, 0.6, 0.5]]
    ['', 'on', '', '', '', '', 'off']
    """

    on: float = 1.0
    off: float = 0.8
    persistence: int = 3
    in_alarm: bool = field(default=False, init=False)
    run: int = field(default=0, init=False)

    def __post_init__(self):
        if not 0 < self.off <= self.on < math.inf:
            raise ValueError(
                f"An Alarm must have 0 < off <= on. Got on={self.on:g} and off={self.off:g}."
            )
        if self.persistence < 1:
            raise ValueError(f"persistence must be at least 1 window. Got {self.persistence}.")

    def update(self, distance: float) -> str:
        """Take the distance of the next window; return "on" or "off" if it changes, or ""."""
        if math.isnan(distance):
            return ""
        speaks_for_change = distance < self.off if self.in_alarm else distance > self.on
        self.run = self.run + 1 if speaks_for_change else 0
        if self.run < self.persistence:
            return ""
        self.in_alarm, self.run = not self.in_alarm, 0
        return "on" if self.in_alarm else "off"


def make_alarm(
    model: Any, *, on: float = 1.0, off: float | None = None, persistence: int = 3
) -> Alarm:
    """Make an alarm that ends when a machine sounds normal again.

    Parameters
    ----------
    model : estimator
        A fitted one.
    on, persistence
        As of `Alarm`.
    off : float, default=None
        None is 0.8 times `on`. If less than three quarters of the normal windows of `fit` are below
        that, it is the distance below which three quarters are, at most `on`. Otherwise an alarm
        might never end.
    """
    if off is None:
        off = min(on, max(_OFF * on, _normal_distance(model, _NORMAL_SHARE)))
    return Alarm(on, off, persistence)


def _normal_distance(model: Any, share: float) -> float:
    """Return the distance over that of the threshold below which a share of normal windows lie."""
    detector = decider(model)
    scores = np.asarray(getattr(detector, "training_scores_", [np.nan]))
    distances = relative_scores(scores, float(detector.offset_))
    return float(np.quantile(distances[~np.isnan(distances)], share)) if len(scores) > 1 else 0.0
