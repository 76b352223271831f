"""
Score a folder on a Dask cluster
================================

This script fits a model on the recordings of one folder and scores those of another folder::

    pip install 'skanopatch[dask]'
    python cluster_dask.py NORMAL NEW scores.csv [SCHEDULER]

``SCHEDULER`` is the address of a Dask scheduler. Without it, the script starts two processes on
this computer. All computers must have the folders under the same paths.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from joblib import Parallel, delayed, parallel_config

from skanopatch import AnomalousSoundDetector

CLIPS_A_TASK = 50  # 0.3 s of work


def score(model, paths):
    """Score some clips in one worker, which shares this task with no other."""
    with parallel_config(backend="sequential"):
        return model.score_samples(paths)


def main(normal, new, out, scheduler=None):
    normal, new = (sorted(map(str, Path(folder).glob("*.wav"))) for folder in (normal, new))
    cluster = scheduler or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(cluster):
        # Workers read the files and compute spectrograms; the detector is fitted here.
        with parallel_config(backend="dask"):
            model = AnomalousSoundDetector(map_detector="drop").fit(normal)
        # The model goes to each worker once. Then paths travel one way and scores the other.
        tasks = [new[i : i + CLIPS_A_TASK] for i in range(0, len(new), CLIPS_A_TASK)]
        with parallel_config(backend="dask", scatter=[model]):
            scores = np.concatenate(Parallel()(delayed(score)(model, task) for task in tasks))
    table = pd.DataFrame({"clip": new, "score": scores / model.offset_})
    table.to_csv(out, index=False)
    print(f"{len(new)} clips scored; {(scores < model.offset_).sum()} are anomalies")


if __name__ == "__main__":
    main(*sys.argv[1:])
