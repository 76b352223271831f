"""CED and Dasheng: pre-norm ViTs over mel spectrograms in decibels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import nn

from skanopatch.backbones.base import Backbone
from skanopatch.backbones.front_ends import DECIBELS
from skanopatch.backbones.hub import Source, read_weights
from skanopatch.spectra.patches import PatchGrid

_FIELDS = ("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "patch_size", "own_grid")

_REQUIRED = {
    "n_mels": DECIBELS.n_mels,
    "n_fft": 512,
    "win_size": 512,
    "hop_size": 160,
    "f_min": 0,
    "f_max": 8000,
    "center": True,
    "pooling": "mean",
    "init_values": None,
}

_HEAD_DIMS = 64  # of every model but Dasheng-0.6B, whose checkpoint says so
_BATCH_NORM_EPS = 1e-5


class Ced(Backbone):
    """CED [1]_ and Dasheng [2]_: a ViT whose positions in time and frequency are added up.

    A clip of more patches than there are positions in time is read part by part, as Dasheng's
    authors do.

    Parameters
    ----------
    config : dict
        `embed_dim`, `depth`, `num_heads`, `mlp_ratio`, `qkv_bias`; `patch_size` and `own_grid` are
        pairs (time, frequency).

    References
    ----------
    .. [1] H. Dinkel et al., "CED: Consistent Ensemble Distillation for Audio Tagging", ICASSP
       2024, arXiv 2308.11957.
    .. [2] H. Dinkel et al., "Scaling up Masked Audio Encoder Learning for General Audio
       Classification", Interspeech 2024, arXiv 2406.06992.
    """

    gain: torch.Tensor
    offset: torch.Tensor

    def __init__(self, config: dict[str, Any]):
        cfg = {name: config[name] for name in _FIELDS}
        n_dims = cfg["embed_dim"]
        super().__init__(n_dims, cfg["depth"], normalization=(0.0, 1.0), config=cfg)
        self.patch_size = tuple(cfg["patch_size"])
        n_time, n_freq = cfg["own_grid"]
        # The batch normalisation of mel bins, with the statistics of the training data.
        self.register_buffer("gain", torch.ones(DECIBELS.n_mels))
        self.register_buffer("offset", torch.zeros(DECIBELS.n_mels))
        self.patch_embed = nn.Conv2d(1, n_dims, self.patch_size, self.patch_size)
        self.time_embed = nn.Parameter(torch.zeros(1, n_dims, n_time, 1))
        self.freq_embed = nn.Parameter(torch.zeros(1, n_dims, 1, n_freq))
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(
                n_dims,
                cfg["num_heads"],
                mlp_ratio=cfg["mlp_ratio"],
                qkv_bias=cfg["qkv_bias"],
                norm_layer=norm,  # type: ignore[arg-type]
            )
            for _ in range(cfg["depth"])
        )
        self.norm = norm(n_dims)

    def token_grid(self, n_frames: int, n_mels: int) -> tuple[int, int]:
        """Return how many tokens there are along time and along frequency."""
        return n_frames // self.patch_size[0], n_mels // self.patch_size[1]

    def layer_tokens(self, log_mel: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Return the tokens of some layers; see `Backbone.layer_tokens`."""
        patches = self.patch_embed((log_mel * self.gain + self.offset)[:, None])
        parts = [
            self._part_tokens(part, layers)
            for part in patches.split(self.time_embed.shape[2], dim=2)
        ]
        return [torch.cat(of_layer, dim=1) for of_layer in zip(*parts, strict=True)]

    def _part_tokens(self, patches: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        x = patches + self.time_embed[:, :, : patches.shape[2]] + self.freq_embed
        x = x.flatten(2).transpose(1, 2)
        outputs = []
        for i, block in enumerate(self.blocks[: layers[-1] + 1]):
            x = block(x)
            if i in layers:
                outputs.append(self.norm(x))
        return outputs


def ced(
    what: str, grid: PatchGrid, *, pretrained: bool = True, config: dict[str, Any] | None = None
) -> Backbone:
    """Build CED or Dasheng from a file, a folder or a repository of the hub.

    Parameters
    ----------
    what : str
        As `Source.parse` reads it, such as ``"mispeech/ced-tiny"``.
    grid : PatchGrid
        Of any length.
    pretrained : bool, default=True
        False builds the network of `config` with random weights, and reads no file.
    config : dict or None, default=None
        `Backbone.config` of an earlier one.

    Notes
    -----
    A checkpoint of the authors' own form holds its weights, or ``{"model": ..., "config": ...}``.
    Width, depth and patches are read from the weights; heads have 64 dimensions where no config
    says otherwise.
    """
    if not pretrained and config is not None:
        return Ced(config)
    source = Source.parse(what)
    stored_path = source.companion("config.json")
    stored = {} if stored_path is None else json.loads(stored_path.read_text())
    path = source.weights("model.safetensors", "pytorch_model.bin")
    content, _ = read_weights(path)
    stored = {**(content.get("config") or {}), **stored}
    for name, value in _REQUIRED.items():
        if stored.get(name, value) != value:
            raise ValueError(
                f"A CED or Dasheng must have {name}={value!r}. "
                f"Got {stored[name]!r} in {str(path.parent)!r} instead."
            )
    weights = {
        name.removeprefix("encoder."): weight
        for name, weight in content.get("model", content).items()
        if isinstance(weight, torch.Tensor)
    }
    try:
        config, state = _own(weights, stored)
        with torch.device("meta"):
            backbone = Ced(config)
        expected = backbone.state_dict()
        state = {name: state[name] for name in expected}
    except KeyError as error:
        raise ValueError(
            f"{str(path)!r} is no checkpoint of CED or Dasheng: it lacks {error.args[0]!r}."
        ) from error
    backbone.load_state_dict(state, assign=True)
    return backbone


def _own(
    weights: dict[str, torch.Tensor], stored: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the architecture and our state, from a checkpoint's weights and config."""
    # The authors' own form has the batch normalisation between two permutations.
    weights = {name.replace("init_bn.1.", "init_bn."): w.float() for name, w in weights.items()}
    kernel = weights.pop("patch_embed.proj.weight").transpose(2, 3).contiguous()
    time, frequency = weights.pop("time_pos_embed"), weights.pop("freq_pos_embed")
    gain = weights["init_bn.weight"] / (weights["init_bn.running_var"] + _BATCH_NORM_EPS).sqrt()
    n_dims = len(kernel)
    config = {
        "embed_dim": n_dims,
        "depth": 1 + max(int(name.split(".")[1]) for name in weights if name[:7] == "blocks."),
        "num_heads": stored.get("num_heads", max(1, n_dims // _HEAD_DIMS)),
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / n_dims,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "patch_size": list(kernel.shape[2:]),
        "own_grid": [time.shape[3], frequency.shape[2]],
    }
    own = {
        "gain": gain,
        "offset": weights["init_bn.bias"] - weights["init_bn.running_mean"] * gain,
        "patch_embed.weight": kernel,
        "patch_embed.bias": weights["patch_embed.proj.bias"],
        "time_embed": time.transpose(2, 3),
        "freq_embed": frequency.transpose(2, 3),
    }
    return config, {**weights, **own}
