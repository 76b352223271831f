"""Labels and domains of DCASE's evaluation sets, as the official evaluators publish them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd

_TABLE = re.compile(r"ground_truth_(?P<machine>.+)_section_\d\d_(?:(?:source|target)_)?test")
_DOMAINS = {"0": "source", "1": "target"}

# By machine and name of the clip. Names do not repeat within a machine: they hold the section and,
# in 2021, the domain.
Column = dict[tuple[str, str], str]


def fill_in(clips: pd.DataFrame, folder: Path, year: int) -> None:
    """Put the evaluator's labels and domains into the test clips of the evaluation set.

    Parameters
    ----------
    clips : DataFrame
        With the columns of `load_dcase`. Its `y` and `domain` are written to.

    folder : Path
        Of the official evaluator.

    year : int
        2020 to 2026.
    """
    if year == 2020:
        labels, domains = _read_list(folder / "eval_data_list.csv"), None
    else:
        labels = _read_tables(folder / "ground_truth_data")
        # In 2021 the names of the clips tell the domain.
        domains = None if year == 2021 else _read_tables(folder / "ground_truth_domain")
    unknown = clips.index[(clips.split == "test") & (clips.subset == "evaluation")]
    names = clips.paths[unknown].map(lambda path: Path(path).name)
    if year >= 2022:  # the tables say section_03_0000.wav, whatever the archives say
        names = names.str.replace("_test_", "_")
    keys = dict(zip(unknown, zip(clips.machine[unknown], names, strict=True), strict=True))
    missing = [name for name in keys.values() if name not in labels]
    if missing:
        machine, name = missing[0]
        raise ValueError(
            f"'{folder}' tells nothing of {len(missing)} of {len(keys)} test clips, the first of "
            f"which is '{name}' of {machine!r}. Is it the evaluator of {year}?"
        )
    for row, key in keys.items():
        clips.at[row, "y"] = -1 if float(labels[key]) else 1
        if domains is not None:
            clips.at[row, "domain"] = _DOMAINS[domains[key]]


def _read_tables(folder: Path) -> Column:
    """Read the tables of all machines and sections in a folder."""
    column: Column = {}
    for path in sorted(folder.glob("*.csv")):
        match = _TABLE.fullmatch(path.stem)
        if match:
            with path.open(newline="", encoding="utf-8") as stream:
                for name, value, *_ in csv.reader(stream):
                    column[match["machine"], name] = value
    if not column:
        raise FileNotFoundError(
            f"'{folder}' holds no table ground_truth_<machine>_section_NN_test.csv. Give the "
            "folder of the official evaluator as ground_truth."
        )
    return column


def _read_list(path: Path) -> Column:
    """Read the list of 2020: a line with a machine, then a line a clip."""
    if not path.exists():
        raise FileNotFoundError(
            f"There is no '{path}'. Give the folder of the official evaluator of 2020, with its "
            "list, as ground_truth."
        )
    column: Column = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.reader(stream):
            if len(row) == 1:
                machine = row[0]
            elif row:
                column[machine, row[0]] = row[2]
    return column
