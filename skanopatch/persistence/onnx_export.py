"""export_onnx: a fitted model as one ONNX file, from samples to decisions."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

import skanopatch
from skanopatch.detectors import GroupedDetector, JoinedDetector
from skanopatch.detectors.metadata import last_step
from skanopatch.detectors.thresholds import place_threshold
from skanopatch.files import atomic_write
from skanopatch.model_selection.fit_on_normal import FitOnNormal
from skanopatch.persistence.onnx_bands import add_score_map
from skanopatch.persistence.onnx_detectors import DetectorGraph
from skanopatch.persistence.onnx_features import add_front_end, refuse, window_samples
from skanopatch.persistence.onnx_file import seal
from skanopatch.persistence.onnx_graph import IR_VERSION, OPSET, Graph, Tensor
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.mel_patcher import MelPatcher

INSTALL = "pip install 'skanopatch[onnx]'"
PRECISIONS = ("float32", "int8")

# The axes of outputs after that of the clips.
_AXES = {
    "map": ("n_time", "n_freq"),
    "map_of_moments": ("n_time", "n_freq"),
    "map_of_score": ("n_time", "n_freq"),
}

# Numbers of windows for which the ratio of thresholds is stored; between them it is interpolated.
_EVERY_NUMBER, _LARGEST_NUMBER = 256, 1e6


def export_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    precision: str = "float32",
    maps: bool = True,
    group: Hashable | None = None,
) -> None:
    """Write a fitted model to one ONNX file, from samples to decisions.

    onnxruntime runs the file. Python and this package are not needed there.

    The input of the file is ``waveform``: samples in float32, of shape (n_clips, n_samples), at
    the sample rate of the model. The file scores one window per clip, as `MelPatcher` does. A
    shorter clip is repeated from its start. Of a longer clip only the first window is used;
    `OnnxScorer` cuts longer clips into windows.

    The outputs are float64: ``score``, ``decision`` and ``p_value`` of shape (n_clips,). If the
    model has maps, there is also ``map`` of shape (n_clips, n_time, n_freq). For an
    `AnomalousSoundDetector` it is the larger of ``map_of_moments`` and ``map_of_score``.

    Parameters
    ----------
    model : AnomalousSoundDetector or Pipeline
        Fitted on clips. A pipeline must begin with a `MelPatcher` and end with a detector.
    path : str or Path
        The file to write. It replaces a file of that name only when it is complete.
    precision : {"float32", "int8"}, default="float32"
        Precision of the matrices of a network. "int8" stores them as 8-bit integers, and quantizes
        their inputs while the file runs. Without a network it changes nothing.
    maps : bool, default=True
        Whether to write maps. Without them the file is smaller, and a clip takes less time.
    group : hashable or None, default=None
        The machine of all clips that the file will score, for a model that was fitted with groups.
        With None a clip is compared with each machine, and the one for which it is most normal
        counts.

    Raises
    ------
    ValueError
        If a step cannot be written in ONNX; the message names it. If the model does not take
        clips, or was not fitted on the group.
    ImportError
        If onnx is missing, or onnxscript for a network, or onnxruntime for "int8".
    NotFittedError
        If the model is not fitted.

    See Also
    --------
    OnnxScorer : Scores clips with such a file.
    save_model : A file from which the estimator itself comes back.

    Notes
    -----
    With "float32", scores of new clips differ from those of the model by less than 1e-4 of their
    size. A p-value is the same, unless the score is as near as that to the score of a training
    clip. :ref:`onnx` says what differs more, and lists the properties of the file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import numpy as np
    >>> from skanopatch import AnomalousSoundDetector, MelPatcher, OnnxScorer, export_onnx
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000)).astype("float32")
    >>> model = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(clips)
    >>> file = Path(mkdtemp()) / "fan.onnx"
    >>> export_onnx(model, file)
    >>> scores = OnnxScorer(file).score_samples(clips)
    >>> bool(np.allclose(scores, model.score_samples(clips), rtol=1e-4))
    True
    """
    try:
        from onnx import checker
    except ImportError as error:
        raise ImportError(f"export_onnx needs onnx: {INSTALL}.") from error
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {list(PRECISIONS)}. Got {precision!r} instead.")
    check_is_fitted(model)
    while isinstance(model, FitOnNormal):
        model = model.estimator_
    check_is_fitted(model)
    _check_group(model, group)
    try:
        proto = _build(model, int8=precision == "int8", maps=maps, group=group)
    except ImportError as error:  # onnxscript for a network, onnxruntime for int8
        raise ImportError(f"This export needs {error.name}: {INSTALL}.") from error
    properties = {**_properties(model, group), "precision": precision}
    for name, value in properties.items():
        text = value if isinstance(value, str) else json.dumps(value)
        proto.metadata_props.add(key=name, value=text)
    content = proto.SerializeToString()
    checker.check_model(content, full_check=True)
    with atomic_write(path) as file:
        file.write(content + seal(content))


def _build(model: Any, *, int8: bool, maps: bool, group: Hashable | None) -> Any:
    """Return the model of ONNX, without properties."""
    from onnx import TensorProto, helper

    patcher = _patcher(model)
    graph = Graph()
    waveform = Tensor(graph, "waveform", np.dtype(np.float32))
    features = add_front_end(graph, waveform, patcher)
    parts = DetectorGraph(graph, group=group, int8=int8)
    is_recipe = isinstance(model, AnomalousSoundDetector)
    detector = model.detector_ if is_recipe else Pipeline(model.steps[1:])
    score = parts.score(detector, features)
    outputs = {
        "score": score,
        "decision": score - _offset(model),
        "p_value": parts.p_values(detector, features),
    }
    if maps and is_recipe and model.map_pipeline_ is not None:
        outputs["map"] = outputs["map_of_moments"] = parts.map(model.map_pipeline_, features)
        if model.members_[0] == "statistics" and model.offset_ < 0:
            moments = outputs["map_of_moments"]
            of_score = add_score_map(parts, model, features, score, moments)
            outputs["map_of_score"] = of_score
            outputs["map"] = graph.maximum(moments, of_score)
    elif maps and not is_recipe and hasattr(last_step(model), "anomaly_map"):
        outputs["map"] = parts.map(detector, features)
    # A clip that holds NaN or infinity has no score.
    is_broken = (waveform * 0.0).sum(1).is_nan()
    infos = []
    for name, values in outputs.items():
        axes = _AXES.get(name, ())
        shape = ["n_clips", *axes]
        mask = is_broken.expand_dims(*range(1, len(shape))) if axes else is_broken
        named = graph.where(mask, np.nan, values)
        graph.nodes[-1].output[0] = named.name = name
        infos.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape))
    source = helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["n_clips", "n_samples"])
    made = helper.make_graph(graph.nodes, "skanopatch", [source], infos, graph.constants)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(
        made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="skanopatch"
    )


def _patcher(model: Any) -> MelPatcher:
    """Return the patcher of a model, or say that the model does not take clips."""
    if isinstance(model, AnomalousSoundDetector):
        patcher = model.patcher_
    else:
        patcher = model[0] if isinstance(model, Pipeline) else None
    if type(patcher) is not MelPatcher or not hasattr(last_step(model), "offset_"):
        raise refuse(
            model,
            "it must be an AnomalousSoundDetector of clips, or a pipeline from a MelPatcher to a "
            "detector with a threshold",
        )
    return patcher


def _offset(model: Any) -> float:
    return float(last_step(model).offset_)


def _check_group(model: Any, group: Hashable | None) -> None:
    known = _groups(model)
    if group is not None and group not in known:
        listed = ", ".join(map(repr, known)) or "none"
        raise ValueError(
            f"group must be a machine that the model knows ({listed}). Got {group!r} instead."
        )


def _groups(model: Any) -> list[Hashable]:
    """Return the groups that a model was fitted with."""
    if isinstance(model, AnomalousSoundDetector):
        return model.groups_
    end = last_step(model)
    if isinstance(end, GroupedDetector):
        return [group for group in end.detectors_ if group is not None]
    members = end.detectors_ if isinstance(end, JoinedDetector) else []
    return list(dict.fromkeys(group for member in members for group in _groups(member)))


def _properties(model: Any, group: Hashable | None) -> dict[str, Any]:
    """Return what the file says of the model, in types of JSON."""
    patcher, end = _patcher(model), last_step(model)
    n_samples = window_samples(patcher)
    is_recipe = isinstance(model, AnomalousSoundDetector)
    counted = np.isfinite(end.training_scores_)
    order = np.argsort(end.training_scores_[counted])
    properties = {
        "skanopatch": skanopatch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sample_rate": patcher.sample_rate,
        "window_samples": n_samples,
        "duration": patcher.duration_,
        "hop": (model.hop or patcher.duration_) if is_recipe else None,
        "channel": patcher.channel,
        "offset": _offset(model),
        "false_alarm_rate": float(getattr(end, "false_alarm_rate", np.nan)),
        "map_cell": [patcher.frame_shift * patcher.patch_size, patcher.patch_size],
        "training_scores": end.training_scores_[counted][order].tolist(),
        "session_weights": end.session_weights_[counted][order].tolist(),
    }
    if group is not None:
        properties["group"] = str(group)
    if is_recipe:
        numbers, ratios = _window_ratios(model)
        properties |= {"window_numbers": numbers, "window_ratios": ratios}
    return properties


def _window_ratios(model: AnomalousSoundDetector) -> tuple[list[int], list[float]]:
    """Return numbers of windows, and the ratio of the threshold of as many to that of one."""
    beyond = np.geomspace(_EVERY_NUMBER, _LARGEST_NUMBER, 60)[1:].round().astype(int)
    numbers = [*range(1, _EVERY_NUMBER + 1), *beyond.tolist()]
    distances, weights = -model.training_scores_, model.session_weights_
    rate = model.false_alarm_rate

    def threshold(rate: float) -> float:
        return place_threshold(distances, rate, model.threshold, weights)

    of_one = threshold(rate)
    ratios = [
        max(1.0, threshold(1 - (1 - rate) ** (1 / n)) / of_one) if of_one and n > 1 else 1.0
        for n in numbers
    ]
    return numbers, ratios
