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


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the header of a model file, without loading the model.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    header : dict
        "format" and its "version"; the version of "skanopatch" that wrote the file; "created",
        the time in ISO 8601; "facts", the dict that ``skanopatch info`` lists.

    Raises
    ------
    ValueError
        As `load_model`.
    """
    with open_model_file(path) as archive:
        header = json.loads(archive.read(HEADER))
        missing = {"skanopatch", "created", "facts"} - set(header)
        if missing or not isinstance(header["facts"], dict):
            raise ValueError(f"its header is not complete: {sorted(header)}.")
        return header


@contextmanager
def open_model_file(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Open a model file, and name it in the ValueError that replaces any other error."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
                    raise ValueError("its members are compressed or encrypted.")
                if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
                    raise ValueError("its members are larger than the file.")
                header = json.loads(archive.read(HEADER))
                if (header["format"], header["version"]) != (FORMAT, VERSION):
                    raise ValueError(f"it says {header['format']!r}, {header['version']!r}.")
                yield archive
        except Exception as error:  # a forged file can make any constructor fail in any way
            reason = error if isinstance(error, ValueError) else repr(error)
            raise ValueError(
                f"{os.fspath(path)!r} is damaged, or is no {FORMAT!r} of version {VERSION}, which "
                f"is what this version of skanopatch reads: {reason}"
            ) from error
