"""What DCASE Task 2 of each year consists of: machines, sections, folders, names, records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from skanopatch.metrics.sections import check_year

SPLITS = ("train", "test", "supplemental")
SUBSETS = ("development", "evaluation")

# The folders that clips lie in, and the split that each belongs to; the last two are of 2021.
FOLDERS = {split: split for split in SPLITS} | {"source_test": "test", "target_test": "test"}


class Challenge(NamedTuple):
    """One year of DCASE Task 2."""

    development: dict[str, tuple[int, ...]]  # sections of each machine; in 2020 the ids
    evaluation: dict[str, tuple[int, ...]]
    records: tuple[int, int, int]  # Zenodo's: development, additional training, evaluation

    def machines(self, subset: str | None) -> list[str]:
        """Names of the machines of a subset; None is both."""
        subsets = SUBSETS if subset is None else (subset,)
        return list(dict.fromkeys(name for part in subsets for name in getattr(self, part)))

    def subset_of(self, machine: str, section: int) -> str:
        """Return the subset that a section of a machine belongs to."""
        return SUBSETS[section not in self.development.get(machine, ())]


def _every(machines: str, sections: Iterable[int] = (0,)) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(machines.split(), tuple(sections))


_MIMII_DG = "ToyCar ToyTrain bearing fan gearbox slider valve"

CHALLENGES = {
    2020: Challenge(
        development=_every("fan pump slider valve", (0, 2, 4, 6))
        | _every("ToyCar", (1, 2, 3, 4))
        | _every("ToyConveyor", (1, 2, 3)),
        evaluation=_every("fan pump slider valve", (1, 3, 5))
        | _every("ToyCar", (5, 6, 7))
        | _every("ToyConveyor", (4, 5, 6)),
        records=(3678171, 3727685, 3841772),
    ),
    2021: Challenge(
        development=_every("ToyCar ToyTrain fan gearbox pump slider valve", range(3)),
        evaluation=_every("ToyCar ToyTrain fan gearbox pump slider valve", range(3, 6)),
        records=(4562016, 4660992, 4884786),
    ),
    2022: Challenge(
        _every(_MIMII_DG, range(3)),
        _every(_MIMII_DG, range(3, 6)),
        (6355122, 6462969, 6586456),
    ),
    2023: Challenge(
        _every(_MIMII_DG),
        _every("ToyDrone ToyNscale ToyTank Vacuum bandsaw grinder shaker"),
        (7882613, 7830345, 7860847),
    ),
    2024: Challenge(
        _every(_MIMII_DG),
        _every(
            "3DPrinter AirCompressor BrushlessMotor HairDryer HoveringDrone RoboticArm Scanner "
            "ToothBrush ToyCircuit"
        ),
        (10902294, 11259435, 11363076),
    ),
    2025: Challenge(
        _every(_MIMII_DG),
        _every(
            "AutoTrash BandSealer CoffeeGrinder HomeCamera Polisher ScrewFeeder ToyPet ToyRCCar"
        ),
        (15097779, 15392814, 15519362),
    ),
    2026: Challenge(
        _every("ToyCar ToyCarEmu bearingEmu fan gearboxEmu sliderEmu valveEmu"),
        _every("BlowerDustCollector Sander SewingMachine ToothBrush ToyDrone"),
        (19336329, 20151556, 20437238),
    ),
}


def challenge_of(year: int) -> Challenge:
    """Return the challenge of a year, or say that there was none."""
    check_year(year)
    return CHALLENGES[year]


def check_choice(value: str | None, name: str, choices: tuple[str, ...]) -> None:
    """Raise if a parameter is neither None nor one of `choices`."""
    if value is not None and value not in choices:
        raise ValueError(f"{name} must be None or one of {list(choices)}. Got {value!r} instead.")


def check_machines(
    machine: str | Sequence[str] | None, challenge: Challenge, subset: str | None
) -> list[str]:
    """Return the machines asked for, all of a subset for None, or say which are unknown."""
    known = challenge.machines(subset)
    if machine is None:
        return known
    machines = [machine] if isinstance(machine, str) else list(machine)
    unknown = [name for name in machines if name not in known]
    if unknown or not machines:
        raise ValueError(f"machine must be of {known}. Got {unknown or machines} instead.")
    return machines


class ClipName(NamedTuple):
    """What the name of a clip tells; None where it does not."""

    section: int
    is_anomaly: bool | None
    domain: str | None
    attributes: dict[str, str]


_NAMES = {
    "2020": re.compile(r"(?:(?P<label>normal|anomaly)_)?id_(?P<section>\d\d)_\d+"),
    "later": re.compile(
        r"section_(?P<section>\d\d)"
        r"(?:_(?P<domain>source|target))?(?:_(?:train|test))?(?:_(?P<label>normal|anomaly))?"
        r"_\d+(?:_(?P<attributes>.*))?"
    ),
    "supplemental": re.compile(
        r"section_(?P<section>\d\d)_(?:.*_)?(?P<sound>machine|noise)_(?:[a-z]+_)*\d+"
        r"(?:_(?P<attributes>.*))?"
    ),
}


def parse_name(stem: str, *, year: int, split: str) -> ClipName | None:
    """Read the name of a clip without its extension, or return None if it has no such form."""
    form = split if split == "supplemental" else "2020" if year == 2020 else "later"
    match = _NAMES[form].fullmatch(stem)
    if match is None:
        return None
    parts = match.groupdict()
    sound = {"sound": parts["sound"]} if split == "supplemental" else {}
    is_known = split != "test" or parts["label"] is not None
    return ClipName(
        int(parts["section"]),
        split == "test" and parts["label"] == "anomaly" if is_known else None,
        parts.get("domain"),
        sound | parse_attributes(parts.get("attributes")),
    )


def parse_attributes(text: str | None) -> dict[str, str]:
    """Read ``key_value`` pairs; a last word without a value stands for itself.

    A key that comes twice, as in ``mic_2_mic_1``, has both values, joined by a plus sign.
    """
    if not text or text == "noAttribute":
        return {}
    words = text.split("_")
    attributes: dict[str, str] = {}
    for key, value in zip(words[::2], [*words[1::2], ""], strict=False):
        attributes[key] = f"{attributes[key]}+{value}" if key in attributes else value
    return attributes
