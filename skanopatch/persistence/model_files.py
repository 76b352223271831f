"""Model files: a fitted estimator as JSON and arrays in a zip, which execute nothing when read.

A file holds ``skanopatch.json``, which `read_header` returns; ``model.json``, which `encoding`
writes and reads; and the arrays and bytes to which that refers. A file of several models holds a
header and such a file for each, ``0.skano``, ``1.skano`` and so on.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

import skanopatch
from skanopatch.files import atomic_write
from skanopatch.persistence.encoding import Decoder, Encoder
from skanopatch.persistence.facts import facts_of
from skanopatch.persistence.header import FORMAT, HEADER, MODEL, VERSION, open_model_file


def save_model(path: str | os.PathLike[str], model: BaseEstimator) -> None:
    """Write a fitted estimator to a file that `load_model` reads on any computer.

    Parameters
    ----------
    path : str or Path
        The file to write. It replaces a file of that name only when it is complete.

    model : estimator
        A fitted estimator of this package, or a `Pipeline` of such estimators. Scalers, `PCA`,
        `FeatureUnion` and similar estimators of scikit-learn may be part of it.

    Raises
    ------
    ValueError
        If the model has an attribute of a type that a model file cannot hold, such as a function
        or a `RandomState`; the message names it.
    NotFittedError
        If the model is not fitted.

    See Also
    --------
    load_model : Reads the file.
    save_models : Writes several models to one file.

    Notes
    -----
    Some parameters belong to the computer and not to the model: `checkpoint_dir`, `device`,
    `memory`, `n_jobs`, `n_workers` and `verbose`. `load_model` sets them to their defaults. It also
    sets requests of metadata (`set_fit_request`) to those of the class.

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
    content = _model_bytes(model)
    with atomic_write(path) as file:
        file.write(content)


def save_models(
    path: str | os.PathLike[str],
    models: Mapping[str, BaseEstimator] | Iterable[tuple[str, BaseEstimator]],
) -> None:
    """Write several fitted estimators to one file, such as one for each machine.

    Each has a name. `load_model` reads one of them by its name, without the others.

    Parameters
    ----------
    path : str or Path
        The file to write. It replaces a file of that name only when it is complete.

    models : mapping from str to estimator, or iterable of (str, estimator)
        The names and the fitted estimators. They are taken one after the other, so with a
        generator only one of them is in memory.

    Raises
    ------
    ValueError
        If there is no model, or a name is given twice, or a model cannot be saved (see
        `save_model`).
    TypeError
        If a name is not a str.
    NotFittedError
        If a model is not fitted.

    See Also
    --------
    load_model : Reads one of the models.
    AnomalousSoundDetector.select_group : Takes one machine out of a model of many.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import numpy as np
    >>> from skanopatch import AnomalousSoundDetector, MelPatcher, load_model, save_models
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> machines = ["fan"] * 6 + ["pump"] * 6
    >>> park = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(clips, groups=machines)
    >>> file = Path(mkdtemp()) / "park.skano"
    >>> save_models(file, ((name, park.select_group(name)) for name in park.groups_))
    >>> load_model(file, "pump").groups_
    ['pump']
    """
    names: dict[str, None] = {}
    pairs = models.items() if isinstance(models, Mapping) else models
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, model in pairs:
            if not isinstance(name, str):
                raise TypeError(f"The name of a model must be a str. Got {name!r}.")
            if name in names:
                raise ValueError(f"Two models have the name {name!r}.")
            archive.writestr(f"{len(names)}.skano", _model_bytes(model))
            names[name] = None
        if not names:
            raise ValueError("models must have at least one model. Got none.")
        facts = {"estimator": f"{len(names)} models", "machines": list(names)}
        archive.writestr(HEADER, _header(facts, models=list(names)))


def _model_bytes(model: BaseEstimator) -> memoryview:
    """Return the content of the file of one model."""
    check_is_fitted(model)
    encoder = Encoder()
    try:
        members: dict[str, str | bytes] = {
            MODEL: json.dumps(encoder.encode(model)),
            HEADER: _header(facts_of(model)),
        }
    except Exception as error:  # an object that is not made to be copied can raise anything
        raise ValueError(f"This {type(model).__name__} cannot be saved: {error}") from error
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**members, **encoder.members}.items():
            archive.writestr(name, content)
    return buffer.getbuffer()


def _header(facts: dict[str, Any], **more: Any) -> str:
    header = {
        "format": FORMAT,
        "version": VERSION,
        "skanopatch": skanopatch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "facts": facts,
        **more,
    }
    return json.dumps(header, default=str)


def load_model(path: str | os.PathLike[str], name: str | None = None) -> Any:
    """Read an estimator that `save_model` or `save_models` wrote.

    On the same computer, its scores equal those of the saved estimator to the bit. The file may be
    from anybody: nothing in it is executed or unpickled, no other file is read, and nothing is
    downloaded.

    Parameters
    ----------
    path : str or Path
        The file to read.
    name : str, default=None
        The name of the model to read, if the file was written by `save_models`. The other models
        are not read.

    Returns
    -------
    model : estimator
        The fitted estimator.

    Raises
    ------
    ValueError
        If the file is damaged, is not a model file of this version, or has a type that is not
        allowed. If the file has no model of that name.
    OSError
        If the file cannot be read.

    See Also
    --------
    save_model : Writes the file.

    Examples
    --------
    See `save_model`.
    """
    with open_model_file(path, name) as archive:
        decoder = Decoder(archive.read)
        model = decoder.decode(json.loads(archive.read(MODEL).decode()))
        for estimator in decoder.estimators:
            if hasattr(estimator, "_parameter_constraints"):  # FeatureUnion has none
                estimator._validate_params()
        check_is_fitted(model)
    return model
