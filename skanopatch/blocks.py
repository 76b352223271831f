"""Embeddings that know of which blocks of features they are made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Embeddings(np.ndarray):
    """An array of embeddings that tells where one kind of features ends, by itself and in its rows.

    What `AnoPatchEmbedder.transform` returns where statistics come before what the network gives,
    so that a detector need not learn how the two covary. Where an operation turns it into a plain
    array, they are features like any others.

    Attributes
    ----------
    blocks : tuple of int or None
        How many features each block has, if there is more than one.
    """

    blocks: tuple[int, ...] | None = None

    def __array_finalize__(self, array: Any) -> None:
        self.blocks = getattr(array, "blocks", None)

    def __reduce__(self) -> Any:
        rebuild, arguments, state = super().__reduce__()  # type: ignore[str-unpack]
        return rebuild, arguments, (self.blocks, state)

    def __setstate__(self, state: tuple[Any, Any]) -> None:  # type: ignore[override]
        self.blocks, array_state = state
        super().__setstate__(array_state)


def with_blocks(embeddings: NDArray, blocks: tuple[int, ...] | None) -> NDArray:
    """Return the array with the blocks, or as it is where there are none."""
    if blocks is None:
        return embeddings
    found = embeddings.view(Embeddings)
    found.blocks = blocks
    return found


def blocks_of(X: Any) -> tuple[int, ...] | None:
    """Return the blocks that an array knows of; None where they are not those of its columns."""
    blocks = getattr(X, "blocks", None)
    is_made_of_them = isinstance(X, Embeddings) and X.ndim == 2 and sum(blocks or ()) == X.shape[1]
    return blocks if is_made_of_them else None
