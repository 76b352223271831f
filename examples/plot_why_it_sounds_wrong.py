"""
Why it sounds wrong
===================

A score says how far a clip is from normal. An explanation says why, in words and in a picture. This
example adds a faint whine to a clip of a gearbox that runs well. Then the model explains the clip.
"""

# %%
# A whine that is added to a normal clip
# --------------------------------------
# The clip was not used to fit the model. The whine is 13 dB quieter than the gearbox.

import numpy as np

from skanopatch import AnomalousSoundDetector
from skanopatch.datasets import make_machine_sounds

sounds = make_machine_sounds(
    ["gearbox"], n_units=1, n_train=40, n_normal=2, n_anomalous=2, target_fraction=0.0,
    duration=3.0, random_state=0,
)  # fmt: skip
model = AnomalousSoundDetector().fit(sounds.clips[sounds.split == "train"])

is_normal = (sounds.split == "test") & (sounds.domain == "source") & (sounds.y == 1)
normal_clip = sounds.clips[is_normal][0]
seconds = np.arange(len(normal_clip)) / sounds.sample_rate
loudness = np.sqrt(np.mean(normal_clip**2))
whine = 10 ** (-13 / 20) * loudness * np.sqrt(2) * np.sin(2 * np.pi * 2500 * seconds)

# %%
# In words
# --------
# The first sentence is the decision. The next ones name what the clip has and normal clips do not
# have. The last one names the parts of the score.

import textwrap

for sentence in model.explain([normal_clip + whine])[0].sentences():
    print(textwrap.fill(sentence, 76))

# %%
# In a picture
# ------------
# Left: the spectrum of the clip, and behind it the range of all normal clips. A dotted line marks
# the whine. The whine is within the range of all normal clips, but 12 dB above the most similar
# ones.
#
# Right: the parts of the score. The first bar is the distance of a typical normal clip. Each cause
# adds to it. The dashed line is the threshold.

import matplotlib.pyplot as plt

from skanopatch import ExplanationDisplay

ExplanationDisplay.from_estimator(model, normal_clip + whine)
plt.show()

# %%
# Conclude from the picture that the clip is an anomaly because of a tone near 2,500 Hz: this is
# where the whine was added. Now somebody can listen at this frequency.
