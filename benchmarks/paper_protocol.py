"""Fine-tune a network on a year of DCASE Task 2, as the systems of the challenge do, and score it.

    python benchmarks/paper_protocol.py DATA --year 2023 --backbone beats:BEATs_iter3.pt --work RUN
    python benchmarks/paper_protocol.py DATA --year 2025 --backbone ced-tiny --loss adacos \
        --seeds 0 1 2 --subset evaluation --ground-truth dcase2025_task2_evaluator --work RUN

DATA holds the folders of the machines, as `load_dcase` reads them and `fetch_dcase` gets them. It
wants a GPU; the first lines say what a run costs there, from the floating-point operations of a
step. Stopped at any moment, the same command goes on from the last epoch, or the last machine that
was embedded: RUN keeps all that, and at the end the tables and the files of a submission, a folder
a seed. The last lines are the official score of each seed, their mean, and the published ones.

The system is that of Jiang et al. 2024 (arXiv 2406.11364): masks of up to 80 frames and 80 bins
(here at most half of the bins, 64), attentive statistics pooling, a linear layer, ArcFace with
s = 30 on machine, section and attributes; then one neighbour by cosine distance among the normal
clips of the same machine and section. Settings are those of later systems: LoRA of rank 64 on query
and value projections, 256 dimensions, AdamW with 1e-4 after 5,000 steps of linear warm-up, batches
of 8, 25 epochs, and mixup of half of the clips. ``--loss arcface`` has a margin of 0.2
(``--margin 0.5`` is in use too), ``--loss adacos`` is sub-cluster AdaCos with 16 centres that are
trained. Here the rate falls along a cosine after the warm-up, and mixup mixes log-mel spectra.

From 2025 on there are clips of a machine alone or of noise alone. ``--supplemental classes`` trains
on them too, as classes of their own. ``--supplemental noise`` mixes noise into a copy of each
training clip of its machine, 0 to 10 dB below the clip, and trains on copies and clips alike.
Detectors get none of these.

``--quick`` trains for one epoch on clips of a second, to see that everything is there.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from bench_finetuning import CPU_ATTENTION
from environment import print_environment
from torch.utils.flop_counter import FlopCounterMode

from skanopatch import FineTuning, KNNDetector, evaluate_dcase, make_anopatch_pipeline
from skanopatch.datasets import load_dcase
from skanopatch.embedding.arcface import ArcFace
from skanopatch.embedding.module import EmbeddingNetwork
from skanopatch.files import atomic_write
from skanopatch.spectra.patches import PatchGrid

SECONDS, EPOCHS, WARMUP, BATCH_SIZE = 10.0, 25, 5000, 8
N_DIMS, LORA_RANK = 256, 64
LEARNING_RATE = 1e-4
NOISE_BELOW = 0.0, 10.0  # dB below the training clip that it is mixed into

GPU, GPU_RATE = "A100 at 40 % of its 312 TFLOP/s in bfloat16", 0.4 * 312e12

# For 2020 the mean of AUC and pAUC, else the official score.
PUBLISHED = {
    (2020, "development"): {"Jiang et al.": 0.909, "open toolkit": 0.906},
    (2020, "evaluation"): {"Jiang et al.": 0.943, "open toolkit": 0.935},
    (2023, "development"): {"Jiang et al.": 0.642, "open toolkit": 0.627},
    (2023, "evaluation"): {"Jiang et al.": 0.742, "open toolkit": 0.715, "best": 0.7775},
    (2024, "evaluation"): {"best": 0.662},
    (2025, "evaluation"): {"best": 0.626},
}


def main(arguments=None):
    options = parse(arguments)
    print_environment(options.seeds)
    extra_clips, extra_labels = supplemental_clips(options)
    print(describe_cost(options, len(extra_clips)), flush=True)
    scores = []
    for seed in options.seeds:
        evaluation = evaluate_dcase(
            make_pipeline(options, seed),
            options.data,
            year=options.year,
            subset=options.subset,
            ground_truth=options.ground_truth,
            domains=False,
            extra_clips=extra_clips,
            extra_labels=extra_labels,
            cache=options.work / "cache",
            verbose=1,
        )
        loss = options.loss if options.loss == "adacos" else f"arcface{options.margin}"
        kind = "" if options.supplemental == "none" else f"_{options.supplemental}"
        name = f"{options.year}_{options.subset}_{options.tuning}_{loss}{kind}_seed{seed}"
        evaluation.write(options.work / name)
        print(f"\nseed {seed}\n{evaluation}")
        if evaluation.scores is not None:
            scores.append(evaluation.scores.official)
    if scores:
        spread = f" ± {np.std(scores, ddof=1):.4f}" if len(scores) > 1 else ""
        print(f"\nmean over {len(scores)} seeds: {np.mean(scores):.4f}{spread}")
    published = PUBLISHED.get((options.year, options.subset), {})
    listed = ", ".join(f"{value} ({source})" for source, value in published.items())
    print(f"published: {listed or 'none that we know'}")


def supplemental_clips(options):
    """Return further files to train on, and their labels."""
    if options.supplemental == "none":
        return [], []
    clips = load_dcase(options.data, year=options.year, subset=options.subset)
    is_further = clips.split == "supplemental"
    if options.supplemental == "classes":
        paths, labels = clips.paths[is_further].tolist(), clips.label[is_further].tolist()
    else:
        paths, labels = mix_noise(clips, options.work / "noise")
    if not paths:
        raise ValueError(
            f"{str(options.data)!r} has no supplemental clips of {options.year} for "
            f"supplemental={options.supplemental!r}."
        )
    return paths, labels


def mix_noise(clips, folder):
    """Write a copy with noise of each training clip whose section has noise; return the copies."""
    is_noise = (clips.split == "supplemental") & (clips.attributes.get("sound") == "noise")
    paths, labels = [], []
    for row in np.flatnonzero(clips.split == "train"):
        same = (clips.machine == clips.machine[row]) & (clips.section == clips.section[row])
        noises = clips.paths[is_noise & same]
        if not len(noises):
            continue
        path = folder / clips.machine[row] / Path(clips.paths[row]).name
        paths.append(str(path))
        labels.append(clips.label[row])
        if path.exists():  # from a run that was stopped
            continue
        rng = np.random.default_rng(row)
        sound, rate = soundfile.read(clips.paths[row], always_2d=True)
        noise, _ = soundfile.read(rng.choice(noises), always_2d=True)
        noise = noise[(rng.integers(len(noise)) + np.arange(len(sound))) % len(noise)]
        loudness = np.sqrt(np.mean(sound**2) / max(np.mean(noise**2), 1e-12))
        mixed = sound + loudness * 10 ** (-rng.uniform(*NOISE_BELOW) / 20) * noise
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            soundfile.write(file, mixed, rate, subtype="FLOAT", format="WAV")
    return paths, labels


def make_pipeline(options, seed):
    embedder = {
        "statistics": False,
        "pooling": "attentive",
        "fine_tuning": FineTuning(
            options.tuning,
            lora_rank=LORA_RANK,
            n_dims=N_DIMS,
            scale="adaptive" if options.loss == "adacos" else 30.0,
            margin=options.margin,
            mixup=0.5,
            time_mask=80,
            frequency_mask=80,
            optimizer="AdamW",
            lr=LEARNING_RATE,
            warmup=options.warmup,
            max_epochs=options.epochs,
            checkpoint_dir=options.work / "checkpoints",
            n_workers=options.workers,
        ),
        "batch_size": BATCH_SIZE,
        "random_state": seed,
        "device": options.device,
        "verbose": 1,
    }
    return make_anopatch_pipeline(
        options.backbone,
        detector=KNNDetector(n_neighbors=1, metric="cosine"),
        melpatcher__duration=options.seconds,
        melpatcher__n_jobs=max(1, options.workers),
        **{f"anopatchembedder__{name}": value for name, value in embedder.items()},
    )


def describe_cost(options, n_extra):
    """Say what the training and embedding of a seed cost, by the operations of one step."""
    clips = load_dcase(
        options.data, year=options.year, subset=options.subset, ground_truth=options.ground_truth
    )
    n_train, n_test = (int((clips.split == split).sum()) for split in ("train", "test"))
    n_fit = n_train + n_extra
    patcher = make_pipeline(options, 0)[0]
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1, round(options.seconds * patcher.sample_rate)))
    _, n_time, n_freq, _ = patcher.fit_transform(noise).shape
    height, width = np.broadcast_to(patcher.patch_size, 2).tolist()
    module = EmbeddingNetwork(
        options.backbone,
        grid=PatchGrid(n_time=n_time, n_freq=n_freq, height=height, width=width),
        n_dims=N_DIMS,
        tuning=options.tuning,
        lora_rank=LORA_RANK,
    )
    log_mel = torch.randn(1, n_time * height, n_freq * width)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as forward:
        module.eval()(log_mel)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as step:
        ArcFace(N_DIMS, 2)(module.train()(log_mel), torch.zeros(1, dtype=torch.long)).backward()
    training = options.epochs * n_fit * step.get_total_flops()
    embedding = (n_train + n_test) * forward.get_total_flops()
    n_steps = options.epochs * math.ceil(n_fit / BATCH_SIZE)
    return (
        f"cost of a seed: {n_fit} clips to train on, {n_steps} steps, "
        f"{step.get_total_flops() / 1e9:.3g} GFLOP a clip; with embedding "
        f"{(training + embedding) / 1e15:.3g} PFLOP, {(training + embedding) / GPU_RATE / 3600:.3g}"
        f" h on an {GPU}"
    )


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with the folders of the machines")
    parser.add_argument("--year", type=int, choices=range(2020, 2027), required=True)
    parser.add_argument("--subset", choices=["development", "evaluation"], default="development")
    parser.add_argument("--ground-truth", type=Path, help="folder of the official evaluator")
    parser.add_argument("--backbone", required=True, help="a name, such as beats:BEATs_iter3.pt")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is computed")
    parser.add_argument("--tuning", choices=["lora", "full", "head"], default="lora")
    parser.add_argument("--loss", choices=["arcface", "adacos"], default="arcface")
    parser.add_argument("--margin", type=float, default=0.2, help="of ArcFace, in radians")
    parser.add_argument("--supplemental", choices=["none", "classes", "noise"], default="none")
    parser.add_argument("--epochs", type=int, help=f"{EPOCHS} if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=8, help="processes that read clips")
    parser.add_argument("--quick", action="store_true", help="1 epoch, clips of 1 s")
    options = parser.parse_args(arguments)
    options.seconds = 1.0 if options.quick else SECONDS
    options.warmup = 0.1 if options.quick else WARMUP
    options.epochs = options.epochs or (1 if options.quick else EPOCHS)
    return options


if __name__ == "__main__":
    main()
