"""``skanopatch fit``: learn from normal recordings and write a model file."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from skanopatch.cli.clips import NewFile, example, find_clips, read_labels

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

EMBEDDERS = {
    "anopatch": "AnoPatchEmbedder",
    "band-statistics": "BandStatistics",
    "mel-statistics": "MelStatistics",
}
DETECTORS = {"mahalanobis": "MahalanobisDetector", "knn": "KNNDetector", "gmm": "GMMDetector"}

_LONGEST = 10.0  # seconds that are heard of each clip, if nothing else is said

# Clips that maps are learnt from: 0.3 s and 0.1 MB for each of 10 s.
_MOST_FOR_MAPS = 100


@click.command(epilog=example("skanopatch fit recordings/normal -o fan.skano", clips="NORMAL"))
@click.argument("normal", nargs=-1, required=True, metavar="NORMAL...")
@click.option("-o", "--output", type=NewFile(), required=True, help="The model file.")
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that are heard of each clip.  [default: the longest clip, at most 10]",
)
@click.option(
    "--contamination",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.1,
    show_default=True,
    help="The false-alarm rate wanted on new normal clips.",
)
@click.option(
    "--detector", type=click.Choice(list(DETECTORS)), default="mahalanobis", show_default=True
)
@click.option(
    "--embedder", type=click.Choice(list(EMBEDDERS)), default="anopatch", show_default=True
)
@click.option(
    "--backbone",
    default="anopatch-tiny",
    show_default=True,
    help="The network of the anopatch embedder and of the maps, see `skanopatch backbones`.",
)
@click.option(
    "--labels",
    "labels_table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CSV",
    help="A table with the columns file and label, the machine that a clip is of. Each "
    "machine gets a detector of its own, and the network is fine-tuned to tell them apart, from "
    "64 clips on in which they sound different.",
)
@click.option(
    "--labels-from-folder", is_flag=True, help="The same, with the name of a clip's folder."
)
@click.option(
    "--maps/--no-maps",
    default=True,
    show_default=True,
    help="Whether to learn, from 100 clips at most, where in time and frequency a clip is odd.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes that read clips.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out clips that cannot be used.")
def fit(
    normal: tuple[str, ...],
    output: str,
    duration: float | None,
    contamination: float,
    detector: str,
    embedder: str,
    backbone: str,
    labels_table: Path | None,
    labels_from_folder: bool,
    maps: bool,
    seed: int,
    jobs: int,
    skip_unreadable: bool,
) -> None:
    """Learn from NORMAL recordings what is normal, and write a model file."""
    if labels_table is not None and labels_from_folder:
        raise click.UsageError("--labels and --labels-from-folder exclude each other.")
    files, lengths = _check_files(find_clips(normal), skip_unreadable=skip_unreadable)
    labels = None
    if labels_from_folder:
        labels = _folders(files)
    elif labels_table is not None:
        labels = read_labels(labels_table, files)
    _check_counts(labels, len(files), maps=maps)

    import numpy as np

    import skanopatch

    patcher = {
        "melpatcher__duration": duration or min(_LONGEST, max(lengths)),
        "melpatcher__on_error": "nan" if skip_unreadable else "raise",
        "melpatcher__n_jobs": jobs,
    }
    network = {
        "anopatchembedder__random_state": seed,
        "anopatchembedder__verbose": int(sys.stderr.isatty()),
    }
    judge = _make_detector(detector, contamination, seed)
    pipeline = _make_pipeline(
        EMBEDDERS[embedder],
        backbone,
        judge if labels is None else skanopatch.GroupedDetector(judge),
        {**patcher, **(network if embedder == "anopatch" else {})},
    )
    told = {"anopatchembedder__labels": labels} if labels and embedder == "anopatch" else {}
    click.echo(f"Fitting on {len(files)} clips ...", err=True)
    # Step by step, since the embeddings are kept as well.
    embeddings = np.asarray(pipeline[:-1].fit_transform(files, **told))
    pipeline[-1].fit(embeddings, **({} if labels is None else {"groups": labels}))

    map_pipeline = None
    if maps:
        some = files[:: -(-len(files) // _MOST_FOR_MAPS)]
        click.echo(f"Learning maps from {len(some)} clips ...", err=True)
        map_pipeline = skanopatch.make_map_pipeline(
            backbone,
            detector=skanopatch.SubbandKNNDetector(contamination=contamination),
            **patcher,
            **network,
        ).fit(some)

    used = np.isfinite(embeddings).all(axis=1)
    for fitted in filter(None, (pipeline, map_pipeline)):
        fitted[0].set_params(on_error="raise")
    skanopatch.save_model(
        output,
        pipeline,
        map_pipeline=map_pipeline,
        clips=[os.path.abspath(file) for file, is_used in zip(files, used, strict=True) if is_used],
        embeddings=embeddings[used],
    )
    click.echo(f"Wrote {output} ({os.path.getsize(output) / 1e6:.1f} MB).", err=True)


def _check_files(files: list[str], *, skip_unreadable: bool) -> tuple[list[str], list[float]]:
    """Return the files whose headers can be read, with their seconds; name the others."""
    from skanopatch.audio import clip_duration

    lengths, reasons = {}, {}
    for file in tqdm(files, desc="Looking at files", unit="file", disable=None, leave=False):
        try:
            lengths[file] = clip_duration(file, sample_rate=1)
            if not lengths[file]:
                reasons[file] = "it has no samples"
        except ValueError as error:
            reasons[file] = str(error)
    for file, reason in reasons.items():
        click.echo(f"'{file}' cannot be used: {reason}.", err=True)
    if reasons and not skip_unreadable:
        raise click.ClickException(
            f"{len(reasons)} of {len(files)} clips cannot be used; "
            "leave them out with --skip-unreadable."
        )
    usable = [file for file in files if file not in reasons]
    return usable, [lengths[file] for file in usable]


def _folders(files: list[str]) -> list[str]:
    """Return the name of the folder of each file, with those above it where one stands twice."""
    folders = [Path(file).resolve().parent for file in files]
    if len({folder.name for folder in folders}) == len(set(folders)):
        return [folder.name for folder in folders]
    above = os.path.commonpath(folders)
    return [folder.relative_to(above).as_posix() for folder in folders]


def _check_counts(labels: list[str] | None, n_clips: int, *, maps: bool) -> None:
    """Refuse too few clips before the work, not after it."""
    if n_clips < 2:
        raise click.ClickException(f"At least 2 normal clips are needed. Got {n_clips}.")
    if maps and n_clips < 3:
        raise click.ClickException("Maps need 3 normal clips. Got 2; leave maps out by --no-maps.")
    for label, count in Counter(labels or ()).items():
        if count < 2:
            raise click.ClickException(
                f"Each machine needs 2 clips, and {label!r} has one. Is it a typing error?"
            )


def _make_detector(name: str, contamination: float, seed: int) -> BaseEstimator:
    import skanopatch

    detector = getattr(skanopatch, DETECTORS[name])(contamination=contamination)
    return detector.set_params(random_state=seed) if name == "gmm" else detector


def _make_pipeline(
    embedder: str, backbone: str, detector: BaseEstimator, params: dict[str, Any]
) -> Pipeline:
    from sklearn.pipeline import make_pipeline

    import skanopatch

    if embedder == "AnoPatchEmbedder":
        return skanopatch.make_anopatch_pipeline(backbone, detector=detector, **params)
    steps = skanopatch.MelPatcher(), getattr(skanopatch, embedder)(), detector
    return make_pipeline(*steps).set_params(**params)
