"""Loader of DCASE Challenge Task 2, 2020 to 2026, from the folders that its archives unpack to."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from skanopatch.datasets.ground_truth import fill_in
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

DTYPES = {
    "paths": str,
    "y": int,
    "machine": str,
    "section": int,
    "domain": str,
    "split": str,
    "subset": str,
}

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
    """List the clips of DCASE Challenge Task 2, with all that names and tables tell of them.

    No sound is read. The clips are those in ``<machine>/train``, ``<machine>/test`` (in 2021
    ``source_test`` and ``target_test``) and ``<machine>/supplemental``, at any depth below `root`:
    the development set and the evaluation set may lie side by side or one beside the other, and
    either may be there in part.

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
        The folder of the official evaluator of that year, which tells labels and domains of the
        evaluation set's test clips: it holds ``ground_truth_data`` and ``ground_truth_domain``, in
        2020 ``eval_data_list.csv``.

    Returns
    -------
    clips : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes; arrays have one entry a clip.

        paths : ndarray of shape (n_clips,), dtype str
            The files, what a pipeline takes as `X`.
        y : ndarray of shape (n_clips,)
            +1 normal, -1 anomalous, 0 unknown (tests of an evaluation set without `ground_truth`).
        machine : ndarray of shape (n_clips,), dtype str
            The machine type.
        section : ndarray of shape (n_clips,)
            The section, in 2020 the id of the machine.
        domain : ndarray of shape (n_clips,), dtype str
            "source", "target", or "unknown": all of 2020, and where names do not tell.
        split : ndarray of shape (n_clips,), dtype str
            "train", "test" or "supplemental".
        subset : ndarray of shape (n_clips,), dtype str
            "development" or "evaluation".
        attributes : DataFrame of shape (n_clips, n_attributes), dtype object
            Operating conditions such as ``car`` and ``spd``, from the names and, for keys that the
            name of a clip lacks, from ``attributes_NN.csv``; NaN where unknown. Of supplemental
            clips ``sound`` tells whether it is the ``machine`` alone or ``noise`` alone.
        label : ndarray of shape (n_clips,), dtype str
            Machine, section and attributes in one, such as "ToyCar_00_car_A1_spd_28V": what
            `AnoPatchEmbedder` learns to tell apart.
        absent : list of str
            What the challenge has and `root` has not, such as "valve/train".

    Raises
    ------
    FileNotFoundError
        If `root` has no clip of what is asked for, or `ground_truth` no table of that year.

    ValueError
        If a parameter is out of its range, the name of a clip is not one of that year, a clip is
        there twice, or `ground_truth` lacks a test clip of the evaluation set.

    Warns
    -----
    UserWarning
        If a set of which some clips are there lacks others.

    Notes
    -----
    Clips of 2026 have two channels: 0 is near the machine, 1 far from it. Choose with
    ``MelPatcher(channel=0)``.

    The lists ``eval_data_list_<year>.csv`` in the repository of the challenge's baseline are no
    substitute for the evaluator's folder: that of 2022 has 608 wrong labels, of ToyCar and
    ToyTrain.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import numpy as np
    >>> from skanopatch.datasets import load_dcase, make_miniature_dcase
    >>> root = make_miniature_dcase(mkdtemp(), year=2024, machines=["fan"], random_state=0)
    >>> clips = load_dcase(root, year=2024, machine="fan", split="test")
    >>> np.unique(clips.domain).tolist()
    ['source', 'target']
    """
    challenge = challenge_of(year)
    check_choice(split, "split", SPLITS)
    check_choice(subset, "subset", SUBSETS)
    machines = check_machines(machine, challenge, subset)
    rows = []
    for path, owner, part in sorted(_find_clips(Path(root), machines)):
        name = parse_name(path.stem, year=year, split=part)
        if name is None:
            raise ValueError(
                f"'{path}' has no name of DCASE {year} Task 2. Is it a clip of another year?"
            )
        y = 0 if name.is_anomaly is None else -1 if name.is_anomaly else 1
        domain = name.domain or "unknown"
        belongs_to = challenge.subset_of(owner, name.section)
        rows.append((str(path), y, owner, name.section, domain, part, belongs_to, name.attributes))
    clips = pd.DataFrame(rows, columns=[*DTYPES, "attributes"])
    for column, choice in (("split", split), ("subset", subset)):
        if choice is not None:
            clips = clips[clips[column] == choice].reset_index(drop=True)
    if clips.empty:
        raise FileNotFoundError(
            f"'{root}' holds no such clip of DCASE {year} Task 2. Looked for "
            f"{split or 'train'}/*.wav in folders named {', '.join(machines)}, at any depth."
        )
    _check_unique(clips)
    if ground_truth is not None:
        fill_in(clips, Path(ground_truth), year)
    _add_tabled_attributes(clips)
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
    return Bunch(
        **{name: clips[name].to_numpy(dtype=dtype) for name, dtype in DTYPES.items()},
        attributes=pd.DataFrame(clips.attributes.tolist(), dtype=object),
        label=np.array(
            [
                "_".join([f"{owner}_{section:02d}", *chain.from_iterable(attributes.items())])
                for owner, section, attributes in zip(
                    clips.machine, clips.section, clips.attributes, strict=True
                )
            ]
        ),
        absent=[part for parts in absent.values() for part in parts],
    )


def _find_clips(root: Path, machines: list[str]) -> Iterator[tuple[Path, str, str]]:
    """Walk the folders, and yield each clip with its machine and split."""
    for folder, _, files in os.walk(root, followlinks=True):
        place = Path(folder)
        if place.name in FOLDERS and place.parent.name in machines:
            for file in files:
                if file.endswith(".wav"):
                    yield place / file, place.parent.name, FOLDERS[place.name]


def _check_unique(clips: pd.DataFrame) -> None:
    places = clips.paths.map(lambda path: Path(*Path(path).parts[-3:]))
    if places.duplicated().any():
        first, second = clips.paths[places == places[places.duplicated()].iloc[0]].iloc[:2]
        raise ValueError(
            f"'{first}' and '{second}' are the same clip. Give the folder of one copy of one year "
            "as root."
        )


def _add_tabled_attributes(clips: pd.DataFrame) -> None:
    """Add what ``attributes_NN.csv`` beside a clip's folder tells and its name does not."""
    folders = clips.paths.map(lambda path: Path(path).parents[1])
    for (folder, section), rows in clips.groupby([folders, clips.section]).groups.items():
        table = folder / f"attributes_{section:02d}.csv"
        if not table.exists():
            continue
        tabled = _read_attributes(table)
        for row in rows:
            own = clips.at[row, "attributes"]
            for key, value in tabled.get(Path(clips.at[row, "paths"]).stem, {}).items():
                own.setdefault(key, value)


def _read_attributes(table: Path) -> dict[str, dict[str, str]]:
    """Read the keys (columns d1p, d2p, ...) and values (d1v, d2v, ...) of each clip."""
    with table.open(newline="", encoding="utf-8") as stream:
        return {
            Path(row["file_name"]).name.removesuffix(".wav"): {
                key: row[f"{column[:-1]}v"]
                for column, key in row.items()
                if re.fullmatch(r"d\d+p", column or "") and key and key != "noAttribute"
            }
            for row in csv.DictReader(stream)
        }


def _absent_parts(
    clips: pd.DataFrame,
    challenge: Challenge,
    machines: list[str],
    split: str | None,
    subset: str | None,
) -> dict[str, list[str]]:
    """Name what a challenge has and the clips have not, by subset."""
    present = set(zip(clips.machine, clips.section, clips.split, strict=True))
    absent: dict[str, list[str]] = {}
    for name in SUBSETS if subset is None else (subset,):
        for owner, sections in getattr(challenge, name).items():
            for part in ("train", "test") if split is None else (split,):
                if owner not in machines or part == "supplemental":
                    continue
                missing = [number for number in sections if (owner, number, part) not in present]
                if missing:
                    numbers = (
                        ""
                        if len(missing) == len(sections)
                        else f" (section {', '.join(f'{number:02d}' for number in missing)})"
                    )
                    absent.setdefault(name, []).append(f"{owner}/{part}{numbers}")
    return absent
