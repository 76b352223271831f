"""
Scores as pictures
==================

Which machine raises false alarms? Which of two pipelines is better if there may be few false
alarms? When did the fault begin? Displays draw the answers. They follow scikit-learn's convention:

* ``from_estimator`` takes a fitted pipeline, and ``from_predictions`` takes scores from anywhere;
* ``ax`` draws into axes that exist, so one figure can have several displays;
* ``ax_`` and ``figure_`` are matplotlib's objects, with which you can change the picture.
"""

# %%
# Machines and a pipeline
# -----------------------
# There are three simulated machines. Each has two domains, which differ in speed and hall. With one
# detector per machine, the scores of different machines can be compared. The detector needs the
# machine of each clip. scikit-learn's metadata routing passes it through the pipeline.

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
# Each point is a clip that was not used for training. Points to the right of the threshold are
# called anomalies. Hollow points there are false alarms. Filled points to the left of the threshold
# are faults that are missed.

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
# Few false alarms
# ----------------
# The ROC curve shows the false alarms and the faults found for every possible threshold. If a
# hundred machines are watched, only few false alarms are acceptable. This is the left end of the
# curve, which is shaded. pAUC measures it. The second display is drawn into the axes of the first.

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
# Which clips are similar
# -----------------------
# The picture shows the first two principal components of the features. These are the directions in
# which clips differ most. A fault may change other directions. Here the domains are apart, and the
# faults are not. The detector still finds most faults, because it measures the distance in all
# directions. ``reducer`` takes any other transformer, such as ``sklearn.manifold.TSNE()``.

from skanopatch import EmbeddingDisplay

EmbeddingDisplay.from_estimator(slider, clips, y, domain=sounds.domain[test & of_slider])
plt.show()

# %%
# A long recording
# ----------------
# In this recording of two minutes, the rail is damaged from 1:00 to 1:30. Two simulations with the
# same seed give the recording with and without the damage. The display cuts it into windows that
# are as long as a clip of the pipeline. A new window starts every second.

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

# %%
# Conclude from the last picture when to listen: the distance rises above the threshold while the
# rail is damaged. Use :class:`~skanopatch.ScoreDisplay` first, to see how many clips are on the
# wrong side of the threshold.
