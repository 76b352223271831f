"""
Where it sounds wrong
=====================

A score says that a clip is anomalous. A map says where in time and frequency, so that somebody can
listen there. This example fits on a linear slider that runs well, draws the map of a clip with a
damaged rail over its spectrogram, and holds it against the sound of the damage alone, which only a
simulation can give.
"""

# %%
# Fit on normal clips
# -------------------
# :class:`~skanopatch.AnomalousSoundDetector` learns maps beside its scores. Here maps are all that
# is wanted: :func:`~skanopatch.make_map_pipeline` makes a pipeline that keeps the token of each
# patch instead of one embedding a clip: :class:`~skanopatch.MelPatcher`,
# :class:`~skanopatch.AnoPatchEmbedder` and a detector that compares tokens. Its default,
# :class:`~skanopatch.SubbandKNNDetector`, judges a cell together with its band over the whole clip,
# which finds faint faults and shows the band; :class:`~skanopatch.PatchKNNDetector` judges each
# cell for itself, which shows the moment.

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
# :func:`~skanopatch.anomaly_map` gives an array: stretches of time, then bands of frequency. 1 is
# the threshold. It is placed so that a normal clip has a cell above 1 with a chance of
# ``false_alarm_rate``, 0.1 unless something else is asked for.

is_test = (sounds.split == "test") & (sounds.domain == "source")
band_maps, moment_maps = (anomaly_map(pipe, sounds.clips[is_test]) for pipe in (bands, moments))
print("{} clips, {} stretches of time, {} bands".format(*band_maps.shape))
print("highest cell  bands  moments")
for fault, of_bands, of_moments in zip(
    sounds.fault[is_test], band_maps.max(axis=(1, 2)), moment_maps.max(axis=(1, 2)), strict=True
):
    print(f"{fault:12} {of_bands:6.2f} {of_moments:8.2f}")

# %%
# Maps as pictures
# ----------------
# :class:`~skanopatch.AnomalyMapDisplay` draws one clip: the spectrogram in grey, what is anomalous
# in colour, and a line around what is above the threshold. The clip below is the first one with a
# damaged rail; the carriage hits it at each stroke.

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
# Is it there?
# ------------
# Clips do not depend on the severity but for the fault, so the difference to the same clip of
# severity 0 is the sound of the damage alone. The map of the whole clip is drawn over it: what the
# pipeline found where the damage was hard to see.

from skanopatch import unpatchify

without_fault = make_machine_sounds(**settings, severity=0.0)
patches = moments[0].transform([sounds.clips[clip] - without_fault.clips[clip]])
map_of_clip = anomaly_map(moments, sounds.clips[[clip]])[0]
display = AnomalyMapDisplay.from_predictions(
    unpatchify(patches)[0], map_of_clip, front_end=moments[0].front_end
)
display.ax_.set_title("the damage alone, with the map of the whole clip")
plt.show()
