"""Loader of own recordings: folders called normal and anomaly, however they are nested."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

LABELS = {"normal": 1, "anomaly": -1, "anomalous": -1, "abnormal": -1}
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"}


def find_recordings(folder: str | PathLike[str]) -> list[Path]:
    """Return the recordings in a folder and in those below it, also where links lead, in order.

    Raises
    ------
    FileNotFoundError
        If there is none, or no such folder.
    OSError
        If a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    passed: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        if os.path.realpath(place) in passed:  # a link led back up, or to where another one did
            folders.clear()
            continue
        passed.add(os.path.realpath(place))
        found += [Path(place, file) for file in files if Path(file).suffix.lower() in SUFFIXES]
    if not found:
        raise FileNotFoundError(
            f"The folder '{os.fspath(folder)}' holds no recording ({', '.join(sorted(SUFFIXES))})."
        )
    return sorted(found)


def load_folder(root: str | PathLike[str]) -> Bunch:
    """List own recordings by the folders that they lie in.

    A clip is normal or anomalous after the innermost folder above it that is called ``normal``,
    ``anomaly``, ``anomalous`` or ``abnormal``, in lower or upper case. The other folders between
    `root` and the clip name the machine. Both ``fan/id_00/normal/0.wav``, the layout of MIMII, and
    ``normal/fan/id_00/0.wav`` are a normal clip of "fan/id_00". No sound is read.

    Parameters
    ----------
    root : str or Path
        A folder that holds recordings (wav, flac, ogg, mp3, aiff) at any depth.

    Returns
    -------
    clips : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes, ordered by path.

        paths : ndarray of shape (n_clips,), dtype str
            The files, what a pipeline takes as `X`.
        y : ndarray of shape (n_clips,)
            +1 normal, -1 anomalous.
        machine : ndarray of shape (n_clips,), dtype str
            The folders that are no labels, joined by "/"; "" where there are none.

    Raises
    ------
    FileNotFoundError
        If there is no recording.

    ValueError
        If a recording lies in no folder of such a name.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from skanopatch.datasets import load_folder
    >>> root = Path(mkdtemp())
    >>> for name in ["fan/normal/0.wav", "fan/anomaly/0.wav"]:
    ...     (root / name).parent.mkdir(parents=True)
    ...     (root / name).touch()
    >>> clips = load_folder(root)
    >>> clips.y, clips.machine
    (array([-1,  1]), array(['fan', 'fan'], dtype='<U3'))
    """
    root = Path(root)
    paths = find_recordings(root)
    y, machines = [], []
    for path in paths:
        folders = path.relative_to(root).parts[:-1]
        labels = [place for place, name in enumerate(folders) if name.lower() in LABELS]
        if not labels:
            raise ValueError(
                f"'{path}' lies in no folder called {', '.join(LABELS)}, so that it is neither "
                "normal nor anomalous. Move it, or list the files of your own layout yourself."
            )
        y.append(LABELS[folders[labels[-1]].lower()])
        machines.append("/".join(folders[: labels[-1]] + folders[labels[-1] + 1 :]))
    return Bunch(
        paths=np.array([str(path) for path in paths]), y=np.array(y), machine=np.array(machines)
    )
