"""What the JSON of older model files becomes, so that every file ever written can be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _with_log_unit(estimator: dict[str, Any]) -> None:
    """Say of statistics what they did before they had `log_unit`."""
    if estimator["class"] in ("BandStatistics", "PatchStatistics"):
        estimator["params"]["log_unit"] = 1.0
        if estimator["fitted"] is not None:
            estimator["fitted"]["log_unit_"] = 1.0


def _with_blocks(estimator: dict[str, Any]) -> None:
    """Say of Mahalanobis detectors that all of their features are one block."""
    if estimator["class"] == "MahalanobisDetector":
        estimator["params"]["blocks"] = "auto"
        fitted = estimator["fitted"]
        if fitted is not None:
            fitted["block_sizes_"] = {"tuple": [fitted["n_features_in_"]]}
            fitted["shrinkage_"] = {"tuple": [fitted["shrinkage_"]]}


def _with_optimism(estimator: dict[str, Any]) -> None:
    """Say of subspaces that new clips are like those they were fitted on."""
    if estimator["class"] == "SharedSubspace" and estimator["fitted"] is not None:
        estimator["fitted"] |= {"n_samples_seen_": 1, "optimism_": 0.0}


def _with_class_sizes(estimator: dict[str, Any]) -> None:
    """Say of subspaces that nothing is known of how many clips each class had."""
    if estimator["class"] == "SharedSubspace" and estimator["fitted"] is not None:
        estimator["fitted"]["class_sizes_"] = None


def _without_marks(estimator: dict[str, Any]) -> None:
    """Say of subspaces that they do not know their clips again."""
    if estimator["class"] == "SharedSubspace" and estimator["fitted"] is not None:
        estimator["fitted"] |= {"marks_": None, "distance_optimism_": 0.0}


def _each_estimator(value: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """Return a value of the JSON with each estimator in it changed."""
    if isinstance(value, list):
        return [_each_estimator(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _each_estimator(item, change) for key, item in value.items()}
    if "class" in value and "embedder" not in value:
        change(value)
    return value


# From a version to the next one: what the JSON becomes.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda header: _each_estimator(header, _with_log_unit),
    2: lambda header: _each_estimator(header, _with_blocks),
    3: lambda header: _each_estimator(header, _with_optimism),
    4: lambda header: _each_estimator(header, _with_class_sizes),
    5: lambda header: _each_estimator(header, _without_marks),
}
