"""BEATs, from the checkpoints of Microsoft and of ESPnet (OpenBEATs)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from sklearn.utils import gen_batches
from torch import nn

from skanopatch.backbones.base import Backbone
from skanopatch.backbones.hub import Source, read_weights
from skanopatch.spectra.patches import PatchGrid

# SHA-256 of files that Microsoft published, for those who have to take them from elsewhere.
OFFICIAL = {
    "BEATs_iter3.pt": "8d1b234032a9ccff353612dc6c20982346dc2968b205b79d97303eb5e77bfb34",
}
_ORIGIN = "https://github.com/microsoft/unilm/tree/master/beats"

# What a checkpoint's cfg does not say. The normalisation is BEATs' own: bins are divided by twice
# their deviation.
_DEFAULTS: dict[str, Any] = {
    "input_patch_size": 16,
    "embed_dim": 512,
    "conv_bias": False,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_wise_gradient_decay_ratio": 1.0,
    "layer_norm_first": False,
    "deep_norm": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "dropout_input": 0.0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": False,
    "num_buckets": 320,
    "max_distance": 1280,
    "gru_rel_pos": False,
    "fbank_mean": 15.41663,
    "fbank_std": 6.55582,
}

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}

# Parts of a checkpoint that take no part in tokens: the classifier of fine-tuned ones, and the
# kernels of ones by which ESPnet follows the padding of a batch.
_OTHER_PARTS = ("predictor.", "patch_embedding_pad.", "raw2fbank_pad.")


class Beats(Backbone):
    """BEATs [1]_: post-norm layers with a gated relative position bias.

    Parameters
    ----------
    config : dict
        A checkpoint's cfg; what it does not say is as in the authors' code.

    References
    ----------
    .. [1] S. Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023,
       arXiv 2212.09058.
    .. [2] S. Bharadwaj et al., "OpenBEATs: A Fully Open-Source General-Purpose Audio Encoder",
       arXiv 2507.14129.
    """

    def __init__(self, config: dict[str, Any]):
        cfg = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
        n_dims, n_layers = cfg["encoder_embed_dim"], cfg["encoder_layers"]
        super().__init__(
            n_dims,
            n_layers,
            normalization=(cfg["fbank_mean"], 2 * cfg["fbank_std"]),
            config=cfg,
        )
        self.patch_size = cfg["input_patch_size"]
        self.patch_embed = nn.Conv2d(
            1, cfg["embed_dim"], self.patch_size, self.patch_size, bias=cfg["conv_bias"]
        )
        self.patch_norm = nn.LayerNorm(cfg["embed_dim"])
        self.patch_proj: nn.Module = nn.Identity()
        if cfg["embed_dim"] != n_dims:
            self.patch_proj = nn.Linear(cfg["embed_dim"], n_dims)
        self.pos_conv = nn.Conv1d(
            n_dims,
            n_dims,
            cfg["conv_pos"],
            padding=cfg["conv_pos"] // 2,
            groups=cfg["conv_pos_groups"],
        )
        self.norm = nn.LayerNorm(n_dims)
        self.relative_bias = None
        if cfg["relative_position_embedding"]:
            self.relative_bias = nn.Embedding(cfg["num_buckets"], cfg["encoder_attention_heads"])
        self.blocks = nn.ModuleList([_Layer(cfg) for _ in range(n_layers)])

    def token_grid(self, n_frames: int, n_mels: int) -> tuple[int, int]:
        """Return how many tokens there are along time and along frequency."""
        return n_frames // self.patch_size, n_mels // self.patch_size

    def layer_tokens(self, log_mel: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Return the tokens of some layers; see `Backbone.layer_tokens`."""
        cfg = self.config or {}
        x = self.patch_embed(log_mel[:, None]).flatten(2).transpose(1, 2)
        x = F.dropout(self.patch_proj(self.patch_norm(x)), cfg["dropout_input"], self.training)
        position = self.pos_conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        x = x + F.gelu(position)
        is_pre_norm = cfg["layer_norm_first"]
        if not is_pre_norm:
            x = self.norm(x)
        x = F.dropout(x, cfg["dropout"], self.training)
        bias = self._bias(x.shape[1])
        outputs = []
        for i, block in enumerate(self.blocks[: layers[-1] + 1]):
            decay = cfg["layer_wise_gradient_decay_ratio"]
            if decay != 1 and self.training and x.requires_grad:
                x.register_hook(lambda gradient, decay=decay: decay * gradient)
            if not (self.training and torch.rand(()) < cfg["encoder_layerdrop"]):
                x = block(x, bias)
            if i in layers:
                outputs.append(self.norm(x) if is_pre_norm else x)
        return outputs

    def _bias(self, n_tokens: int) -> torch.Tensor | None:
        """Return the bias of each head for each pair of tokens, which all layers share."""
        if self.relative_bias is None:
            return None
        cfg = self.config or {}
        buckets = _buckets(n_tokens, cfg["num_buckets"], cfg["max_distance"])
        by_distance = self.relative_bias(buckets.to(self.relative_bias.weight.device)).T
        # Row i begins at distance -i: windows of the distances, the last one first.
        return by_distance.unfold(1, n_tokens, 1).flip(1)


@lru_cache(maxsize=8)
def _buckets(n_tokens: int, n_buckets: int, max_distance: int) -> torch.Tensor:
    """Return the buckets of the distances from ``1 - n_tokens`` to ``n_tokens - 1``.

    Half of the buckets are for tokens that come later. In each half, the first half are for one
    distance each, and the others widen with its logarithm up to `max_distance`.
    """
    half = n_buckets // 2
    n_exact = half // 2
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        signed = torch.arange(1 - n_tokens, n_tokens)
        distance = signed.abs()
        steps = torch.log(distance / n_exact) / math.log(max_distance / n_exact)
        far = (n_exact + (steps * (half - n_exact)).long()).clamp(max=half - 1)
        return torch.where(distance < n_exact, distance, far) + half * (signed > 0)


class _Layer(nn.Module):
    """Attention and feed-forward; its parts are named as timm names those of a ViT."""

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        n_dims = cfg["encoder_embed_dim"]
        self.attn = _Attention(cfg)
        self.norm1 = nn.LayerNorm(n_dims)
        self.mlp = _Mlp(cfg)
        self.norm2 = nn.LayerNorm(n_dims)
        self.dropout = cfg["dropout"]
        self.is_pre_norm = cfg["layer_norm_first"]
        # DeepNorm (Wang et al. 2022, eq. 2): the residual weighs more the more layers there are.
        self.residual = (2 * cfg["encoder_layers"]) ** 0.25 if cfg["deep_norm"] else 1.0

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.is_pre_norm:
            x = x + self._drop(self.attn(self.norm1(x), bias))
            return x + self._drop(self.mlp(self.norm2(x)))
        x = self.norm1(self.residual * x + self._drop(self.attn(x, bias)))
        return self.norm2(self.residual * x + self._drop(self.mlp(x)))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training)


class _Attention(nn.Module):
    """Self-attention whose position bias is gated by the query (WavLM, Chen et al. 2022)."""

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        n_dims, self.n_heads = cfg["encoder_embed_dim"], cfg["encoder_attention_heads"]
        self.qkv = nn.Linear(n_dims, 3 * n_dims)
        self.proj = nn.Linear(n_dims, n_dims)
        self.dropout = cfg["attention_dropout"]
        self.is_gated = cfg["relative_position_embedding"] and cfg["gru_rel_pos"]
        if self.is_gated:
            self.gate = nn.Linear(n_dims // self.n_heads, 8)
            self.gate_scale = nn.Parameter(torch.ones(1, self.n_heads, 1, 1))

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        n_clips, n_tokens, n_dims = x.shape
        qkv = self.qkv(x).reshape(n_clips, n_tokens, 3, self.n_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        gate = None
        if self.is_gated:
            logits = self.gate(q).unflatten(-1, (2, 4)).sum(-1, keepdim=True)
            update, reset = logits.sigmoid().unbind(-2)
            gate = update * (reset * self.gate_scale - 1) + 2
        dropout = self.dropout if self.training else 0.0
        # Clip by clip: the gated bias of a clip is as large as all its attention weights.
        attended = torch.cat(
            [
                F.scaled_dot_product_attention(
                    q[clip],
                    k[clip],
                    v[clip],
                    attn_mask=bias if gate is None or bias is None else gate[clip] * bias,
                    dropout_p=dropout,
                )
                for clip in gen_batches(n_clips, 1)
            ]
        )
        return self.proj(attended.transpose(1, 2).reshape(n_clips, n_tokens, n_dims))


class _Mlp(nn.Module):
    """Feed-forward layers; "glu" gates one half of the first one with the swish of the other."""

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        n_dims, n_hidden = cfg["encoder_embed_dim"], cfg["encoder_ffn_embed_dim"]
        self.is_gated = cfg["activation_fn"] == "glu"
        self.activation = None if self.is_gated else _ACTIVATIONS[cfg["activation_fn"]]
        self.fc1 = nn.Linear(n_dims, n_hidden * (1 + self.is_gated))
        self.fc2 = nn.Linear(n_hidden, n_dims)
        self.dropout = cfg["activation_dropout"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x)
        if self.activation is None:
            x, gate = x.chunk(2, dim=-1)
            x = x * F.silu(gate)
        else:
            x = self.activation(x)
        return self.fc2(F.dropout(x, self.dropout, self.training))


def beats(
    what: str, grid: PatchGrid, *, pretrained: bool = True, config: dict[str, Any] | None = None
) -> Backbone:
    """Build BEATs from a checkpoint of Microsoft or ESPnet, in torch's form or safetensors.

    Parameters
    ----------
    what : str
        A path or a name on the hub, as `Source.parse` reads it, or one of the official files:
        ``"BEATs_iter3.pt"``, looked for among torch's checkpoints and verified.
    grid : PatchGrid
        Of any length: positions are relative.
    pretrained : bool, default=True
        False builds the network of `config` with random weights, and reads no file.
    config : dict or None, default=None
        `Backbone.config` of an earlier one.

    Notes
    -----
    A checkpoint is ``{"cfg": ..., "model": ...}``; a safetensors file has the cfg as JSON in its
    metadata. One fine-tuned by ESPnet holds weights only: its settings are read from
    ``encoder_conf.beats_config`` of the ``config.yaml`` beside it.
    """
    if not pretrained and config is not None:
        return Beats(config)
    source = _official(what) if what in OFFICIAL else Source.parse(what)
    path = source.weights()
    cfg, weights = _read(source, path)
    activation = cfg.get("activation_fn", "gelu")
    if activation not in {*_ACTIVATIONS, "glu"}:
        raise ValueError(
            f"The cfg of {str(path)!r} must have an activation_fn of {[*_ACTIVATIONS, 'glu']}. "
            f"Got {activation!r} instead."
        )
    with torch.device("meta"):
        backbone = Beats(cfg)
    backbone.load_state_dict(_own_state(backbone, weights, path), assign=True)
    return backbone


def _read(source: Source, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the cfg and the weights of the encoder, by Microsoft's names."""
    content, metadata = read_weights(path)
    cfg = metadata.get("cfg", content.get("cfg"))
    weights = content.get("model", content)
    if any(name.startswith("encoder.patch_embedding.") for name in weights):
        # A whole model of ESPnet; the encoder is one part of it.
        weights = {
            name.removeprefix("encoder."): weight
            for name, weight in weights.items()
            if name.startswith("encoder.")
        }
    weights = {
        # The first layer of a gated feed-forward is a module with a linear one in it.
        name.replace(".fc1.linear.", ".fc1."): weight.float()
        for name, weight in weights.items()
        if isinstance(weight, torch.Tensor) and not name.startswith(_OTHER_PARTS)
    }
    return _espnet_config(source, path) if cfg is None else cfg, weights


def _official(name: str) -> Source:
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        raise FileNotFoundError(
            f"{str(path)!r} is not there. Get {name} by the links of {_ORIGIN} and put it there, "
            "or anywhere, and give its path as backbone='beats:<path>'."
        )
    return Source(name, str(path), None, OFFICIAL[name])


def _espnet_config(source: Source, path: Path) -> dict[str, Any]:
    config = source.companion("config.yaml")
    encoder: dict[str, Any] = {}
    if config is not None:
        encoder = (yaml.safe_load(config.read_text()) or {}).get("encoder_conf") or {}
    if not encoder.get("beats_config"):
        raise ValueError(
            f"{str(path)!r} has no 'cfg', and there is no config.yaml with "
            "encoder_conf.beats_config beside it, from which the architecture could be read. Take "
            "that of the base model, which the checkpoint was fine-tuned from."
        )
    statistics = {key: encoder[key] for key in ("fbank_mean", "fbank_std") if key in encoder}
    return {**encoder["beats_config"], **statistics}


def _own_state(
    backbone: Beats, weights: dict[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """Turn a checkpoint's weights into those of `Beats`, and use them up."""
    names = {own_name: _official_names(own_name) for own_name in backbone.state_dict()}
    missing = sorted({name for parts in names.values() for name in parts} - set(weights))
    if missing:
        raise ValueError(
            f"{str(path)!r} is no BEATs checkpoint of its cfg: it lacks {missing[:5]}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}."
        )
    state = {}
    for own_name, official_names in names.items():
        parts = [weights.pop(name) for name in official_names]
        if own_name == "pos_conv.weight":
            # Weight normalisation (Salimans & Kingma 2016), over all but the last axis.
            gain, direction = parts
            state[own_name] = gain * direction / direction.norm(dim=(0, 1), keepdim=True)
        else:
            state[own_name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    # The layers share one bias, which each has by a name of its own.
    unknown = [name for name in weights if "relative_attention_bias" not in name]
    if unknown:
        warnings.warn(
            f"{str(path)!r} has weights that BEATs makes no use of: {unknown[:5]}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}.",
            UserWarning,
            stacklevel=2,
        )
    return state


_NAMES = {
    "patch_embed": "patch_embedding",
    "patch_norm": "layer_norm",
    "patch_proj": "post_extract_proj",
    "norm": "encoder.layer_norm",
    "relative_bias": "encoder.layers.0.self_attn.relative_attention_bias",
}
_LAYER_NAMES = {
    "attn.proj": "self_attn.out_proj",
    "attn.gate": "self_attn.grep_linear",
    "mlp.fc1": "fc1",
    "norm1": "self_attn_layer_norm",
    "mlp.fc2": "fc2",
    "norm2": "final_layer_norm",
}


def _official_names(own_name: str) -> list[str]:
    """Return the names in a checkpoint of what makes up one of our parameters."""
    module, _, kind = own_name.rpartition(".")
    if own_name == "pos_conv.weight":
        return ["encoder.pos_conv.0.weight_g", "encoder.pos_conv.0.weight_v"]
    if own_name == "pos_conv.bias":
        return ["encoder.pos_conv.0.bias"]
    if module in _NAMES:
        return [f"{_NAMES[module]}.{kind}"]
    _, i, part = own_name.removesuffix(f".{kind}").split(".", 2)
    layer = f"encoder.layers.{i}"
    if part == "attn.qkv":
        return [f"{layer}.self_attn.{projection}_proj.{kind}" for projection in "qkv"]
    if kind == "gate_scale":
        return [f"{layer}.self_attn.grep_a"]
    return [f"{layer}.{_LAYER_NAMES[part]}.{kind}"]
