"""CONTRIBUTING.md: the rooms and the functions that it names are those of the package."""

import importlib
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest
from test_architecture import ROOMS

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def tables(heading):
    """Return the cells of the tables below a heading, without their header."""
    section = TEXT.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0].startswith("`")]


@cache
def modules_of(room):
    module = importlib.import_module(f"skanopatch.{room}")
    inside = pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}.")
    return [module, *(importlib.import_module(found.name) for found in inside)]


def is_defined(room, name):
    """Return whether a module of a room defines a function or the method of a class."""
    for module in modules_of(room):
        item = module
        for part in name.split("."):
            item = getattr(item, part, None)
        if callable(item) and item.__module__.startswith(f"skanopatch.{room}"):
            return True
    return False


WALKS = [
    (room.strip("`"), name.removesuffix("()"))
    for heading in ("A clip,", "A label,")
    for room, functions, *_ in tables(heading)
    for name in re.findall(r"`([\w.]+)`", re.sub(r"\(.*?\)", "", functions))
]


def test_the_rooms_are_listed_in_their_order():
    assert [row[0].strip("`") for row in tables("The rooms")] == list(ROOMS)


@pytest.mark.parametrize(("room", "name"), WALKS)
def test_a_function_of_the_walks_is_in_its_room(room, name):
    assert room in ROOMS
    assert is_defined(room, name)


def test_a_name_of_another_room_or_of_none_is_not_found():
    assert len(WALKS) > 20
    assert not is_defined("recipes", "load_clip")
    assert not is_defined("audio", "read_everything")
