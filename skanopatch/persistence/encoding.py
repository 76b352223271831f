"""Fitted estimators as JSON and arrays: what a model file may hold.

JSON's own values stand for themselves. An object with one key stands for what JSON does not have:
``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``, ``{"array": "0.npy"}``. An estimator is
``{"class": name, "number": 0, "state": {attribute: value}}``, and ``{"number": 0}`` the next time.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch

import skanopatch

# Parameters that say how one machine computes. They come back as their defaults.
RUNTIME_PARAMS = ("checkpoint_dir", "device", "memory", "n_jobs", "n_workers", "verbose")

# The classes that a file may hold beside our public estimators: what these consist of, and those
# estimators of scikit-learn that compute with arrays alone. Trees and support vector machines use
# indices from a file without checking them.
OTHER_CLASSES = {
    **dict.fromkeys(("DistanceScale", "JointDistance"), "skanopatch.detectors.thresholds"),
    "Bank": "skanopatch.detectors.search",
    "Conditions": "skanopatch.recipes.conditions",
    "GainTolerantDetector": "skanopatch.detectors.gain_tolerance",
    **dict.fromkeys(("EmpiricalCovariance", "LedoitWolf"), "sklearn.covariance"),
    "PCA": "sklearn.decomposition",
    "VarianceThreshold": "sklearn.feature_selection",
    "FrozenEstimator": "sklearn.frozen",
    "GaussianMixture": "sklearn.mixture",
    **dict.fromkeys(("FeatureUnion", "Pipeline"), "sklearn.pipeline"),
    **dict.fromkeys(
        (
            *("FunctionTransformer", "MaxAbsScaler", "MinMaxScaler", "Normalizer"),
            *("PowerTransformer", "QuantileTransformer", "RobustScaler", "StandardScaler"),
        ),
        "sklearn.preprocessing",
    ),
}

_PLAIN = (type(None), bool, int, float, str)
_COLLECTIONS = {kind.__name__: kind for kind in (tuple, set, frozenset)}
_SCALARS = {kind.__name__: kind for kind in (np.dtype(code).type for code in "?bBhHiIlLqQefdU")}


class Encoder:
    """Encodes values, and collects the members of the file to which they refer.

    Attributes
    ----------
    members : dict
        The content of each member by its name: arrays in NumPy's format, and bytes.
    """

    def __init__(self) -> None:
        self.members: dict[str, bytes] = {}
        self._known: dict[int, dict[str, Any]] = {}  # codes by the id of the value
        self._states: list[dict[str, Any]] = []  # an id is that of one object while it lives

    def encode(self, value: Any, attribute: str = "") -> Any:
        """Return a value of JSON; raise a ValueError that names what a file must not hold."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is list:
            return self._encode_all(value, attribute)
        if kind in _COLLECTIONS.values():
            return {kind.__name__: self._encode_all(value, attribute)}
        if kind in (dict, Bunch):
            pairs = [
                [self.encode(key, attribute), self.encode(item, f"{attribute}.{key}".lstrip("."))]
                for key, item in value.items()
            ]
            return {kind.__name__: pairs}
        if kind in _SCALARS.values():
            return {"scalar": value.item(), "dtype": kind.__name__}
        if id(value) in self._known:
            return self._known[id(value)]
        if kind is bytes:
            self._known[id(value)] = {"bytes": self._add(value, "bin")}
            return self._known[id(value)]
        if kind in (np.ndarray, np.memmap):
            self._known[id(value)] = self._encode_array(value, attribute)
            return self._known[id(value)]
        if class_named(kind.__name__) is kind:
            return self._encode_estimator(value, attribute)
        named = value if isinstance(value, type) or inspect.isroutine(value) else kind
        raise _forbidden(f"{named.__module__}.{named.__qualname__}", attribute)

    def _encode_all(self, values: Any, attribute: str) -> list[Any]:
        return [self.encode(item, f"{attribute}[{i}]") for i, item in enumerate(values)]

    def _encode_array(self, array: np.ndarray, attribute: str) -> dict[str, Any]:
        if array.dtype == object:
            items = self._encode_all(array.ravel(), attribute)
            return {"objects": items, "shape": list(array.shape)}
        content = io.BytesIO()
        np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
        return {"array": self._add(content.getvalue(), "npy")}

    def _encode_estimator(self, estimator: Any, attribute: str) -> dict[str, Any]:
        number = self._known[id(estimator)] = {"number": len(self._known)}
        state = {**estimator.__getstate__(), **runtime_defaults(estimator)}
        state.pop("_metadata_request", None)  # requests come back as those of the class
        self._states.append(state)
        attributes = {
            name: self.encode(item, f"{attribute}.{name}".lstrip("."))
            for name, item in state.items()
        }
        return {"class": type(estimator).__name__, **number, "state": attributes}

    def _add(self, content: bytes, suffix: str) -> str:
        name = f"{len(self.members)}.{suffix}"
        self.members[name] = content
        return name


class Decoder:
    """Builds what an `Encoder` encoded, and nothing else.

    Parameters
    ----------
    read : callable
        Takes the name of a member and returns its content.

    Attributes
    ----------
    estimators : list
        All objects with attributes, in the order in which their states were complete.
    """

    def __init__(self, read: Callable[[str], bytes]):
        self.estimators: list[Any] = []
        self._read = read
        self._objects: dict[int, Any] = {}
        self._members: dict[str, Any] = {}  # so that each is read once

    def decode(self, code: Any, attribute: str = "") -> Any:
        """Return the value that a code stands for; raise a ValueError if it stands for none."""
        match code:
            case None | bool() | int() | float() | str():
                return code
            case list():
                return self._decode_all(code, attribute)
            case {"class": str(name), "number": int(number), "state": dict(state)}:
                return self._decode_estimator(name, number, state, attribute)
            case {"number": int(number)}:
                return self._objects[number]
            case {"scalar": bool() | int() | float() | str() as value, "dtype": str(name)}:
                return _SCALARS[name](value)
            case {"objects": list(items), "shape": list(shape)}:
                array = np.empty(len(items), dtype=object)
                for i, item in enumerate(self._decode_all(items, attribute)):
                    array[i] = item
                return array.reshape(shape)
            case {"array": str(name)}:
                return self._member(name, _read_array)
            case {"bytes": str(name)}:
                return self._member(name, bytes)
        if isinstance(code, dict) and len(code) == 1:
            ((name, items),) = code.items()
            if name in _COLLECTIONS and isinstance(items, list):
                return _COLLECTIONS[name](self._decode_all(items, attribute))
            if name in ("dict", "Bunch") and isinstance(items, list):
                values = {
                    self.decode(key, attribute): self.decode(item, f"{attribute}.{key}")
                    for key, item in items
                }
                return Bunch(**values) if name == "Bunch" else values
        raise ValueError(f"{attribute or 'the model'} is no value that a model file has.")

    def _decode_all(self, codes: list[Any], attribute: str) -> list[Any]:
        return [self.decode(code, f"{attribute}[{i}]") for i, code in enumerate(codes)]

    def _decode_estimator(
        self, name: str, number: int, state: dict[str, Any], attribute: str
    ) -> Any:
        cls = class_named(name)
        if cls is None:
            raise _forbidden(name, attribute)
        if number in self._objects:
            raise ValueError(f"two estimators have the number {number}.")
        estimator: Any = object.__new__(cls)
        self._objects[number] = estimator  # its attributes may refer to it
        attributes = {
            key: self.decode(item, f"{attribute}.{key}".lstrip(".")) for key, item in state.items()
        }
        if isinstance(estimator, BaseEstimator):
            estimator.__setstate__(attributes)
        else:
            vars(estimator).update(attributes)
        vars(estimator).update(runtime_defaults(estimator))
        self.estimators.append(estimator)
        return estimator

    def _member(self, name: str, build: Callable[[bytes], Any]) -> Any:
        if name not in self._members:
            self._members[name] = build(self._read(name))
        return self._members[name]


def _read_array(content: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _forbidden(name: str, attribute: str) -> ValueError:
    return ValueError(f"a model file must not hold {name} ({attribute or 'the model'}).")


def class_named(name: str) -> type | None:
    """Return the class of that name that a file may hold, or None."""
    if name in OTHER_CLASSES:
        return getattr(import_module(OTHER_CLASSES[name]), name)
    cls = getattr(skanopatch, name) if name in skanopatch.__all__ else None
    return cls if isinstance(cls, type) and issubclass(cls, BaseEstimator) else None


def runtime_defaults(estimator: Any) -> dict[str, Any]:
    """Return the defaults of an estimator's parameters among `RUNTIME_PARAMS`."""
    params = inspect.signature(type(estimator).__init__).parameters
    return {name: params[name].default for name in RUNTIME_PARAMS if name in params}
