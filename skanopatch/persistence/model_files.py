"""Model files: a fitted estimator in the format of skops, which executes nothing when it is read.

A file is a zip of ``schema.json`` and arrays, written by skops, and of ``skanopatch.json``, which
`read_header` returns. skops trusts many types by default, functions of NumPy among them; here a
file may hold the types that `_is_allowed` names and no others. Both writing and reading check that.

skops is imported where it is used: it imports all of scikit-learn, which imports torch (2.5 s).
"""

from __future__ import annotations

import inspect
import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

import skanopatch
from skanopatch.files import atomic_write

FORMAT, VERSION = "skanopatch model", 1

# Parameters that say how one machine computes. They come back as their defaults.
RUNTIME_PARAMS = ("checkpoint_dir", "device", "memory", "n_jobs", "n_workers", "verbose")

_HEADER, _SCHEMA = "skanopatch.json", "schema.json"
_PROTOCOL = 2  # the lowest of skops that is read; earlier ones have other loaders for arrays

# The classes that a file may hold beside our public estimators: what these consist of, and those
# estimators of scikit-learn that compute with arrays alone. Trees and support vector machines use
# indices from a file without checking them.
_CLASSES = {
    **dict.fromkeys(("DistanceScale", "JointDistance"), "skanopatch.detectors.thresholds"),
    "Conditions": "skanopatch.recipes.conditions",
    "GainTolerantDetector": "skanopatch.recipes.gain_tolerance",
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

# The data that a file may hold: skops' loader and the type.
_DATA = {
    ("ConstructorFromReduceNode", "builtins.frozenset"),
    ("ConstructorFromReduceNode", f"{__name__}._Packed"),
    ("DictNode", "builtins.dict"),
    ("DictNode", "sklearn.utils._bunch.Bunch"),
    ("ListNode", "builtins.list"),
    ("NdArrayNode", "numpy.ndarray"),
    ("SetNode", "builtins.set"),
    ("TupleNode", "builtins.tuple"),
    ("TypeNode", "builtins.str"),  # of the keys of a dict
}
_SCALARS = (np.bool, np.number, np.str_)
_DATA |= {
    ("NdArrayNode", f"numpy.{scalar.__name__}")
    for scalar in np.sctypeDict.values()
    if issubclass(scalar, _SCALARS)
}


def save_model(path: str | os.PathLike[str], model: BaseEstimator) -> None:
    """Write a fitted estimator to a file that `load_model` reads on any machine.

    Parameters
    ----------
    path : str or Path
        The file. It replaces another one of that name when it is complete.

    model : estimator
        A fitted estimator of this package or a `Pipeline` of such, where scikit-learn's scalers,
        `PCA`, `FeatureUnion` and the like may be steps.

    Raises
    ------
    ValueError
        If it holds anything else, such as a function or a `RandomState`; the message names the
        attribute. `NotFittedError` if it is not fitted.

    Notes
    -----
    `n_jobs`, `memory`, `device`, `verbose` and other parameters of the machine come back as their
    defaults, and requests of metadata (`set_fit_request`) as those of the class.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skanopatch import KNNDetector, MelPatcher, MelStatistics, load_model, save_model
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> pipe = make_pipeline(MelPatcher(duration=1.0), MelStatistics(), KNNDetector()).fit(clips)
    >>> file = Path(mkdtemp()) / "fan.skano"
    >>> save_model(file, pipe)
    >>> bool((load_model(file).score_samples(clips) == pipe.score_samples(clips)).all())
    True
    """
    import skops.io

    check_is_fitted(model)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "skanopatch": skanopatch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    buffer = io.BytesIO()
    try:
        skops.io.dump(_portable(model, {}), buffer)
        with zipfile.ZipFile(buffer, "a") as archive:
            _check_schema(archive)
            archive.writestr(_HEADER, json.dumps(header))
    except Exception as error:  # an object that is not made to be copied can raise anything
        raise ValueError(f"This {type(model).__name__} cannot be saved: {error}") from error
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_model(path: str | os.PathLike[str]) -> Any:
    """Read the estimator that `save_model` wrote; its scores equal the saved one's to the bit.

    You need not trust the file: nothing in it is executed or unpickled, no other file is read and
    nothing is downloaded.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    model : estimator
        Fitted.

    Raises
    ------
    ValueError
        If the file is damaged, is no model file of this version, or holds a type that is not
        allowed. `OSError` if it is not there.

    Examples
    --------
    See `save_model`.
    """
    import skops.io

    with _opened(path) as archive:
        types = _check_schema(archive)
        archive.fp.seek(0)  # type: ignore[union-attr]
        model = skops.io.load(archive.fp, trusted=types)
        for estimator in _estimators(model):
            vars(estimator).update(_runtime_defaults(estimator))
            if hasattr(estimator, "_parameter_constraints"):  # FeatureUnion has none
                estimator._validate_params()
        check_is_fitted(model)
    return model


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the facts about a model file, without the model.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    header : dict
        "format" and its "version"; the version of "skanopatch" that wrote the file; "created",
        the time in ISO 8601.

    Raises
    ------
    ValueError
        As `load_model`.
    """
    with _opened(path) as archive:
        return json.loads(archive.read(_HEADER))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Open a model file, and name it in the ValueError that replaces any other error."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
                    raise ValueError("its members are compressed or encrypted.")
                if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
                    raise ValueError("its members are larger than the file.")
                header = json.loads(archive.read(_HEADER))
                if (header["format"], header["version"]) != (FORMAT, VERSION):
                    raise ValueError(f"it says {header['format']!r}, {header['version']!r}.")
                yield archive
        except Exception as error:  # a forged file can make any constructor fail in any way
            reason = error if isinstance(error, ValueError) else repr(error)
            raise ValueError(
                f"{os.fspath(path)!r} is damaged, or is no {FORMAT!r} of version {VERSION}, which "
                f"is what this version of skanopatch reads: {reason}"
            ) from error


def _check_schema(archive: zipfile.ZipFile) -> list[str]:
    """Return the types that skops would build, or raise a ValueError about those not allowed."""
    schema = json.loads(archive.read(_SCHEMA))
    if schema["protocol"] < _PROTOCOL:
        raise ValueError(f"it is of the protocol {schema['protocol']} of skops.")
    types: set[str] = set()
    refused: list[str] = []
    owners: dict[str, int] = {}
    for attribute, node in _nodes(schema):
        loader, type_name = node["__loader__"], f"{node['__module__']}.{node['__class__']}"
        if loader == "JsonNode":  # plain JSON: skops ignores its type
            continue
        types.add(type_name)
        if not _is_allowed(loader, node["__module__"], node["__class__"]):
            refused.append(f"{type_name} ({attribute or 'the model'})")
        if (member := node.get("file")) is None:
            continue
        # Otherwise a small file could make one member be read a million times.
        if owners.setdefault(member, node["__id__"]) != node["__id__"]:
            raise ValueError(f"{member!r} belongs to two objects.")
        # NumPy would read an archive as well.
        if loader == "NdArrayNode" and archive.open(member).read(6) != b"\x93NUMPY":
            raise ValueError(f"{member!r} is no array.")
    if refused:
        raise ValueError(f"a model file must not hold {', '.join(refused)}.")
    return sorted(types)


def _nodes(value: Any, attribute: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Go through all objects of a schema, with the attribute that each is or belongs to."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _nodes(item, f"{attribute}[{i}]")
    elif isinstance(value, dict):
        is_object = "__loader__" in value
        if is_object:
            yield attribute, value
        for key, item in value.items():
            yield from _nodes(item, attribute if is_object else f"{attribute}.{key}".lstrip("."))


def _is_allowed(loader: str, module: str, name: str) -> bool:
    if loader != "ObjectNode":
        return (loader, f"{module}.{name}") in _DATA
    if name in _CLASSES:
        return getattr(import_module(_CLASSES[name]), name).__module__ == module
    cls = getattr(skanopatch, name) if name in skanopatch.__all__ else None
    return isinstance(cls, type) and issubclass(cls, BaseEstimator) and cls.__module__ == module


class _Packed:
    """Stands in a file for bytes, and for a dict whose keys are not all strings.

    skops writes bytes again for each object that has them, and changes keys that are no strings.
    """

    content: NDArray[np.uint8] | list[tuple[Any, Any]]

    def __new__(cls, content: NDArray[np.uint8] | list[tuple[Any, Any]]) -> Any:
        """Return what was packed; skops calls this when it reads."""
        return content.tobytes() if isinstance(content, np.ndarray) else dict(content)

    def __reduce__(self) -> Any:
        return _Packed, (self.content,)  # skops calls this when it writes


def _portable(value: Any, copies: dict[int, Any]) -> Any:
    """Return a value with copies of the estimators in it that skops can write."""
    kind = type(value)
    if _is_allowed("ObjectNode", kind.__module__, kind.__name__):
        if id(value) not in copies:  # an estimator in two places stays one
            copies[id(value)] = copy = object.__new__(kind)
            state = {**value.__getstate__(), **_runtime_defaults(value)}
            state.pop("_metadata_request", None)  # it refers back to the estimator
            state = _portable(state, copies)
            copy.__getstate__ = lambda: state
        return copies[id(value)]
    if kind in (dict, Bunch) and all(type(key) is str for key in value):
        return kind(**{key: _portable(item, copies) for key, item in value.items()})
    if kind in (bytes, dict):
        content = list(value.items()) if kind is dict else np.frombuffer(value, np.uint8)
        packed = object.__new__(_Packed)
        packed.content = _portable(content, copies)
        return packed
    if kind in (list, tuple):
        return kind(_portable(item, copies) for item in value)
    return np.asarray(value) if isinstance(value, np.memmap) else value


def _runtime_defaults(estimator: Any) -> dict[str, Any]:
    params = inspect.signature(type(estimator).__init__).parameters
    return {name: params[name].default for name in RUNTIME_PARAMS if name in params}


def _estimators(value: Any) -> Iterator[BaseEstimator]:
    """Go through an estimator and those in it."""
    if isinstance(value, BaseEstimator):
        yield value
        value = vars(value)
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _estimators(item)
