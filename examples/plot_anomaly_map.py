"""
Where it sounds wrong
=====================

A score says that a clip is odd. A map says where in time and frequency, so that somebody can listen
there. This example fits on a linear slider that runs well, draws the map of a clip with a damaged
rail over its spectrogram, and holds it against the sound of the damage alone, which only a
simulation can give.
"""

# %%
# Fit on normal clips
# -------------------
# :func:`~skanopatch.make_map_pipeline` makes a pipeline that keeps the token of each patch instead
# of one embedding a clip: :class:`~skanopatch.MelPatcher`, :class:`~skanopatch.AnoPatchEmbedder`
# and a detector that compares tokens.

import numpy as np

from skanopatch import anomaly_map, make_map_pipeline
from skanopatch.datasets import make_machine_sounds

settings = {
    "machines": ["slider"],
    "n_units": 1,
    "n_train": 40,
    "n_normal": 8,
    "n_anomalous": 8,
    "target_fraction": 0.0,
    "duration": 3.0,
    "random_state": 0,
}
sounds = make_machine_sounds(**settings, severity=4.0)
is_train = sounds.split == "train"
pipe = make_map_pipeline(melpatcher__duration=3.0).fit(sounds.clips[is_train])

# %%
# Maps as arrays
# --------------
# :func:`~skanopatch.anomaly_map` gives an array: stretches of time, then bands of frequency. 1 is
# the threshold. It is placed so that a normal clip has a cell above 1 with a chance of
# ``contamination``, 0.1 unless something else is asked for.

is_test = (sounds.split == "test") & (sounds.domain == "source")
maps = anomaly_map(pipe, sounds.clips[is_test])
print(f"{maps.shape[0]} clips, {maps.shape[1]} stretches of time, {maps.shape[2]} bands")
for fault, oddest in zip(sounds.fault[is_test], maps.max(axis=(1, 2)), strict=True):
    print(f"{fault:12} oddest cell: {oddest:.2f}")

# %%
# Maps as pictures
# ----------------
# :class:`~skanopatch.AnomalyMapDisplay` draws one clip: the spectrogram in grey, what is odd in
# colour, and a line around what is above the threshold. The clip below is the first one with a
# damaged rail; the carriage hits it at each stroke.

import matplotlib.pyplot as plt

from skanopatch import AnomalyMapDisplay

clip = np.flatnonzero(is_test & (sounds.fault == "rail_defect"))[0]
display = AnomalyMapDisplay.from_estimator(pipe, sounds.clips[clip])
display.ax_.set_title("slider with a damaged rail")
plt.show()

# %%
# Is it there?
# ------------
# Clips do not depend on the severity but for the fault, so the difference to the same clip of
# severity 0 is the sound of the damage alone. Its own map is drawn over it: what the pipeline
# found in the whole clip, where the damage was hard to see.

from skanopatch import unpatchify

without_fault = make_machine_sounds(**settings, severity=0.0)
patches = pipe[0].transform([sounds.clips[clip] - without_fault.clips[clip]])
map_of_clip = anomaly_map(pipe, sounds.clips[[clip]])[0]
display = AnomalyMapDisplay.from_predictions(
    unpatchify(patches)[0], map_of_clip, front_end=patches.front_end
)
display.ax_.set_title("the damage alone, with the map of the whole clip")
plt.show()
