"""
Scores as pictures
==================

Which machine raises false alarms? Is one pipeline better than another where false alarms are few?
When did it start? Displays draw the answers in scikit-learn's convention: ``from_estimator`` takes
a fitted pipeline, ``from_predictions`` the scores of anything at all, ``ax`` puts several into one
figure, and ``ax_`` and ``figure_`` are matplotlib's own, to change what you like.
"""

# %%
# Machines and a pipeline
# -----------------------
# Three simulated machines, each with two domains: other speeds and another hall. One detector a
# machine makes scores that compare across machines. It needs the machine of each clip, which takes
# scikit-learn's metadata routing through a pipeline.

import sklearn
from sklearn.pipeline import make_pipeline

from skanopatch import GroupedDetector, MahalanobisDetector, MelPatcher, MelStatistics
from skanopatch.datasets import make_machine_sounds

sklearn.set_config(enable_metadata_routing=True)

sounds = make_machine_sounds(
    ["fan", "gearbox", "slider"], n_units=1, n_train=60, n_normal=24, n_anomalous=24,
    target_fraction=0.3, severity=2.0, duration=2.0, random_state=0,
)  # fmt: skip
train, test = (sounds.split == split for split in ("train", "test"))
pipe = make_pipeline(
    MelPatcher(duration=2.0), MelStatistics(), GroupedDetector(MahalanobisDetector())
)
pipe.fit(sounds.clips[train], groups=sounds.machine[train])

# %%
# By machine and domain
# ---------------------
# Each point is a clip that was not trained on. What lies right of the threshold is called an
# anomaly: hollow points there are false alarms, filled ones left of it are missed.

import matplotlib.pyplot as plt

from skanopatch import ScoreDisplay

ScoreDisplay.from_estimator(
    pipe,
    sounds.clips[test],
    sounds.y[test],
    machine=sounds.machine[test],
    domain=sounds.domain[test],
    params={"groups": sounds.machine[test]},
)
plt.show()

# %%
# Where false alarms are few
# --------------------------
# The ROC curve is what every threshold would do. Whoever listens to a hundred machines cares for
# its left end only, which is shaded and which pAUC measures. A second display goes on the axes of
# the first.

from skanopatch import AnomalyRocDisplay, KNNDetector

of_slider = sounds.machine == "slider"
slider = make_pipeline(MelPatcher(duration=2.0), MelStatistics(), MahalanobisDetector())
slider.fit(sounds.clips[train & of_slider])
neighbors = make_pipeline(MelPatcher(duration=2.0), MelStatistics(), KNNDetector())
neighbors.fit(sounds.clips[train & of_slider])

clips, y = sounds.clips[test & of_slider], sounds.y[test & of_slider]
display = AnomalyRocDisplay.from_estimator(slider, clips, y, name="Mahalanobis")
AnomalyRocDisplay.from_estimator(
    neighbors, clips, y, name="nearest neighbour", ax=display.ax_, plot_chance_level=True
)
plt.show()

# %%
# How clips lie to each other
# ---------------------------
# The first two principal components of the embeddings. They show the directions of most variance,
# which need not be those that a fault moves: here the domains lie apart and the faults do not,
# although the detector, which measures distance in all directions, finds most of them. ``reducer``
# takes any other transformer, such as ``sklearn.manifold.TSNE()``.

from skanopatch import EmbeddingDisplay

EmbeddingDisplay.from_estimator(slider, clips, y, domain=sounds.domain[test & of_slider])
plt.show()

# %%
# A long recording
# ----------------
# A recording of two minutes, in which the rail is damaged from 1:00 to 1:30. Two simulations with
# one seed give it with and without the damage. It is cut into windows of the length that the
# pipeline uses of a clip, here with one second between their starts.

import numpy as np

from skanopatch import TimelineDisplay

settings = {"n_units": 1, "n_train": 0, "n_normal": 0, "n_anomalous": 4, "duration": 120.0}
with_fault, without_fault = (
    make_machine_sounds(["slider"], **settings, severity=severity, random_state=0)
    for severity in (3.0, 0.0)
)
clip = np.flatnonzero((with_fault.fault == "rail_defect") & (with_fault.domain == "source"))[0]
recording = without_fault.clips[clip]
is_damaged = slice(60 * sounds.sample_rate, 90 * sounds.sample_rate)
recording[is_damaged] = with_fault.clips[clip, is_damaged]

TimelineDisplay.from_estimator(slider, recording, hop=1.0)
plt.show()

sklearn.set_config(enable_metadata_routing=False)
