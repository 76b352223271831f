"""LoRA: low-rank updates of the projections of attention.

The layers of a ViT hold query, key and value in one linear layer, `qkv`, and the update is of some
of its rows. The `peft` package updates linear layers as a whole, so this is our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

_PARTS = ("q", "k", "v")
_UPDATE = ".parametrizations.weight.0."
_ORIGINAL = ".parametrizations.weight.original"


class LowRankUpdate(nn.Module):
    """What a `qkv` weight is with low-rank updates of some of its three parts.

    Hu et al. 2022 (ICLR), eq. 3, with alpha equal to the rank. The parts share the matrix that
    reads the tokens, which saves a quarter of the parameters where two are updated.

    Parameters
    ----------
    weight : Tensor of shape (3 * n_dims, n_dims)
        What is updated.
    rank : int
        Rank of the update of each part.
    targets : sequence of {"q", "k", "v"}
        The parts.
    """

    def __init__(self, weight: torch.Tensor, *, rank: int, targets: Sequence[str]):
        super().__init__()
        n_out, n_in = weight.shape
        self.parts = [_PARTS.index(target) for target in targets]
        self.down = nn.Parameter(weight.new_empty(rank, n_in))
        self.up = nn.Parameter(weight.new_zeros(len(targets), n_out // 3, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as torch starts a linear layer

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the updated weight."""
        rows = list(weight.chunk(3))
        for part, up in zip(self.parts, self.up, strict=True):
            rows[part] = rows[part] + up @ self.down
        return torch.cat(rows)


def add_lora(backbone: nn.Module, *, rank: int, targets: Sequence[str]) -> None:
    """Freeze a backbone but for low-rank updates of all its `qkv` layers, which start at zero.

    Parameters
    ----------
    backbone : nn.Module
        Changed in place.
    rank : int
        Rank of the updates.
    targets : sequence of {"q", "k", "v"}
        What is updated.

    Raises
    ------
    ValueError
        If a target is none of these, or the backbone has no such layer.
    """
    if not targets or not set(targets) <= set(_PARTS) or len(set(targets)) < len(targets):
        raise ValueError(
            f"lora_targets must be some of {_PARTS}, each once. Got {tuple(targets)!r} instead."
        )
    backbone.requires_grad_(False)
    layers = [layer for name, layer in backbone.named_modules() if name.endswith(".attn.qkv")]
    if not layers:
        raise ValueError(
            "tuning must be 'full', 'head' or 'frozen' for a backbone without linear layers "
            "'attn.qkv' for LoRA. Got 'lora' instead."
        )
    for layer in layers:
        update = LowRankUpdate(layer.weight, rank=rank, targets=targets)
        parametrize.register_parametrization(layer, "weight", update)


def merged_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a module as if its updates were part of the weights they update."""
    state = {name: t for name, t in module.state_dict().items() if not is_update(name)}
    for name in [name for name in state if name.endswith(_ORIGINAL)]:
        del state[name]
        parametrization = module.get_submodule(name.removesuffix(".original"))
        state[f"{name.removesuffix(_ORIGINAL)}.weight"] = parametrization().detach()
    return state


def is_update(name: str) -> bool:
    """Tell whether a tensor of that name in a state is part of an update."""
    return _UPDATE in name
