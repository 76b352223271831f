"""The header of a model file: who wrote it, and the facts about the model."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORMAT, VERSION = "skanopatch model", 1
HEADER, MODEL = "skanopatch.json", "model.json"


def read_header(path: str | os.PathLike[str], name: str | None = None) -> dict[str, Any]:
    """Return the header of a model file, without loading the model.

    Parameters
    ----------
    path : str or Path
        The file.
    name : str, default=None
        Of a file of several models, the one whose header is meant; None is that of the file.

    Returns
    -------
    header : dict
        "format" and its "version"; the version of "skanopatch" that wrote the file; "created",
        the time in ISO 8601; "facts", the dict that ``skanopatch info`` lists. Of a file of several
        models also "models", the list of their names.

    Raises
    ------
    ValueError
        As `load_model`.
    """
    with _reading(path) as (archive, size):
        header = _checked_header(archive, size)
    if name is not None:
        with open_model_file(path, name) as archive:
            header = json.loads(archive.read(HEADER).decode())
    missing = {"skanopatch", "created", "facts"} - set(header)
    if missing or not isinstance(header["facts"], dict):
        raise _unreadable(path, f"its header is not complete: {sorted(header)}.")
    return header


@contextmanager
def open_model_file(
    path: str | os.PathLike[str], name: str | None = None
) -> Iterator[zipfile.ZipFile]:
    """Open a model file, or one model of a file of several; the others are not read."""
    names: list[str] | None
    with _reading(path) as (archive, size):
        header = _checked_header(archive, size)
        names = header.get("models")
        is_right = names is None or (isinstance(names, list) and {type(n) for n in names} <= {str})
        if not is_right:
            raise ValueError("its list of models holds something else than names.")
        if (names is None) == (name is None) and (names is None or name in names):
            if names is None:
                yield archive
                return
            number = names.index(name)
            with archive.open(f"{number}.skano") as part, zipfile.ZipFile(part) as own:
                _checked_header(own, archive.getinfo(f"{number}.skano").file_size)
                yield own
            return
    if names is None:
        raise ValueError(f"{os.fspath(path)!r} holds one model, without a name. Got name={name!r}.")
    shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    raise ValueError(
        f"{os.fspath(path)!r} holds {len(names)} models, and name (--group on the command "
        f"line) must be one of theirs: {shown}. Got {name!r}."
    )


def _checked_header(archive: zipfile.ZipFile, size: int) -> dict[str, Any]:
    """Return the header of an archive of so many bytes, after checking its members."""
    members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
        raise ValueError("its members are compressed or encrypted.")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members are larger than the file.")
    header = json.loads(archive.read(HEADER).decode())
    if (header["format"], header["version"]) != (FORMAT, VERSION):
        raise ValueError(f"it says {header['format']!r}, {header['version']!r}.")
    return header


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """Open a zip and give its bytes; name it in the ValueError that replaces any other error."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive, os.fstat(file.fileno()).st_size
        except Exception as error:  # a forged file can make any constructor fail in any way
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise _unreadable(path, reason) from error


def _unreadable(path: str | os.PathLike[str], reason: str) -> ValueError:
    return ValueError(
        f"{os.fspath(path)!r} is damaged, or is no {FORMAT!r} of version {VERSION}, which "
        f"is what this version of skanopatch reads: {reason}"
    )
