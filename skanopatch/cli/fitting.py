"""``skanopatch fit``: learn from normal recordings and write a model file."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from skanopatch.cli.clips import NewFile, example, find_clips, folder_names, read_column

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from skanopatch import AnomalousSoundDetector, MelPatcher

EMBEDDERS = {
    "anopatch": "AnoPatchEmbedder",
    "band-statistics": "BandStatistics",
    "mel-statistics": "MelStatistics",
}
DETECTORS = {"mahalanobis": "MahalanobisDetector", "knn": "KNNDetector", "gmm": "GMMDetector"}

FALSE_ALARM_RATE = click.FloatRange(0, 0.5, min_open=True)

_LONGEST = 10.0  # seconds that are used of each clip, if nothing else is said
_FOLDER = "folder"  # what --sessions takes in place of a table
_TABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


class _FolderOrTable(click.Path):
    """The word "folder", or a table that is there."""

    name = "folder|csv"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word, or the path as it was given."""
        return value if value == _FOLDER else super().convert(value, param, ctx)


@click.command(epilog=example("skanopatch fit recordings/normal -o fan.skano", clips="NORMAL"))
@click.argument("normal", nargs=-1, required=True, metavar="NORMAL...")
@click.option("-o", "--output", type=NewFile(), required=True, help="The model file.")
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that are used of each clip.  [default: the longest clip, at most 10]",
)
@click.option(
    "--false-alarm-rate",
    type=FALSE_ALARM_RATE,
    default=0.1,
    show_default=True,
    help="The share of new normal clips that may be called anomalies.",
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
    help="The network of the anopatch embedder, see `skanopatch backbones`.",
)
@click.option(
    "--labels",
    "labels_table",
    type=_TABLE,
    metavar="CSV",
    help="A table with the columns file and label, the machine that a clip is of. Each machine "
    "gets a threshold of its own, and a network is trained to separate them, from 64 clips on in "
    "which they sound different.",
)
@click.option(
    "--labels-from-folder", is_flag=True, help="The same, with the name of a clip's folder."
)
@click.option(
    "--sessions",
    type=_FolderOrTable(exists=True, dir_okay=False, path_type=Path),
    metavar="folder|CSV",
    help="The recording, shift or day that a clip is from: the name of its folder, or a table with "
    "the columns file and session. Clips of one session are alike: whole sessions are left out to "
    "place the threshold.",
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
    false_alarm_rate: float,
    detector: str,
    embedder: str,
    backbone: str,
    labels_table: Path | None,
    labels_from_folder: bool,
    sessions: Path | str | None,
    maps: bool,
    seed: int,
    jobs: int,
    skip_unreadable: bool,
) -> None:
    """Learn from NORMAL recordings what is normal, and write a model file."""
    if labels_table is not None and labels_from_folder:
        raise click.UsageError("--labels and --labels-from-folder exclude each other.")
    files, lengths = _check_files(find_clips(normal), skip_unreadable=skip_unreadable)
    metadata: dict[str, list[str]] = {}
    if labels_from_folder:
        metadata["labels"] = folder_names(files)
    elif labels_table is not None:
        metadata["labels"] = read_column(labels_table, "label", files)
    if sessions == _FOLDER:
        metadata["sessions"] = folder_names(files)
    elif isinstance(sessions, Path):
        metadata["sessions"] = read_column(sessions, "session", files)
    _check_counts(len(files), **metadata, maps=maps)
    if "labels" in metadata:
        metadata["groups"] = metadata["labels"]

    import skanopatch

    patcher = skanopatch.MelPatcher.for_backbone(
        backbone if embedder == "anopatch" else "anopatch-tiny",
        duration=duration or min(_LONGEST, max(lengths)),
        on_error="nan" if skip_unreadable else "raise",
        n_jobs=jobs,
    )
    model = skanopatch.AnomalousSoundDetector(
        patcher,
        embedder=_make_embedder(embedder, backbone, patcher),
        detector=_make_detector(detector, seed),
        map_detector=None if maps else "drop",
        false_alarm_rate=false_alarm_rate,
        random_state=seed,
    )
    click.echo(f"Fitting on {len(files)} clips ...", err=True)
    with _one_warning_of_each_kind():
        model.fit(files, **metadata)
    click.echo(_describe_fit(model, metadata), err=True)
    for fitted in filter(None, (model.patcher, model.patcher_)):
        fitted.set_params(on_error="raise")
    skanopatch.save_model(output, model)
    click.echo(f"Wrote {output} ({os.path.getsize(output) / 1e6:.1f} MB).", err=True)


def _check_files(files: list[str], *, skip_unreadable: bool) -> tuple[list[str], list[float]]:
    """Return the files whose headers can be read, with their seconds; name the others."""
    from skanopatch.audio.clips import clip_duration

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


def _check_counts(
    n_clips: int,
    *,
    labels: list[str] | None = None,
    sessions: list[str] | None = None,
    maps: bool,
) -> None:
    """Refuse too few clips before the work, not after it."""
    if n_clips < 2:
        raise click.ClickException(f"At least 2 normal clips are needed. Got {n_clips}.")
    for label, count in Counter(labels or ()).items():
        if count < 2:
            raise click.ClickException(
                f"Each machine needs 2 clips, and {label!r} has one. Is it a typing error?"
            )
    sessions_of = Counter(
        label for label, _ in set(zip(labels or (), sessions or (), strict=False))
    )
    for label, count in sessions_of.items():
        if count < 2:
            raise click.ClickException(
                f"Each machine needs 2 sessions, and {label!r} has one. Leave out --sessions, or "
                "give more of them."
            )
    counts = Counter(labels or ["all"] * n_clips)
    if maps and min(counts.values()) < 3:
        of_each = " of each machine" if labels else ""
        raise click.ClickException(
            f"Maps need 3 normal clips{of_each}. Got 2; leave maps out by --no-maps."
        )


def _make_embedder(name: str, backbone: str, patcher: MelPatcher) -> BaseEstimator:
    import skanopatch

    settings: dict[str, Any] = {}
    if name != "mel-statistics":
        settings["n_freq"] = patcher.n_mels // patcher.patch_size
    if name == "anopatch":
        settings |= {"backbone": backbone, "verbose": int(sys.stderr.isatty())}
    return getattr(skanopatch, EMBEDDERS[name])(**settings)


def _make_detector(name: str, seed: int) -> BaseEstimator:
    import skanopatch

    detector = getattr(skanopatch, DETECTORS[name])()
    return detector.set_params(random_state=seed) if name == "gmm" else detector


@contextmanager
def _one_warning_of_each_kind() -> Iterator[None]:
    """Show one of the warnings that differ in numbers only: each machine has a detector."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    kinds: dict[str, Any] = {}
    for warning in caught:
        kinds.setdefault(re.sub(r"[\d.]+(e[+-]?\d+)?", "#", str(warning.message)), warning)
    for warning in kinds.values():
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _describe_fit(model: AnomalousSoundDetector, metadata: dict[str, list[str]]) -> str:
    """Return what was learnt, in two sentences."""
    import numpy as np

    n_clips = int(np.isfinite(model.training_scores_).sum())
    number = f"{n_clips} clips"
    if "labels" in metadata:
        number += f" of {len(set(metadata['labels']))} machines"
    if "sessions" in metadata:
        number += f", {len(set(metadata['sessions']))} sessions"
    return f"Learnt from {number}. {_describe_network(model, has_labels='labels' in metadata)}"


def _describe_network(model: AnomalousSoundDetector, *, has_labels: bool) -> str:
    if model.separation_ is not None:
        joins = "joins" if "network" in model.members_ else "does not join"
        network, statistics = (model.separation_[name] for name in ("network", "statistics"))
        return (
            f"A network was trained and {joins} the statistics: clips that were held out of its "
            f"training are {network:.2f} deviations nearer to their own label than to others by "
            f"the network, {statistics:.2f} by the statistics."
        )
    if "embedder" in model.members_:
        trained = getattr(model.detector_[0], "classes_", None) is not None
        return (
            f"Scores are by {type(model.detector_[0]).__name__} alone, which was "
            f"{'trained on the labels' if trained else 'not trained'}."
        )
    reason = (
        "it takes 64 clips or more whose labels the statistics separate"
        if has_labels
        else "there are no labels"
    )
    return f"No network was trained ({reason}): scores are by the statistics of clips."
