"""How much faster than real time clips become embeddings, from files of 10 s.

    python benchmarks/bench_embedding.py

Reading, log-mel, statistics and the fine-tuned default network together; how long a fit of
`n_clips` takes beside it, from a few epochs.
"""

import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import soundfile
from environment import print_environment
from sklearn.pipeline import make_pipeline

from skanopatch import AnoPatchEmbedder, FineTuning, MelPatcher

SEED, N_CLIPS, DURATION, REPEATS = 0, 64, 10, 5
N_TRAINING = 1000  # clips, whose fine-tuning is extrapolated to


def main():
    print_environment(SEED)
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.wav" for i in range(N_CLIPS)]
        labels = np.arange(N_CLIPS) % 4
        time = np.arange(DURATION * 16000) / 16000
        for path, label in zip(paths, labels, strict=True):
            # A tone a class.
            tone = 0.1 * np.sin(2 * np.pi * 500 * (label + 1) * time)
            soundfile.write(path, tone + 0.1 * rng.normal(size=len(time)), 16000)
        for name, labels_of_fit in (("without labels", None), ("fine-tuned", labels)):
            embedder = AnoPatchEmbedder(fine_tuning=FineTuning(max_epochs=3), random_state=SEED)
            pipe = make_pipeline(MelPatcher(), embedder)
            pipe.fit(paths, anopatchembedder__labels=labels_of_fit)
            seconds = []
            for _ in range(REPEATS):
                start = perf_counter()
                pipe.transform(paths)
                seconds.append(perf_counter() - start)
            factor = N_CLIPS * DURATION / np.median(seconds)
            print(f"{name}: {factor:.0f} times real time")
        epoch = np.median([epoch["dur"] for epoch in pipe[-1].history_]) / N_CLIPS * N_TRAINING
        print(
            f"an epoch of {N_TRAINING} clips: {epoch:.0f} s; the default's 28: "
            f"{28 * epoch / 60:.1f} min"
        )


if __name__ == "__main__":
    main()
