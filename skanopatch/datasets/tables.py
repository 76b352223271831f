"""CSV tables of DCASE Task 2: scores, decisions, attributes, and the evaluators' ground truth."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

_GROUND_TRUTH = re.compile(r"ground_truth_(?P<machine>.+)_section_\d\d_(?:(?:source|target)_)?test")
_DOMAINS = ("source", "target")


def read_rows(path: Path, n_columns: int = 1) -> Iterator[list[str]]:
    """Yield the rows of a CSV file without blank lines; errors name the file and the line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            for row in reader:
                if len(row) >= n_columns:
                    yield row
                elif any(cell.strip() for cell in row):
                    raise ValueError(
                        f"Line {reader.line_num} of '{path}' must have at least {n_columns} "
                        f"columns. Got {','.join(row)!r}."
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{path}' must be a CSV file in UTF-8: {error}.") from error


def read_numbers(path: Path, *, binary: bool = False) -> dict[str, float]:
    """Read lines of a clip's name and a number, 0 or 1 if `binary`; the error names both."""
    numbers: dict[str, float] = {}
    for name, text, *_ in read_rows(path, 2):
        try:
            number = float(text)
        except ValueError:
            number = math.inf
        if number == math.inf or (binary and number not in (0, 1)):
            expected = "0 or 1" if binary else "a number"
            raise ValueError(f"'{path}' must have {expected} for '{name}'. Got {text!r} instead.")
        numbers[name] = number
    return numbers


def fill_in_ground_truth(clips: pd.DataFrame, folder: Path, year: int) -> None:
    """Put the evaluator's labels and domains into the test clips of the evaluation set."""
    domains = None  # 2020 has none, and in 2021 they are in the names of the clips
    if year == 2020:
        labels = _read_list_of_2020(folder / "eval_data_list.csv")
    else:
        labels = _read_ground_truth(folder / "ground_truth_data")
        if year >= 2022:
            domains = _read_ground_truth(folder / "ground_truth_domain")
    unknown = clips.index[(clips.split == "test") & (clips.subset == "evaluation")]
    names = clips.paths[unknown].map(lambda path: Path(path).name)
    if year >= 2022:  # the tables say section_03_0000.wav, whatever the archives say
        names = names.str.replace("_test_", "_")
    keys = list(zip(clips.machine[unknown], names, strict=True))
    missing = [key for key in keys if key not in labels or (domains and key not in domains)]
    if missing:
        machine, name = missing[0]
        raise ValueError(
            f"'{folder}' tells nothing of {len(missing)} of {len(keys)} test clips, the first of "
            f"which is '{name}' of {machine!r}. Is it the evaluator of {year}?"
        )
    clips.loc[unknown, "y"] = [-1 if labels[key] else 1 for key in keys]
    if domains is not None:
        clips.loc[unknown, "domain"] = [_DOMAINS[int(domains[key])] for key in keys]


def _read_ground_truth(folder: Path) -> dict[tuple[str, str], float]:
    """Read the tables of all sections in a folder, by machine and name of the clip."""
    # Names do not repeat within a machine: they hold the section and, in 2021, the domain.
    column = {
        (match["machine"], name): value
        for path in sorted(folder.glob("*.csv"))
        if (match := _GROUND_TRUTH.fullmatch(path.stem))
        for name, value in read_numbers(path, binary=True).items()
    }
    if not column:
        raise FileNotFoundError(
            f"'{folder}' holds no table ground_truth_<machine>_section_NN_test.csv. Give the "
            "folder of the official evaluator as ground_truth."
        )
    return column


def _read_list_of_2020(path: Path) -> dict[tuple[str, str], float]:
    """Read the list of 2020: a line with a machine, then a line a clip."""
    if not path.exists():
        raise FileNotFoundError(
            f"There is no '{path}'. Give the folder of the official evaluator of 2020, with its "
            "list, as ground_truth."
        )
    column: dict[tuple[str, str], float] = {}
    machine = ""
    for name, *cells in read_rows(path):
        if not cells:
            machine = name
        elif cells[-1] in ("0", "1"):
            column[machine, name] = float(cells[-1])
        else:
            raise ValueError(f"'{path}' must have 0 or 1 for '{name}'. Got {cells[-1]!r} instead.")
    return column


def add_attributes(clips: pd.DataFrame) -> None:
    """Add the attributes of ``attributes_NN.csv`` beside a clip's folder that its name lacks."""
    folders = clips.paths.map(lambda path: Path(path).parents[1])
    for (folder, section), rows in clips.groupby([folders, clips.section]).groups.items():
        table = folder / f"attributes_{section:02d}.csv"
        if table.exists():
            attributes = _read_attributes(table)
            for row in rows:
                own = clips.at[row, "attributes"]
                own |= attributes.get(Path(clips.at[row, "paths"]).stem, {}) | own


def _read_attributes(table: Path) -> dict[str, dict[str, str]]:
    """Read the keys (columns d1p, d2p, ...) and values (d1v, d2v, ...) of each clip."""
    header, *rows = list(read_rows(table)) or [[]]
    if "file_name" not in header:
        raise ValueError(f"'{table}' must have a column file_name. Got {header} instead.")
    attributes = {}
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        stem = Path(cells.get("file_name", "")).name.removesuffix(".wav")
        attributes[stem] = {
            key: cells.get(f"{column[:-1]}v", "")
            for column, key in cells.items()
            if re.fullmatch(r"d\d+p", column) and key and key != "noAttribute"
        }
    return attributes
