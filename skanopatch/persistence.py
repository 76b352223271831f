"""Files of a fitted embedder: safetensors and JSON, which execute nothing when they are read.

The JSON says everything but weights, and the version of its form. Where that form changes, and be
it by a new parameter, `VERSION` goes up by one and `_UPGRADES` gets the step from the form before
it, so that every file ever written can be read.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from sklearn.utils.validation import check_is_fitted

from skanopatch.feature_notes import SeenClips
from skanopatch.finetuning.lora import is_update, merged_state
from skanopatch.finetuning.module import PatchEmbedding
from skanopatch.patches import PatchGrid
from skanopatch.shared_subspace import LEARNT, SharedSubspace

FORMAT = "skanopatch embedder"
VERSION = 6

# From a version to the next one: what the JSON becomes. Tensors keep their names.
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    # Statistics took all patches for natural logarithms, and training left out no patches.
    1: lambda header: {
        **header,
        "params": {**header["params"], "patch_dropout": 0.0},
        "network": {**header["network"], "patch_dropout": 0.0},
        "fitted": {**header["fitted"], "log_unit": 1.0},
    },
    # Labels left the statistics as they are.
    2: lambda header: {**header, "fitted": {**header["fitted"], "has_subspace": False}},
    # New clips were taken to be like those of the training.
    3: lambda header: {**header, "fitted": {**header["fitted"], "n_seen": 1, "optimism": 0.0}},
    # Of how many clips the class of a mean was, was not told.
    4: lambda header: {**header, "fitted": {**header["fitted"], "class_sizes": None}},
    # A network without statistics did not tell its classes; all clips were taken for seen ones.
    5: lambda header: {
        **header,
        "fitted": {**header["fitted"], "has_marks": False, "distance_optimism": 0.0},
    },
}

_MARKS = "marks_"  # of a subspace, which are not known in older files
_CLASS_MEANS = "class_means"  # of a network without statistics
_JSON, _WEIGHTS = "embedder.json", "embedder.safetensors"
_FIELDS = ("format", "version", "params", "network", "fitted", "backbone_sha256")
_FITTED = (
    "classes_",
    "history_",
    "n_features_in_",
    "has_statistics",
    "has_network",
    "has_subspace",
    "class_sizes",
    "n_seen",
    "optimism",
    "distance_optimism",
    "has_marks",
    "log_unit",
)

# What reading raises where an entry of the JSON has a wrong type: only a forger gets there.
DAMAGE = (AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError)

# Parameters that say how a machine is used, and mean nothing on another one.
OF_THE_MACHINE = ("checkpoint_dir", "device", "memory", "n_jobs", "n_workers", "verbose")


class PersistenceMixin:
    """What keeps a fitted embedder: `save` and `load`, and pickles without tensors."""

    classes_: list[Any] | None
    _has_network: bool
    _has_statistics: bool
    _heard_classes: SeenClips | None
    _log_unit: float
    _module: PatchEmbedding
    _module_params: dict[str, Any]
    _subspace: SharedSubspace | None

    def save(self, path, *, with_backbone=True):
        """Write a folder that `load` makes the same embedder of, on any machine.

        Parameters
        ----------
        path : str or Path
            The folder. It gets the files embedder.json and embedder.safetensors.
        with_backbone : bool, default=True
            Write all weights, with LoRA's updates merged into those of the backbone. False writes
            what fine-tuning added to the backbone: a few MB, to which `load` gets the backbone
            by its name. This needs a backbone that can be had again, and another `tuning` than
            "full".

        Raises
        ------
        ValueError
            If the backbone was fine-tuned in full or has random weights, but is to be left out,
            or if a label or parameter is of a type that JSON does not have.

        Notes
        -----
        `checkpoint_dir`, `device`, `n_workers` and `verbose` are not saved: they belong to the
        machine. Lists come back as tuples.
        """
        header, weights = self.to_saved(with_backbone=with_backbone)
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / _WEIGHTS).write_bytes(weights)
        (path / _JSON).write_text(json.dumps(header, indent=1) + "\n")

    def to_saved(self, *, with_backbone=True):
        """Return what `save` writes: the JSON as a dict, and the safetensors as bytes."""
        check_is_fitted(self)
        network = dict(self._module_params)
        if with_backbone:
            state, sha256 = merged_state(self._module), None
            # What is merged reads like a backbone whose own weights were trained.
            network["tuning"] = "full" if network["tuning"] == "lora" else network["tuning"]
        else:
            state, sha256 = self._module.state_dict(), self._backbone_sha256()
            state = {name: tensor for name, tensor in state.items() if not _is_backbone(name)}
        if self._subspace is not None:
            marked = (*LEARNT, _MARKS) if self._subspace.marks_ is not None else LEARNT
            arrays = {f"subspace.{name}": getattr(self._subspace, name) for name in marked}
            state |= {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self._heard_classes is not None:
            state[_CLASS_MEANS] = torch.from_numpy(self._heard_classes.centers)
        params = {k: v for k, v in self.get_params().items() if k not in OF_THE_MACHINE}
        sizes = None
        if self._subspace is not None:
            sizes = self._subspace.class_sizes_
        elif self._heard_classes is not None:
            sizes = self._heard_classes.class_sizes
        fitted = {
            "classes_": self.classes_,
            "history_": self.history_,
            "n_features_in_": self.n_features_in_,
            "has_statistics": self._has_statistics,
            "has_network": self._has_network,
            "has_subspace": self._subspace is not None,
            "class_sizes": None if sizes is None else sizes.tolist(),
            "n_seen": 1 if self._subspace is None else self._subspace.n_samples_seen_,
            "optimism": 0.0 if self._subspace is None else self._subspace.optimism_,
            "distance_optimism": (
                0.0 if self._subspace is None else self._subspace.distance_optimism_
            ),
            "has_marks": self._subspace is not None and self._subspace.marks_ is not None,
            "log_unit": self._log_unit,
        }
        header = {
            "format": FORMAT,
            "version": VERSION,
            "params": _plain(params, "params"),
            "network": _plain(network, "network"),
            "fitted": _plain(fitted, "fitted"),
            "backbone_sha256": sha256,
        }
        # A weight may be a view, which safetensors do not take.
        return header, save({name: tensor.contiguous() for name, tensor in state.items()})

    @classmethod
    def load(cls, path, *, backbone=None):
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or Path
            The folder.
        backbone : str or None, default=None
            Name of the backbone, if its file lies elsewhere than it did where the embedder was
            fitted. It must hold the same weights.

        Returns
        -------
        embedder : AnoPatchEmbedder
            Fitted, with the device "auto".

        Raises
        ------
        ValueError
            If the files were not written by `save` or by a later version of it, an entry or a
            weight is unknown, missing or of a wrong shape, or the backbone has other weights than
            the one that was left out.
        OSError
            If the files, or those of a backbone that was left out, are not there.
        """
        path = Path(path)
        header = parse_json((path / _JSON).read_bytes(), repr(str(path / _JSON)))
        weights = (path / _WEIGHTS).read_bytes()
        places = repr(str(path / _JSON)), repr(str(path / _WEIGHTS))
        try:
            return cls.from_saved(header, weights, places=places, backbone=backbone)
        except DAMAGE as error:
            raise ValueError(f"{places[0]} is damaged: {error}.") from error

    @classmethod
    def from_saved(cls, header, weights, *, places, backbone=None):
        """Make the embedder that `to_saved` was asked of; `places` name both parts in errors."""
        place, weights_place = places
        header = current_form(
            header,
            place,
            what="an embedder",
            form=FORMAT,
            version=VERSION,
            upgrades=_UPGRADES,
            fields=_FIELDS,
        )
        params, network, fitted = header["params"], header["network"], header["fitted"]
        expected = set(cls._get_param_names()) - set(OF_THE_MACHINE)
        check_names(params, expected, f"params of {place}")
        expected = set(inspect.signature(PatchEmbedding).parameters) - {"pretrained"}
        check_names(network, expected, f"network of {place}")
        check_names(fitted, _FITTED, f"fitted of {place}")
        if backbone is not None:
            params["backbone"] = network["backbone"] = backbone
        embedder = cls(**{name: _tuples(value) for name, value in params.items()})
        embedder._validate_params()
        grid = PatchGrid(*network["grid"])
        network = {**{name: _tuples(value) for name, value in network.items()}, "grid": grid}
        embedder._grid, embedder._module_params = grid, network
        embedder.classes_ = fitted["classes_"] and [_tuples(label) for label in fitted["classes_"]]
        embedder.history_ = fitted["history_"]
        embedder.n_features_in_ = fitted["n_features_in_"]
        embedder._has_network = fitted["has_network"]
        embedder._has_statistics = fitted["has_statistics"]
        embedder._log_unit = fitted["log_unit"]
        is_whole = header["backbone_sha256"] is None
        module = _build(network, pretrained=not is_whole)
        state = module.state_dict()
        tensors = _parse_weights(weights, weights_place)
        sizes = fitted["class_sizes"]
        embedder._subspace = embedder._heard_classes = None
        if fitted["has_subspace"]:
            names = (*LEARNT, _MARKS) if fitted["has_marks"] else LEARNT
            embedder._subspace = _take_subspace(tensors, names, weights_place)
            n_classes = len(embedder._subspace.class_means_)
            embedder._subspace.class_sizes_ = _class_sizes(sizes, n_classes, place)
            embedder._subspace.n_samples_seen_ = fitted["n_seen"]
            embedder._subspace.optimism_ = float(fitted["optimism"])
            embedder._subspace.distance_optimism_ = float(fitted["distance_optimism"])
        elif sizes is not None:
            means = _take_class_means(tensors, module.n_dims, weights_place)
            sizes = _class_sizes(sizes, len(means), place)
            embedder._heard_classes = SeenClips(means, sizes)
        wanted = {name: t for name, t in state.items() if is_whole or not _is_backbone(name)}
        _check_weights(tensors, wanted, weights_place)
        if not is_whole and _sha256(state) != header["backbone_sha256"]:
            raise ValueError(
                f"The backbone {network['backbone']!r} has other weights here than the one that "
                f"{place} was saved without. Name the right one by load(path, backbone=...)."
            )
        module.load_state_dict({**state, **tensors})
        embedder._set_module(module)
        return embedder

    def _backbone_sha256(self) -> str:
        """Return the SHA-256 of a backbone that can be had again by its name."""
        if self._module_params["tuning"] == "full":
            raise ValueError(
                "with_backbone must be True for an embedder whose backbone was fine-tuned "
                "(tuning='full'), or was merged with LoRA's updates. Got False instead."
            )
        sha256 = _sha256(self._module.state_dict())
        if _sha256(_build(self._module_params, pretrained=True).state_dict()) != sha256:
            raise ValueError(
                "with_backbone must be True where the backbone's name does not stand for its "
                f"weights. Got False for {self._module_params['backbone']!r}, which has random "
                "weights or was changed since fit."
            )
        return sha256

    def __getstate__(self):
        state = super().__getstate__().copy()
        module = state.pop("_module", None)
        if module is not None:
            # Plain arrays: what was fitted on a GPU loads without one, and without torch's pickle.
            state["_weights"] = {name: t.cpu().numpy() for name, t in module.state_dict().items()}
        return state

    def __setstate__(self, state):
        state = dict(state)
        weights = state.pop("_weights", None)
        super().__setstate__(state)
        if weights is not None:
            module = _build(self._module_params, pretrained=False)
            # Copied, since a memory-mapped pickle hands out read-only arrays.
            module.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
            self._set_module(module)


def _build(network: dict[str, Any], *, pretrained: bool) -> PatchEmbedding:
    """Build the module without a trace in the global generator."""
    with torch.random.fork_rng(devices=[]):
        return PatchEmbedding(**network, pretrained=pretrained)


def _is_backbone(name: str) -> bool:
    return name.startswith("backbone.") and not is_update(name)


def _sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the names, shapes and values of a backbone's own weights."""
    digest = hashlib.sha256()
    for name in sorted(filter(_is_backbone, state)):
        weight = state[name].cpu().numpy()
        digest.update(f"{name}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def parse_json(content: bytes, place: str) -> Any:
    """Parse JSON, or say that it is damaged."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, no text, or nested without end
        raise ValueError(f"{place} is damaged: {error}.") from error


def current_form(
    header: Any,
    place: str,
    *,
    what: str,
    form: str,
    version: int,
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]],
    fields: Collection[str],
) -> dict[str, Any]:
    """Bring the JSON of any version into the form of this one, or say why that cannot be.

    Parameters
    ----------
    header : object
        What `parse_json` returned.
    place : str
        Where it was read, for messages; so is `what`, which it is of.
    form, version : str and int
        What "format" has to be, and the "version" of this package.
    upgrades : dict
        From a version to what makes the next one of it.
    fields : collection of str
        The keys of this version.
    """
    if not isinstance(header, dict) or header.get("format") != form:
        raise ValueError(f"{place} is not the file of {what}: it has no format={form!r}.")
    found = header.get("version")
    if not isinstance(found, int) or found not in {*upgrades, version}:
        raise ValueError(
            f"The version of {place} must be one of {sorted({*upgrades, version})}. Got "
            f"{found!r} instead; a later version of skanopatch may read it."
        )
    for older in range(found, version):
        header = upgrades[older](header)
    check_names(header, fields, place)
    return header


def _parse_weights(content: bytes, place: str) -> dict[str, torch.Tensor]:
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{place} is damaged: {error}.") from error


def check_names(found: Any, expected: Collection[str], place: str) -> None:
    """Refuse what has no names, or names that are missing or unknown, and name them."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{place[0].upper()}{place[1:]} must have names. Got {found!r} instead.")
    problems = [
        f"{problem} {names}"
        for problem, names in (
            ("lacks", sorted(set(expected) - set(found))),
            ("has the unknown", sorted(set(found) - set(expected))),
        )
        if names
    ]
    if problems:
        raise ValueError(f"{place[0].upper()}{place[1:]} {' and '.join(problems)}.")


def _take_subspace(
    tensors: dict[str, torch.Tensor], learnt: Collection[str], place: str
) -> SharedSubspace:
    """Take the arrays of the statistics' subspace out of the tensors of a file."""
    names = [f"subspace.{name}" for name in learnt]
    found = {name: tensors.pop(name) for name in names if name in tensors}
    check_names(found, names, place)
    components, variance, means, scale, *marks = found.values()
    widths = components.shape[1:], means.shape[1:], scale.shape
    if scale.ndim != 1 or len(set(widths)) != 1 or variance.shape != components.shape[:1]:
        raise ValueError(
            f"The subspace in {place} must have as many variances as components, and components "
            "and class means of as many features as scales. Got the shapes "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in found.values())}."
        )
    if any(pairs.ndim != 2 or pairs.shape[1] != 2 for pairs in marks):
        raise ValueError(
            f"subspace.{_MARKS} in {place} must have the shape (n_clips, 2). "
            f"Got {tuple(marks[0].shape)} instead."
        )
    subspace = SharedSubspace()
    subspace.marks_ = None
    for name, tensor in zip(learnt, found.values(), strict=True):
        setattr(subspace, name, tensor.numpy())
    subspace.n_features_in_ = len(scale)
    return subspace


def _take_class_means(tensors: dict[str, torch.Tensor], n_dims: int, place: str) -> NDArray:
    """Take the means of a network's classes out of the tensors of a file."""
    found = {_CLASS_MEANS: tensors.pop(_CLASS_MEANS)} if _CLASS_MEANS in tensors else {}
    check_names(found, [_CLASS_MEANS], place)
    means = found[_CLASS_MEANS].numpy()
    if means.ndim != 2 or means.shape[1] != n_dims:
        raise ValueError(
            f"{_CLASS_MEANS} in {place} must have the shape (n_classes, {n_dims}). "
            f"Got {means.shape} instead."
        )
    return means


def _class_sizes(found: list[int] | None, n_classes: int, place: str) -> NDArray | None:
    """Return how many clips each class had, or refuse another number of them than of means."""
    if found is None:
        return None
    sizes = np.array(found)
    if sizes.shape != (n_classes,) or sizes.dtype.kind != "i" or sizes.min() < 1:
        raise ValueError(
            f"The class_sizes of {place} must be null or {n_classes} numbers of clips, one for "
            f"each class mean. Got {found!r} instead."
        )
    return sizes


def _check_weights(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], place: str
) -> None:
    """Refuse weights that are missing, unknown or of a wrong shape, and name them."""
    check_names(found, expected, place)
    for name, weight in found.items():
        if weight.shape != expected[name].shape:
            raise ValueError(
                f"{name} in {place} must have the shape {tuple(expected[name].shape)}. "
                f"Got {tuple(weight.shape)} instead."
            )


def _plain(value: Any, name: str) -> Any:
    """Return a value in the types of JSON, or name the one that cannot be."""
    if isinstance(value, dict):
        return {key: _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, name) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(
        f"{name} must consist of strings, numbers, tuples and None to be saved. "
        f"Got {value!r} instead."
    )


def _tuples(value: Any) -> Any:
    """Return a value with tuples for JSON's lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
