"""Arguments and options that commands share, and the files that they write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class WordOr(click.ParamType):
    """A word, or a value of another type."""

    def __init__(self, word: str, other: click.ParamType):
        self.name, self.word, self.other = f"{word}|{other.name}", word, other

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word, or the value converted."""
        return value if value == self.word else self.other.convert(value, param, ctx)


class _OutputPath(click.Path):
    """A file or folder to write. Its folder is checked before hours of work, not after."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        absolute = Path(os.fsdecode(path)).absolute()
        places = absolute.parents if self.file_okay else (absolute, *absolute.parents)
        folder = places[0] if self.file_okay else next(p for p in places if p.exists())
        if path != "-" and not (folder.is_dir() and os.access(folder, os.W_OK)):
            self.fail(f"There is no folder '{folder}' that can be written to.", param, ctx)
        return path


NEW_FILE = _OutputPath(dir_okay=False, writable=True)
NEW_FILE_OR_STDOUT = _OutputPath(dir_okay=False, writable=True, allow_dash=True)
NEW_FOLDER = _OutputPath(file_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
TABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
RATE = click.FloatRange(0, 0.5, min_open=True)

MODEL = click.argument("model", type=click.Path(exists=True, dir_okay=False))
CLIPS = click.argument("clips", nargs=-1, required=True, metavar="CLIPS...")
GROUP = click.option(
    "--group",
    metavar="NAME",
    help="The machine that all clips are of, where the model knows several. Without it a clip is "
    "judged by the machine to which it is nearest.",
)

# Their estimators have these names in skanopatch, which takes seconds to import.
EMBEDDERS = {
    "anopatch": "AnoPatchEmbedder",
    "band-statistics": "BandStatistics",
    "mel-statistics": "MelStatistics",
}
DETECTORS = {"mahalanobis": "MahalanobisDetector", "knn": "KNNDetector", "gmm": "GMMDetector"}
EMBEDDER = click.option("--embedder", type=click.Choice(list(EMBEDDERS)), default="anopatch")
DETECTOR = click.option("--detector", type=click.Choice(list(DETECTORS)), default="mahalanobis")


def example(command: str, *, clips: str | None = None) -> str:
    """Return the end of a help text: what `clips` may be, and a command that a test runs."""
    explained = (
        f"{clips} are files, folders with those below them, quoted patterns such as 'day-*/*.wav', "
        "or - for standard input: one recording, or paths, one a line.\n\n"
    )
    return f"{explained if clips else ''}\b\nExample:\n  {command}"


def write_text(path: str, text: str) -> None:
    r"""Write a whole file at once in UTF-8, or to standard output if its name is "-".

    A byte of a file name that is no UTF-8, such as 0xFC, becomes ``\udcfc``.
    """
    from skanopatch.files import atomic_write

    data = text.encode(errors="backslashreplace")
    if path == "-":
        click.echo(data, nl=False)
        return
    with atomic_write(path) as file:
        file.write(data)
    click.echo(f"Wrote {path}.", err=True)
