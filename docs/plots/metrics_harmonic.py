"""One machine that fails, under the arithmetic and the harmonic mean."""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import hmean

worst = np.linspace(0.02, 0.9, 100)
areas = np.column_stack([np.full((100, 6), 0.8), worst])

figure, axis = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
axis.plot(worst, areas.mean(axis=1), color="grey", linestyle="--", label="arithmetic mean")
axis.plot(worst, hmean(areas, axis=1), color="black", label="harmonic mean: official")
axis.axvline(0.5, color="grey", linestyle=":", linewidth=1)
axis.set(xlabel="seventh machine, six others at 0.8", ylabel="mean", ylim=(0, 1))
axis.legend(loc="lower right")
