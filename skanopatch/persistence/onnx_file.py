"""What a file of `export_onnx` must be before onnxruntime reads it: whole, self-contained, sound.

It needs neither `onnx` nor protobuf: messages are walked through field by field, as bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The last property of a file, "sha256": field 14 of a ModelProto, an entry with key and value.
_SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
_SEAL_BYTES = len(_SEAL) + 64

_MOST_FIELDS = 1_000_000  # a network of 86 million weights has some 20,000
_MOST_SAMPLES = 2**26  # of a window: 23 minutes at 48 kHz
_MOST_WINDOWS = 1000  # that overlap at one moment

_MOST_VALUES = 2**24  # that an operator makes of a constant size

# Numbers of fields in onnx.proto.
_MODEL = {"graph": 7, "opset": 8, "property": 14, "training": 20, "function": 25}
_GRAPH = {"node": 1, "initializer": 5, "sparse": 15}
_NODE = {"input": 1, "output": 2, "kind": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE = {"tensor": 5, "graph": 6, "tensors": 10}
_OTHER_GRAPHS = (6, 11, 22, 23)  # of an attribute: a graph, graphs, and sparse tensors
_TENSOR = {"dims": 1, "type": 2, "name": 8, "raw": 9, "external": 13, "location": 14}
_INT64 = 7

_CONTROL_FLOW = {"If", "Loop", "SequenceMap"}  # whose length no input bounds
_GROWING = {"ConstantOfShape", "Expand", "Pad", "Range", "Tile"}  # by the values of an input


def seal(content: bytes | memoryview) -> bytes:
    """Return a property to append to a model of ONNX: the SHA-256 of all that is before it."""
    return _SEAL + hashlib.sha256(content).hexdigest().encode()


def read_file(path: str | os.PathLike[str]) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes and the properties of a file of `export_onnx`.

    The checksum finds damage. A file that was forged may have a right one. Therefore the graph is
    checked too: it has standard operators only, no loop but that over the clips, no tensor that is
    larger than its bytes, no operator that makes a huge one of a constant, and it names no other
    file.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    content : bytes
    properties : dict
        Numbers, lists and text.

    Raises
    ------
    ValueError
        If the file is none of `export_onnx`, damaged or forged. `FileNotFoundError` if it is not
        there.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(2, "No such file", name)
    content = Path(path).read_bytes()
    try:
        _check_seal(content)
        properties = {name: _parsed(text) for name, text in _Checker(content).properties}
        _check_properties(properties)
    except ValueError as error:
        raise ValueError(f"{name!r} is no file of skanopatch.export_onnx: {error}.") from error
    return content, properties


def _check_seal(content: bytes) -> None:
    found, body = content[-_SEAL_BYTES:], memoryview(content)[:-_SEAL_BYTES]
    if not found.startswith(_SEAL):
        raise ValueError("it does not end with a checksum, or is cut off")
    if found != seal(body):
        raise ValueError("its checksum is not that of its bytes: it is damaged, or was changed")


# --- The graph --------------------------------------------------------------------------------


class _Message:
    """Fields of a message: pairs of a number and an integer, or the bytes of what is nested."""

    def __init__(self, data: memoryview, counter: Iterator[int]):
        self.data, self.counter = data, counter

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        data, at = self.data, 0
        while at < len(data):
            if next(self.counter, None) is None:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = _varint(data, at)
                yield number, value
                continue
            if kind == 2:
                length, at = _varint(data, at)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise ValueError(f"a field has the unknown type {kind}")
            if length > len(data) - at:
                raise ValueError(f"a field of {length} bytes goes beyond its end")
            yield number, data[at : at + length]
            at += length

    def nested(self, value: Any) -> _Message:
        """Return a message that is the value of a field."""
        if isinstance(value, int):
            raise ValueError("a field that must be a message is a number")
        return _Message(value, self.counter)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the integer at a place, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than 10 bytes")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _text(value: Any) -> str:
    if isinstance(value, int):
        raise ValueError("a field that must be text is a number")
    return str(value, "utf-8")


class _Checker:
    """Goes through a model and refuses what `export_onnx` never writes.

    Attributes
    ----------
    properties : list of tuple (name, text)
    """

    def __init__(self, content: bytes):
        self.properties: list[tuple[str, str]] = []
        self._sizes: dict[str, int] = {}  # of small integer constants, their product
        self._grown: list[tuple[str, str]] = []  # operators, and inputs that say how far they grow
        self._check_model(_Message(memoryview(content), iter(range(_MOST_FIELDS))))
        for kind, name in self._grown:
            if (size := self._sizes.get(name, 0)) > _MOST_VALUES:
                raise ValueError(f"its operator {kind!r} makes {size} values")

    def _check_model(self, model: _Message) -> None:
        n_graphs = 0
        for field, value in model:
            if field == _MODEL["graph"]:
                n_graphs += 1
                self._check_graph(model.nested(value), is_body=False)
            elif field == _MODEL["opset"]:
                _check_domain("".join(_text(v) for f, v in model.nested(value) if f == 1))
            elif field == _MODEL["property"]:
                entry = dict(model.nested(value))
                self.properties.append((_text(entry.get(1, b"")), _text(entry.get(2, b""))))
            elif field in (_MODEL["training"], _MODEL["function"]):
                raise ValueError("it has functions or a training graph")
        if n_graphs != 1:
            raise ValueError(f"it has {n_graphs} graphs, not one")
        if len(dict(self.properties)) != len(self.properties):
            raise ValueError("a property occurs twice")

    def _check_graph(self, graph: _Message, *, is_body: bool) -> None:
        for field, value in graph:
            if field == _GRAPH["node"]:
                self._check_node(graph.nested(value), is_body=is_body)
            elif field == _GRAPH["initializer"]:
                self._check_tensor(graph.nested(value))
            elif field == _GRAPH["sparse"]:
                raise ValueError("it has a sparse tensor")

    def _check_node(self, node: _Message, *, is_body: bool) -> None:
        kind, attributes, inputs, outputs = "", [], [], [""]
        for field, value in node:
            if field == _NODE["kind"]:
                kind = _text(value)
            elif field == _NODE["domain"]:
                _check_domain(_text(value))
            elif field == _NODE["attribute"]:
                attributes.append(node.nested(value))
            elif field == _NODE["input"]:
                inputs.append(_text(value))
            elif field == _NODE["output"]:
                outputs.append(_text(value))
        if kind in _CONTROL_FLOW or (kind == "Scan" and is_body):
            raise ValueError(f"it has the operator {kind!r} where export_onnx writes none")
        if kind in _GROWING:
            self._grown += [(kind, name) for name in inputs]
        for attribute in attributes:
            for field, value in attribute:
                if field in (_ATTRIBUTE["tensor"], _ATTRIBUTE["tensors"]):
                    self._check_tensor(attribute.nested(value), name=outputs[-1])
                elif field == _ATTRIBUTE["graph"] and kind == "Scan":
                    self._check_graph(attribute.nested(value), is_body=True)
                elif field in _OTHER_GRAPHS:
                    raise ValueError(f"its operator {kind!r} has a graph or a sparse tensor")

    def _check_tensor(self, tensor: _Message, *, name: str = "") -> None:
        """Refuse a tensor whose values are in another file, or which has more than it has bytes."""
        n_values, is_integer, raw = 1, False, b""
        for field, value in tensor:
            if field == _TENSOR["external"] or (field == _TENSOR["location"] and value != 0):
                raise ValueError("its values are in another file")
            if field == _TENSOR["dims"]:
                n_values *= math.prod([value] if isinstance(value, int) else _varints(value))
            elif field == _TENSOR["type"]:
                is_integer = value == _INT64
            elif field == _TENSOR["name"]:
                name = _text(value)
            elif field == _TENSOR["raw"] and not isinstance(value, int):
                raw = value
        if n_values > len(tensor.data):
            raise ValueError(f"a tensor of {n_values} values has {len(tensor.data)} bytes")
        if is_integer and len(raw) == 8 * n_values <= 512:
            values = struct.unpack(f"<{n_values}q", raw)
            self._sizes[name] = math.prod(max(1, abs(value)) for value in values)


def _check_domain(domain: str) -> None:
    if domain not in ("", "ai.onnx"):
        raise ValueError(f"it has operators of {domain!r}, which are not standard")


# --- Properties -------------------------------------------------------------------------------


def _parsed(text: str) -> Any:
    """Return a property of a file: JSON, or text that is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check_properties(properties: dict[str, Any]) -> None:
    if "skanopatch" not in properties:
        raise ValueError("it has no property 'skanopatch'")
    for name, (is_right, words) in _RULES.items():
        if name not in properties:
            raise ValueError(f"it has no property {name!r}")
        _require(is_right(properties[name]), properties, name, words)
    samples = properties["duration"] * properties["sample_rate"]
    words = f"the {samples:.10g} samples of its duration"
    _require(abs(properties["window_samples"] - samples) <= 1, properties, "window_samples", words)
    n_scores = len(properties["training_scores"])
    words = f"a weight for each of {n_scores} training scores"
    n_weights = len(properties["session_weights"])
    _require(n_weights == n_scores, properties, "session_weights", words)
    if properties["hop"] is None:
        return
    least = properties["duration"] / _MOST_WINDOWS
    _require(properties["hop"] >= least, properties, "hop", f"null or at least {least:.3g} s")
    numbers: Any = properties.get("window_numbers")
    starts_at_one = _are_numbers(numbers) and numbers[:1] == [1]
    words = "ascending numbers from 1 on"
    _require(starts_at_one and _is_ascending(numbers), properties, "window_numbers", words)
    ratios: Any = properties.get("window_ratios")
    fits = _are_numbers(ratios) and len(ratios) == len(numbers) and min(ratios) >= 1
    words = f"a ratio of 1 or more for each of {len(numbers)} window_numbers"
    _require(fits, properties, "window_ratios", words)


def _require(is_right: bool, properties: dict[str, Any], name: str, words: str) -> None:
    if not is_right:
        found = repr(properties.get(name))
        found = found if len(found) <= 80 else f"{found[:80]}..."
        raise ValueError(f"its property {name!r} must be {words}. Got {found}")


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < 1e300 and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_positive(value)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(map(_is_number, values))


def _is_ascending(values: list) -> bool:
    return all(a <= b for a, b in itertools.pairwise(values))


_RULES = {
    "offset": (_is_number, "a number"),
    "sample_rate": (_is_count, "a positive integer"),
    "window_samples": (
        lambda value: _is_count(value) and value <= _MOST_SAMPLES,
        f"an integer from 1 to {_MOST_SAMPLES}",
    ),
    "duration": (_is_positive, "a positive number"),
    "hop": (lambda value: value is None or _is_positive(value), "null or a positive number"),
    "channel": (
        lambda value: value == "mean" or (isinstance(value, int) and 0 <= value < 2**31),
        "'mean' or the number of a channel",
    ),
    "training_scores": (
        lambda values: _are_numbers(values) and _is_ascending(values),
        "finite numbers in ascending order",
    ),
    "session_weights": (
        lambda values: _are_numbers(values) and all(value >= 0 for value in values),
        "numbers that are not negative",
    ),
}
