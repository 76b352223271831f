"""Which clips each area of a section compares, in 2021 and since 2022."""

import matplotlib.pyplot as plt
import numpy as np

from skanopatch.metrics import dcase_scores

GROUPS = [("source", 1), ("source", -1), ("target", 1), ("target", -1)]
NAMES = ["source\nnormal", "source\nanomalous", "target\nnormal", "target\nanomalous"]
AREAS = {2021: {"auc_source": (0, [1]), "auc_target": (2, [3])}}
AREAS[2024] = {"auc_source": (0, [1, 3]), "auc_target": (2, [1, 3])}

rng = np.random.default_rng(3)
clips = [rng.normal(centre, 0.8, 50) for centre in (0.0, 1.5, 1.6, 3.0)]
domain = np.repeat([name for name, _ in GROUPS], 50)
y = np.repeat([label for _, label in GROUPS], 50)

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
for axis, (year, areas) in zip(axes, AREAS.items(), strict=True):
    scores = dcase_scores(
        y,
        np.concatenate(clips),
        machine=["fan"] * 200,
        section=[0] * 200,
        domain=domain,
        year=year,
    )
    for place, (group, own) in enumerate(zip(GROUPS, clips, strict=True)):
        colour = "#0072B2" if group[1] == 1 else "#D55E00"
        axis.plot(place + rng.uniform(-0.15, 0.15, 50), own, ".", color=colour, alpha=0.6)
    for row, (name, (normal, anomalous)) in enumerate(areas.items()):
        height = 5.2 + 0.9 * row
        axis.plot([normal, *anomalous], [height] * (1 + len(anomalous)), color="grey", zorder=1)
        axis.plot(normal, height, "o", color="#0072B2")
        axis.plot(anomalous, [height] * len(anomalous), "o", color="#D55E00")
        value = scores.per_section[name].iloc[0]
        axis.text(1.5, height + 0.2, f"{name} {value:.2f}", ha="center")
    axis.set(title="2021" if year == 2021 else "2022 to 2026", ylim=(-2.5, 7))
    axis.set_xticks(range(4), NAMES)
axes[0].set_ylabel("anomaly score")
