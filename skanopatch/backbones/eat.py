"""EAT and SSLAM, from checkpoints in the form of transformers or of fairseq."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import nn

from skanopatch.backbones.base import Backbone
from skanopatch.backbones.hub import Source, read_weights
from skanopatch.spectra.patches import PatchGrid

# Mean and twice the deviation of the log-mel bins, by the authors' feature extraction.
AUDIOSET = (-4.268, 2 * 4.569)

# The base model, where neither a config.json nor the weights say otherwise.
_DEFAULTS: dict[str, Any] = {
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "patch_size": 16,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "norm_eps": 1e-6,
}

# Settings of a config.json that the authors' checkpoints share.
_REQUIRED = {
    "in_chans": 1,
    "mel_bins": 128,
    "stride": 16,
    "layer_norm_first": False,
    "norm_affine": True,
    "fixed_positions": True,
}

_HEAD_DIMS = 64  # of the base and the large model


class Eat(Backbone):
    """EAT [1]_: a post-norm ViT with fixed sine positions; SSLAM [2]_ is the same network.

    The class token takes part in attention and is not among the tokens.

    Parameters
    ----------
    config : dict
        The fields of config.json that set the architecture; a missing field is that of EAT-base.

    References
    ----------
    .. [1] W. Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer",
       IJCAI 2024, arXiv 2401.03497.
    .. [2] T. Alex et al., "SSLAM: Enhancing Self-Supervised Models with Audio Mixtures for
       Polyphonic Soundscapes", ICLR 2025.
    """

    def __init__(self, config: dict[str, Any]):
        cfg = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
        n_dims = cfg["embed_dim"]
        super().__init__(n_dims, cfg["depth"], normalization=AUDIOSET, config=cfg)
        self.patch_size = cfg["patch_size"]
        self.patch_embed = nn.Conv2d(1, n_dims, self.patch_size, self.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, n_dims))
        self.norm = nn.LayerNorm(n_dims, eps=cfg["norm_eps"])
        self.blocks = nn.ModuleList([_PostNormBlock(cfg) for _ in range(cfg["depth"])])

    def token_grid(self, n_frames: int, n_mels: int) -> tuple[int, int]:
        """Return how many tokens there are along time and along frequency."""
        return n_frames // self.patch_size, n_mels // self.patch_size

    def layer_tokens(self, log_mel: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Return the tokens of some layers; see `Backbone.layer_tokens`."""
        patches = self.patch_embed(log_mel[:, None])
        n_time, n_freq = patches.shape[2:]
        positions = _sine_positions(n_time, n_freq, self.n_dims).to(patches)
        x = patches.flatten(2).transpose(1, 2) + positions
        x = self.norm(torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1))
        outputs = []
        for i, block in enumerate(self.blocks[: layers[-1] + 1]):
            x = block(x)
            if i in layers:
                outputs.append(x[:, 1:])
        return outputs


class _PostNormBlock(nn.Module):
    """Attention and feed-forward, each normalised after its residual sum."""

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        n_dims = cfg["embed_dim"]
        norm = partial(nn.LayerNorm, n_dims, eps=cfg["norm_eps"])
        self.attn = Attention(n_dims, num_heads=cfg["num_heads"], qkv_bias=cfg["qkv_bias"])
        self.norm1 = norm()
        self.mlp = Mlp(n_dims, int(n_dims * cfg["mlp_ratio"]))
        self.norm2 = norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


def _sine_positions(n_time: int, n_freq: int, n_dims: int) -> torch.Tensor:
    """Return (n_time * n_freq, n_dims): the band in the first half, the time in the second."""
    n_waves = n_dims // 4
    rates = 10000.0 ** (-torch.arange(n_waves) / n_waves)
    time, band = torch.arange(n_time), torch.arange(n_freq)
    angles = torch.stack([band.repeat(n_time), time.repeat_interleave(n_freq)], 1)[..., None]
    angles = angles * rates
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)


def eat(
    what: str, grid: PatchGrid, *, pretrained: bool = True, config: dict[str, Any] | None = None
) -> Backbone:
    """Build EAT or SSLAM from a file, a folder or a repository of the hub.

    Parameters
    ----------
    what : str
        As `Source.parse` reads it, such as ``"worstchan/EAT-base_epoch30_pretrain"``.
    grid : PatchGrid
        Of any length: positions are computed.
    pretrained : bool, default=True
        False builds the network of `config` with random weights, and reads no file.
    config : dict or None, default=None
        `Backbone.config` of an earlier one.

    Notes
    -----
    A checkpoint of fairseq has no config.json: width and depth are read from its weights, and
    heads have 64 dimensions, as in the base and the large model.
    """
    if not pretrained and config is not None:
        return Eat(config)
    source = Source.parse(what)
    stored = _read_config(source)
    path = source.weights("model.safetensors", "pytorch_model.bin")
    content, _ = read_weights(path)
    weights = _by_own_names(content.get("model", content))
    with torch.device("meta"):
        backbone = Eat(_config_of(weights) | stored)
    expected = backbone.state_dict()
    missing = sorted(set(expected) - set(weights))
    if missing:
        raise ValueError(
            f"{str(path)!r} is no EAT checkpoint of {backbone.config}: it lacks {missing[:5]}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}."
        )
    for name, parameter in expected.items():
        if weights[name].shape != parameter.shape:
            raise ValueError(
                f"{name!r} of {str(path)!r} must have the shape {tuple(parameter.shape)} of its "
                f"architecture, {backbone.config}. Got {tuple(weights[name].shape)} instead."
            )
    backbone.load_state_dict({name: weights[name] for name in expected}, assign=True)
    return backbone


def _read_config(source: Source) -> dict[str, Any]:
    path = source.companion("config.json")
    if path is None:
        return {}
    config = json.loads(path.read_text())
    for name, value in _REQUIRED.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"An EAT must have {name}={value!r}. Got {config[name]!r} in {str(path)!r} instead."
            )
    return {name: config[name] for name in _DEFAULTS if name in config}


def _config_of(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return what weights say about the architecture."""
    if "class_token" not in weights:
        return {}
    n_dims = weights["class_token"].shape[-1]
    depth = 1 + max(
        (int(name.split(".")[1]) for name in weights if name[:7] == "blocks."), default=0
    )
    return {"embed_dim": n_dims, "depth": depth, "num_heads": max(1, n_dims // _HEAD_DIMS)}


def _by_own_names(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Rename the weights of transformers and fairseq; decoders and classifiers stay unused."""
    renamed = {}
    for name, weight in weights.items():
        if not isinstance(weight, torch.Tensor):
            continue
        # A classifier of either form has the network as its part "model".
        name = name.removeprefix("model.").removeprefix("modality_encoders.IMAGE.")
        for theirs, ours in _NAMES.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        renamed[name] = weight.float()
    return renamed


_NAMES = {
    "local_encoder.proj": "patch_embed",
    "extra_tokens": "class_token",
    "pre_norm": "norm",  # transformers
    "context_encoder.norm": "norm",  # fairseq
}
