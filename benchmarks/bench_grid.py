"""Time a grid over detectors with `Pipeline(memory=)` against embedding the clips once.

    python benchmarks/bench_grid.py [--n-clips 500] [--seconds 10]

12 settings of a `KNNDetector`, 5 folds, clips in wav files that are written on the fly. The seconds
are those of the processor, since machines are shared. The cache is empty at the start.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import numpy as np
import soundfile
from environment import print_environment
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline

from skanopatch import AnoPatchEmbedder, KNNDetector, MelPatcher

SEED, SAMPLE_RATE, N_FOLDS = 0, 16000, 5
GRID = {
    "knndetector__n_neighbors": [1, 2, 4, 8, 16, 32],
    "knndetector__metric": ["cosine", "euclidean"],
}


def seconds_of(function):
    """Return the processor's seconds and those of the clock that a call takes."""
    wall, processor = perf_counter(), process_time()
    function()
    return process_time() - processor, perf_counter() - wall


def write_clips(folder, n_clips, seconds):
    """Write clips of noise, and return their paths."""
    rng = np.random.default_rng(SEED)
    paths = [Path(folder) / f"{i}.wav" for i in range(n_clips)]
    for path in paths:
        soundfile.write(path, 0.1 * rng.normal(size=round(seconds * SAMPLE_RATE)), SAMPLE_RATE)
    return [str(path) for path in paths]


def mean_score(estimator, X, y=None):
    """Return the mean score of clips, which costs one pass over them."""
    return float(estimator.score_samples(X).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-clips", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    print_environment(SEED)
    for name, statistics in (("statistics", True), ("anopatch-tiny, frozen", False)):
        with TemporaryDirectory() as folder:
            clips = write_clips(folder, arguments.n_clips, arguments.seconds)
            patcher = MelPatcher(duration=arguments.seconds)
            embedder = AnoPatchEmbedder(statistics=statistics, random_state=0)
            once = make_pipeline(patcher, embedder)
            once.fit(clips[:20]).transform(clips[:20])  # imports
            embedding = seconds_of(lambda: clone(once).fit_transform(clips))  # noqa: B023
            pipe = make_pipeline(patcher, embedder, KNNDetector(), memory=str(Path(folder) / "cache"))
            search = GridSearchCV(pipe, GRID, scoring=mean_score, cv=KFold(N_FOLDS))
            grid = seconds_of(lambda: search.fit(clips))  # noqa: B023
        print(
            f"{name}, {arguments.n_clips} clips of {arguments.seconds:g} s: embedding once "
            f"{embedding[0]:.1f} s of the processor, {embedding[1]:.1f} s; grid {grid[0]:.1f}, "
            f"{grid[1]:.1f} s: {grid[0] / embedding[0]:.2f} times"
        )


if __name__ == "__main__":
    main()
