"""Torch devices: their choice, the precision of training on them, and lack of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def choose_device(device: str) -> torch.device:
    """Return the torch device of that name; "auto" is a CUDA device if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device must be 'auto' or a torch device. Got {device!r} instead."
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r} was asked for, but torch finds no CUDA device here. Set "
            "device='auto' to use one where there is one."
        )
    return chosen


def autocast_dtype(device: torch.device, precision: str) -> torch.dtype | None:
    """Return the dtype of the matrix products in training; None is float32.

    "auto" is float32 on every CPU, so that CPUs with and without bfloat16 give the same weights.
    """
    is_native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    is_bfloat16 = precision == "bfloat16" or (precision == "auto" and is_native)
    return torch.bfloat16 if is_bfloat16 else None


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn torch's out-of-memory errors into one that names what to change."""
    try:
        yield
    except RuntimeError as error:  # of which torch.OutOfMemoryError is a subclass, but not on CPUs
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate" not in str(error):
            raise
        raise MemoryError(
            f"A batch of {batch_size} clips does not fit into memory. Set batch_size to less than "
            f"{batch_size}, or shorten the clips."
        ) from error
