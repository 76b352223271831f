"""Two weeks of a machine that wears, with two alarms and a gap."""

import numpy as np

from skanopatch import TrendDisplay
from skanopatch.streaming.drift import drift_test

rng = np.random.default_rng(0)
times = 1764288000 + 600.0 * np.arange(14 * 144)
days = (times - times[0]) / 86400
scores = 0.6 + 0.02 * days + 0.05 * np.sin(2 * np.pi * days) + 0.05 * rng.normal(size=len(days))
in_alarm = np.isin(np.arange(len(days)), [*range(700, 710), *range(1500, 1512)])
scores[in_alarm] += 1
known = (days < 7) | (days > 8)
times, scores, in_alarm = times[known], scores[known], in_alarm[known]
rise = drift_test(times, scores).line
TrendDisplay.from_predictions(times, scores, in_alarm=in_alarm, rise=rise)
