"""The recordings that a command line names, and the entries of a table about them."""

from __future__ import annotations

import glob
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from skanopatch.audio import Clip

# Bytes that no list of paths has, and how WAV, FLAC, OGG, AIFF, CAF, AU and MP3 begin.
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f]")
_AUDIO = re.compile(
    rb"RIFF|RIFX|RF64|riff|fLaC|OggS|FORM|caff|\.snd|ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"
)

# Recordings that are counted where they are not among `datasets.folder.SUFFIXES`.
_OTHER_AUDIO = {".3gp", ".aac", ".ac3", ".amr", ".ape", ".m4a", ".mka", ".mp4", ".opus", ".wma"}


def find_clips(arguments: Iterable[str], *, may_be_none: bool = False) -> list[Clip]:
    """Return the recordings that arguments name, each once and in their order.

    An argument is a file, a folder, a pattern or "-" for standard input: one recording, which
    becomes a pair (array, sample_rate), or paths, one a line, of files that need not exist. With
    `may_be_none` an empty folder or list, or a pattern without a match, is said and no error.
    """
    clips: dict[object, Clip] = {}
    passed_over: Counter[str] = Counter()

    def say_none(sentence: str) -> None:
        if not may_be_none:
            raise FileNotFoundError(sentence)
        click.echo(sentence, err=True)

    for argument in arguments:
        sources: Sequence[Clip] = [argument]
        if argument == "-":
            sources = _standard_input()
            if not sources:
                say_none("There is no recording to work on: standard input is empty.")
        elif not os.path.exists(argument):
            if not glob.has_magic(argument):
                raise FileNotFoundError(f"There is no file or folder '{argument}'.")
            sources = sorted(glob.glob(argument, recursive=True))
            if not sources:
                say_none(f"No file or folder matches '{argument}'.")
        for source in sources:
            if not isinstance(source, str):
                clips[id(source)] = source
            elif not os.path.isdir(source):
                clips[source] = source
            else:
                others = _other_recordings(source)
                passed_over += others
                try:
                    clips |= {file: file for file in _in_folder(source)}
                except FileNotFoundError as error:
                    if not others:
                        say_none(str(error))
    if passed_over:
        kinds = ", ".join(f"{number} {kind}" for kind, number in passed_over.most_common())
        files = "file" if passed_over.total() == 1 else "files"
        sentence = f"{passed_over.total()} {files} passed over: {kinds}."
        if not clips:
            raise FileNotFoundError(f"There is no recording that can be read. {sentence}")
        click.echo(sentence, err=True)
    from skanopatch.audio import files_in_writing

    for file in files_in_writing(clip for clip in clips.values() if isinstance(clip, str)):
        click.echo(f"'{file}' is passed over, since it is still being written.", err=True)
        del clips[file]
    if not (clips or may_be_none):
        raise FileNotFoundError("There is no recording to work on.")
    return list(clips.values())


def _in_folder(folder: str) -> list[str]:
    from skanopatch.datasets.folder import find_recordings

    return [str(file) for file in find_recordings(folder)]


def _other_recordings(folder: str) -> Counter[str]:
    """Count the recordings in a folder that are not read, by their suffix."""
    from skanopatch.datasets.folder import SUFFIXES, list_folders

    suffixes = (Path(file).suffix.lower() for _, files in list_folders(folder) for file in files)
    return Counter(suffix for suffix in suffixes if suffix in _OTHER_AUDIO - SUFFIXES)


def _standard_input() -> Sequence[Clip]:
    data = sys.stdin.buffer.read()
    if not _BINARY.search(data):
        return [os.fsdecode(line) for line in data.splitlines() if line]
    if not _AUDIO.match(data):
        raise ValueError(
            "Standard input must be a recording (WAV, FLAC, OGG, MP3 or AIFF) or a list of paths, "
            f"one a line. It begins with {data[:8]!r} and is neither."
        )
    from skanopatch.audio import read_clip

    try:
        samples, rate = read_clip(io.BytesIO(data))
    except ValueError as error:
        raise ValueError(f"The recording on standard input cannot be used: {error}.") from error
    assert rate is not None  # files have one
    return [(samples, rate)]


def describe_lengths(lengths: Sequence[float]) -> str:
    """Return the range of lengths, such as "12 to 3600 s"."""
    shortest, longest = (f"{round(x, 3):g}" for x in (min(lengths), max(lengths)))
    return f"{longest} s" if shortest == longest else f"{shortest} to {longest} s"


def read_column(
    table: Path, column: str, files: list[str], *, may_be_partial: bool = False
) -> list[str]:
    """Return the entry of each file in a CSV table with the columns file and `column`.

    A file in the table is a path from the table's own folder, or from the current one. With
    `may_be_partial`, some files may have no entry, which is then "".
    """
    import pandas as pd

    try:
        rows = pd.read_csv(
            table, dtype=object, keep_default_na=False, encoding_errors="surrogateescape"
        )
    except ValueError as error:  # also pandas' ParserError and EmptyDataError
        raise ValueError(f"'{table}' cannot be read as CSV: {error}") from error
    if not {"file", column} <= set(rows.columns):
        raise ValueError(
            f"'{table}' must have the columns file and {column}. Got {list(rows.columns)} instead."
        )
    entry_of: dict[str, str] = {}
    for folder in ("", table.parent):  # the table's own folder has the last word
        paths = (_real_path(os.path.join(folder, file)) for file in rows.file)
        entry_of |= zip(paths, rows[column], strict=True)
    entries = [entry_of.get(_real_path(file), "") for file in files]
    missing = [file for file, entry in zip(files, entries, strict=True) if not entry]
    if missing and not (may_be_partial and any(entries)):
        others = f", nor for {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(f"'{table}' has no {column} for '{missing[0]}'{others}.")
    return entries


def _real_path(file: str) -> str:
    """Return one path for all ways to the folder of a file, which may itself be a link."""
    folder, name = os.path.split(os.path.abspath(file))
    return os.path.join(os.path.realpath(folder), name)


def folder_label(folders: Sequence[str]) -> int | None:
    """Return +1 or -1 by the innermost folder that is called normal, anomaly or the like."""
    from skanopatch.datasets.folder import LABELS

    labels = (LABELS[name.lower()] for name in reversed(folders) if name.lower() in LABELS)
    return next(labels, None)


def folder_names(files: list[str]) -> list[str]:
    """Return the name of the folder of each file, with those above it where one stands twice."""
    folders = [Path(os.path.abspath(file)).parent for file in files]
    if len({folder.name for folder in folders}) == len(set(folders)):
        return [folder.name for folder in folders]
    above = os.path.commonpath(folders)
    return [folder.relative_to(above).as_posix() for folder in folders]
