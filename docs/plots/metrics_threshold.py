"""Scores of normal and anomalous clips, a threshold, and the point of the ROC curve it is."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_curve

from skanopatch.metrics import auc_score

NORMAL, ANOMALY = "#0072B2", "#D55E00"
rng = np.random.default_rng(0)
normal, anomalous = rng.normal(0, 1, 400), rng.normal(1.8, 1.2, 400)
threshold = np.quantile(normal, 0.9)  # false_alarm_rate=0.1
y, scores = np.repeat([1, -1], 400), np.concatenate([normal, anomalous])
false_alarms, hits = np.mean(normal > threshold), np.mean(anomalous > threshold)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
bins = np.linspace(-3, 6, 46)
left.hist(normal, bins, color=NORMAL, alpha=0.6, label="normal")
left.hist(anomalous, bins, color=ANOMALY, alpha=0.6, label="anomalous")
left.axvline(threshold, color="black", linestyle="--")
left.annotate(" judged anomalous →", (threshold, left.get_ylim()[1] * 0.93))
left.set(xlabel="anomaly score", ylabel="clips", title=f"threshold {threshold:.2f}")
left.legend(loc="upper left")
fpr, tpr, _ = roc_curve(y == -1, scores)
right.plot(fpr, tpr, color="black", label=f"AUC {auc_score(y, scores):.3f}")
right.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance 0.5")
right.plot(false_alarms, hits, "o", color=ANOMALY)
right.annotate(
    f"the threshold: {false_alarms:.0%} false alarms,\n{hits:.0%} of the anomalies found",
    (false_alarms, hits),
    xytext=(0.22, 0.55),
    arrowprops={"arrowstyle": "->"},
)
right.set(xlabel="false-alarm rate", ylabel="detection rate", title="all thresholds: ROC curve")
right.legend(loc="lower right")
