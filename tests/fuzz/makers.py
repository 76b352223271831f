"""Makers of damaged files. Each takes a seed, and makes the same bytes from it every time."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import soundfile

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


def audio(seed: int) -> tuple[str, bytes]:
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


def table(seed: int) -> tuple[str, bytes]:
    """Return a damaged CSV of files and labels."""
    rng = np.random.default_rng([2, seed])
    labels = ["normal", "anomaly", "-1", "1", "", '"', "a,b", "\n", "ü", "\0", "=1+1", "nan"]
    rows = [f"clip{i}.wav,{rng.choice(labels)}" for i in range(int(rng.integers(1, 12)))]
    headers = ["file,label", "label,file", "file;label", "x", ""]
    header = str(rng.choice(headers, p=[0.7, 0.1, 0.1, 0.05, 0.05]))
    encoding = str(rng.choice(["utf-8", "latin-1", "utf-16", "utf-8-sig"], p=[0.7, 0.1, 0.1, 0.1]))
    data = "\n".join([header, *rows]).encode(encoding, errors="replace")
    return ".csv", data if rng.random() < 0.5 else _mutate(data, rng, head=40)


def archive_maker(original: bytes) -> Callable[[int], tuple[str, bytes]]:
    """Return a maker of damaged copies of a model file, with checksums that are right in half."""
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    arrays = [name for name in members if name.endswith(".npy")]

    def make(seed: int) -> tuple[str, bytes]:
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


def bytes_maker(original: bytes, suffix: str, key: int) -> Callable[[int], tuple[str, bytes]]:
    """Return a maker of damaged copies of any file."""

    def make(seed: int) -> tuple[str, bytes]:
        rng = np.random.default_rng([key, seed])
        return suffix, _mutate(original, rng, head=len(original))

    return make
