"""
A first pipeline
================

A gearbox runs well for 72 recordings. Which of the next ones sound wrong? This example simulates
the recordings, looks at what a fault does to a spectrogram, fits a pipeline on the normal clips
alone and reads its scores.
"""

# %%
# Sounds
# ------
# :func:`~skanopatch.datasets.make_machine_sounds` simulates machines by their physics: here one
# gearbox with its meshing teeth, its room and the noise of the factory. Clips do not depend
# on the severity but for the fault, so two calls with one seed give the same clip without and with
# its fault, and their difference is the sound of the fault alone.

import matplotlib.pyplot as plt
import numpy as np

from skanopatch import MelPatcher, unpatchify
from skanopatch.datasets import make_machine_sounds

settings = {
    "machines": ["gearbox"],
    "n_units": 1,
    "n_train": 72,
    "n_normal": 200,
    "n_anomalous": 40,
    "target_fraction": 0.0,
    "duration": 2.0,
    "random_state": 0,
}
sounds = make_machine_sounds(**settings, severity=2.0)
without_fault = make_machine_sounds(**settings, severity=0.0)

clip = np.flatnonzero((sounds.fault == "tooth_damage") & (sounds.domain == "source"))[0]
sound_of_fault = sounds.clips[clip] - without_fault.clips[clip]

# %%
# What a fault looks like
# -----------------------
# :class:`~skanopatch.MelPatcher` turns clips into patches of their log-mel spectrogram;
# :func:`~skanopatch.unpatchify` puts the patches together again. A damaged tooth gives one knock a
# turn, well below the level of the machine itself in most bands: the two upper
# spectrograms differ by little.

patcher = MelPatcher(duration=2.0)
patches = patcher.fit_transform(
    np.stack([without_fault.clips[clip], sounds.clips[clip], sound_of_fault])
)
spectrograms = unpatchify(patches) * 10 / np.log(10)  # from the natural logarithm to dB

fig, axes = plt.subplots(3, 1, sharex=True, sharey=True, figsize=(7, 6), layout="constrained")
top = spectrograms.max()
titles = ["without the fault", "with a damaged tooth", "the damaged tooth alone"]
for ax, spectrogram, title in zip(axes, spectrograms, titles, strict=True):
    image = ax.imshow(
        spectrogram.T,
        origin="lower",
        aspect="auto",
        extent=(0, spectrogram.shape[0] * patcher.frame_shift, 0, patcher.n_mels),
        vmin=top - 80,
        vmax=top,
        cmap="cividis",
    )
    ax.set(title=title, ylabel="mel bin")
axes[-1].set_xlabel("time (s)")
fig.colorbar(image, ax=axes, label="level (dB)")
plt.show()

# %%
# Fit on normal clips, score new ones
# -----------------------------------
# :class:`~skanopatch.MelStatistics` describes a clip by the mean and the deviation of each mel bin,
# and :class:`~skanopatch.MahalanobisDetector` measures how far that is from the normal clips. There
# is one unit of one machine here, hence nothing that a network could learn to tell apart; with
# several units, :class:`~skanopatch.AnoPatchEmbedder` takes the place of the statistics.
#
# ``contamination`` is the false-alarm rate wanted on new normal clips. A threshold that is placed
# by 72 clips meets it give or take ``sqrt(0.1 * 0.9 / 73)``, a standard deviation of 0.035.

from sklearn.pipeline import make_pipeline

from skanopatch import MahalanobisDetector, MelStatistics
from skanopatch.metrics import auc_score

is_train = sounds.split == "train"
is_test = (sounds.split == "test") & (sounds.domain == "source")  # same hall, same speeds
pipe = make_pipeline(patcher, MelStatistics(), MahalanobisDetector(contamination=0.1))
pipe.fit(sounds.clips[is_train])

test_clips, y = sounds.clips[is_test], sounds.y[is_test]
decision = pipe.decision_function(test_clips)  # score_samples - offset_, negative for anomalies
predicted = pipe.predict(test_clips)

print(f"AUC:          {auc_score(y, -decision):.2f}")
print(f"false alarms: {np.mean(predicted[y == 1] == -1):.2f} of the normal clips")
print(f"found:        {np.mean(predicted[y == -1] == -1):.2f} of the clips with a fault")

# %%
# Scores overlap: the threshold decides which errors are made, and the AUC does not depend on it.

fault = sounds.fault[is_test]
kinds = {"none": ("#0072B2", "o"), "tooth_damage": ("#D55E00", "x"), "misalignment": ("k", "+")}
rng = np.random.default_rng(0)
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for place, (kind, (color, marker)) in enumerate(kinds.items()):
    of_kind = fault == kind
    height = place + rng.uniform(-0.2, 0.2, of_kind.sum())
    ax.scatter(decision[of_kind], height, color=color, marker=marker)
ax.axvline(0, color="0.2", linestyle="--", label="threshold")
ax.set_yticks(range(len(kinds)), ["no fault", "damaged tooth", "misalignment"])
ax.set_ylim(-0.6, 2.6)
ax.set_xlabel("decision function (negative: anomaly)")
ax.legend(loc="upper left")
plt.show()
