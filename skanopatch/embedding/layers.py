"""Layers of a backbone in fine-tuning: learning rates and gradient checkpointing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

_BLOCK = re.compile(r"backbone\.(?:.*\.)?blocks\.(\d+)\.")


def rate_factors(names: Iterable[str], n_layers: int, decay: float) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter.

    Layer-wise decay after Clark et al. 2020 (ELECTRA) and Bao et al. 2022 (BEiT). The factor is 1
    behind the last layer and `decay` in it. It is multiplied by `decay` for each layer below, and
    once more for what comes before the first layer.

    Parameters
    ----------
    names : iterable of str
        Names of the parameters of an `EmbeddingNetwork`, in the order of its modules.
    n_layers : int
        Layers that are used.
    decay : float
        From 0 to 1.
    """
    factors = {}
    outside = n_layers + 1  # the backbone's parameters before its layers, then those after them
    for name in names:
        depth = 0
        if block := _BLOCK.match(name):
            depth = max(0, n_layers - int(block[1]))
            outside = 0
        elif name.startswith("backbone."):
            depth = outside
        factors[name] = decay**depth
    return factors


@contextmanager
def recomputed_layers(backbone: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Keep only the inputs of a backbone's layers for the backward pass, which runs them again.

    Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): about a third more time, and the
    memory of one layer instead of that of all.

    Parameters
    ----------
    backbone : nn.Module
        Its layers are the module list named "blocks".
    enabled : bool
        False changes nothing.
    """
    blocks = [
        module
        for name, module in backbone.named_modules()
        if enabled and name.rpartition(".")[0].endswith("blocks")
    ]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
