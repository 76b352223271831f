"""
Grid search with normals only
=============================

To choose settings, you need clips with a fault. But a detector must not be trained on them. A plain
:class:`~sklearn.model_selection.GridSearchCV` trains on them. This example shows how this changes
the scores and the choice.
"""

# %%
# The clips are of one unit. A third of them have a fault. They are shuffled. Other clips are kept
# for a test at the end.

import numpy as np

from skanopatch.datasets import make_machine_sounds

sounds = make_machine_sounds(
    ["gearbox"], n_units=1, n_train=0, n_normal=120, n_anomalous=120, duration=2.0, severity=3.0,
    target_fraction=0.0, random_state=0,
)  # fmt: skip
normal, faulty = np.flatnonzero(sounds.y == 1), np.flatnonzero(sounds.y == -1)
search_rows = np.random.default_rng(0).permutation(np.r_[normal[:60], faulty[:30]])
fresh_rows = np.r_[normal[60:], faulty[30:]]
X, y = sounds.clips[search_rows], sounds.y[search_rows]

# %%
# The search
# ----------
# :class:`~skanopatch.FitOnNormal` drops the anomalous clips in each call of ``fit``: in each fold,
# and in the final ``refit`` on all clips, which a splitter cannot change.
# :func:`~skanopatch.make_anomaly_scorer` gives higher results if anomalies score lower. ``memory``
# keeps the output of the first steps, so detectors with different settings share the spectrograms
# of a fold.
#
# The folds are stratified, so that each has clips of both kinds.

from tempfile import TemporaryDirectory

from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline

from skanopatch import FitOnNormal, KNNDetector, MelPatcher, MelStatistics, make_anomaly_scorer

cache = TemporaryDirectory()
pipe = Pipeline(
    [
        ("patches", MelPatcher(duration=2.0)),
        ("statistics", MelStatistics()),
        ("detector", KNNDetector(metric="euclidean")),
    ],
    memory=cache.name,
)
neighbors = [1, 2, 4, 8, 16]
grid = {"patches__frame_length": [0.025, 0.1], "detector__n_neighbors": neighbors}
cv = StratifiedKFold(4, shuffle=True, random_state=0)
scorer = make_anomaly_scorer("auc")

right = GridSearchCV(
    FitOnNormal(pipe),
    {f"estimator__{name}": values for name, values in grid.items()},
    scoring=scorer,
    cv=cv,
)
right.fit(X, y)
naive = GridSearchCV(pipe, grid, scoring=scorer, cv=cv).fit(X, y)

# %%
# What each way found
# -------------------
# In the naive way, clips with faults are among the clips that new ones are compared with. So a new
# clip with a fault has a near neighbour and passes as normal. The AUC in the search is too low. The
# refitted model has the same mistake.

fresh_X, fresh_y = sounds.clips[fresh_rows], sounds.y[fresh_rows]
fresh_auc = {}
for name, search in [("normals only", right), ("naive", naive)]:
    fresh_auc[name] = scorer(search, fresh_X, fresh_y)
    best = {key.split("__")[-1]: value for key, value in search.best_params_.items()}
    print(f"{name:13} best: {best}")
    print(
        f"{'':13} AUC in the search {search.best_score_:.3f}, on fresh clips {fresh_auc[name]:.3f}"
    )

# %%
# The label trap
# --------------
# Some data sets label anomalies 1 and normal clips 0. ``scoring="roc_auc"`` then expects that
# anomalies have high scores. But they have low ones, so it returns 1 - AUC, without a warning.
# ``pos_label`` of :func:`~skanopatch.make_anomaly_scorer` names the label of anomalies.

from sklearn.metrics import get_scorer

is_anomaly = (fresh_y == -1).astype(int)
right_scorer = make_anomaly_scorer("auc", pos_label=1)
print(f"scoring='roc_auc':                {get_scorer('roc_auc')(right, fresh_X, is_anomaly):.3f}")
print(f"make_anomaly_scorer(pos_label=1): {right_scorer(right, fresh_X, is_anomaly):.3f}")

# %%
# Both ways as a picture
# ----------------------
# Left: the AUC of each setting in cross-validation. Right: the AUC of the chosen model on fresh
# clips.

import matplotlib.pyplot as plt

fig, (left, right_ax) = plt.subplots(
    1, 2, sharey=True, width_ratios=[3, 1], figsize=(8, 3.6), layout="constrained"
)
colors = {"normals only": "#0072B2", "naive": "#D55E00"}
for name, search, prefix in [("normals only", right, "estimator__"), ("naive", naive, "")]:
    results = search.cv_results_
    for frame_length, style in zip(grid["patches__frame_length"], ["o-", "x--"], strict=True):
        rows = results[f"param_{prefix}patches__frame_length"] == frame_length
        left.plot(
            results[f"param_{prefix}detector__n_neighbors"][rows].astype(int),
            results["mean_test_score"][rows],
            style,
            color=colors[name],
            label=f"{name}, frames of {frame_length * 1000:g} ms",
        )
    bar = right_ax.bar(name, fresh_auc[name], color=colors[name])
    right_ax.bar_label(bar, fmt="%.2f")
left.set_xscale("log", base=2)
left.set_xticks(neighbors, neighbors)
left.set(title="in cross-validation", xlabel="n_neighbors", ylabel="AUC", ylim=(0.5, 1))
left.legend(fontsize="small")
right_ax.set_title("best of each,\nfresh clips")
plt.show()

cache.cleanup()

# %%
# Conclude from the picture that a search must fit on normal clips only. The naive way has a lower
# AUC for every setting, and its chosen model is worse on fresh clips.
