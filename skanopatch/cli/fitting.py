"""``skanopatch fit``: learn from normal recordings and write a model file."""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from tqdm import tqdm

from skanopatch.cli import options
from skanopatch.cli.clips import (
    describe_lengths,
    find_clips,
    folder_label,
    folder_names,
    read_column,
)

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from skanopatch import AnomalousSoundDetector

LONGEST = 10.0  # seconds that are used of each clip, if nothing else is said
_LEAST_FOR_NETWORK = 64  # clips, from which on AnomalousSoundDetector may train one
_FOLDER = "folder"  # what --sessions takes in place of a table


@click.command(
    epilog=options.example("skanopatch fit recordings/normal -o fan.skano", clips="NORMAL")
)
@click.argument("normal", nargs=-1, required=True, metavar="NORMAL...")
@click.option("-o", "--output", type=options.NEW_FILE, required=True, help="The model file.")
@click.option(
    "--window",
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    show_default="the longest clip, at most 10",
    help="Seconds of a window. Longer clips are several windows, and the worst one decides.",
)
@click.option(
    "--hop",
    type=click.FloatRange(min=0, min_open=True),
    show_default="that of a window",
    help="Seconds from the start of one window of a clip to that of the next.",
)
@click.option(
    "--channel",
    type=options.WordOr("mean", click.IntRange(min=0)),
    metavar="N|mean",
    default=0,
    help="The channel that is used of each clip, from 0, or the mean of all.",
)
@click.option(
    "--sample-rate",
    type=click.IntRange(min=1),
    metavar="HZ",
    show_default="16000",
    help="Clips are resampled to this rate. Frequencies above half of it are not used.",
)
@click.option(
    "--false-alarm-rate",
    type=options.RATE,
    default=0.1,
    help="The share of new normal clips that may be called anomalies.",
)
@options.DETECTOR
@options.EMBEDDER
@click.option(
    "--backbone",
    default="anopatch-tiny",
    help="The network of the anopatch embedder, see `skanopatch backbones`.",
)
@click.option(
    "--labels",
    "labels_table",
    type=options.TABLE,
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
    type=options.WordOr(_FOLDER, options.TABLE),
    metavar="folder|CSV",
    help="The recording, shift or day that a clip is from: the name of its folder, or a table with "
    "the columns file and session. Clips of one session are alike: whole sessions are left out to "
    "place the threshold.",
)
@click.option(
    "--maps/--no-maps",
    default=True,
    help="Whether to learn, from 100 clips at most, to map where in time and frequency a clip is "
    "anomalous.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--jobs", type=int, default=1, help="Processes that read clips.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out clips that cannot be used.")
def fit(
    normal: tuple[str, ...],
    output: str,
    window: float | None,
    hop: float | None,
    channel: int | str,
    sample_rate: int | None,
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
    files = find_normal(normal)
    files, lengths = check_files(files, skip_unreadable=skip_unreadable)
    metadata = {}
    for name, source in [
        ("labels", _FOLDER if labels_from_folder else labels_table),
        ("sessions", sessions),
    ]:
        if source == _FOLDER:
            metadata[name] = folder_names(files)
        elif isinstance(source, Path):
            metadata[name] = read_column(source, name.removesuffix("s"), files)
    used = min(LONGEST, max(lengths)) if window is None else window
    check_counts(lengths, used, **metadata, maps=maps)
    if "labels" in metadata:
        metadata["groups"] = metadata["labels"]

    import skanopatch
    from skanopatch.backbones import make_patcher

    settings: dict[str, Any] = {} if sample_rate is None else {"sample_rate": sample_rate}
    patcher = make_patcher(
        backbone if embedder == "anopatch" else "anopatch-tiny",
        duration=patcher_duration(used, lengths),
        channel=channel,
        on_error="nan" if skip_unreadable else "raise",
        n_jobs=jobs,
        **settings,
    )
    model = skanopatch.AnomalousSoundDetector(
        patcher,
        embedder=_make(
            options.EMBEDDERS[embedder], backbone=backbone, verbose=int(sys.stderr.isatty())
        ),
        detector=_make(options.DETECTORS[detector], random_state=seed),
        map_detector=None if maps else "drop",
        hop=hop,
        false_alarm_rate=false_alarm_rate,
        random_state=seed,
    )
    click.echo(describe_clips(lengths, used), err=True)
    if "labels" in metadata and embedder == "anopatch" and len(files) >= _LEAST_FOR_NETWORK:
        click.echo(
            "If the labels sound different, a network is trained, which takes minutes ...", err=True
        )
    with _one_warning_of_each_kind():
        model.fit(files, **metadata)
    click.echo(_describe_fit(model, metadata), err=True)
    for fitted in filter(None, (model.patcher, model.patcher_)):
        fitted.set_params(on_error="raise")
    skanopatch.save_model(output, model)
    click.echo(f"Wrote {output} ({os.path.getsize(output) / 1e6:.1f} MB).", err=True)


def patcher_duration(used: float, lengths: Sequence[float]) -> float | None:
    """Return the duration of a patcher; None, which may be shorter than a patch, is the longest."""
    return None if used == max(lengths) else used


def describe_clips(lengths: Sequence[float], used: float) -> str:
    """Say how many clips are fitted on, and how they are cut."""
    windows = f", in windows of {used:.4g} s" if max(lengths) > used else ""
    return f"Fitting on {len(lengths)} clips of {describe_lengths(lengths)}{windows} ..."


def find_normal(arguments: Sequence[str]) -> list[str]:
    """Return the files that arguments name; if some are in folders of anomalies, say what to pass.

    Folders above an argument do not count: their names say nothing about the files in it.
    """
    clips = find_clips(arguments)
    files = [clip for clip in clips if isinstance(clip, str)]
    if len(files) < len(clips):
        raise ValueError("Standard input holds a recording. Normal ones must be files.")
    roots = [Path(argument) for argument in arguments if os.path.isdir(argument)]
    root_of = {
        file: next((r for r in roots if Path(file).is_relative_to(r)), None) for file in files
    }

    def is_anomaly(file: str) -> bool:
        root, folder = root_of[file], Path(file).parent
        if root is not None:
            folder = os.path.basename(os.path.abspath(root)) / folder.relative_to(root)
        return folder_label(folder.parts) == -1

    anomalies = list(filter(is_anomaly, files))
    if not anomalies:
        return files
    message = (
        f"fit takes normal recordings, and {len(anomalies)} of {len(files)} are in folders of "
        f"anomalies, such as '{anomalies[0]}'."
    )
    if len(anomalies) == len(files):
        raise ValueError(f"{message} Rename the folder if they are normal.")
    mixed = {folder for file in anomalies for folder in Path(file).parents}
    instead = []
    for file in sorted(set(files) - set(anomalies)):
        root, folders = root_of[file], Path(file).parents
        below = [folder for folder in folders if root is not None and folder.is_relative_to(root)]
        pure = [str(folder) for folder in below if folder not in mixed]
        beside = f"{folders[0]}/*{Path(file).suffix}" if below else file
        instead.append(pure[-1] if pure else beside)
    line = list(dict.fromkeys(instead))
    if click.get_current_context().command is fit:
        line = ["skanopatch", "fit", *line, *_options_of_the_call()]
    raise ValueError(f"{message} Pass the others: {shlex.join(line)}")


def _options_of_the_call() -> Iterator[str]:
    """Go through the options that this call was given, as a command line has them."""
    context = click.get_current_context()
    for param in context.command.params:
        assert param.name is not None
        is_given = context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
        if isinstance(param, click.Option) and is_given:
            value = context.params[param.name]
            yield (param.opts if value is not False else param.secondary_opts)[-1]
            yield from [] if param.is_flag else [str(value)]


def check_files(
    files: list[str], *, skip_unreadable: bool = False
) -> tuple[list[str], list[float]]:
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


def check_counts(
    lengths: Sequence[float],
    used: float,
    *,
    labels: Sequence[str] = (),
    sessions: Sequence[str] = (),
    maps: bool = False,
) -> None:
    """Refuse too few windows before the work, not after it."""
    machines = labels or [""] * len(lengths)
    n_windows: Counter[str] = Counter()
    for machine, length in zip(machines, lengths, strict=True):
        n_windows[machine] += math.ceil(round(length / used, 6))
    n_sessions = Counter(machine for machine, _ in set(zip(labels, sessions, strict=False)))
    for machine, number in n_windows.items():
        of_machine = f" of the machine {machine!r}" if labels else ""
        if number < (least := 3 if maps else 2):
            of_maps = " for maps (2 with --no-maps)" if maps else ""
            raise ValueError(
                f"At least {least} normal clips{of_machine} are needed{of_maps}. Got {number}."
            )
        if n_sessions.get(machine) == 1:
            raise ValueError(
                f"At least 2 sessions{of_machine} are needed. Got 1: leave out --sessions."
            )


def _make(name: str, **settings: Any) -> BaseEstimator:
    """Make an estimator of this package with those of the settings that it has."""
    import skanopatch

    estimator = getattr(skanopatch, name)()
    return estimator.set_params(
        **{key: value for key, value in settings.items() if key in estimator.get_params()}
    )


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

    n_windows, n_clips = np.isfinite(model.training_scores_).sum(), len(set(model.clip_names_))
    number = (
        f"{n_windows} windows of {n_clips} clips" if n_windows > n_clips else f"{n_windows} clips"
    )
    if "labels" in metadata:
        number += f" of {len(set(metadata['labels']))} machines"
    if "sessions" in metadata:
        number += f", {len(set(metadata['sessions']))} sessions"
    if model.separation_ is not None:
        joins = "joins" if "network" in model.members_ else "does not join"
        network, statistics = (model.separation_[name] for name in ("network", "statistics"))
        scores = (
            f"A network was trained and {joins} the statistics: clips that were held out of its "
            f"training are {network:.2f} deviations nearer to their own label than to others by "
            f"the network, {statistics:.2f} by the statistics."
        )
    elif "embedder" in model.members_:
        is_trained = getattr(model.detector_[0], "classes_", None) is not None
        scores = (
            f"Scores are by {type(model.detector_[0]).__name__} alone, which was "
            f"{'trained on the labels' if is_trained else 'not trained'}."
        )
    else:
        reason = (
            f"it takes {_LEAST_FOR_NETWORK} clips or more whose labels the statistics separate"
            if "labels" in metadata
            else "there are no labels"
        )
        scores = f"No network was trained ({reason}): scores are by the statistics of clips."
    return f"Learnt from {number}. {scores}"
