"""Compare an exported model with its pipeline: seconds and megabytes, and AUC on recordings.

    python benchmarks/bench_onnx.py [FOLDER] [--network NAME] [--skip-large]

Speed: a pipeline from `MelPatcher` through a ViT-base (12 layers of 768, random weights) to
`KNNDetector` scores clips of 10 s, one at a time on one thread, and so do its exports, in turns.
The default `AnomalousSoundDetector`, which has no network, is measured likewise.

AUC: for each set of recordings in FOLDER, laid out as `bench_recipes.py` says, and for simulated
machines, the pipeline is fitted on every other normal clip (flight, of the propellers) and scores
the rest; so do its exports. The ViTs are `anopatch-tiny` as it is in this package, without
statistics, and the ViT-base.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from bench_recipes import make_sets
from environment import print_environment, time_in_turns
from sklearn.pipeline import make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    OnnxScorer,
    export_onnx,
)
from skanopatch.metrics import auc_score

SEED, REPEATS, N_CLIPS, SECONDS = 0, 7, 12, 10.0
LARGE, SMALL = "timm:vit_base_patch16_224", "anopatch-tiny"
PRECISIONS = ("float32", "int8")
ON = ("fan", "valve", "propellers -15 dB", "simulated fan", "simulated valve")


def make_network_pipeline(backbone, duration=SECONDS):
    embedder = AnoPatchEmbedder(backbone, statistics=False, random_state=SEED, device="cpu")
    return make_pipeline(MelPatcher(duration=duration), embedder, KNNDetector())


def export(model, folder):
    """Return the scorer of each precision."""
    scorers = {}
    for precision in PRECISIONS:
        path = folder / f"{precision}.onnx"
        export_onnx(model, path, precision=precision)
        scorers[precision] = OnnxScorer(path, n_threads=1)
    return scorers


def measure_speed(name, model, folder):
    rng = np.random.default_rng(SEED)
    clips = rng.normal(scale=0.1, size=(N_CLIPS, round(SECONDS * 16000))).astype(np.float32)
    model.fit(clips)
    scorers = export(model, folder)
    functions = [lambda m=m: m.score_samples(clips[:1]) for m in (model, *scorers.values())]
    for function in functions:
        function()
    torch_seconds, *seconds = time_in_turns(functions, REPEATS)
    print(f"\n{name}: the pipeline takes {torch_seconds:.3f} s for a clip of {SECONDS:g} s")
    for scorer, taken in zip(scorers.items(), seconds, strict=True):
        megabytes = Path(scorer[1].path).stat().st_size / 1e6
        print(
            f"  {scorer[0]}: {taken:.3f} s, {torch_seconds / taken:.2f} times as fast, "
            f"{megabytes:.1f} MB"
        )


def measure_auc(name, recordings, backbone, folder):
    kinds = np.unique(recordings.groups[recordings.is_normal])
    is_fitted = recordings.is_normal & np.isin(recordings.groups, kinds[::2])
    clips = np.empty(len(recordings.clips), dtype=object)
    clips[:] = recordings.clips
    model = make_network_pipeline(backbone, duration=None).fit(list(clips[is_fitted]))
    rest, y = list(clips[~is_fitted]), np.where(recordings.is_normal[~is_fitted], 1, -1)
    models = {"pipeline": model, **export(model, folder)}
    scores = {kind: -m.score_samples(rest) for kind, m in models.items()}
    auc = {kind: auc_score(y, values) for kind, values in scores.items()}
    error = np.abs(scores["float32"] / scores["pipeline"] - 1).max()
    print(
        f"{name}, {backbone}: AUC {auc['pipeline']:.4f}; float32 {auc['float32']:.4f} "
        f"(scores within {error:.1e}); int8 {auc['int8']:.4f}, "
        f"a change of {auc['int8'] - auc['pipeline']:+.4f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--network", help="one ViT, for AUC")
    parser.add_argument("--skip-large", action="store_true", help="no ViT-base")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment(SEED)
    print(f"onnxruntime {onnxruntime.__version__}")
    large = [] if arguments.skip_large else [LARGE]
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of clips that are noise
        folder = Path(place)
        if arguments.network is None:
            detector = AnomalousSoundDetector(embedder="drop", detector=MahalanobisDetector())
            measure_speed("AnomalousSoundDetector", detector, folder)
            for backbone in (SMALL, *large):
                measure_speed(backbone, make_network_pipeline(backbone), folder)
        print()
        sets = make_sets(arguments.folder)
        for backbone in [arguments.network] if arguments.network else [SMALL, *large]:
            for name in ON:
                if name in sets:
                    measure_auc(name, sets[name](seed=SEED), backbone, folder)


if __name__ == "__main__":
    main()
