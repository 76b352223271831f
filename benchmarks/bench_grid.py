"""Time a grid over detectors against embedding its clips once.

    python benchmarks/bench_grid.py [--n-clips 500] [--seconds 1] [--with-memory]

12 settings of a `KNNDetector`, 5 folds, clips in wav files that are written on the fly. The clips
are embedded once, by steps that learn nothing from them, and the grid runs over what is learnt:
scales and detector. ``--with-memory`` also times the whole pipeline with an empty
`Pipeline(memory=)`, which keeps what a fold is trained on, and computes the clips that it tests
again for each setting. The seconds are those of the processor, since machines are shared.
"""

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import numpy as np
import soundfile
from environment import print_environment
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch import AnoPatchEmbedder, BandStatistics, KNNDetector, MelPatcher

SEED, SAMPLE_RATE, N_FOLDS = 0, 16000, 5
GRID = {
    "knndetector__n_neighbors": [1, 2, 4, 8, 16, 32],
    "knndetector__metric": ["cosine", "euclidean"],
}


def seconds_of(function):
    """Return the processor's seconds that a call takes, and what it returns."""
    start = process_time()
    result = function()
    return process_time() - start, result


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


def embedders(seconds):
    """Return steps that learn nothing, steps that learn, and those of a whole pipeline."""
    patcher = MelPatcher(duration=seconds)
    network = AnoPatchEmbedder(statistics=False, random_state=SEED)
    statistics = make_pipeline(patcher, BandStatistics())
    scaler = StandardScaler(with_mean=False)
    return {
        "statistics": (statistics, [scaler], [patcher, AnoPatchEmbedder()]),
        "anopatch-tiny": (make_pipeline(patcher, network), [], [patcher, network]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-clips", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--with-memory", action="store_true")
    arguments = parser.parse_args()
    print_environment(SEED)
    with TemporaryDirectory() as folder:
        clips = write_clips(folder, arguments.n_clips, arguments.seconds)
        for name, (embed, learnt, whole) in embedders(arguments.seconds).items():
            grid = partial(GridSearchCV, param_grid=GRID, scoring=mean_score, cv=KFold(N_FOLDS))
            clone(embed).fit_transform(clips[:20])  # imports
            once, X = seconds_of(partial(clone(embed).fit_transform, clips))
            search, _ = seconds_of(partial(grid(make_pipeline(*learnt, KNNDetector())).fit, X))
            print(
                f"{name}, {arguments.n_clips} clips of {arguments.seconds:g} s: embedding once "
                f"{once:.2f} s, grid on embeddings {search:.2f} s: both {1 + search / once:.2f} "
                "times embedding once"
            )
            if arguments.with_memory:
                pipe = make_pipeline(*whole, KNNDetector(), memory=str(Path(folder) / name))
                search, _ = seconds_of(partial(grid(pipe).fit, clips))
                print(f"  Pipeline(memory=): {search:.2f} s, {search / once:.2f} times")


if __name__ == "__main__":
    main()
