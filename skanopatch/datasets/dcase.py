"""Loader of DCASE Challenge Task 2, 2020 to 2026, from the folders that its archives unpack to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, product
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from skanopatch.datasets.folder import list_folders
from skanopatch.datasets.layout import (
    FOLDERS,
    SPLITS,
    SUBSETS,
    Challenge,
    challenge_of,
    check_choice,
    check_machines,
    parse_name,
)
from skanopatch.datasets.tables import add_attributes, fill_in_ground_truth

COLUMNS = ("paths", "y", "machine", "section", "domain", "split", "subset")

_N_NAMED = 6  # of the absent parts, in the warning


def load_dcase(
    root: str | PathLike[str],
    *,
    year: int,
    machine: str | Sequence[str] | None = None,
    split: str | None = None,
    subset: str | None = None,
    ground_truth: str | PathLike[str] | None = None,
) -> Bunch:
    """List the clips of DCASE Challenge Task 2, with their labels and operating conditions.

    These come from the names of the files and from the tables of the challenge. No sound is read.

    The clips are those in ``<machine>/train``, ``<machine>/test`` (in 2021 ``source_test`` and
    ``target_test``) and ``<machine>/supplemental``, at any depth below `root`. Development and
    evaluation set may lie in one folder or in two. Parts may be missing.

    Parameters
    ----------
    root : str or Path
        A folder that holds the folders of the machines.
    year : int
        2020 to 2026.
    machine : str or sequence of str, default=None
        The machine types to list. None lists all.
    split : {"train", "test", "supplemental"}, default=None
        The clips to list. None lists all.
    subset : {"development", "evaluation"}, default=None
        The set to list. None lists both.
    ground_truth : str or Path, default=None
        The folder of the official evaluator of that year. It has the labels and domains of the test
        clips of the evaluation set, in ``ground_truth_data`` and ``ground_truth_domain``, or for
        2020 in ``eval_data_list.csv``.

    Returns
    -------
    clips : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with these arrays of one entry per clip:

        * ``paths``: the files, which a pipeline takes as `X`;
        * ``y``: +1 normal, -1 anomalous, 0 unknown (test clips of the evaluation set without
          `ground_truth`);
        * ``machine``: the machine type;
        * ``section``: the number of the section, in 2020 the id of the machine;
        * ``domain``: "source", "target", or "unknown" if names do not say it, as in all of 2020;
        * ``split`` and ``subset``: as the parameters;
        * ``label``: machine, section and attributes in one, such as "ToyCar_00_car_A1_spd_28V",
          for the ``labels`` of `AnoPatchEmbedder`.

        It also has the DataFrame ``attributes``, one row per clip, of operating conditions such as
        ``car`` and ``spd``. They come from the name of the clip, or else from
        ``attributes_NN.csv``, and are NaN if neither has them. For supplemental clips ``sound`` is
        "machine" or "noise": what is in the clip, without the other.

        The list ``absent`` names the parts of the challenge that are missing in `root`, such as
        "valve/train".

    Raises
    ------
    FileNotFoundError
        If `root` has no clip that was asked for, or `ground_truth` has no table of that year.
    ValueError
        If a parameter is out of its range, a clip has no name of that year, `root` has a clip
        twice, a table has a wrong line, or a test clip is missing in `ground_truth`.

    Warns
    -----
    UserWarning
        If only a part of a set is there.

    See Also
    --------
    fetch_dcase : Downloads the clips.
    make_miniature_dcase : Simulates a small set of the same form.

    Notes
    -----
    Clips of 2026 have two channels: 0 is near the machine, 1 is far from it. `MelPatcher` takes
    channel 0 by default.

    The organizers' script for 2021 copies ``source_test`` and ``target_test`` into ``test``. Copies
    of the same name and size are not listed.

    Do not use the lists ``eval_data_list_<year>.csv`` of the challenge's baseline in place of the
    evaluator's folder: the list of 2022 has 608 wrong labels.
    """
    challenge = challenge_of(year)
    check_choice(split, "split", SPLITS)
    check_choice(subset, "subset", SUBSETS)
    machines = check_machines(machine, challenge, subset)
    rows = []
    for path, owner, part in _find_clips(Path(root), machines):
        name = parse_name(path.stem, year=year, split=part)
        if name is None:
            raise ValueError(
                f"'{path}' has no name of DCASE {year} Task 2. Is it a clip of another year?"
            )
        y = {None: 0, True: -1, False: 1}[name.is_anomaly]
        domain = name.domain or "unknown"
        belongs_to = challenge.subset_of(owner, name.section)
        rows.append((str(path), y, owner, name.section, domain, part, belongs_to, name.attributes))
    clips = pd.DataFrame(rows, columns=[*COLUMNS, "attributes"])
    for column, choice in (("split", split), ("subset", subset)):
        if choice is not None:
            clips = clips[clips[column] == choice].reset_index(drop=True)
    if clips.empty:
        raise FileNotFoundError(
            f"'{root}' holds no such clip of DCASE {year} Task 2. Looked for "
            f"{split or 'train'}/*.wav in folders named {', '.join(machines)}, at any depth."
        )
    if ground_truth is not None:
        fill_in_ground_truth(clips, Path(ground_truth), year)
    add_attributes(clips)
    absent = _absent_parts(clips, challenge, machines, split, subset)
    # Who has fetched one of the two sets alone knows that the other is not there.
    begun = [name for name in absent if subset or clips.subset.eq(name).any()]
    if begun:
        parts = [part for name in begun for part in absent[name]]
        warnings.warn(
            f"'{root}' lacks {len(parts)} part(s) of DCASE {year} Task 2: "
            f"{', '.join(parts[:_N_NAMED])}{', ...' if len(parts) > _N_NAMED else ''}.",
            UserWarning,
            stacklevel=2,
        )
    known = zip(clips.machine, clips.section, clips.attributes, strict=True)
    labels = ["_".join([f"{m}_{n:02d}", *chain.from_iterable(a.items())]) for m, n, a in known]
    return Bunch(
        **{c: clips[c].to_numpy(dtype=int if c in ("y", "section") else str) for c in COLUMNS},
        attributes=pd.DataFrame(clips.attributes.tolist(), dtype=object),
        label=np.array(labels),
        absent=list(chain.from_iterable(absent.values())),
    )


def _find_clips(root: Path, machines: list[str]) -> list[tuple[Path, str, str]]:
    """Return each clip with its machine and split, ordered by path; raise if one is there twice."""
    folders = [
        (name, files)
        for names, files in list_folders(root)
        for name in [n for n in names if n.name in FOLDERS and n.parent.name in machines][:1]
    ]
    clips: dict[tuple[str, str, str], Path] = {}
    # In this order the copies of 2021, in "test", come after "source_test" and "target_test".
    for folder, files in sorted(folders):
        for path in [folder / file for file in files if file.endswith(".wav")]:
            first = clips.setdefault((folder.parent.name, FOLDERS[folder.name], path.name), path)
            is_copy = first.parent != folder and first.parents[1] == folder.parent
            same_size = is_copy and first.stat().st_size == path.stat().st_size
            if first != path and not same_size:
                raise ValueError(
                    f"'{first}' and '{path}' are the same clip. Give the folder of one copy of one "
                    "year as root."
                )
    return sorted((path, machine, split) for (machine, split, _), path in clips.items())


def _absent_parts(
    clips: pd.DataFrame,
    challenge: Challenge,
    machines: list[str],
    split: str | None,
    subset: str | None,
) -> dict[str, list[str]]:
    """Name what a challenge has and the clips have not, by subset."""
    present = set(zip(clips.machine, clips.section, clips.split, strict=True))
    parts = [part for part in ("train", "test") if split in (part, None)]
    absent: dict[str, list[str]] = {}
    for name in SUBSETS if subset is None else (subset,):
        known = getattr(challenge, name)
        for owner, part in product([owner for owner in known if owner in machines], parts):
            missing = [n for n in known[owner] if (owner, n, part) not in present]
            if missing:
                numbers = ", ".join(f"{number:02d}" for number in missing)
                where = "" if len(missing) == len(known[owner]) else f" (section {numbers})"
                absent.setdefault(name, []).append(f"{owner}/{part}{where}")
    return absent
