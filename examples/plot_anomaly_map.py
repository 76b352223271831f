"""
Where it sounds wrong
=====================

A score says that a clip is anomalous. A map says where in time and frequency, so that somebody can
listen there. This example fits a model on a linear slider that runs well. It draws the map of a
clip with a damaged rail over its spectrogram. Then it compares the map with the sound of the damage
alone, which only a simulation can give.
"""

# %%
# Fit on normal clips
# -------------------
# :class:`~skanopatch.AnomalousSoundDetector` learns maps beside its scores. This example needs maps
# only, so it uses :func:`~skanopatch.make_map_pipeline`. The pipeline has three steps:
# :class:`~skanopatch.MelPatcher`, :class:`~skanopatch.AnoPatchEmbedder`, which gives one vector per
# patch, and a detector that compares these vectors. There are two detectors:
#
# * :class:`~skanopatch.SubbandKNNDetector`, the default, compares a cell together with its band
#   over the whole clip. It finds faint faults and shows the band.
# * :class:`~skanopatch.PatchKNNDetector` compares each cell alone. It shows the moment.

import numpy as np

from skanopatch import PatchKNNDetector, anomaly_map, make_map_pipeline
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
sounds = make_machine_sounds(**settings, severity=3.0)
is_train = sounds.split == "train"
bands = make_map_pipeline(melpatcher__duration=3.0).fit(sounds.clips[is_train])
moments = make_map_pipeline(detector=PatchKNNDetector(), melpatcher__duration=3.0)
moments.fit(sounds.clips[is_train])

# %%
# Maps as arrays
# --------------
# :func:`~skanopatch.anomaly_map` gives an array with the axes clip, time and frequency. 1 is the
# threshold. A normal clip has a cell above 1 with the probability ``false_alarm_rate``, 0.1 by
# default.

is_test = (sounds.split == "test") & (sounds.domain == "source")
band_maps, moment_maps = (anomaly_map(pipe, sounds.clips[is_test]) for pipe in (bands, moments))
print("{} clips, {} steps of time, {} bands".format(*band_maps.shape))
print("highest cell  bands  moments")
for fault, of_bands, of_moments in zip(
    sounds.fault[is_test], band_maps.max(axis=(1, 2)), moment_maps.max(axis=(1, 2)), strict=True
):
    print(f"{fault:12} {of_bands:6.2f} {of_moments:8.2f}")

# %%
# Maps as pictures
# ----------------
# :class:`~skanopatch.AnomalyMapDisplay` draws one clip. The spectrogram is grey, and anomalous
# cells are coloured. A line surrounds the cells above the threshold. The clip below is the first
# one with a damaged rail. The carriage hits the damage at each stroke.

import matplotlib.pyplot as plt

from skanopatch import AnomalyMapDisplay

clip = np.flatnonzero(is_test & (sounds.fault == "rail_defect"))[0]
fig, axes = plt.subplots(2, 1, sharex=True, figsize=(8, 5.5), layout="constrained")
for ax, pipe, title in zip(axes, [bands, moments], ["which band", "which moment"], strict=True):
    AnomalyMapDisplay.from_estimator(pipe, sounds.clips[clip], ax=ax)
    ax.set_title(title)
axes[0].set_xlabel("")
plt.show()

# %%
# Is the fault there?
# -------------------
# The simulation can make the same clip without the fault, with severity 0. The difference of both
# clips is the sound of the damage alone. Here it is the grey spectrogram, and the map of the whole
# clip is drawn over it.

from skanopatch import unpatchify

without_fault = make_machine_sounds(**settings, severity=0.0)
patches = moments[0].transform([sounds.clips[clip] - without_fault.clips[clip]])
map_of_clip = anomaly_map(moments, sounds.clips[[clip]])[0]
display = AnomalyMapDisplay.from_predictions(
    unpatchify(patches)[0], map_of_clip, front_end=moments[0].front_end
)
display.ax_.set_title("the damage alone, with the map of the whole clip")
plt.show()

# %%
# Conclude from the pictures that the map of bands says at which frequencies to listen, and the map
# of moments says when. Listen at both places before you decide.
