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
    """Write anomaly scores and decisions to the files that DCASE Task 2 asks for.

    Each section gets two files, ``anomaly_score_<machine>_section_NN_test.csv`` and
    ``decision_result_<machine>_section_NN_test.csv``. In 2021 each domain has files of its own
    (``_source_test``, ``_target_test``). In 2020 the names end in ``_id_NN``. A line is
    ``name,value``. The official evaluators read these files.

    Parameters
    ----------
    folder : str or Path
        The folder to write to. It is made if it does not exist. Files of the same names are
        replaced.
    names : array-like of shape (n_clips,)
        The names of the clips. Of a path, the last part is taken.
    machine, section : array-like of shape (n_clips,)
        Machine type and section of each clip, in 2020 the id of the machine.
    anomaly_score : array-like of shape (n_clips,)
        Higher is more anomalous. The file has as many digits as are needed to read the same
        float64.
    decision : array-like of shape (n_clips,)
        1 or True for anomalous clips, 0 or False for normal ones, such as
        ``pipe.predict(X) == -1``.
    year : int, default=2026
        The year of the challenge, which sets the file names. They are the same from 2022 on.

    Returns
    -------
    paths : list of Path
        The files, in the order in which they were written.

    Raises
    ------
    ValueError
        If arrays differ in length, a score is NaN, a decision is neither 0 nor 1, a section has two
        clips of one name, or a name of 2021 does not say the domain.

    See Also
    --------
    read_challenge_files : Reads the files again.
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
    """Read anomaly scores and decisions from files in the form of DCASE Task 2.

    Parameters
    ----------
    folder : str or Path
        A folder of challenge files of any year, such as those of `write_challenge_files`.
    names, machine, section : array-like of shape (n_clips,), default=None
        The clips to return, in this order; give all three. None returns all clips, in the order of
        the files.

    Returns
    -------
    results : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the arrays ``names``, ``machine``, ``section``,
        ``anomaly_score`` (higher is more anomalous) and ``decision`` (0 normal, 1 anomalous) of
        shape (n_clips,). ``decision`` is None if there are no files of decisions.

    Raises
    ------
    FileNotFoundError
        If the folder has no file of anomaly scores.
    ValueError
        If a clip that was asked for has no score, the scores and the decisions of a section are of
        different clips, or a line is not a name and a number.

    See Also
    --------
    write_challenge_files : Writes such files.
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
