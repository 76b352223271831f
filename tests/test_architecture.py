"""The house: which room may import which, what is private, how large files and classes may be."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import skanopatch

PACKAGE = Path(skanopatch.__file__).parent

# In the order in which data flows: a room imports only from rooms before it.
ROOMS = (
    "files",
    "audio",
    "spectra",
    "backbones",
    "embedding",
    "detectors",
    "metrics",
    "datasets",
    "model_selection",
    "recipes",
    "inspection",
    "persistence",
    "streaming",
    "report",
    "cli",
)
WITHOUT_TORCH = ("audio", "spectra", "detectors", "metrics")
IMPORT_TORCH = {"torch", "torchaudio", "timm", "skorch", "transformers"}

# What scikit-learn asks of every estimator is nobody's own.
OF_SCIKIT_LEARN = {"_parameter_constraints"}

MOST_LINES = 500
MOST_PARAMETERS = 20
MOST_FILES_AT_THE_TOP = 5

FILES = sorted(PACKAGE.rglob("*.py"))


def place(path):
    """Return a file as people write it, such as "audio/clips.py"."""
    return path.relative_to(PACKAGE).as_posix()


def room_of(path):
    """Return the room that a file is in; None for those at the top that are no room."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if room.startswith("__") else room


def module_name(path):
    parts = ["skanopatch", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def base_of(node, path):
    """Return the module that a "from ... import" names, relative ones in full."""
    if not node.level:
        return node.module
    package = module_name(path) if path.name.startswith("__init__") else None
    parts = (package or module_name(path).rpartition(".")[0]).split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


@cache
def public_names():
    """Return the room of each public name, from the stub that the package is imported by."""
    stub = PACKAGE / "__init__.pyi"
    return {
        name.asname or name.name: (base_of(node, stub) + f".{name.name}").split(".")[1]
        for node in ast.walk(tree(stub))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


def imports(path):
    """Yield the line and the full name of all that a file imports, inside functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{base_of(node, path)}.{n.name}") for n in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "skanopatch":
            yield node.lineno, f"skanopatch.{node.attr}"


def room_imports(path):
    """Yield the line, the room and the last name of what a file imports of this package."""
    for line, name in imports(path):
        first, *others = name.split(".")
        if first == "skanopatch" and others and not others[0].startswith("__"):
            yield line, public_names().get(others[0], others[0]), others[-1]


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


@cache
def private_names(room):
    """Return the private names that a room defines: functions, classes, constants, attributes."""
    found = set()
    for path in FILES:
        if room_of(path) != room:
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return set(filter(is_private, found))


def private_accesses(path):
    """Yield the line and the name of private attributes of other objects than self and cls."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            function = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if function in ("getattr", "hasattr", "setattr", "delattr", "attrgetter"):
                yield from (
                    (argument.lineno, argument.value)
                    for argument in node.args
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                )


# --- Rooms and their order ------------------------------------------------------------------


def test_every_room_has_its_place_in_the_order():
    assert {room_of(path) for path in FILES} - {None} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    wrong = [
        f"{place(path)}:{line} imports from {other}"
        for path in FILES
        if room_of(path) == room
        for line, other, _ in room_imports(path)
        if other not in allowed
    ]
    assert wrong == []


def test_a_handful_of_files_lies_at_the_top():
    files = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(files) <= MOST_FILES_AT_THE_TOP, sorted(files)


# --- What is private ------------------------------------------------------------------------


def test_no_room_imports_a_private_name_or_module_of_another():
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path in FILES
        for line, name in imports(path)
        if name.startswith("skanopatch.") and any(map(is_private, name.split(".")))
        and name.split(".")[1] != room_of(path)
    ]  # fmt: skip
    assert wrong == []


def test_no_room_touches_a_private_attribute_of_another():
    wrong = []
    for path in FILES:
        own = private_names(room_of(path))
        others = set().union(*(private_names(room) for room in ROOMS)) - own - OF_SCIKIT_LEARN
        wrong += [
            f"{place(path)}:{line} touches {name}"
            for line, name in private_accesses(path)
            if name in others
        ]
    assert wrong == []


def modules(package=skanopatch):
    """Import and return all modules of a package but `__main__`, by their names."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            yield found.name, importlib.import_module(found.name)


def test_no_attribute_of_a_package_shadows_one_of_its_modules():
    for name in skanopatch.__all__:  # imported when they are asked for
        getattr(skanopatch, name)
    wrong = []
    for name, _ in list(modules()):
        package, _, own = name.rpartition(".")
        if getattr(sys.modules[package], own) is not sys.modules[name]:
            wrong.append(name)
    assert wrong == []


# --- Sizes ----------------------------------------------------------------------------------


def test_files_have_at_most_500_lines():
    lengths = {place(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_public_classes_have_at_most_20_parameters():
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    numbers = {}
    for name, module in modules():
        for kind in vars(module).values():
            if not inspect.isclass(kind) or issubclass(kind, BaseException):
                continue  # the classes of errors have no parameters of their own
            if kind.__module__ == name and not is_private(kind.__name__):
                parameters = inspect.signature(kind).parameters.values()
                numbers[kind.__qualname__] = sum(p.kind not in kinds for p in parameters)
    assert numbers["PatchStatistics"] == 1  # they are counted
    assert {name: n for name, n in numbers.items() if n > MOST_PARAMETERS} == {}


# --- Rooms without torch --------------------------------------------------------------------


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_a_room_without_torch_does_not_name_it(room):
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path in FILES
        if room_of(path) == room
        for line, name in imports(path)
        if name.split(".")[0] in IMPORT_TORCH
    ]
    assert wrong == []


def loaded_after(script):
    """Run a script in a new process, and return which of torch and its kin are then loaded."""
    script += f"\nimport sys; print(sorted({IMPORT_TORCH} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return ast.literal_eval(run.stdout.splitlines()[-1])


def test_rooms_without_torch_load_none():
    names = [module_name(path) for path in FILES if room_of(path) in WITHOUT_TORCH]
    assert loaded_after("\n".join(f"import {name}" for name in names)) == []


FIT = """
import numpy as np
from sklearn.pipeline import make_pipeline
from skanopatch import *
clips = np.random.default_rng(0).normal(size=(8, 8000))
"""


@pytest.mark.parametrize(
    "model",
    [
        "make_pipeline(MelPatcher(duration=0.5), BandStatistics(), MahalanobisDetector())",
        pytest.param(
            "AnomalousSoundDetector(MelPatcher(duration=0.5), embedder='drop')",
            marks=pytest.mark.slow,
        ),
        "AnomalousSoundDetector(MelPatcher(duration=0.5))",
        pytest.param(
            "AnomalousSoundDetector().set_params(patcher__duration=0.5, detector__shrinkage=0.5)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_model_without_a_network_loads_no_torch(model):
    names = ["MelPatcher", "BandStatistics", "MahalanobisDetector", "AnomalousSoundDetector"]
    script = FIT.replace("*", ", ".join(names))
    assert loaded_after(f"{script}\n{model}.fit(clips).predict(clips)") == []
