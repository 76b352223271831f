"""Embeddings that know of which blocks of features they are made."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from skanopatch.noted_array import NotedArray


class Embeddings(NotedArray):
    """An array of embeddings that tells where one kind of features ends, as do its rows.

    What `AnoPatchEmbedder.transform` returns where statistics come before what the network gives,
    so that a detector need not learn how the two covary. Where an operation turns it into a plain
    array, they are features like any others.

    Attributes
    ----------
    blocks : tuple of int or None
        How many features each block has, if there is more than one.
    """

    _note = "blocks"
    blocks: tuple[int, ...] | None = None


def with_blocks(embeddings: NDArray, blocks: tuple[int, ...] | None) -> NDArray:
    """Return the array with the blocks, or as it is where there are none."""
    if blocks is None:
        return embeddings
    found = embeddings.view(Embeddings)
    found.blocks = blocks
    return found


def blocks_of(X: Any) -> tuple[int, ...] | None:
    """Return the blocks that an array knows of; None where they are not those of its columns."""
    if isinstance(X, Embeddings) and X.ndim == 2 and sum(X.blocks or ()) == X.shape[1]:
        return X.blocks
    return None
