"""
After maintenance
=================

A part is replaced, and the machine sounds a little different. Now nearly every clip is called an
anomaly, although nothing is wrong. This example adds a few clips of the new normal sound to the
model.
"""

# %%
# A fan before and after a repair
# -------------------------------
# The fan is simulated. After the repair its high frequencies are a little louder, as with a new
# filter.

import numpy as np
from scipy.signal import lfilter

from skanopatch import AnomalousSoundDetector, MelPatcher
from skanopatch.datasets import make_machine_sounds

sounds = make_machine_sounds(
    ["fan"], n_units=1, n_train=90, n_normal=2, n_anomalous=20, target_fraction=0.0,
    severity=3.0, duration=2.0, random_state=0,
)  # fmt: skip
normal = sounds.clips[sounds.split == "train"]
faulty = sounds.clips[(sounds.y == -1) & (sounds.domain == "source")]


def repaired(clips):
    return lfilter([1.0, -0.25], [1.0], clips, axis=-1)


before, fitted_on = normal[:20], normal[20:50]
after = repaired(normal[50:])
model = AnomalousSoundDetector(MelPatcher(duration=2.0), map_detector="drop").fit(fitted_on)

# %%
# Add ten clips after the repair
# ------------------------------
# Somebody has listened to these clips and found them normal.
# :meth:`~skanopatch.AnomalousSoundDetector.update` fits again on the old and the new clips. It
# takes a moment. It does not read the old recordings, because the model keeps their statistics.

import copy

updated = copy.deepcopy(model).update(after[:10])
print("normal windows:", len(model.training_scores_), "->", len(updated.training_scores_))

# %%
# Scores before and after
# -----------------------
# Each point is a clip. Points above the dashed line are called anomalies.

import matplotlib.pyplot as plt

clips = [before, after[10:], repaired(faulty)]
names = ["before the repair", "after the repair", "after it, with a fault"]
figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, fitted, title in zip(axes, [model, updated], ["the old model", "updated"], strict=True):
    start = 0
    for group, name, color, mark in zip(
        clips, names, ["#0072B2", "#009E73", "#D55E00"], "os^", strict=True
    ):
        distance = fitted.score_samples(group) / fitted.offset_
        ax.plot(start + np.arange(len(group)), distance, mark, color=color, label=name)
        start += len(group)
    ax.axhline(1, color="0.2", ls="--")
    ax.set(title=title, xlabel="clip", yscale="log")
axes[0].set_ylabel("distance (1 = threshold)")
axes[1].legend(frameon=False)
plt.show()

# %%
# Conclude from the picture that ten clips are enough here. With the old model nearly all clips
# after the repair are anomalies. With the updated model most of them are normal again, and all
# faults are still found.
