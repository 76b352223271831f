"""The Audio Spectrogram Transformer (AST), from checkpoints in the form of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn

from skanopatch.backbones.base import Backbone
from skanopatch.backbones.front_ends import KALDI_HANNING
from skanopatch.backbones.hub import Source, read_weights
from skanopatch.spectra.patches import PatchGrid

# What a config.json and a preprocessor_config.json do not say.
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "patch_size": 16,
    "qkv_bias": True,
    "frequency_stride": 10,
    "time_stride": 10,
    "max_length": 1024,
    "num_mel_bins": 128,
    "sampling_rate": 16000,
    "mean": -4.2677393,
    "std": 4.5689974,
    "do_normalize": True,
}

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class SpectrogramTransformer(Backbone):
    """AST [1]_: a ViT over patches that overlap.

    Tokens are its patches; the class and the distillation token are left out. Position embeddings
    for shorter clips are cut from the middle, for longer ones interpolated linearly, as the
    authors do for networks of other lengths.

    Parameters
    ----------
    config : dict
        What config.json and preprocessor_config.json say; the rest is as for AudioSet.

    References
    ----------
    .. [1] Y. Gong, Y.-A. Chung and J. Glass, "AST: Audio Spectrogram Transformer", Interspeech
       2021, arXiv 2104.01778.
    """

    def __init__(self, config: dict[str, Any]):
        cfg = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
        n_dims, n_layers = cfg["hidden_size"], cfg["num_hidden_layers"]
        normalization = (cfg["mean"], 2 * cfg["std"]) if cfg["do_normalize"] else (0.0, 1.0)
        super().__init__(n_dims, n_layers, normalization=normalization, config=cfg)
        self.patch_size = cfg["patch_size"]
        self.strides = cfg["time_stride"], cfg["frequency_stride"]
        self.own_grid = self.token_grid(cfg["max_length"], cfg["num_mel_bins"])
        self.patch_embed = nn.Conv2d(1, n_dims, self.patch_size, self.strides)
        self.prefix = nn.Parameter(torch.zeros(1, 2, n_dims))
        self.pos_embed = nn.Parameter(torch.zeros(1, n_dims, *self.own_grid))
        self.blocks = nn.ModuleList(
            Block(
                n_dims,
                cfg["num_attention_heads"],
                mlp_ratio=cfg["intermediate_size"] / n_dims,
                qkv_bias=cfg["qkv_bias"],
                proj_drop=cfg["hidden_dropout_prob"],
                attn_drop=cfg["attention_probs_dropout_prob"],
                norm_layer=partial(nn.LayerNorm, eps=cfg["layer_norm_eps"]),  # type: ignore[arg-type]
            )
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(n_dims, eps=cfg["layer_norm_eps"])

    def token_grid(self, n_frames: int, n_mels: int) -> tuple[int, int]:
        """Return how many tokens there are along time and along frequency."""
        time_stride, frequency_stride = self.strides
        return (
            (n_frames - self.patch_size) // time_stride + 1,
            (n_mels - self.patch_size) // frequency_stride + 1,
        )

    def layer_tokens(self, log_mel: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Return the tokens of some layers; see `Backbone.layer_tokens`."""
        patches = self.patch_embed(log_mel[:, None])
        x = (patches + self._positions(patches.shape[2])).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        n_prefix = self.prefix.shape[1]
        outputs = []
        for i, block in enumerate(self.blocks[: layers[-1] + 1]):
            x = block(x)
            if i in layers:
                outputs.append(self.norm(x[:, n_prefix:]))
        return outputs

    def _positions(self, n_time: int) -> torch.Tensor:
        own_time, n_freq = self.own_grid
        if n_time > own_time:
            return F.interpolate(self.pos_embed, size=(n_time, n_freq), mode="bilinear")
        start = own_time // 2 - n_time // 2
        return self.pos_embed[:, :, start : start + n_time]


def ast(
    what: str, grid: PatchGrid, *, pretrained: bool = True, config: dict[str, Any] | None = None
) -> Backbone:
    """Build AST from a folder or a repository of the hub with config.json and weights.

    Parameters
    ----------
    what : str
        A folder or a name on the hub, such as ``"MIT/ast-finetuned-audioset-10-10-0.4593"``, as
        `Source.parse` reads it.
    grid : PatchGrid
        Of any length.
    pretrained : bool, default=True
        False builds the network of `config` with random weights, and reads no file.
    config : dict or None, default=None
        `Backbone.config` of an earlier one.
    """
    if not pretrained and config is not None:
        return SpectrogramTransformer(config)
    source = Source.parse(what)
    config = _read_config(source)
    path = source.weights(*_WEIGHTS)
    weights, _ = read_weights(path)
    with torch.device("meta"):
        backbone = SpectrogramTransformer(config)
    backbone.load_state_dict(_own_state(backbone, weights, path), assign=True)
    return backbone


def _read_config(source: Source) -> dict[str, Any]:
    path = source.companion("config.json")
    if path is None:
        raise FileNotFoundError(f"{source.place!r} has no config.json with the architecture.")
    config = json.loads(path.read_text())
    preprocessor = source.companion("preprocessor_config.json")
    if preprocessor is not None:
        config = {**json.loads(preprocessor.read_text()), **config}
    for ours, theirs, value in (
        ("sample_rate", "sampling_rate", KALDI_HANNING.sample_rate),
        ("n_mels", "num_mel_bins", KALDI_HANNING.n_mels),
        ("activation", "hidden_act", _DEFAULTS["hidden_act"]),
    ):
        if config.get(theirs, value) != value:
            raise ValueError(
                f"An AST must have {theirs}={value!r} ({ours}). "
                f"Got {config[theirs]!r} in {str(path.parent)!r} instead."
            )
    return config


def _own_state(
    backbone: SpectrogramTransformer, weights: dict[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """Translate the weights of transformers."""
    # A classifier has the encoder as one of its parts.
    weights = {
        name.removeprefix("audio_spectrogram_transformer."): weight.float()
        for name, weight in weights.items()
    }
    n_time, n_freq = backbone.own_grid
    try:
        positions = weights["embeddings.position_embeddings"]
        prefix = torch.cat(
            [weights["embeddings.cls_token"], weights["embeddings.distillation_token"]], dim=1
        )
        projection = "embeddings.patch_embeddings.projection"
        state = {
            # There, time is the last axis, and positions go through it first.
            "patch_embed.weight": weights[f"{projection}.weight"].transpose(2, 3).contiguous(),
            "patch_embed.bias": weights[f"{projection}.bias"],
            "prefix": prefix + positions[:, :2],
            "pos_embed": positions[:, 2:].unflatten(1, (n_freq, n_time)).permute(0, 3, 2, 1),
            "norm.weight": weights["layernorm.weight"],
            "norm.bias": weights["layernorm.bias"],
        }
        for own_name in backbone.blocks.state_dict():
            i, part = own_name.split(".", 1)
            module, _, kind = part.rpartition(".")
            parts = [weights[f"{name.format(i)}.{kind}"] for name in _LAYER_NAMES[module]]
            state[f"blocks.{own_name}"] = torch.cat(parts)
    except KeyError as error:
        raise ValueError(
            f"{str(path)!r} is no AST of its config.json: it lacks {error.args[0]!r}."
        ) from error
    return state


_LAYER_NAMES = {
    "norm1": ["encoder.layer.{}.layernorm_before"],
    "attn.qkv": [
        f"encoder.layer.{{}}.attention.attention.{name}" for name in ("query", "key", "value")
    ],
    "attn.proj": ["encoder.layer.{}.attention.output.dense"],
    "norm2": ["encoder.layer.{}.layernorm_after"],
    "mlp.fc1": ["encoder.layer.{}.intermediate.dense"],
    "mlp.fc2": ["encoder.layer.{}.output.dense"],
}
