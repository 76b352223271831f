"""Miniature data sets in the layout of each year of DCASE Task 2, out of the simulator."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from skanopatch.datasets.layout import SUBSETS, challenge_of, check_machines
from skanopatch.datasets.machine_sounds import make_machine_sounds
from skanopatch.datasets.machines import MACHINES

SAMPLE_RATE = 16000
SNR_NEAR, SNR_FAR = 6.0, -6.0  # dB, of the channels of 2026
SEVERITY = 2.0
EVALUATOR = "evaluator"


class _Clip(NamedTuple):
    samples: NDArray  # (n_samples, n_channels)
    split: str
    y: int
    domain: str
    attributes: str


@validate_params(
    {
        "root": "no_validation",
        "year": [Integral],
        "machines": ["array-like", None],
        "n_train": [Interval(Integral, 1, None, closed="left")],
        "n_test": [Interval(Integral, 1, None, closed="left")],
        "duration": [Interval(Real, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_miniature_dcase(
    root: str | PathLike[str],
    *,
    year: int,
    machines: Sequence[str] | None = None,
    n_train: int = 12,
    n_test: int = 2,
    duration: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> Path:
    """Write a small simulated data set in the layout of a year of DCASE Challenge Task 2.

    Folders, names, attributes, number of channels and ground truth are those of the year; what
    sounds is one of the machines of `make_machine_sounds`, also under the name of another. For
    tests and examples that need no download, not for measuring systems.

    Parameters
    ----------
    root : str or Path
        Where to. The folder of the evaluator, with the ground truth of the evaluation set, is
        ``root / "evaluator"``.

    year : int
        2020 to 2026.

    machines : array-like of str, default=None
        Machine types of that year. None writes all.

    n_train : int, default=12
        Clips to train on of each section, a tenth of them, rounded up, of the target domain.

    n_test : int, default=2
        Test clips of each section, domain and label.

    duration : float, default=1.0
        Length of the clips in seconds, at least 1.

    random_state : int, RandomState instance or None, default=None
        Determines the sounds and the order of the test clips. Pass an int for the same files in
        every call.

    Returns
    -------
    root : Path
        What `load_dcase` takes.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from skanopatch.datasets import make_miniature_dcase
    >>> root = make_miniature_dcase(mkdtemp(), year=2020, machines=["fan"], n_train=1, n_test=1)
    >>> sorted(path.name for path in (root / "fan" / "test").glob("*_04_*"))
    ['anomaly_id_04_00000000.wav', 'normal_id_04_00000000.wav']
    """
    challenge = challenge_of(year)
    chosen = check_machines(machines, challenge, None)
    rng = check_random_state(random_state)
    root = Path(root)
    tables: dict[Path, list[Sequence[Any]]] = {}
    for place, machine in enumerate(challenge.machines(None)):
        seed = rng.randint(np.iinfo(np.int32).max)  # drawn for all, so that none changes another
        if machine not in chosen:
            continue
        subset_of = {
            section: subset
            for subset in SUBSETS
            for section in getattr(challenge, subset).get(machine, ())
        }
        model = machine if machine in MACHINES else list(MACHINES)[place % len(MACHINES)]
        units = _simulate(model, len(subset_of), year, n_train, n_test, duration, seed)
        for (section, subset), clips in zip(subset_of.items(), units, strict=True):
            names = _Names(year, section, subset, has_attributes=place % 2 == 0)
            for clip in clips:
                folder, stem = names.next(clip)
                path = root / machine / folder / f"{stem}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, clip.samples, SAMPLE_RATE, subtype="PCM_16")
                if names.hides(clip):
                    _note_ground_truth(tables, root / EVALUATOR, year, machine, section, path, clip)
                elif year >= 2022 and clip.split != "supplemental":
                    _note_attributes(tables, path, section, clip, names.has_attributes)
    for path, rows in tables.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)
    return root


def _simulate(
    model: str, n_units: int, year: int, n_train: int, n_test: int, duration: float, seed: int
) -> list[list[_Clip]]:
    """Return the clips of each unit; what hides labels also hides their order."""
    channels = [
        make_machine_sounds(
            [model],
            n_units=n_units,
            n_train=n_train,
            n_normal=2 * n_test,  # half of them of the target domain
            n_anomalous=2 * n_test,
            severity=SEVERITY,
            snr=snr,
            target_fraction=0.0 if year == 2020 else 0.1,
            duration=duration,
            random_state=seed,
        )
        for snr in ((SNR_NEAR, SNR_FAR) if year == 2026 else (SNR_NEAR,))
    ]
    sounds = channels[0]
    units: list[list[_Clip]] = [[] for _ in range(n_units)]
    for row in np.random.default_rng(seed).permutation(len(sounds.y)):
        if year == 2020 and sounds.domain[row] == "target":
            continue
        speed, load = sounds.attributes.iloc[row]
        clip = _Clip(
            samples=np.stack([channel.clips[row] for channel in channels], axis=1),
            split=str(sounds.split[row]),
            y=int(sounds.y[row]),
            domain=str(sounds.domain[row]),
            attributes=f"spd_{speed:.0f}_ld_{load}",
        )
        units[sounds.section[row]].append(clip)
        if year >= 2025 and clip.split == "train" and clip.domain == "target":
            units[sounds.section[row]].append(clip._replace(split="supplemental"))
    return units


class _Names:
    """Names the clips of a section by the rules of a year, and counts them."""

    def __init__(self, year: int, section: int, subset: str, *, has_attributes: bool):
        self.year, self.section, self.subset = year, section, subset
        self.has_attributes = has_attributes
        self._counts: Counter[tuple[str, str]] = Counter()

    def hides(self, clip: _Clip) -> bool:
        """Tell whether the name of a clip hides its label."""
        return clip.split == "test" and self.subset == "evaluation"

    def next(self, clip: _Clip) -> tuple[str, str]:
        """Return the folder and the name, without extension, of a clip."""
        label = "normal" if clip.y == 1 else "anomaly"
        folder = f"{clip.domain}_test" if self.year == 2021 and clip.split == "test" else clip.split
        attributes = f"_{clip.attributes if self.has_attributes else 'noAttribute'}"
        if self.year == 2020:
            kind = (
                f"id_{self.section:02d}" if self.hides(clip) else f"{label}_id_{self.section:02d}"
            )
            return folder, f"{kind}_{self._count(clip.split, kind):08d}"
        kind = f"section_{self.section:02d}"
        if clip.split == "supplemental":
            kind += "_machine"
        elif not self.hides(clip):
            kind += f"_{clip.domain}_{clip.split}_{label}"
        elif self.year == 2021:
            kind += f"_{clip.domain}_test"
        if self.hides(clip) or (self.year == 2021 and clip.split == "test"):
            attributes = ""
        return folder, f"{kind}_{self._count(clip.split, kind):04d}{attributes}"

    def _count(self, split: str, kind: str) -> int:
        self._counts[split, kind] += 1
        return self._counts[split, kind] - (0 if self.year == 2024 else 1)


def _note_ground_truth(
    tables: dict[Path, list[Sequence[Any]]],
    evaluator: Path,
    year: int,
    machine: str,
    section: int,
    path: Path,
    clip: _Clip,
) -> None:
    """Add a clip to the tables of the evaluator of a year."""
    is_anomaly = int(clip.y == -1)
    if year == 2020:
        rows = tables.setdefault(evaluator / "eval_data_list.csv", [])
        if (machine,) not in rows:
            rows.append((machine,))
        kind = "anomaly" if is_anomaly else "normal"
        rows.append((path.name, f"{kind}_{path.name}", is_anomaly))
        return
    part = f"{clip.domain}_test" if year == 2021 else "test"
    table = f"ground_truth_{machine}_section_{section:02d}_{part}.csv"
    tables.setdefault(evaluator / "ground_truth_data" / table, []).append((path.name, is_anomaly))
    if year > 2021:
        tables.setdefault(evaluator / "ground_truth_domain" / table, []).append(
            (path.name, int(clip.domain == "target"))
        )


def _note_attributes(
    tables: dict[Path, list[Sequence[Any]]],
    path: Path,
    section: int,
    clip: _Clip,
    has_attributes: bool,
) -> None:
    """Add a clip to the table of attributes of its section."""
    header = ["file_name", "d1p", "d1v", "d2p", "d2v"] if has_attributes else ["file_name"]
    rows = tables.setdefault(path.parents[1] / f"attributes_{section:02d}.csv", [header])
    values = clip.attributes.split("_") if has_attributes else []
    rows.append(["/".join(path.parts[-3:]), *values])
