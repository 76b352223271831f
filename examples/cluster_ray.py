"""
Score a folder on a Ray cluster
===============================

This script fits a model on the recordings of one folder and scores those of another folder::

    pip install 'skanopatch[ray]'
    python cluster_ray.py NORMAL NEW scores.csv [ADDRESS]

``ADDRESS`` is the address of a Ray cluster. Without it, the script starts Ray with two processes on
this computer. All computers must have the folders under the same paths.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import ray
from joblib import Parallel, delayed, parallel_config
from ray.util.joblib import register_ray

from skanopatch import AnomalousSoundDetector

CLIPS_A_TASK = 50  # 0.3 s of work


def score(stored_model, paths):
    """Score some clips in one worker, which shares this task with no other."""
    with parallel_config(backend="sequential"):
        return ray.get(stored_model).score_samples(paths)


def main(normal, new, out, address=None):
    normal, new = (sorted(map(str, Path(folder).glob("*.wav"))) for folder in (normal, new))
    size = {"address": address} if address else {"num_cpus": 2}
    ray.init(**size, include_dashboard=False)
    register_ray()
    with parallel_config(backend="ray"):
        # Workers read the files and compute spectrograms; the detector is fitted here.
        model = AnomalousSoundDetector(map_detector="drop").fit(normal)
        # The model goes to each computer once. Then paths travel one way and scores the other.
        stored = ray.put(model)
        tasks = [new[i : i + CLIPS_A_TASK] for i in range(0, len(new), CLIPS_A_TASK)]
        scores = np.concatenate(Parallel()(delayed(score)(stored, task) for task in tasks))
    ray.shutdown()
    table = pd.DataFrame({"clip": new, "score": scores / model.offset_})
    table.to_csv(out, index=False)
    print(f"{len(new)} clips scored; {(scores < model.offset_).sum()} are anomalies")


if __name__ == "__main__":
    main(*sys.argv[1:])
