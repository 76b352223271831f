"""``skanopatch update`` and ``forget``: normal clips join a model file, or are taken out of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skanopatch.cli import options
from skanopatch.cli.clips import folder_names, read_column
from skanopatch.cli.fitting import find_normal

if TYPE_CHECKING:
    from skanopatch import AnomalousSoundDetector

_OUTPUT = click.option(
    "-o", "--output", type=options.NEW_FILE, help="Write another file, and leave MODEL as it is."
)
_FOLDER = "folder"


@click.command(
    epilog=options.example("skanopatch update fan.skano recordings/confirmed", clips="NORMAL")
)
@options.MODEL
@click.argument("normal", nargs=-1, required=True, metavar="NORMAL...")
@_OUTPUT
@click.option(
    "--replace-before",
    metavar="DATE",
    help="Take out the clips that joined the model before this time, such as 2026-11-28 or "
    "2026-11-28T14:30, that of a repair.",
)
@click.option("--group", metavar="NAME", help="The machine that all clips are of.")
@click.option(
    "--labels",
    type=options.WordOr(_FOLDER, options.TABLE),
    metavar="folder|CSV",
    help="The machine that each clip is of: the name of its folder, or a table with the columns "
    "file and label.",
)
@click.option(
    "--sessions",
    type=options.WordOr(_FOLDER, options.TABLE),
    metavar="folder|CSV",
    help="The recording, shift or day that each clip is from, if the model was fitted with them.",
)
def update(
    model: str,
    normal: tuple[str, ...],
    output: str | None,
    replace_before: str | None,
    group: str | None,
    labels: Path | str | None,
    sessions: Path | str | None,
) -> None:
    """Add NORMAL recordings to a MODEL file, such as false alarms that people found normal.

    The threshold is placed anew, and no network is trained. The file keeps what was added when.
    """
    if group is not None and labels is not None:
        raise click.UsageError("--group and --labels exclude each other.")
    detector, files = _load(model), find_normal(normal)
    metadata: dict[str, Any] = {}
    if sessions is not None:
        metadata["sessions"] = _column(sessions, "session", files)
    if group is not None or labels is not None:
        machines = [group] * len(files) if labels is None else _column(labels, "label", files)
        metadata |= {k: machines for k in ("labels", "groups") if k in detector.metadata_}
    before = _numbers(detector)
    detector.update(files, **metadata, replace_before=replace_before)
    _save(detector, output or model, before)


@click.command(epilog=options.example("skanopatch forget fan.skano recordings/confirmed"))
@options.MODEL
@click.argument("files", nargs=-1, metavar="FILES...")
@_OUTPUT
@click.option(
    "--before",
    metavar="DATE",
    help="Take out all clips that joined the model before this time, such as 2026-11-28T14:30.",
)
def forget(model: str, files: tuple[str, ...], output: str | None, before: str | None) -> None:
    """Take clips out of a MODEL file, by their FILES, which need not exist any more.

    FILES are as `skanopatch info --json` lists them, or folders, of which all clips that the model
    knows are taken out.
    """
    if not files and before is None:
        raise click.UsageError("Give FILES or --before.")
    detector = _load(model)
    known = [Path(name) for name in detector.clip_names_ if name]
    names: list[str] = []
    for file in files:
        path = Path(file).absolute()
        below = [str(name) for name in known if name.is_relative_to(path)]
        names += below or [str(path)]
    numbers = _numbers(detector)
    detector.forget(names, before=before)
    _save(detector, output or model, numbers)


def _load(path: str) -> AnomalousSoundDetector:
    from skanopatch import AnomalousSoundDetector, load_model
    from skanopatch.persistence.header import read_header

    if (names := read_header(path).get("models")) is not None:
        raise ValueError(
            f"'{path}' holds {len(names)} models. Only a file of one model can be changed; "
            "save_models writes several anew."
        )
    model = load_model(path)
    if not isinstance(model, AnomalousSoundDetector):
        raise ValueError(
            f"'{path}' must hold an AnomalousSoundDetector, which keeps its normal clips. Got "
            f"{type(model).__name__}."
        )
    return model


def _column(source: Path | str, name: str, files: list[str]) -> list[str]:
    """Return the entry of each file: of a table, or the name of its folder."""
    return folder_names(files) if isinstance(source, str) else read_column(source, name, files)


def _numbers(model: AnomalousSoundDetector) -> tuple[int, float]:
    return len(set(model.windows_["clip"].tolist())), -model.offset_


def _save(model: AnomalousSoundDetector, path: str, before: tuple[int, float]) -> None:
    """Write a model, and say how the number of clips and the threshold changed."""
    from skanopatch import save_model

    save_model(path, model)
    n_clips, distance = _numbers(model)
    click.echo(
        f"{before[0]} normal clips became {n_clips}, the distance of the threshold "
        f"{before[1]:.4g} became {distance:.4g}. Wrote {path}.",
        err=True,
    )
