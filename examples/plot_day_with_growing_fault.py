"""
A day with a fault that grows
=============================

A microphone records a pump all day. In the afternoon its bearing begins to knock. This example
simulates the pump and scores the stream window by window. It answers two questions: how early does
the alarm come, and how often does one come on a day without a fault?
"""

# %%
# A pump
# ------
# The speed, the flow and the level of the pump change over the day. A damaged bearing knocks
# several times per turn, and each knock makes the casing ring. ``knocking`` is the amplitude of the
# knocks relative to the pump. Five seconds are recorded every three minutes. So the generator
# yields a block of sound, and then a :class:`~skanopatch.streaming.cutting.Gap` for the time
# without a recording.

import math

import numpy as np
from scipy.signal import lfilter

from skanopatch.streaming.cutting import Gap

RATE, SECONDS, EVERY = 16000, 5.0, 180.0
RING = [1.0, -1.1, 0.97]  # filter of the casing, at 2.5 kHz


def pump(hours, seed, knocking=lambda hour: 0.0):
    rng = np.random.default_rng(seed)
    moments = np.arange(int(SECONDS * RATE)) / RATE
    state = rng.normal(size=3)
    for hour in np.arange(0, hours, EVERY / 3600):
        state = 0.9 * state + math.sqrt(1 - 0.9**2) * rng.normal(size=3)
        turns = (24.5 + 0.3 * state[0]) * moments
        tones = sum(np.sin(2 * np.pi * k * turns) / k for k in (1, 2, 7))
        flow = lfilter([1.0], [1.0, -0.7], rng.standard_normal(len(moments)))
        sound = 0.05 * tones + 0.02 * math.exp(0.15 * state[1]) * flow
        knocks = np.diff(np.floor(5.4 * turns), prepend=0) * rng.uniform(0.5, 1.5, len(moments))
        sound += 0.05 * knocking(hour) * lfilter([1.0], RING, knocks)
        yield (10 ** (state[2] / 20) * sound).astype(np.float32)
        yield Gap(EVERY - SECONDS)


# %%
# Yesterday
# ---------
# The model is fitted on the blocks of a normal day. Each block counts as a session of its own,
# because the blocks are minutes apart.

from skanopatch import AnomalousSoundDetector, MelPatcher

yesterday = [(block, RATE) for block in pump(24, seed=0) if not isinstance(block, Gap)]
model = AnomalousSoundDetector(MelPatcher(duration=SECONDS), map_detector="drop")
model.fit(yesterday)

# %%
# At most one alarm a day
# -----------------------
# An alarm needs three windows in a row above the threshold. How rare must such a window be, so that
# a normal day has at most one alarm on average? The rule here holds for any dependence between
# windows. A day has 480 windows, and an alarm needs three of them. So 3 / 480 of the normal windows
# may be above the threshold.

from skanopatch.streaming.alarm_rates import false_alarm_rate_for
from skanopatch.streaming.alarms import make_alarm

rate = false_alarm_rate_for(1 / 24, hop=EVERY, persistence=3)
model.set_false_alarm_rate(rate)
print(f"{rate:.3%} of normal windows may be above the threshold, 1 in {1 / rate:.0f}.")

# %%
# Today
# -----
# The bearing begins to knock at 14:00, and the knocks become louder. ``score_stream`` takes one
# block after the other and yields a result for each window. Its score is that of
# ``model.score_samples``.

from skanopatch import score_stream


def growing(hour):
    return max(0.0, hour - 14) / 10


alarm = make_alarm(model, persistence=3)
results = list(
    score_stream(model, pump(24, 1, growing), RATE, start_time=0.0, source="pump 3", alarm=alarm)
)
for result in results:
    if result.alarm:
        hour, minute = divmod(int(result.start / 60), 60)
        print(
            f"{hour:02}:{minute:02} alarm {result.alarm}, {result.distance:.2f} times the "
            f"threshold, p-value {result.p_value:.4f}, knocking {growing(result.start / 3600):.2f}"
        )

# %%
# The day as a picture
# --------------------
# The distance changes over the day, because the pump does not always sound the same. Each window
# above the threshold is marked. The alarm begins only after three in a row.

import matplotlib.pyplot as plt

from skanopatch import TimelineDisplay

times = [result.start + SECONDS / 2 for result in results]
distances = [result.distance for result in results]
display = TimelineDisplay.from_predictions(times, distances, threshold=1.0)
begins = [result.start for result in results if result.alarm == "on"]
display.ax_.vlines(begins, *display.ax_.get_ylim(), color="black", linestyle=":", label="alarm")
display.ax_.legend()
plt.show()

# %%
# A day without a fault
# ---------------------
# A third day is normal again. It shows how many false alarms there are.

normal = list(score_stream(model, pump(24, seed=2), RATE, start_time=0.0))
n_above = sum(result.distance > 1 for result in normal)
n_alarms = sum(result.alarm == "on" for result in normal)
print(f"{n_above} of {len(normal)} windows above the threshold, {n_alarms} alarms")

# %%
# Conclude from the picture and the numbers that waiting for three windows delays the alarm by a few
# minutes, but keeps single windows above the threshold from raising one.
