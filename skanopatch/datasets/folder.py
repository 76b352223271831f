"""Loader of own recordings: folders called normal and anomaly, however they are nested."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skanopatch.audio.labels import LABELS

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"}


def list_folders(root: str | PathLike[str]) -> list[tuple[list[Path], list[str]]]:
    """Return the names of each folder at and below `root`, and its files.

    Links to folders are followed, but not back up. A folder to which links lead has several names,
    those of the links first. Hidden folders are left out: in ``.git`` and ``.dvc`` lies what the
    links of git-annex and DVC point to.
    """

    def refuse(error: OSError) -> None:
        raise error

    root = Path(root)
    targets: dict[str, list[str]] = {}  # the real paths of a folder and of those above it, by name
    names: dict[str, list[tuple[bool, Path]]] = {}  # whether without a link, and name, by real path
    files: dict[str, list[str]] = {}
    for name, folders, own_files in os.walk(root, onerror=refuse, followlinks=True):
        target, above = os.path.realpath(name), targets.get(os.path.dirname(name), [])
        targets[name] = [*above, target]
        folders[:] = [f for f in sorted(folders) if not f.startswith(".") and target not in above]
        if target not in above:
            unlinked = os.path.join(os.path.realpath(root), Path(name).relative_to(root))
            names.setdefault(target, []).append((target == os.path.normpath(unlinked), Path(name)))
            files[target] = own_files
    return [([name for _, name in sorted(names[target])], files[target]) for target in names]


def find_recordings(folder: str | PathLike[str]) -> list[Path]:
    """Return the recordings in a folder and in those below it, by the names that links give them.

    Raises
    ------
    OSError
        If there is none, or no such folder (FileNotFoundError), or a folder cannot be read.
    """
    return sorted(names[0] / file for names, files in _list_recordings(folder) for file in files)


def _list_recordings(root: str | PathLike[str]) -> list[tuple[list[Path], list[str]]]:
    """Return the folders of `list_folders` that hold recordings, and these."""
    folders = [
        (names, recordings)
        for names, files in list_folders(root)
        if (recordings := [file for file in files if Path(file).suffix.lower() in SUFFIXES])
    ]
    if not folders:
        raise FileNotFoundError(
            f"The folder '{os.fspath(root)}' holds no recording ({', '.join(sorted(SUFFIXES))})."
        )
    return folders


def load_folder(root: str | PathLike[str]) -> Bunch:
    """List your own recordings, with labels and machines from the names of their folders.

    A clip is normal if it lies in a folder named ``normal``. It is an anomaly if it lies in a
    folder named ``anomaly``, ``anomalous`` or ``abnormal``. Lower and upper case are the same. If
    several such folders are above the clip, the innermost one counts.

    The other folders between `root` and the clip name the machine. So ``fan/id_00/normal/0.wav``,
    the layout of MIMII, is a normal clip of the machine "fan/id_00", and so is
    ``normal/fan/id_00/0.wav``.

    A link counts by its own name, not by that of its target. Hidden folders such as ``.git`` are
    left out. No sound is read.

    Parameters
    ----------
    root : str or Path
        A folder that holds recordings (wav, flac, ogg, mp3, aiff) at any depth.

    Returns
    -------
    clips : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes, ordered by path.

        paths : ndarray of shape (n_clips,), dtype str
            The files, which a pipeline takes as `X`.
        y : ndarray of shape (n_clips,), dtype int
            +1 normal, -1 anomalous.
        machine : ndarray of shape (n_clips,), dtype str
            The other folders, joined by "/"; "" if there are none.

    Raises
    ------
    FileNotFoundError
        If there is no recording, or no folder `root`.
    ValueError
        If a recording lies in no folder of such a name, or links call it both normal and anomalous.

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
    clips = []
    for names, files in _list_recordings(root):
        labelled: dict[str, tuple[Path, int]] = {}
        for name in names:
            parts = name.relative_to(root).parts
            labels = [index for index, part in enumerate(parts) if part.lower() in LABELS]
            if not labels:
                continue
            machine = "/".join(parts[: labels[-1]] + parts[labels[-1] + 1 :])
            y = LABELS[parts[labels[-1]].lower()]
            first, its_y = labelled.setdefault(machine, (name, y))
            if its_y != y:
                raise ValueError(
                    f"'{first}' and '{name}' are one folder, so its recordings are both normal and "
                    "anomalous. Remove one of the links."
                )
        if not labelled:
            raise ValueError(
                f"'{names[0] / min(files)}' lies in no folder called {', '.join(LABELS)}, so that "
                "it is neither normal nor anomalous. Move it, or list the files of your own layout "
                "yourself."
            )
        clips += [(n / file, y, machine) for machine, (n, y) in labelled.items() for file in files]
    paths, ys, machines = zip(*sorted(clips), strict=True)
    return Bunch(paths=np.array(paths, dtype=str), y=np.array(ys), machine=np.array(machines))
