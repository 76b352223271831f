"""
What a threshold promises
=========================

A threshold with a false-alarm rate of 0.1 should call one new normal clip in ten an anomaly. This
example shows why scores of the training clips do not give such a threshold, and why scores of
left-out clips do.
"""

# %%
# Three kinds of scores
# ---------------------
# There are features of 30 normal clips to fit on, and of 2,000 new normal clips. A
# nearest-neighbour detector can compute three kinds of scores:
#
# * of the clips that it was fitted on: each is compared with all 30 clips, itself included;
# * of the same clips, each while it is left out of the fit;
# * of new clips.

import numpy as np
from sklearn.neighbors import NearestNeighbors

from skanopatch import KNNDetector

rng = np.random.default_rng(0)
X, new_X = rng.normal(size=(30, 8)), rng.normal(size=(2000, 8))

detector = KNNDetector(n_neighbors=2, metric="euclidean", false_alarm_rate=0.1).fit(X)
neighbours = NearestNeighbors(n_neighbors=2).fit(X)
distances = {
    "training clips, themselves included": neighbours.kneighbors(X)[0].mean(axis=1),
    "training clips while left out": -detector.training_scores_,
    "new normal clips": -detector.score_samples(new_X),
}

# %%
# Where each puts the threshold
# -----------------------------
# The scores of training clips are far too normal. A threshold at their 90 % quantile would call
# most new normal clips anomalies. Left-out clips score like new clips, so the threshold of the
# detector holds.

import matplotlib.pyplot as plt

thresholds = [np.quantile(distances["training clips, themselves included"], 0.9), -detector.offset_]
new = distances["new normal clips"]
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
bins = np.linspace(0, 6, 61)
for (name, values), color in zip(distances.items(), ["#D55E00", "#0072B2", "0.6"], strict=True):
    ax.hist(values, bins, density=True, histtype="stepfilled", alpha=0.6, color=color, label=name)
for threshold, color in zip(thresholds, ["#D55E00", "#0072B2"], strict=True):
    false_alarms = np.mean(new > threshold)
    ax.axvline(threshold, color=color, ls="--", label=f"threshold: {false_alarms:.0%} false alarms")
ax.set(xlabel="distance from normal", ylabel="density")
ax.legend(frameon=False)
plt.show()

# %%
# How much a single threshold varies
# ----------------------------------
# The rate holds on average over many fits. A single threshold from few clips may have another rate.
# The points are means of 40 fits. The bars go from the 10 % to the 90 % quantile.

sizes, rates = [10, 20, 50, 100], []
for size in sizes:
    rates.append([])
    for _ in range(40):
        fitted = KNNDetector(n_neighbors=2, metric="euclidean").fit(rng.normal(size=(size, 8)))
        rates[-1].append(np.mean(fitted.predict(new_X) == -1))
rates = np.array(rates)

figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
low, high = np.quantile(rates, [0.1, 0.9], axis=1)
means = rates.mean(axis=1)
positions = np.arange(len(sizes))
ax.errorbar(positions, means, yerr=[means - low, high - means], fmt="o", color="#0072B2", capsize=4)
ax.axhline(0.1, color="0.2", ls="--", label="set")
ax.set_xticks(positions, sizes)
ax.set(xlabel="normal clips to fit on", ylabel="false-alarm rate", ylim=(0, None))
ax.legend(frameon=False)
plt.show()

# %%
# Conclude from the picture that more normal clips make a single threshold more reliable: the bars
# become shorter, and the mean stays near the rate that was set.
