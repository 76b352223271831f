"""The files that a command line names, and the entries of a table about them."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click


def find_clips(arguments: Iterable[str]) -> list[str]:
    """Return the files that arguments name, each once and in their order.

    Parameters
    ----------
    arguments : iterable of str
        Files, folders, patterns or "-" for lines of standard input. Files that such a line names
        need not be there: a list may be older than what it lists.

    Raises
    ------
    FileNotFoundError
        If an argument names nothing, or there is no recording at all.
    """
    files: list[str] = []
    for argument in arguments:
        if argument == "-":
            lines = (line.rstrip("\r\n") for line in sys.stdin)
            for line in filter(None, lines):
                files += _in_folder(line) if os.path.isdir(line) else [line]
            continue
        places = [argument] if os.path.exists(argument) else sorted(_matches(argument))
        for place in places:
            files += _in_folder(place) if os.path.isdir(place) else [place]
    if not files:
        raise FileNotFoundError("There is no recording to work on: standard input is empty.")
    return list(dict.fromkeys(files))


def _matches(argument: str) -> list[str]:
    if not glob.has_magic(argument):
        raise FileNotFoundError(f"There is no file or folder '{argument}'.")
    places = glob.glob(argument, recursive=True)
    if not places:
        raise FileNotFoundError(f"No file or folder matches '{argument}'.")
    return places


def _in_folder(folder: str) -> list[str]:
    from skanopatch.datasets.folder import find_recordings

    return [str(file) for file in find_recordings(folder)]


def read_column(table: Path, column: str, files: list[str]) -> list[str]:
    """Return the entry of each file in a CSV table with the columns file and `column`.

    Parameters
    ----------
    table : Path
        A file in it is a path from the table's own folder, or from the current one.
    column : str
        Such as "label".
    files : list of str

    Raises
    ------
    ValueError
        If a column is missing, the table cannot be parsed, or a file has no entry in it.
    """
    import pandas as pd

    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    except ValueError as error:  # also what pandas calls a ParserError, or no text
        raise ValueError(f"'{table}' cannot be read as CSV: {error}") from error
    if not {"file", column} <= set(rows.columns):
        raise ValueError(
            f"'{table}' must have the columns file and {column}. Got {list(rows.columns)} instead."
        )
    entries: dict[Path, str] = {}
    for folder in (Path(), table.parent):  # the table's own folder has the last word
        entries |= {
            (folder / file).resolve(): entry
            for file, entry in zip(rows.file, rows[column], strict=True)
        }
    found = [entries.get(Path(file).resolve(), "") for file in files]
    missing = [file for file, entry in zip(files, found, strict=True) if not entry]
    if missing:
        others = f", nor for {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(f"'{table}' has no {column} for '{missing[0]}'{others}.")
    return found


def folder_names(files: list[str]) -> list[str]:
    """Return the name of the folder of each file, with those above it where one stands twice."""
    folders = [Path(file).resolve().parent for file in files]
    if len({folder.name for folder in folders}) == len(set(folders)):
        return [folder.name for folder in folders]
    above = os.path.commonpath(folders)
    return [folder.relative_to(above).as_posix() for folder in folders]


class NewFile(click.Path):
    """A file to be written: its folder is checked before hours of work, not after.

    Parameters
    ----------
    allow_dash : bool, default=False
        Whether "-" stands for standard output.
    """

    name = "file"

    def __init__(self, *, allow_dash: bool = False):
        super().__init__(dir_okay=False, writable=True, allow_dash=allow_dash)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # type: ignore[override]
        """Return the path as it was given."""
        path = str(super().convert(value, param, ctx))
        folder = os.path.dirname(os.path.abspath(path))
        if path != "-" and not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
            self.fail(f"There is no folder '{folder}' that can be written to.", param, ctx)
        return path


class NewFolder(click.Path):
    """A folder to be made and written to: checked before the work, as `NewFile` is."""

    name = "folder"

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path as it was given."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            self.fail(f"'{there}' is no folder that can be written to.", param, ctx)
        return path


def write_text(path: str, text: str) -> None:
    """Write a whole file at once, or to standard output if its name is "-"."""
    from skanopatch.files import atomic_write

    if path == "-":
        click.echo(text, nl=False)
        return
    with atomic_write(path) as file:
        file.write(text.encode())
    click.echo(f"Wrote {path}.", err=True)


def example(command: str, *, clips: str | None = None) -> str:
    """Return the end of a help text: what `clips` may be, and a command, which a test runs."""
    explained = (
        f"{clips} are files, folders with those below them, quoted patterns such as 'day-*/*.wav', "
        "or - for a list of paths on standard input, one a line.\n\n"
    )
    return f"{explained if clips else ''}\b\nExample:\n  {command}"
