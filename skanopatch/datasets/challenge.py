"""Challenge files: the scores and decisions of a system, as DCASE Task 2 takes them."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from skanopatch.datasets.tables import read_numbers
from skanopatch.files import atomic_write

_FILE = re.compile(
    r"anomaly_score_(?P<machine>.+)_(?:section|id)_(?P<section>\d+)(?:_(?:source|target))?(?:_test)?"
)
_DTYPES = {"names": str, "machine": str, "section": int, "anomaly_score": np.float64}


def write_challenge_files(
    folder: str | PathLike[str],
    *,
    names: Any,
    machine: Any,
    section: Any,
    anomaly_score: Any,
    decision: Any,
    year: int = 2026,
) -> list[Path]:
    """Write anomaly scores and decisions as the official evaluators read them.

    Each section gets two files, ``anomaly_score_<machine>_section_NN_test.csv`` and
    ``decision_result_<machine>_section_NN_test.csv``, in 2021 for either domain (``_source_test``)
    and in 2020 with names that end in ``_id_NN``. A line is ``name,value``.

    Parameters
    ----------
    folder : str or Path
        It is made if it does not exist; files of these names are overwritten.
    names : array-like of shape (n_clips,)
        The names of the clips; of paths, the last part.
    machine, section : array-like of shape (n_clips,)
        Machine type and section of each clip, in 2020 the id of the machine.
    anomaly_score : array-like of shape (n_clips,)
        Higher is more anomalous. Written so that reading gives the same float64.
    decision : array-like of shape (n_clips,)
        1 or True for anomalous clips, 0 or False for normal ones: ``pipe.predict(X) == -1``.
    year : int, default=2026
        Whose file names to use; those of 2022 and later are the same.

    Returns
    -------
    paths : list of Path
        The files, in the order in which they were written.

    Raises
    ------
    ValueError
        If arrays differ in length, a score is NaN, a decision is neither 0 nor 1, a section has two
        clips of one name, or a name of 2021 does not tell the domain.
    """
    clips = _clip_table(names, machine, section, anomaly_score=anomaly_score, decision=decision)
    unscored = clips.names[clips.anomaly_score.isna()]
    if len(unscored):
        raise ValueError(
            f"The scores of {len(unscored)} of {len(clips)} clips are NaN, the first of "
            f"'{unscored.iloc[0]}'. The challenge wants a number for each."
        )
    if not clips.decision.isin([0, 1]).all():
        raise ValueError(
            "decision must hold 0 (normal) and 1 (anomalous), such as pipe.predict(X) == -1. Got "
            f"{sorted(set(clips.decision))} instead."
        )
    clips["decision_result"] = clips.decision.astype(int)
    ends = [_file_end(name, n, year) for name, n in zip(clips.names, clips.section, strict=True)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for end, rows in clips.groupby(clips.machine.astype(str) + ends):
        for column in ("anomaly_score", "decision_result"):
            paths.append(folder / f"{column}_{end}.csv")
            with atomic_write(paths[-1]) as file:
                table = rows[["names", column]]
                table.to_csv(file, header=False, index=False, lineterminator="\n")
    return paths


def read_challenge_files(
    folder: str | PathLike[str], *, names: Any = None, machine: Any = None, section: Any = None
) -> Bunch:
    """Read the anomaly scores and decisions of a system.

    Parameters
    ----------
    folder : str or Path
        A folder of challenge files of any year.
    names, machine, section : array-like of shape (n_clips,), default=None
        The clips to return, in this order. None returns all, in the order of the files.

    Returns
    -------
    results : :class:`~sklearn.utils.Bunch`
        With the arrays `names`, `machine`, `section`, `anomaly_score` and `decision` (0 normal, 1
        anomalous) of shape (n_clips,); `decision` is None where there are no files of it.

    Raises
    ------
    FileNotFoundError
        If the folder holds no file of anomaly scores.
    ValueError
        If a clip asked for has no score, the decisions of a section are not of the clips that its
        scores are of, or a line is not a name and a number.
    """
    folder = Path(folder)
    parts = [
        _read_section(path, match["machine"], int(match["section"]))
        for path in sorted(folder.glob("anomaly_score_*.csv"))
        if (match := _FILE.fullmatch(path.stem))
    ]
    if not parts:
        raise FileNotFoundError(
            f"'{folder}' holds no file of the form anomaly_score_<machine>_section_NN_test.csv."
        )
    results = pd.concat(parts, ignore_index=True)
    if names is not None:
        wanted = _clip_table(names, machine, section)
        results = wanted.merge(results, how="left", on=list(wanted))
        missing = results.names[results.anomaly_score.isna()]
        if len(missing):
            raise ValueError(
                f"'{folder}' has no scores for {len(missing)} of {len(wanted)} clips: "
                f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}."
            )
    decision = results.pop("decision")
    return Bunch(
        **{name: results[name].to_numpy(dtype=kind) for name, kind in _DTYPES.items()},
        decision=None if decision.isna().all() else decision.to_numpy(dtype=int),
    )


def _read_section(path: Path, machine: str, section: int) -> pd.DataFrame:
    """Read the scores of a section and, where there is a file of them, the decisions."""
    clips = pd.DataFrame({"anomaly_score": read_numbers(path)}).assign(
        machine=machine, section=section, decision=np.nan
    )
    beside = path.with_name(path.name.replace("anomaly_score", "decision_result", 1))
    if beside.exists():
        decisions = read_numbers(beside, binary=True)
        if decisions.keys() != set(clips.index):
            raise ValueError(f"'{path}' and '{beside.name}' must hold the same clips.")
        clips["decision"] = pd.Series(decisions)
    return clips.rename_axis("names").reset_index()


def _clip_table(names: Any, machine: Any, section: Any, **columns: Any) -> pd.DataFrame:
    """Put what is known of clips into columns, after checking that no clip is there twice."""
    clips = pd.DataFrame({"names": [PurePath(name).name for name in names]})
    for name, values in {"machine": machine, "section": section, **columns}.items():
        column = np.asarray(values)
        if column.shape != (len(clips),):
            raise ValueError(
                f"{name} must have one entry per clip. Got the shape {column.shape} for "
                f"{len(clips)}."
            )
        clips[name] = column.astype(
            {"section": int, "anomaly_score": float}.get(name, column.dtype)
        )
    key = ["names", "machine", "section"]
    twice = clips.loc[clips.duplicated(key), key]
    if len(twice):
        name, owner, number = twice.iloc[0]
        raise ValueError(f"Section {number} of machine {owner!r} has two clips named '{name}'.")
    return clips


def _file_end(name: str, section: int, year: int) -> str:
    """Return what follows the machine in the names of a clip's files, without the extension."""
    if year == 2020:
        return f"_id_{section:02d}"
    if year > 2021:
        return f"_section_{section:02d}_test"
    domain = re.search("_(source|target)_test", name)
    if domain is None:
        raise ValueError(
            "Names of 2021 must tell the domain, as section_03_source_test_0000.wav does. Got "
            f"'{name}'."
        )
    return f"_section_{section:02d}_{domain[1]}_test"
