"""Miniature data sets in the layout of each year of DCASE Task 2, out of the simulator."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from skanopatch.datasets.acoustics import noise
from skanopatch.datasets.layout import SUBSETS, challenge_of, check_machines
from skanopatch.datasets.machine_sounds import make_machine_sounds
from skanopatch.datasets.machines import MACHINES

SAMPLE_RATE = 16000
SNR_NEAR, SNR_FAR = 6.0, -6.0  # dB, of the channels of 2026
SEVERITY = 2.0
_NOISE_RMS = 0.05

Tables = dict[Path, list[Sequence[Any]]]  # the rows of each CSV file


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
    """Write a small simulated data set in the form of a year of DCASE Challenge Task 2.

    It is for tests and examples that need no download. Do not measure systems with it: the sounds
    are those of `make_machine_sounds`, whatever the name of the machine.

    Folders, names, attributes, number of channels and ground truth are those of the year. From 2025
    on there are supplemental clips. They have the machine alone or noise alone, depending on the
    machine type.

    Parameters
    ----------
    root : str or Path
        The folder to write to. ``root / "evaluator"`` gets the ground truth of the evaluation set.
    year : int
        2020 to 2026.
    machines : array-like of str, default=None
        Machine types of that year. None writes all.
    n_train : int, default=12
        Number of training clips of each section. A tenth of them, rounded up, is of the target
        domain.
    n_test : int, default=2
        Number of test clips of each section, domain and label.
    duration : float, default=1.0
        Length of the clips in seconds, at least 1.
    random_state : int, RandomState instance or None, default=None
        Determines the sounds and the order of the clips. An int gives the same files in each call.

    Returns
    -------
    root : Path
        The folder, which `load_dcase` takes.

    Raises
    ------
    ValueError
        If the year is out of range, or a machine is not one of that year.

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
    tables: Tables = {}
    for index, machine in enumerate(challenge.machines(None)):
        seed = rng.randint(np.iinfo(np.int32).max)  # drawn for all, so that none changes another
        if machine not in chosen:
            continue
        sections = [
            _Section(root, tables, year, machine, number, subset, has_attributes=index % 2 == 0)
            for subset in SUBSETS
            for number in getattr(challenge, subset).get(machine, ())
        ]
        model = machine if machine in MACHINES else list(MACHINES)[index % len(MACHINES)]
        sound = ("machine", "noise")[index % 2]
        clips = _simulate(model, len(sections), year, n_train, n_test, duration, sound, seed)
        for unit, clip in sorted(clips, key=lambda pair: pair[0]):
            sections[unit].write(clip)
    for path, rows in tables.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)
    return root


class _Clip(NamedTuple):
    samples: NDArray  # (n_samples, n_channels)
    split: str
    y: int
    domain: str
    attributes: str
    sound: str = ""  # of a supplemental clip, "machine" or "noise"


def _simulate(
    model: str,
    n_units: int,
    year: int,
    n_train: int,
    n_test: int,
    duration: float,
    supplemental: str,
    seed: int,
) -> Iterator[tuple[int, _Clip]]:
    """Yield the unit of each clip and the clip, in an order that does not reveal the labels."""
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
    sounds, rng = channels[0], np.random.default_rng(seed)
    for row in rng.permutation(len(sounds.y)):
        samples = np.stack([channel.clips[row] for channel in channels], axis=1)
        split, y, domain = (sounds[name][row] for name in ("split", "y", "domain"))
        speed, load = sounds.attributes.iloc[row]
        clip = _Clip(samples, str(split), int(y), str(domain), f"spd_{speed:.0f}_ld_{load}")
        if year > 2020 or domain == "source":
            yield sounds.section[row], clip
        if year >= 2025 and split == "train" and domain == "target":
            alone = clip._replace(split="supplemental")
            if supplemental == "noise":
                sound = _NOISE_RMS * noise(len(samples), SAMPLE_RATE, _pink, rng)
                alone = alone._replace(samples=np.repeat(sound[:, np.newaxis], len(channels), 1))
            yield sounds.section[row], alone._replace(sound=supplemental)


def _pink(frequencies: NDArray) -> NDArray:
    """Return amplitudes that fall by 3 dB an octave above 50 Hz."""
    return 1 / np.sqrt(np.maximum(frequencies, 50.0))


@dataclass
class _Section:
    """Writes the clips of a section by the rules of a year, and notes the rows of its tables."""

    root: Path
    tables: Tables
    year: int
    machine: str
    number: int
    subset: str
    has_attributes: bool
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def write(self, clip: _Clip) -> None:
        """Write a clip, and note what its name does not tell."""
        is_hidden = clip.split == "test" and self.subset == "evaluation"
        of_domain = self.year == 2021 and clip.split == "test"
        folder = f"{clip.domain}_test" if of_domain else clip.split
        path = self.root / self.machine / folder / f"{self._stem(clip, is_hidden)}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, clip.samples, SAMPLE_RATE, subtype="PCM_16")
        if is_hidden:
            self._note_truth(path, clip)
        elif self.year >= 2022 and clip.split != "supplemental":
            n_columns = 5 if self.has_attributes else 1
            table = path.parents[1] / f"attributes_{self.number:02d}.csv"
            header = ["file_name", "d1p", "d1v", "d2p", "d2v"][:n_columns]
            cells = ["/".join(path.parts[-3:]), *clip.attributes.split("_")][:n_columns]
            self.tables.setdefault(table, [header]).append(cells)

    def _stem(self, clip: _Clip, is_hidden: bool) -> str:
        """Return the name of a clip without its extension."""
        label = "normal" if clip.y == 1 else "anomaly"
        kind = f"section_{self.number:02d}"
        if self.year == 2020:
            kind = f"id_{self.number:02d}" if is_hidden else f"{label}_id_{self.number:02d}"
        elif clip.split == "supplemental":
            kind += "_machine" if clip.sound == "machine" else "_noise_supplemental_normal"
        elif not is_hidden:
            kind += f"_{clip.domain}_{clip.split}_{label}"
        elif self.year == 2021:
            kind += f"_{clip.domain}_test"
        number = self.counts[clip.split, kind] + (1 if self.year == 2024 else 0)
        self.counts[clip.split, kind] += 1
        stem = f"{kind}_{number:0{8 if self.year == 2020 else 4}d}"
        is_plain = is_hidden or self.year == 2020 or clip.sound == "noise"
        if is_plain or (self.year == 2021 and clip.split == "test"):
            return stem
        return f"{stem}_{clip.attributes if self.has_attributes else 'noAttribute'}"

    def _note_truth(self, path: Path, clip: _Clip) -> None:
        """Add a clip to the tables of the evaluator of a year."""
        evaluator, is_anomaly = self.root / "evaluator", int(clip.y == -1)
        if self.year == 2020:
            rows = self.tables.setdefault(evaluator / "eval_data_list.csv", [])
            if (self.machine,) not in rows:
                rows.append((self.machine,))
            kind = "anomaly" if is_anomaly else "normal"
            rows.append((path.name, f"{kind}_{path.name}", is_anomaly))
            return
        part = f"{clip.domain}_test" if self.year == 2021 else "test"
        table = f"ground_truth_{self.machine}_section_{self.number:02d}_{part}.csv"
        columns = {"ground_truth_data": is_anomaly}
        if self.year > 2021:
            columns["ground_truth_domain"] = int(clip.domain == "target")
        for folder, value in columns.items():
            self.tables.setdefault(evaluator / folder / table, []).append((path.name, value))
