"""Sound as bytes: raw PCM and WAV, decoded while it comes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from skanopatch.audio import pcm_to_float

FORMATS = {
    "u8": "u1",
    "s8": "i1",
    "s16le": "<i2",
    "s16be": ">i2",
    "s24le": "<i3",
    "s24be": ">i3",
    "s32le": "<i4",
    "s32be": ">i4",
    "f32le": "<f4",
    "f32be": ">f4",
    "f64le": "<f8",
    "f64be": ">f8",
}
"""Sample formats by the names that ffmpeg gives them, as types of NumPy; "i3" has 24 bits."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # formats in a WAV header
_WAV_FORMATS = {
    (_PCM, 8): "u8",
    (_PCM, 16): "s16le",
    (_PCM, 24): "s24le",
    (_PCM, 32): "s32le",
    (_FLOAT, 32): "f32le",
    (_FLOAT, 64): "f64le",
}
# Programs that write to a pipe do not know how much will come: they say 0, or the most there is.
_UNKNOWN_LENGTH = 0x7FFF0000


def decode_pcm(
    chunks: Iterable[bytes], sample_format: str, n_channels: int = 1
) -> Iterator[NDArray[np.float32]]:
    """Decode raw PCM that comes in chunks of any length.

    Parameters
    ----------
    chunks : iterable of bytes
        Chunks may end within a sample. Bytes at the end that are no whole frame are dropped.
    sample_format : str
        A key of `FORMATS`, such as "s16le".
    n_channels : int, default=1

    Yields
    ------
    block : ndarray of shape (n_samples, n_channels), float32
        In [-1, 1]; integers are divided by their full scale.
    """
    if sample_format not in FORMATS:
        raise ValueError(
            f"sample_format must be one of {', '.join(FORMATS)}. Got {sample_format!r} instead."
        )
    if n_channels < 1:
        raise ValueError(f"n_channels must be at least 1. Got {n_channels} instead.")
    code = FORMATS[sample_format]
    width = int(code[-1])
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        n_whole = len(data) - len(data) % (width * n_channels)
        rest = data[n_whole:]
        if n_whole:
            yield _decode(data[:n_whole], code).reshape(-1, n_channels)


def _decode(data: bytes, code: str) -> NDArray[np.float32]:
    if not code.endswith("i3"):
        return pcm_to_float(np.frombuffer(data, dtype=code))
    # The 24 bits become the upper ones of 32.
    words = np.zeros((len(data) // 3, 4), dtype=np.uint8)
    three = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
    words[:, slice(1, 4) if code[0] == "<" else slice(0, 3)] = three
    return pcm_to_float(words.view(f"{code[0]}i4")[:, 0])


def decode_wav(
    chunks: Iterable[bytes],
) -> tuple[int, Iterator[NDArray[np.float32]]]:
    """Decode a WAV file while it comes, of unknown length too.

    Parameters
    ----------
    chunks : iterable of bytes
        From the first byte of the file on.

    Returns
    -------
    sample_rate : int
        In Hz.
    blocks : iterator of ndarray of shape (n_samples, n_channels), float32

    Raises
    ------
    ValueError
        If it is no WAV file of PCM or floats.
    """
    source = _Bytes(chunks)
    kind = source.read(12)
    if kind[:4] not in (b"RIFF", b"RF64") or kind[8:] != b"WAVE":
        raise ValueError(f"The stream must be a WAV file. It begins with {kind[:12]!r}.")
    coding, n_channels, rate = (0, 0), 0, 0
    while len(header := source.read(8)) == 8:
        name, length = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"data":
            break
        content = source.read(length + length % 2)
        if name == b"fmt ":
            tag, n_channels, rate, _, _, n_bits = struct.unpack("<HHIIHH", content[:16])
            if tag == _EXTENSIBLE and len(content) >= 26:
                tag = struct.unpack("<H", content[24:26])[0]
            coding = tag, n_bits
    else:
        raise ValueError("The WAV file on the stream ends before its samples.")
    if coding not in _WAV_FORMATS:
        raise ValueError(
            "The WAV file on the stream must be PCM or floats. It has the format "
            f"{coding[0]} of {coding[1]} bits."
        )
    n_bytes = length if 0 < length < _UNKNOWN_LENGTH else None
    return rate, decode_pcm(source.rest(n_bytes), _WAV_FORMATS[coding], n_channels)


class _Bytes:
    """Reads a number of bytes from chunks."""

    def __init__(self, chunks: Iterable[bytes]):
        self._next: Callable[[], bytes] = iter(chunks).__next__
        self._held = b""

    def read(self, n_bytes: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        while len(self._held) < n_bytes:
            try:
                self._held += self._next()
            except StopIteration:
                break
        content, self._held = self._held[:n_bytes], self._held[n_bytes:]
        return content

    def rest(self, n_bytes: int | None) -> Iterator[bytes]:
        """Yield chunks up to `n_bytes` in all, or to the end."""
        while n_bytes is None or n_bytes > 0:
            if not self._held:
                self._held = self.read(1) + self._held
            chunk, self._held = self._held[:n_bytes], b""
            if not chunk:
                return
            if n_bytes is not None:
                n_bytes -= len(chunk)
            yield chunk
