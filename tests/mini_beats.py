"""A BEATs of a few thousand random weights, in a file of Microsoft's form."""

import torch

from skanopatch.backbones.beats import Beats, _official_names

CFG = {
    "encoder_layers": 2,
    "embed_dim": 8,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "relative_position_embedding": True,
    "num_buckets": 8,
    "max_distance": 16,
    "gru_rel_pos": True,
    "deep_norm": True,
}


def save_mini_beats(path, *, cfg=CFG, seed=0):
    """Write the file, or that of another size, and return the name of the backbone in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = Beats(cfg).state_dict()
    model = {}
    for own_name, weight in state.items():
        names = _official_names(own_name)
        parts = weight.chunk(len(names))
        if own_name == "pos_conv.weight":
            parts = weight.norm(dim=(0, 1), keepdim=True), weight
        model.update(zip(names, parts, strict=True))
    torch.save({"cfg": cfg, "model": model}, path)
    return f"beats:{path}"
