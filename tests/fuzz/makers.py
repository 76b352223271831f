"""Makers of damaged files. Each takes a seed, and makes the same bytes from it every time."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile

Made = tuple[str, bytes]  # a suffix and the bytes of a file

_RATES = (8000, 16000, 44100, 48000, 26667, 11111, 192000)
_SUBTYPES = {
    "WAV": ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"],
    "FLAC": ["PCM_16", "PCM_24"],
    "OGG": ["VORBIS"],
    "AIFF": ["PCM_16", "FLOAT"],
    "W64": ["PCM_16"],
    "CAF": ["PCM_16"],
    "AU": ["PCM_16"],
    "MP3": ["MPEG_LAYER_III"],
}
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _mutate(data: bytes, rng: np.random.Generator, *, head: int = 128) -> bytes:
    """Return bytes with one to eight faults, more of them in the first `head` bytes."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        if not changed:
            break
        limit = min(head, len(changed)) if rng.random() < 0.6 else len(changed)
        at = int(rng.integers(limit))
        fault = rng.integers(7)
        if fault == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif fault == 1:
            changed[at] = int(rng.integers(256))
        elif fault == 2:  # a length or a count
            number = int(_EXTREMES[rng.integers(len(_EXTREMES))])
            changed[at : at + 4] = struct.pack("<I" if rng.random() < 0.7 else ">I", number)
        elif fault == 3:
            del changed[at:]  # cut off
        elif fault == 4:
            del changed[at : at + int(rng.integers(1, 64))]
        elif fault == 5:
            changed[at:at] = rng.bytes(int(rng.integers(1, 64)))
        else:
            changed[at:at] = changed[at : at + int(rng.integers(1, 256))]
    return bytes(changed)


def audio(seed: int) -> Made:
    """Return a suffix and a damaged recording: header, length, samples, or a NaN payload."""
    rng = np.random.default_rng([1, seed])
    kind = str(rng.choice(list(_SUBTYPES), p=[0.5, 0.12, 0.1, 0.08, 0.05, 0.05, 0.05, 0.05]))
    subtype = str(rng.choice(_SUBTYPES[kind]))
    shape = (int(rng.integers(1, 4000)), int(rng.integers(1, 4)))
    samples = 0.3 * rng.normal(size=shape)
    rate = int(rng.choice(_RATES)) if kind not in ("MP3", "OGG") else 16000
    if subtype in ("FLOAT", "DOUBLE") and rng.random() < 0.5:
        samples[rng.integers(len(samples))] = rng.choice([np.nan, np.inf, -np.inf, 1e38])
    if subtype in ("MPEG_LAYER_III", "IMA_ADPCM"):
        samples = samples[:, :2]
        rate = min(rate, 48000) if rate in (8000, 16000, 44100, 48000) else 16000
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return f".{kind.lower()}", _mutate(file.getvalue(), rng)


def table(seed: int) -> Made:
    """Return a damaged CSV of files and labels."""
    rng = np.random.default_rng([2, seed])
    labels = ["normal", "anomaly", "-1", "1", "", '"', "a,b", "\n", "ü", "\0", "=1+1", "nan"]
    rows = [f"clip{i}.wav,{rng.choice(labels)}" for i in range(int(rng.integers(1, 12)))]
    headers = ["file,label", "label,file", "file;label", "x", ""]
    header = str(rng.choice(headers, p=[0.7, 0.1, 0.1, 0.05, 0.05]))
    encoding = str(rng.choice(["utf-8", "latin-1", "utf-16", "utf-8-sig"], p=[0.7, 0.1, 0.1, 0.1]))
    data = "\n".join([header, *rows]).encode(encoding, errors="replace")
    return ".csv", data if rng.random() < 0.5 else _mutate(data, rng, head=40)


def archive_maker(original: bytes) -> Callable[[int], Made]:
    """Return a maker of damaged copies of a model file, with checksums that are right in half."""
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    arrays = [name for name in members if name.endswith(".npy")]

    def make(seed: int) -> Made:
        rng = np.random.default_rng([3, seed])
        if rng.random() < 0.4:
            return ".skano", _mutate(original, rng, head=len(original))
        changed = dict(members)
        for _ in range(rng.integers(1, 4)):
            fault = rng.integers(5)
            if fault == 0 and arrays:
                name = str(rng.choice(arrays))
                changed[name] = _mutate(changed.get(name, b"\x93NUMPY"), rng)
            elif fault == 1:
                name = str(rng.choice(list(members)))
                changed[name] = _mutate(changed.get(name, b"{}"), rng, head=4096)
            elif fault == 2:
                changed.pop(str(rng.choice(list(members))), None)
            elif fault == 3 and len(arrays) > 1:
                one, two = rng.choice(arrays, 2, replace=False).tolist()
                changed[one], changed[two] = members[two], members[one]
            else:
                changed["model.json"] = _mutate_json(changed.get("model.json", b"{}"), rng)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in changed.items():
                archive.writestr(name, content)
        return ".skano", file.getvalue()

    return make


def _mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one to three values or names of a JSON document."""
    try:
        document = json.loads(data)
    except ValueError:
        return data
    values = [None, True, -1, 0, 2**63, 1e308, "", "os.system", "builtins", [], {}, "../x"]
    for _ in range(rng.integers(1, 4)):
        node = document
        while isinstance(node, (dict, list)) and node:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = keys[int(rng.integers(len(keys)))]
            if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.05:
                node[key] = values[int(rng.integers(len(values)))]
                break
            node = node[key]
    return json.dumps(document).encode()


def onnx_maker(original: bytes, *, seal: Callable[[bytes], bytes]) -> Callable[[int], Made]:
    """Return a maker of damaged copies of a file of `export_onnx`; most have a right checksum."""
    import onnx

    whole = onnx.ModelProto.FromString(original)
    del whole.metadata_props[-1]  # the checksum

    def make(seed: int) -> Made:
        rng = np.random.default_rng([4, seed])
        if rng.random() < 0.2:
            return ".onnx", _mutate(original, rng, head=len(original))
        if rng.random() < 0.25:  # lengths and numbers of protobuf, as bytes
            content = _mutate(whole.SerializeToString(), rng, head=4096)
            return ".onnx", content + seal(content)
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        for _ in range(rng.integers(1, 4)):
            _ONNX_FAULTS[rng.integers(len(_ONNX_FAULTS))](model, rng)
        content = model.SerializeToString()
        return ".onnx", content + seal(content)

    return make


def _pick(rng: np.random.Generator, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _body_or_graph(model: Any, rng: np.random.Generator) -> Any:
    """Return the graph, or in half of the calls the body of its loop if it has one."""
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    bodies = [body for body in bodies if len(body.node)]  # those of the faults are empty
    return _pick(rng, bodies) if bodies and rng.random() < 0.5 else model.graph


def _change_property(model: Any, rng: np.random.Generator) -> None:
    item = _pick(rng, model.metadata_props)
    text = item.value
    item.value = _pick(rng, [_mutate_json(text.encode(), rng).decode(), *_TEXTS])


def _drop_property(model: Any, rng: np.random.Generator) -> None:
    if model.metadata_props:
        del model.metadata_props[int(rng.integers(len(model.metadata_props)))]


def _swap_properties(model: Any, rng: np.random.Generator) -> None:
    one, two = _pick(rng, model.metadata_props), _pick(rng, model.metadata_props)
    one.value, two.value = two.value, one.value


def _change_values(model: Any, rng: np.random.Generator) -> None:
    """Flip bits of a constant, or write an extreme integer."""
    tensor = _pick(rng, model.graph.initializer)
    data = bytearray(tensor.raw_data)
    if tensor.data_type == 7 and len(data) >= 8 and rng.random() < 0.7:  # int64: shapes, bounds
        at = 8 * int(rng.integers(len(data) // 8))
        number = int(_pick(rng, [-1, 0, 1, 2, 7, 10**6, 2**31, 2**40, 2**62, -(2**63)]))
        data[at : at + 8] = struct.pack("<q", number)
    else:
        for _ in range(rng.integers(1, 9)):
            if data:
                data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    tensor.raw_data = bytes(data)


def _change_shape(model: Any, rng: np.random.Generator) -> None:
    """Give a constant another shape: a huge one, a negative one, or its axes swapped."""
    tensor = _pick(rng, model.graph.initializer)
    sizes = list(tensor.dims)
    if sizes and rng.random() < 0.4:
        tensor.dims[:] = sizes[::-1] if rng.random() < 0.5 else sizes[1:]
    else:
        sizes.append(1)
        at = int(rng.integers(len(sizes)))
        sizes[at] = int(_pick(rng, [-1, 0, 2, 2**20, 2**31, 2**40, 2**62]))
        tensor.dims[:] = sizes


def _change_type(model: Any, rng: np.random.Generator) -> None:
    _pick(rng, model.graph.initializer).data_type = int(rng.integers(0, 25))


def _shorten(model: Any, rng: np.random.Generator) -> None:
    tensor = _pick(rng, model.graph.initializer)
    tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]


def _swap_constants(model: Any, rng: np.random.Generator) -> None:
    one, two = (_pick(rng, model.graph.initializer) for _ in range(2))
    one.name, two.name = two.name, one.name


def _refer_to_a_file(model: Any, rng: np.random.Generator) -> None:
    tensor = _pick(rng, model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value=str(_pick(rng, _FILES)))
    if rng.random() < 0.5:
        tensor.external_data.add(key="offset", value=str(_pick(rng, [0, 1, 2**40])))
        tensor.external_data.add(key="length", value=str(_pick(rng, [8, 64, 2**40])))


def _change_operator(model: Any, rng: np.random.Generator) -> None:
    """Give a node another operator, domain, input or attribute, or a loop."""
    import onnx

    graph = _body_or_graph(model, rng)
    node = _pick(rng, graph.node)
    fault = rng.integers(7)
    if fault == 0:
        node.domain = str(_pick(rng, ["com.microsoft", "ai.onnx.ml", "evil", "ai.onnx.training"]))
        if rng.random() < 0.5:
            model.opset_import.add(domain=node.domain, version=1)
    elif fault == 1:
        node.op_type = str(_pick(rng, _OPERATORS))
    elif fault == 2 and node.input:
        names = [name for other in graph.node for name in other.output]
        node.input[int(rng.integers(len(node.input)))] = str(_pick(rng, names))
    elif fault == 3 and node.attribute:
        attribute = _pick(rng, node.attribute)
        attribute.i = int(_pick(rng, [-1, 0, 5, 2**31, -(2**63)]))
        if len(attribute.ints):
            attribute.ints[0] = int(_pick(rng, [-1, 0, 5, 2**31, 2**62]))
    elif fault == 4:
        graph.node.remove(node)
    elif fault == 5:
        node.op_type = str(_pick(rng, ["If", "Loop", "Scan", "SequenceMap"]))
        body = onnx.helper.make_graph([], "body", [], [])
        node.attribute.add(name="body", type=5).g.CopyFrom(body)
    elif node.output:
        node.output[0] = str(_pick(rng, ["", "score", "decision", "nothing"]))


def _change_outputs(model: Any, rng: np.random.Generator) -> None:
    graph = model.graph
    fault = rng.integers(4)
    if fault == 0:
        one, two = _pick(rng, graph.output), _pick(rng, graph.output)
        one.name, two.name = two.name, one.name
    elif fault == 1 and len(graph.output) > 1:
        del graph.output[int(rng.integers(len(graph.output)))]
    elif fault == 2:
        graph.input[0].name = str(_pick(rng, ["", "x", "score"]))
    else:
        graph.input[0].type.tensor_type.elem_type = int(rng.integers(0, 25))


def _change_head(model: Any, rng: np.random.Generator) -> None:
    """Change versions, or add a function or the training of a graph."""
    fault = rng.integers(4)
    if fault == 0:
        model.ir_version = int(_pick(rng, [0, 1, 3, 99, 2**62]))
    elif fault == 1:
        model.opset_import[0].version = int(_pick(rng, [0, 1, 7, 99, 2**62]))
    elif fault == 2:
        model.functions.add(name="Add", domain="evil", input=["a"], output=["b"])
    else:
        model.training_info.add().algorithm.CopyFrom(model.graph)


_TEXTS = ["", "null", "NaN", "-1", "0", "1e400", "1e15", "[]", "[1, 2]", "{}", "true", "9" * 5000]
_FILES = ["/etc/passwd", "../../../../etc/passwd", "x.onnx", "/dev/zero", "/proc/self/mem", ""]
_OPERATORS = ["ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Gather", "Reshape", "Evil",
              "RandomNormal", "Loop", "MatMul", "NonZero", "Resize", "Einsum"]  # fmt: skip
_ONNX_FAULTS = [
    *(_change_property, _drop_property, _swap_properties, _change_values, _change_values),
    *(_change_shape, _change_type, _shorten, _swap_constants, _refer_to_a_file),
    *(_change_operator, _change_operator, _change_outputs, _change_head),
]
