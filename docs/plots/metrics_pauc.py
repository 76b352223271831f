"""What is under the curve up to a false-alarm rate of 0.1, and McClish's ruler for it."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_curve

from skanopatch.metrics import auc_score, pauc_score

rng = np.random.default_rng(0)
y = np.repeat([1, -1], 400)
steady = np.concatenate([rng.normal(0, 1, 400), rng.normal(1.1, 1, 400)])
some = np.concatenate([rng.normal(0, 1, 400), rng.normal(0, 1, 220), rng.normal(4, 0.5, 180)])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name, scores, colour in (
    ("all a little", steady, "#0072B2"),
    ("some for sure", some, "#D55E00"),
):
    fpr, tpr, _ = roc_curve(y == -1, scores)
    label = f"{name}: AUC {auc_score(y, scores):.2f}, pAUC {pauc_score(y, scores):.2f}"
    left.plot(fpr, tpr, color=colour, label=label)
    right.plot(fpr, tpr, color=colour)
    grid = np.linspace(0, 0.1, 200)
    right.fill_between(grid, np.interp(grid, fpr, tpr), color=colour, alpha=0.2)
left.axvspan(0, 0.1, color="grey", alpha=0.2)
left.plot([0, 1], [0, 1], color="grey", linestyle=":")
left.set(xlabel="false-alarm rate", ylabel="detection rate", title="two systems")
left.legend(loc="lower right")
right.plot([0, 0.1], [0, 0.1], color="grey", linestyle=":")
right.annotate("least: chance, 0.005 → 0.5", (0.05, 0.05), xytext=(0.035, 0.12))
right.plot([0, 0, 0.1], [0, 1, 1], color="black", linestyle="--")
right.annotate("most: 0.1 → 1", (0.05, 1), xytext=(0.035, 0.93))
right.set(xlim=(-0.002, 0.1), ylim=(0, 1.03), xlabel="false-alarm rate", title="up to 0.1")
