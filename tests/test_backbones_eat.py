"""EAT computes what the code of its authors computed on the same weights.

``data/eat.npz`` holds the tokens of all layers that the authors' classes computed, and the shapes
of their weights; weights and spectrograms are drawn by numpy's stable generator.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from skanopatch.backbones import create_backbone, make_patcher
from skanopatch.backbones.front_ends import KALDI_HANNING
from skanopatch.embedding.lora import add_lora
from skanopatch.spectra.patches import PatchGrid

GRID = PatchGrid(n_time=5, n_freq=8, height=16, width=16)
CONFIG = {"model_type": "eat", "embed_dim": 32, "depth": 3, "num_heads": 2}
REFERENCE = np.load(Path(__file__).parent / "data" / "eat.npz")
LOG_MEL = torch.from_numpy(np.random.RandomState(1).normal(size=(2, 80, 128)).astype("float32"))


def draw_weights():
    """Draw the weights that the reference was computed with, by their names in transformers."""
    rng = np.random.RandomState(0)
    weights = {}
    for name, shape in sorted(json.loads(str(REFERENCE["shapes"])).items()):
        is_gain = "norm" in name and name.endswith("weight")
        weight = 0.2 * rng.normal(size=shape) + is_gain
        weights[name] = torch.from_numpy(weight.astype("float32"))
    return weights


def write_folder(folder, weights=None, **settings):
    folder.mkdir(exist_ok=True)
    save_file(draw_weights() if weights is None else weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **settings}))
    return f"eat:{folder}"


def all_tokens(backbone):
    with torch.inference_mode():
        return torch.stack(backbone.eval().layer_tokens(LOG_MEL, range(backbone.n_layers))).numpy()


def assert_computes_the_reference(backbone):
    expected = REFERENCE["tokens"]
    tokens = all_tokens(backbone)
    assert tokens.shape == expected.shape == (3, 2, 40, 32)
    difference = np.linalg.norm(tokens - expected) / np.linalg.norm(expected)
    assert difference < 1e-5


def test_eat_computes_what_its_authors_compute(tmp_path):
    backbone = create_backbone(write_folder(tmp_path / "eat"), GRID)
    assert_computes_the_reference(backbone)
    assert backbone.token_grid(1024, 128) == (64, 8)


def test_a_fine_tuned_eat_and_one_of_fairseq_are_the_same_network(tmp_path):
    weights = draw_weights()
    classifier = {"model.head.weight": torch.ones(527, 32), "model.fc_norm.weight": torch.ones(32)}
    assert_computes_the_reference(
        create_backbone(write_folder(tmp_path / "tuned", {**weights, **classifier}), GRID)
    )
    image = "modality_encoders.IMAGE."
    renamed = {"decoder.proj.weight": torch.ones(3), "_ema": {"x": torch.ones(1)}}
    for name, weight in weights.items():
        name = name.removeprefix("model.").replace("pre_norm", "context_encoder.norm")
        renamed[name if name.startswith("blocks.") else image + name] = weight
    # The reference has 2 heads of 16 dimensions, which only a config.json can say.
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"model": renamed}, tmp_path / "eat.pt")
    assert_computes_the_reference(create_backbone(f"eat:{tmp_path / 'eat.pt'}", GRID))


def test_an_eat_without_a_config_has_the_size_of_its_weights(tmp_path):
    save_file(draw_weights(), tmp_path / "eat.safetensors")
    backbone = create_backbone(f"eat:{tmp_path / 'eat.safetensors'}", GRID)
    expected = {"embed_dim": 32, "depth": 3, "num_heads": 1}  # heads of 64 dimensions, at least 1
    assert {name: backbone.config[name] for name in expected} == expected


def test_an_eat_is_built_again_from_its_config_without_its_file(tmp_path):
    name = write_folder(tmp_path / "eat")
    backbone = create_backbone(name, GRID)
    config = json.loads(json.dumps(backbone.config))
    again = create_backbone("eat:gone", GRID, pretrained=False, config=config)
    again.load_state_dict(backbone.state_dict())
    np.testing.assert_array_equal(all_tokens(again), all_tokens(backbone))


def test_an_eat_of_another_architecture_is_refused(tmp_path):
    for setting, value, required in (
        ("layer_norm_first", True, False),
        ("mel_bins", 64, 128),
        ("stride", 10, 16),
    ):
        name = write_folder(tmp_path / "other", **{setting: value})
        with pytest.raises(ValueError, match=rf"must have {setting}={required}\. Got {value} in"):
            create_backbone(name, GRID)
    weights = draw_weights()
    del weights["model.blocks.1.attn.qkv.bias"]
    with pytest.raises(ValueError, match=r"it lacks \['blocks\.1\.attn\.qkv\.bias'\]"):
        create_backbone(write_folder(tmp_path / "less", weights), GRID)
    with pytest.raises(ValueError, match=r"must have the shape .*Got \(1, 1, 32\) instead"):
        create_backbone(write_folder(tmp_path / "wide", embed_dim=64), GRID)


def test_eat_has_the_front_end_and_the_normalisation_of_its_authors(tmp_path):
    assert make_patcher("eat:any").front_end == KALDI_HANNING
    backbone = create_backbone(write_folder(tmp_path / "eat"), GRID)
    assert backbone.normalization == (-4.268, 2 * 4.569)


def test_lora_trains_the_attention_of_eat_only(tmp_path):
    backbone = create_backbone(write_folder(tmp_path / "eat"), GRID)
    add_lora(backbone, rank=2)
    trainable = [name for name, weight in backbone.named_parameters() if weight.requires_grad]
    assert len(trainable) >= 3
    assert all(".attn.qkv." in name for name in trainable)
    assert_computes_the_reference(backbone)  # updates are zero at first
