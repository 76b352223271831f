"""Reproduce the paper: BEATs, fine-tuned on DCASE Task 2, and the nearest neighbour's distance.

    python benchmarks/paper_protocol.py DATA --year 2020 --beats BEATs_iter3.pt --work RUN
    python benchmarks/paper_protocol.py DATA --year 2023 --beats BEATs_iter3.pt --work RUN \
        --subset evaluation --ground-truth dcase2023_task2_evaluator

DATA holds the folders of the machines, as `load_dcase` reads them and `fetch_dcase` gets them. It
wants a GPU. Stopped at any moment, the same command goes on from the last epoch, or the last
machine that was embedded: RUN keeps all that, and at the end the tables and the files of a
submission. The last lines are the official score, with its 95 % interval, and the published one.

The settings are those of Jiang et al. 2024 (arXiv 2406.11364): BEATs iter3 on 10 s at 16 kHz, masks
of up to 80 frames and 80 bins (here at most half of the bins, 64), attentive statistics pooling, a
linear layer, ArcFace with s = 30 and m = 0.2 on machine, section and attributes, AdamW with a
linear warm-up, batches of 32; then one neighbour by cosine distance among the normal clips of the
same machine and section. ``--tuning lora`` trains updates of rank 64 instead of the backbone, as
ASDKit does (arXiv 2507.10264). The width of the embedding, the epochs and the learning rates are
our choice: we could not read the paper's.
"""

import argparse
from pathlib import Path

from environment import print_environment

from skanopatch import FineTuning, KNNDetector, evaluate_dcase, make_anopatch_pipeline

SECONDS, N_DIMS = 10.0, 128
LEARNING_RATE = {"full": 1e-4, "lora": 5e-4}

# As a later report of the same group prints them: for 2020 the mean of AUC and pAUC, for 2023 the
# official score.
PUBLISHED = {
    2020: {"development": 0.909, "evaluation": 0.943},
    2023: {"development": 0.642, "evaluation": 0.742},
}


def main(arguments=None):
    options = parse(arguments)
    print_environment(options.seed)
    evaluation = evaluate_dcase(
        make_pipeline(options),
        options.data,
        year=options.year,
        subset=options.subset,
        ground_truth=options.ground_truth,
        domains=False,
        cache=options.work / "cache",
        verbose=1,
    )
    evaluation.write(options.work / f"{options.year}_{options.subset}_{options.tuning}")
    published = PUBLISHED[options.year][options.subset]
    print(f"\n{evaluation}\npublished: {published}")


def make_pipeline(options):
    embedder = {
        "statistics": False,
        "pooling": "attentive",
        "fine_tuning": FineTuning(
            options.tuning,
            lora_rank=64,
            n_dims=N_DIMS,
            scale=30.0,
            margin=0.2,
            time_mask=80,
            frequency_mask=80,
            optimizer="AdamW",
            lr=LEARNING_RATE[options.tuning],
            warmup=0.1,
            max_epochs=options.epochs,
            checkpoint_dir=options.work / "checkpoints",
            n_workers=options.workers,
        ),
        "batch_size": 32,
        "random_state": options.seed,
        "device": options.device,
        "verbose": 1,
    }
    return make_anopatch_pipeline(
        f"beats:{options.beats}",
        detector=KNNDetector(n_neighbors=1, metric="cosine"),
        melpatcher__duration=SECONDS,
        melpatcher__n_jobs=max(1, options.workers),
        **{f"anopatchembedder__{name}": value for name, value in embedder.items()},
    )


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with the folders of the machines")
    parser.add_argument("--year", type=int, choices=sorted(PUBLISHED), required=True)
    parser.add_argument("--subset", choices=["development", "evaluation"], default="development")
    parser.add_argument("--ground-truth", type=Path, help="folder of the official evaluator")
    parser.add_argument("--beats", type=Path, required=True, help="BEATs_iter3.pt")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is computed")
    parser.add_argument("--tuning", choices=sorted(LEARNING_RATE), default="full")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=8, help="processes that read clips")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
