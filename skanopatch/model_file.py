"""Model files: a fitted pipeline in a zip of JSON, arrays and safetensors, which executes nothing.

``model.json`` says what the steps are and which of the other members hold their arrays and
weights. A class is looked up in `_ATTRIBUTES`, never by what a file says to import, and members are
read into memory, never unpacked. Where the form changes, and be it by a new parameter or attribute
of an estimator, `VERSION` goes up by one and `UPGRADES` gets the step from the form before it.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import skanopatch
from skanopatch.band_statistics import BandStatistics
from skanopatch.detectors import (
    GMMDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    PatchKNNDetector,
    SubbandKNNDetector,
)
from skanopatch.embedding import AnoPatchEmbedder
from skanopatch.files import atomic_write
from skanopatch.mel_statistics import MelStatistics
from skanopatch.model_selection import FitOnNormal
from skanopatch.model_upgrades import UPGRADES
from skanopatch.patch_statistics import PatchStatistics
from skanopatch.patching import MelPatcher
from skanopatch.persistence import DAMAGE, OF_THE_MACHINE, check_names, current_form, parse_json
from skanopatch.shared_subspace import LEARNT, SharedSubspace

FORMAT = "skanopatch model"
VERSION = 6

_JSON = "model.json"
_FIELDS = ("format", "version", "skanopatch", "created", "pipeline", "map_pipeline", "clips")

_THRESHOLD = ("offset_", "training_scores_", "_row_digests", "_row_of_digest", "_row_scores")
_DISTANCE = ("location_", "covariance_", "precision_", "shrinkage_", "block_sizes_")
_MAPS = (*_THRESHOLD, "term_centers_", "term_spreads_", "level_", "_training_maps", "_n_bands")
_SUBBANDS = ("_domain_of_clip", "_clip_spaces", "_clip_banks", "_token_spaces", "_token_banks")

_CLIPS_OF_A_SUBSPACE = (
    "class_sizes_",
    "n_samples_seen_",
    "optimism_",
    "distance_optimism_",
    "marks_",
)

# What `fit` sets on each class, but for what it knows of its input: that is there or not.
_ATTRIBUTES: dict[type[BaseEstimator], tuple[str, ...]] = {
    Pipeline: (),
    MelPatcher: ("duration_",),
    MelStatistics: ("_n_features_out",),
    PatchStatistics: ("log_unit_", "_n_features_out"),
    BandStatistics: ("log_unit_", "_loud", "_fluctuating", "_swelling", "_n_features_out"),
    SharedSubspace: (*LEARNT, *_CLIPS_OF_A_SUBSPACE),
    StandardScaler: ("mean_", "scale_", "var_", "n_samples_seen_"),
    KNNDetector: (*_THRESHOLD, "center_", "bank_", "bank_ends_", "density_", "alpha_"),
    MahalanobisDetector: (*_THRESHOLD, *_DISTANCE),
    GMMDetector: (*_THRESHOLD, "location_", "scale_", "mixtures_"),
    GaussianMixture: ("weights_", "means_", "covariances_", "precisions_cholesky_"),
    PatchKNNDetector: (*_MAPS, "_space", "bank_"),
    SubbandKNNDetector: (*_MAPS, *_SUBBANDS),
    GroupedDetector: ("detectors_", "spreads_", "training_scores_", "offset_"),
    FitOnNormal: ("estimator_",),
    AnoPatchEmbedder: (),  # its weights and what comes with them are `to_saved`'s
}
_NUMBERS = ("duration_", "offset_")
_OF_THE_INPUT = ("n_features_in_", "feature_names_in_")

# Parameters of scikit-learn's classes that scores depend on; others come and go with its versions.
_PARAMS: dict[type[BaseEstimator], tuple[str, ...]] = {
    Pipeline: ("steps",),
    StandardScaler: ("with_mean", "with_std"),
    GaussianMixture: ("n_components", "covariance_type", "reg_covar"),
}

_CLASSES = {cls.__name__: cls for cls in _ATTRIBUTES}


@dataclass(frozen=True)
class Model:
    """What a model file holds.

    Attributes
    ----------
    pipeline : Pipeline
        From clips to scores.

    map_pipeline : Pipeline or None
        From clips to maps of where they are odd, see `anomaly_map`.

    clips : tuple of str
        The files of the normal clips; empty where they were no files.

    embeddings : ndarray of shape (n_clips, n_dims), float32
        What the steps before the detector made of `clips`; of shape (0, 0) without them.

    version : str
        Of the skanopatch that wrote the file.

    created : str
        When it was written, in ISO 8601.
    """

    pipeline: Pipeline
    map_pipeline: Pipeline | None = None
    clips: tuple[str, ...] = ()
    embeddings: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), dtype=np.float32)
    )
    version: str = skanopatch.__version__
    created: str = ""


def save_model(
    path: str | os.PathLike[str],
    pipeline: Pipeline,
    *,
    map_pipeline: Pipeline | None = None,
    clips: Sequence[str | os.PathLike[str]] = (),
    embeddings: ArrayLike | None = None,
) -> None:
    """Write a fitted pipeline to a file that runs nothing when it is loaded.

    Parameters
    ----------
    path : str or Path
        The file. It takes the place of one of that name when it is whole, and not before.

    pipeline : Pipeline
        From clips to scores, fitted: estimators of this package, with scikit-learn's `Pipeline`
        and `StandardScaler`.

    map_pipeline : Pipeline, default=None
        From clips to maps, fitted, see `make_map_pipeline`.

    clips : sequence of str or Path, default=()
        The files of the normal clips, so that a report can name the one nearest to a new clip.

    embeddings : array-like of shape (n_clips, n_dims), default=None
        What ``pipeline[:-1]`` made of `clips`.

    Raises
    ------
    ValueError
        If a pipeline holds what the form does not know, such as an estimator of another package or
        a RandomState, or `embeddings` has another length than `clips`.

    sklearn.exceptions.NotFittedError
        If a pipeline is not fitted.

    OSError
        If the file cannot be written.

    See Also
    --------
    load_model : The inverse.

    Notes
    -----
    What belongs to the machine is not saved, nor are metadata requests and settings of
    `set_output`: parameters such as `n_jobs`, `memory`, `device` and `verbose` come back as their
    defaults. Weights of an embedder are those that its `save` writes, with the backbone.

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
    >>> bool((load_model(file).pipeline.score_samples(clips) == pipe.score_samples(clips)).all())
    True
    """
    rows = np.empty((0, 0), np.float32) if embeddings is None else np.asarray(embeddings, "float32")
    if len(rows) != len(clips):
        raise ValueError(
            f"embeddings must have one row per clip. Got {len(rows)} rows for {len(clips)} clips."
        )
    for name, value in (("pipeline", pipeline), ("map_pipeline", map_pipeline)):
        if isinstance(value, Pipeline):
            check_is_fitted(value)
        elif value is not None or name == "pipeline":
            raise ValueError(
                f"The {name!r} parameter of save_model must be a Pipeline. Got {value!r} instead."
            )
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        writer = _Writer(archive)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "skanopatch": skanopatch.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "pipeline": writer.encode(pipeline, "pipeline"),
            "map_pipeline": writer.encode(map_pipeline, "map_pipeline"),
            "clips": {
                "names": [os.fspath(clip) for clip in clips],
                "embeddings": writer.encode(rows, "embeddings"),
            },
        }
        archive.writestr(_JSON, json.dumps(header, indent=1))


def load_model(path: str | os.PathLike[str]) -> Model:
    """Read what `save_model` wrote.

    Nothing in the file is executed or unpickled, and nothing is downloaded: it may come from
    somebody whom you do not trust.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    model : Model
        With the fitted `pipeline`, which scores as the saved one to the bit.

    Raises
    ------
    ValueError
        If the file was not written by `save_model` or by a later version of it, is damaged, or an
        estimator, parameter, attribute or array in it is unknown or missing.

    OSError
        If it is not there or cannot be read.

    See Also
    --------
    save_model : The inverse.

    Examples
    --------
    See `save_model`.
    """
    place = repr(os.fspath(path))
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if _JSON not in names:
                raise ValueError(f"{place} is not a model file of skanopatch: no {_JSON} is in it.")
            _check_members(archive.infolist(), Path(path).stat().st_size, place)
            reader = _Reader(archive, place)
            header = current_form(
                parse_json(archive.read(_JSON), f"{_JSON} in {place}"),
                place,
                what="a model",
                form=FORMAT,
                version=VERSION,
                upgrades=UPGRADES,
                fields=_FIELDS,
            )
            check_names(header["clips"], ("names", "embeddings"), f"clips of {place}")
            model = Model(
                pipeline=reader.decode(header["pipeline"]),
                map_pipeline=reader.decode(header["map_pipeline"]),
                clips=tuple(header["clips"]["names"]),
                embeddings=reader.decode(header["clips"]["embeddings"]),
                version=header["skanopatch"],
                created=header["created"],
            )
            check_names(dict.fromkeys(names), {_JSON, *reader.used}, place)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{place} is not a model file of skanopatch, or it is damaged: {error}."
        ) from error
    except DAMAGE as error:
        raise ValueError(f"{place} is damaged: {error}.") from error
    return model


def _check_members(members: Collection[zipfile.ZipInfo], n_bytes: int, place: str) -> None:
    """Refuse what `save_model` does not write: such an archive may unpack to any size."""
    if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 0x1 for m in members):
        raise ValueError(f"{place} must hold plain members only, not compressed or encrypted ones.")
    if sum(member.file_size for member in members) > n_bytes:
        raise ValueError(f"{place} is damaged: its members are larger than the file.")


class _Writer:
    """Turns values into JSON, and writes their arrays and weights to the archive."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        self.n_arrays = 0

    def encode(self, value: Any, name: str) -> Any:
        if isinstance(value, np.generic):
            return {"scalar": self._write_array(np.asarray(value))}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            items = [self.encode(item, f"{name}[{i}]") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, dict):
            pairs = [
                [self.encode(key, name), self.encode(item, f"{name}[{key!r}]")]
                for key, item in value.items()
            ]
            return {"dict": pairs}
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:  # names of features
                return {"objects": self.encode(value.tolist(), name)}
            return {"array": self._write_array(value)}
        if type(value) in _ATTRIBUTES:
            return self._encode_estimator(value, name)
        raise ValueError(
            f"{name} must consist of numbers, strings, arrays and estimators of "
            f"{', '.join(_CLASSES)} to be saved. Got {value!r} instead."
        )

    def _encode_estimator(self, estimator: BaseEstimator, name: str) -> dict[str, Any]:
        cls = type(estimator)
        found = vars(estimator)
        if cls is AnoPatchEmbedder and "_module" in found:
            header, weights = estimator.to_saved()
            return {
                "class": cls.__name__,
                "embedder": header,
                "weights": self._write_weights(weights),
            }
        fitted = None
        if found.keys() >= set(_ATTRIBUTES[cls]):
            kept = [attr for attr in (*_ATTRIBUTES[cls], *_OF_THE_INPUT) if attr in found]
            fitted = {attr: self.encode(found[attr], f"{name}.{attr}") for attr in kept}
        params = {
            param: self.encode(value, f"{name}.{param}")
            for param, value in estimator.get_params(deep=False).items()
            if param in _saved_params(cls)
        }
        return {"class": cls.__name__, "params": params, "fitted": fitted}

    def _write_array(self, array: NDArray) -> str:
        member = f"arrays/{self.n_arrays}.npy"
        self.n_arrays += 1
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        self.archive.writestr(member, file.getvalue())
        return member

    def _write_weights(self, weights: bytes) -> str:
        # Both pipelines may have the same network: it is written once.
        member = f"weights/{sha256(weights).hexdigest()[:16]}.safetensors"
        if member not in self.archive.NameToInfo:
            self.archive.writestr(member, weights)
        return member


class _Reader:
    """Turns JSON and the members of the archive back into values."""

    def __init__(self, archive: zipfile.ZipFile, place: str):
        self.archive = archive
        self.place = place
        self.used: set[str] = set()

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "class" in value:
            return self._decode_estimator(value)
        match value:
            case {"tuple": items}:
                return tuple(self.decode(items))
            case {"dict": pairs}:
                return {self.decode(key): self.decode(item) for key, item in pairs}
            case {"objects": items}:
                return np.array(self.decode(items), dtype=object)
            case {"array": member}:
                return self._read_array(member)
            case {"scalar": member}:
                return self._read_array(member)[()]
        raise ValueError(f"{self.place} has an entry of an unknown kind: {sorted(value)}.")

    def _decode_estimator(self, value: dict[str, Any]) -> BaseEstimator:
        name = value["class"]
        if name not in _CLASSES:
            raise ValueError(
                f"{self.place} has the unknown class {name!r}. Known are {', '.join(_CLASSES)}."
            )
        cls = _CLASSES[name]
        if cls is AnoPatchEmbedder and "embedder" in value:
            check_names(value, ("class", "embedder", "weights"), f"{name} of {self.place}")
            return self._decode_embedder(value["embedder"], value["weights"])
        check_names(value, ("class", "params", "fitted"), f"{name} of {self.place}")
        check_names(value["params"], _saved_params(cls), f"params of {name} of {self.place}")
        params = {param: self.decode(item) for param, item in value["params"].items()}
        estimator = cls(**params)
        if cls is not Pipeline:  # it has no constraints on its steps, which are validated each
            estimator._validate_params()
        if value["fitted"] is not None:
            given = {attr for attr in _OF_THE_INPUT if attr in value["fitted"]}
            expected = given.union(_ATTRIBUTES[cls])
            check_names(value["fitted"], expected, f"fitted of {name} of {self.place}")
            for attr, item in value["fitted"].items():
                found = self.decode(item)
                if attr in _NUMBERS and not (isinstance(found, Real) and math.isfinite(found)):
                    raise ValueError(f"{attr} of {name} of {self.place} must be a finite number.")
                setattr(estimator, attr, found)
        return estimator

    def _decode_embedder(self, header: Any, member: str) -> AnoPatchEmbedder:
        scheme, _, what = header["network"]["backbone"].partition(":")
        is_described = scheme == "timm" or not what or header["network"]["config"] is not None
        if header["backbone_sha256"] is not None or not is_described:
            # Or else a name in the file would make us read other files, or download them.
            raise ValueError(f"The embedder of {self.place} must come with its backbone.")
        places = f"the embedder of {self.place}", f"{member} of {self.place}"
        return AnoPatchEmbedder.from_saved(header, self._read(member), places=places)

    def _read(self, member: str) -> bytes:
        if member not in self.archive.NameToInfo:
            raise ValueError(f"{self.place} lacks {member!r}.")
        self.used.add(member)
        return self.archive.read(member)

    def _read_array(self, member: str) -> NDArray:
        content = self._read(member)
        file = io.BytesIO(content)
        try:
            if np.lib.format.read_magic(file) != (1, 0):  # what np.save writes for plain arrays
                raise ValueError("it is of another version than 1.0")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, which are not read")
            # NumPy would make room for whatever the header says.
            if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
                raise ValueError(f"its shape {shape} is not that of its data")
            file.seek(0)
            return np.load(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{member} of {self.place} is damaged: {error}.") from error


def _saved_params(cls: type[BaseEstimator]) -> Collection[str]:
    return _PARAMS.get(cls) or set(cls._get_param_names()) - set(OF_THE_MACHINE)
