"""
Own recordings
==============

Real recordings differ. They have several sample rates and lengths, are mono or stereo, and some
cannot be opened. This example writes such a folder, fits a model on the paths of normal recordings,
and ranks new ones.
"""

# %%
# A folder of recordings
# ----------------------
# A simulated fan is written to wav files, as if by three recorders: 16 kHz mono, 48 kHz stereo and
# 44.1 kHz mono. One of the new files is not sound but text.

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from scipy.signal import resample_poly

from skanopatch.datasets import make_machine_sounds

sounds = make_machine_sounds(
    ["fan"], n_units=1, n_train=45, n_normal=9, n_anomalous=6, duration=2.5, severity=3.0,
    random_state=1,
)  # fmt: skip
recorders = [(16000, 1, 1, 1), (48000, 2, 3, 1), (44100, 1, 441, 160)]  # rate, channels, up, down

temporary = TemporaryDirectory()
folder = Path(temporary.name)
for i, (clip, split, fault) in enumerate(
    zip(sounds.clips, sounds.split, sounds.fault, strict=True)
):
    rate, n_channels, up, down = recorders[i % 3]
    channel = resample_poly(clip[: len(clip) - 4000 * (i % 2)], up, down)
    name = f"{i:03}_{rate / 1000:g}kHz_{'ok' if fault == 'none' else fault}.wav"
    (folder / split).mkdir(exist_ok=True)
    soundfile.write(folder / split / name, np.column_stack([channel] * n_channels), rate)
(folder / "test" / "099_notes.wav").write_text("changed the filter, Tuesday")

normal_files = sorted((folder / "train").glob("*.wav"))
new_files = sorted((folder / "test").glob("*.wav"))
for file in new_files[:3]:
    info = soundfile.info(file)
    print(f"{file.name}: {info.samplerate} Hz, {info.channels} channel(s), {info.duration:.2f} s")

# %%
# Fit on paths
# ------------
# The model resamples all clips to ``sample_rate``, takes their first channel and cuts them into
# windows of ``duration`` seconds. The worst window of a longer clip decides. A shorter clip is
# repeated.
#
# With ``on_error="nan"`` a file that cannot be read gets the score NaN, and ``predict`` gives -1.
# One warning names all such files. The default is an error. Another warning says that sound above 8
# kHz, which two of the recorders have, is not used.

import warnings

from skanopatch import AnomalousSoundDetector, MelPatcher

model = AnomalousSoundDetector(MelPatcher(duration=2.5, on_error="nan"), false_alarm_rate=0.05)
model.fit(normal_files)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    scores = model.score_samples(new_files)
    predicted = model.predict(new_files)
print(str(caught[0].message).replace(str(folder), "<folder>"))

# %%
# The ranked list
# ---------------
# A score is minus a distance, and ``offset_`` is the score of the threshold. Their ratio is easy to
# read: above 1 is an anomaly.

import matplotlib.pyplot as plt

distance = scores / model.offset_
order = np.argsort(-distance)  # NaN comes last

fig, ax = plt.subplots(figsize=(7.5, 5), layout="constrained")
for rank, i in enumerate(order):
    if np.isnan(distance[i]):
        ax.barh(rank, 0)  # keeps its place on the axis
        ax.text(0.02, rank, "not readable", va="center")
        continue
    is_anomaly = predicted[i] == -1
    ax.barh(
        rank,
        distance[i],
        color="#D55E00" if is_anomaly else "#0072B2",
        hatch="///" if is_anomaly else None,
        edgecolor="white",
    )
ax.axvline(1, color="0.2", linestyle="--", label="threshold")
ax.set_yticks(range(len(order)), [new_files[i].name for i in order])
ax.invert_yaxis()
ax.set_xlabel("distance from the normal recordings (1 = threshold); hatched: anomaly")
ax.legend(loc="lower right")
plt.show()

temporary.cleanup()

# %%
# Conclude from the picture which files to listen to first: those at the top. A file without a score
# is at the bottom. Look at it separately, because it was not checked.
