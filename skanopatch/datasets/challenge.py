"""Challenge files: the scores and decisions of a system, as DCASE Task 2 takes them."""

from __future__ import annotations

import csv
import io
import re
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from skanopatch.files import atomic_write

_FILE = re.compile(
    r"anomaly_score_(?P<machine>.+)_(?:section|id)_(?P<section>\d+)(?:_(?:source|target))?(?:_test)?"
)


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

    Two files for each section: ``anomaly_score_<machine>_section_NN_test.csv`` and
    ``decision_result_<machine>_section_NN_test.csv``, with a line ``name,value`` for each clip. In
    2021 either domain has files of its own (``_source_test``), and in 2020 the files end in
    ``_id_NN``.

    Parameters
    ----------
    folder : str or Path
        Where to. It is made if it does not exist; files of these names are overwritten.

    names : array-like of shape (n_clips,)
        The names of the clips; of paths, the last part.

    machine : array-like of shape (n_clips,)
        Machine type of each clip.

    section : array-like of int of shape (n_clips,)
        Section of each clip, in 2020 the id of the machine.

    anomaly_score : array-like of shape (n_clips,)
        Higher is more anomalous. Written so that reading gives the same float64.

    decision : array-like of shape (n_clips,)
        1 or True for clips that are judged anomalous, 0 or False for normal ones:
        ``pipe.predict(X) == -1``.

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

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from skanopatch.datasets import read_challenge_files, write_challenge_files
    >>> folder = mkdtemp()
    >>> paths = write_challenge_files(folder, names=["section_00_0000.wav"], machine=["fan"],
    ...                               section=[0], anomaly_score=[0.1], decision=[False])
    >>> [path.name for path in paths]
    ['anomaly_score_fan_section_00_test.csv', 'decision_result_fan_section_00_test.csv']
    >>> read_challenge_files(folder).anomaly_score
    array([0.1])
    """
    clips = _clip_table(names=names, machine=machine, section=section)
    clips["score"] = _column(anomaly_score, "anomaly_score", len(clips)).astype(np.float64)
    clips["decision"] = _column(decision, "decision", len(clips))
    if clips.score.isna().any():
        raise ValueError(
            f"The scores of {clips.score.isna().sum()} of {len(clips)} clips are NaN, the first of "
            f"'{clips.names[clips.score.isna()].iloc[0]}'. The challenge wants a number for each."
        )
    if not clips.decision.isin([0, 1]).all():
        raise ValueError(
            "decision must hold 0 (normal) and 1 (anomalous), such as pipe.predict(X) == -1. Got "
            f"{sorted(set(clips.decision))} instead."
        )
    clips["file"] = [
        f"{name}_{_section_part(clip_name, number, year)}"
        for clip_name, name, number in zip(clips.names, clips.machine, clips.section, strict=True)
    ]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for file, rows in clips.groupby("file"):
        for kind, values in (
            ("anomaly_score", map(repr, rows.score.tolist())),  # the shortest that round-trips
            ("decision_result", rows.decision.astype(int)),
        ):
            paths.append(folder / f"{kind}_{file}.csv")
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(zip(rows.names, values, strict=True))
            with atomic_write(paths[-1]) as stream:
                stream.write(text.getvalue().encode())
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
        With the arrays `names`, `machine`, `section`, `anomaly_score` (float64) and `decision` (0
        normal, 1 anomalous), of shape (n_clips,) each. `decision` is None where no section has a
        file of decisions, as in 2020.

    Raises
    ------
    FileNotFoundError
        If the folder holds no file of anomaly scores.

    ValueError
        If a clip asked for has no score, or the decisions of a section are not of the clips that
        its scores are of.
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
        wanted = _clip_table(names=names, machine=machine, section=section)
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


_DTYPES = {"names": str, "machine": str, "section": int, "anomaly_score": np.float64}


def _read_section(path: Path, machine: str, section: int) -> pd.DataFrame:
    scores = _read_values(path)
    clips = pd.DataFrame(
        {
            "names": list(scores),
            "machine": machine,
            "section": section,
            "anomaly_score": [float(value) for value in scores.values()],
            "decision": np.nan,
        }
    )
    beside = path.with_name(path.name.replace("anomaly_score", "decision_result", 1))
    if beside.exists():
        decisions = _read_values(beside)
        if decisions.keys() != scores.keys():
            raise ValueError(f"'{path}' and '{beside.name}' must hold the same clips.")
        clips["decision"] = [int(decisions[name]) for name in scores]
    return clips


def _read_values(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8") as stream:
        return {name: value for name, value, *_ in csv.reader(stream)}


def _clip_table(*, names: Any, machine: Any, section: Any) -> pd.DataFrame:
    """Put what identifies each clip into columns, after checking that nothing is there twice."""
    clip_names = [PurePath(name).name for name in names]
    clips = pd.DataFrame(
        {
            "names": clip_names,
            "machine": _column(machine, "machine", len(clip_names)),
            "section": _column(section, "section", len(clip_names)).astype(int),
        }
    )
    twice = clips[clips.duplicated()]
    if len(twice):
        name, owner, number = twice.iloc[0]
        raise ValueError(f"Section {number} of machine {owner!r} has two clips named '{name}'.")
    return clips


def _column(values: Any, name: str, n_clips: int) -> np.ndarray:
    column = np.asarray(values)
    if column.shape != (n_clips,):
        raise ValueError(
            f"{name} must have one entry per clip. Got the shape {column.shape} for {n_clips}."
        )
    return column


def _section_part(name: str, section: int, year: int) -> str:
    """End of the name of a file, before its extension."""
    if year == 2020:
        return f"id_{section:02d}"
    if year > 2021:
        return f"section_{section:02d}_test"
    domain = re.search("_(source|target)_test", name)
    if domain is None:
        raise ValueError(
            "Names of 2021 must tell the domain, as section_03_source_test_0000.wav does. Got "
            f"'{name}'."
        )
    return f"section_{section:02d}_{domain[1]}_test"
