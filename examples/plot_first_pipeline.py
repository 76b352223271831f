"""
A first model
=============

There are 72 recordings of a gearbox that runs well. Which of the next recordings sound wrong? This
example simulates the recordings. It shows what a fault does to a spectrogram, fits a model on the
normal clips alone, and explains its scores, decisions and p-values.
"""

# %%
# Sounds
# ------
# :func:`~skanopatch.datasets.make_machine_sounds` simulates machines by their physics. Here it is
# one gearbox with its meshing teeth, its room and the noise of the factory. ``severity`` changes
# only the fault. So two calls with the same seed give the same clip without and with its fault.
# Their difference is the sound of the fault alone.

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
sounds = make_machine_sounds(**settings, severity=1.0)
without_fault = make_machine_sounds(**settings, severity=0.0)

clip = np.flatnonzero((sounds.fault == "tooth_damage") & (sounds.domain == "source"))[0]
sound_of_fault = sounds.clips[clip] - without_fault.clips[clip]

# %%
# What a fault looks like
# -----------------------
# :class:`~skanopatch.MelPatcher` turns clips into patches of their log-mel spectrogram, and
# :func:`~skanopatch.unpatchify` puts the patches together again. A damaged tooth gives one knock
# per turn. In most bands the knock is much quieter than the machine itself. So the two upper
# spectrograms hardly differ.

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
# :class:`~skanopatch.AnomalousSoundDetector` is the whole model: statistics of the spectrum, a
# distance from the statistics of the normal clips, and a threshold.
#
# ``false_alarm_rate`` is the share of new normal clips that may be called anomalies. A threshold
# from 72 clips does not meet the rate exactly. The standard deviation is about
# ``sqrt(0.1 * 0.9 / 73)``, which is 0.035.

from skanopatch import AnomalousSoundDetector
from skanopatch.metrics import auc_score

is_train = sounds.split == "train"
is_test = (sounds.split == "test") & (sounds.domain == "source")  # same hall, same speeds
model = AnomalousSoundDetector(MelPatcher(duration=2.0), false_alarm_rate=0.1)
model.fit(sounds.clips[is_train])

test_clips, y = sounds.clips[is_test], sounds.y[is_test]
distance = model.score_samples(test_clips) / model.offset_  # over that of the threshold
predicted = model.predict(test_clips)

print(f"AUC:          {auc_score(y, distance):.2f}")
print(f"false alarms: {np.mean(predicted[y == 1] == -1):.2f} of the normal clips")
print(f"found:        {np.mean(predicted[y == -1] == -1):.2f} of the clips with a fault")

# %%
# With fewer false alarms, fewer faults are found. The threshold moves without a new fit:

for rate in (0.05, 0.02):
    found = model.set_false_alarm_rate(rate).predict(test_clips) == -1
    print(f"{rate}: {np.mean(found[y == 1]):.2f} false alarms, {np.mean(found[y == -1]):.2f} found")

# %%
# P-values
# --------
# A p-value is the share of normal clips that are at least as anomalous. P-values of new normal
# clips are spread evenly from 0 to 1, and p-values of faults are small. With 72 clips, the smallest
# possible p-value is 1 / 73.

p_values = model.p_values(test_clips)
print(f"p <= 0.05: {np.mean(p_values[y == 1] <= 0.05):.2f} of the normal clips")
print(f"p <= 0.05: {np.mean(p_values[y == -1] <= 0.05):.2f} of the clips with a fault")

# %%
# Scores of normal clips and of faults
# ------------------------------------
# Each point is a clip. The dashed line is the threshold.

fault = sounds.fault[is_test]
kinds = {"none": ("#0072B2", "o"), "tooth_damage": ("#D55E00", "x"), "misalignment": ("k", "+")}
rng = np.random.default_rng(0)
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for place, (kind, (color, marker)) in enumerate(kinds.items()):
    of_kind = fault == kind
    height = place + rng.uniform(-0.2, 0.2, of_kind.sum())
    ax.scatter(distance[of_kind], height, color=color, marker=marker)
ax.axvline(1, color="0.2", linestyle="--", label="threshold")
ax.set_yticks(range(len(kinds)), ["no fault", "damaged tooth", "misalignment"])
ax.set_ylim(-0.6, 2.6)
ax.set_xlabel("distance over that of the threshold (above 1: anomaly)")
ax.legend(loc="upper right")
plt.show()

# %%
# Conclude from the picture that no threshold is right for all clips, because the scores overlap.
# The threshold decides between false alarms and missed faults. The AUC does not depend on it.
