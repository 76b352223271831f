"""LoRA: low-rank updates of the query and value projections of attention.

The layers of a ViT hold query, key and value in one linear layer, `qkv`, and the update is of two
thirds of its rows. The `peft` package updates linear layers as a whole, so this is our own.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils import parametrize


class LowRankUpdate(nn.Module):
    """A `qkv` weight plus low-rank updates of its rows for query and value.

    Hu et al. 2022 (ICLR), eq. 3, with alpha equal to the rank. Both updates share the matrix that
    reads the tokens, which saves a quarter of the parameters.

    Parameters
    ----------
    weight : Tensor of shape (3 * n_dims, n_dims)
        The weight to update.
    rank : int
        Rank of either update.
    """

    def __init__(self, weight: torch.Tensor, *, rank: int):
        super().__init__()
        n_out, n_in = weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, n_in))
        self.up = nn.Parameter(weight.new_zeros(2, n_out // 3, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as torch starts a linear layer

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the updated weight."""
        query, key, value = weight.chunk(3)
        query_update, value_update = self.up @ self.down
        return torch.cat([query + query_update, key, value + value_update])


def add_lora(backbone: nn.Module, *, rank: int) -> None:
    """Freeze a backbone, and add trainable low-rank updates, zero at first, to its `qkv` layers.

    Parameters
    ----------
    backbone : nn.Module
        Changed in place.
    rank : int
        Rank of the updates.

    Raises
    ------
    ValueError
        If the backbone has no such layer.
    """
    backbone.requires_grad_(False)
    layers = [layer for name, layer in backbone.named_modules() if name.endswith(".attn.qkv")]
    if not layers:
        raise ValueError(
            "tuning must be 'full', 'head' or 'frozen' for a backbone without linear layers "
            "'attn.qkv' for LoRA. Got 'lora' instead."
        )
    for layer in layers:
        update = LowRankUpdate(layer.weight, rank=rank)
        parametrize.register_parametrization(layer, "weight", update)


def merge_lora(backbone: nn.Module) -> None:
    """Add the updates to the weights that they update, if there are any."""
    for layer in [layer for layer in backbone.modules() if parametrize.is_parametrized(layer)]:
        parametrize.remove_parametrizations(layer, "weight")
