"""CED and Dasheng compute what the code of their authors computed on the same weights.

``data/ced.npz`` and ``data/dasheng.npz`` hold the tokens of all layers that the authors' classes
computed, and the shapes of their weights; weights and spectrograms are drawn by numpy's stable
generator. The front end is held against torchaudio.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

from skanopatch import MelPatcher, unpatchify
from skanopatch.backbones import create_backbone, make_patcher
from skanopatch.backbones.front_ends import DECIBELS
from skanopatch.backbones.hub import Source
from skanopatch.embedding.lora import add_lora
from skanopatch.spectra.patches import PatchGrid

GRID = PatchGrid(n_time=6, n_freq=4, height=16, width=16)
REFERENCE = {
    family: np.load(Path(__file__).parent / "data" / f"{family}.npz")
    for family in ("ced", "dasheng")
}
DECIBEL_BINS = torch.from_numpy(
    np.random.RandomState(1).normal(scale=20, loc=-30, size=(2, 96, 64)).astype("float32")
)


def draw_weights(family):
    """Draw the weights that the reference was computed with, by their authors' names."""
    rng = np.random.RandomState(0)
    weights = {}
    for name, shape in sorted(json.loads(str(REFERENCE[family]["shapes"])).items()):
        weight = 0.2 * rng.normal(size=shape)
        if name.endswith("running_var"):
            weight = np.abs(weight) + 100
        elif ("norm" in name or "init_bn" in name) and name.endswith("weight"):
            weight = weight + 1
        weights[name] = torch.from_numpy(weight.astype("float32"))
    return weights


def write(family, path, **settings):
    """Write CED as its folder of the hub, and Dasheng as its authors' file."""
    weights, config = draw_weights(family), {"num_heads": 2, **settings}
    path.mkdir(exist_ok=True)
    if family == "dasheng":
        torch.save({"model": weights, "config": config}, path / "dasheng.pt")
        return f"dasheng:{path / 'dasheng.pt'}"
    head = {"outputlayer.1.bias": torch.ones(527)}
    weights = {f"encoder.{name}": weight for name, weight in weights.items()}
    save_file({**weights, **head}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return f"ced:{path}"


def all_tokens(backbone, log_mel=DECIBEL_BINS):
    with torch.inference_mode():
        return torch.stack(backbone.eval().layer_tokens(log_mel, range(backbone.n_layers))).numpy()


def relative_difference(tokens, expected):
    assert tokens.shape == expected.shape
    return np.linalg.norm(tokens - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("family", "grid"), [("ced", (6, 4)), ("dasheng", (24, 1))])
def test_tokens_are_those_of_the_authors(tmp_path, family, grid):
    backbone = create_backbone(write(family, tmp_path), GRID)
    assert relative_difference(all_tokens(backbone), REFERENCE[family]["tokens"]) < 1e-5
    assert backbone.token_grid(96, 64) == grid
    config = json.loads(json.dumps(backbone.config))
    again = create_backbone(f"{family}:gone", GRID, pretrained=False, config=config)
    again.load_state_dict(backbone.state_dict())
    np.testing.assert_array_equal(all_tokens(again), all_tokens(backbone))


def test_long_clips_are_read_part_by_part(tmp_path):
    backbone = create_backbone(write("dasheng", tmp_path), GRID)  # positions for 100 frames
    long = torch.cat([DECIBEL_BINS, DECIBEL_BINS], dim=1)[:, :160]
    expected = [all_tokens(backbone, long[:, :100]), all_tokens(backbone, long[:, 100:])]
    tokens = all_tokens(backbone, long)
    assert tokens.shape[2] == 40
    np.testing.assert_allclose(tokens, np.concatenate(expected, axis=2), atol=1e-5)


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_decibels_are_those_of_torchaudio(seconds):
    clip = np.random.RandomState(0).normal(scale=0.1, size=round(16000 * seconds))
    clip[: len(clip) // 2] *= 1e-7  # below the range of 120 dB
    patcher = make_patcher("ced-tiny", duration=seconds)
    assert patcher.front_end == DECIBELS
    decibels = unpatchify(patcher.fit_transform([clip]))[0]
    spectrogram = MelSpectrogram(
        16000, n_fft=512, win_length=512, hop_length=160, f_min=0, f_max=8000, n_mels=64
    )
    power = spectrogram(torch.from_numpy(clip.astype("float32"))[None])
    expected = AmplitudeToDB(top_db=120)(power)[0].T.numpy()
    assert len(decibels) == len(expected) // 16 * 16
    np.testing.assert_allclose(decibels, expected[: len(decibels)], atol=1e-2)
    assert np.ptp(expected) > 90


def test_decibels_take_no_preemphasis():
    with pytest.raises(ValueError, match=r"preemphasis must be 0 .* Got 0\.97 instead"):
        MelPatcher(filterbank="decibels").fit([np.ones(16000)])
    with pytest.raises(ValueError, match=r"trained with .*filterbank='decibels', but"):
        make_patcher("ced-tiny", filterbank="kaldi")


def test_ced_tiny_is_pinned(monkeypatch):
    sources = []
    monkeypatch.setattr(Source, "companion", lambda source, name: sources.append(source))
    monkeypatch.setattr(Source, "weights", lambda source, *names: Path("gone.safetensors"))
    with pytest.raises(OSError, match="gone"):
        create_backbone("ced-tiny", GRID)
    assert sources[0].place == "mispeech/ced-tiny"
    assert sources[0].revision == "ace276d29dd0bb3f3517b0fa8cf300738c409019"
    assert sources[0].sha256.startswith("0e086f0cd62814c6")


def test_another_architecture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must have n_mels=64\. Got 128 in"):
        create_backbone(write("ced", tmp_path, n_mels=128), GRID)
    with pytest.raises(ValueError, match=r"must have pooling='mean'\. Got 'token' in"):
        create_backbone(write("dasheng", tmp_path / "token", pooling="token"), GRID)
    save_file({"patch_embed.proj.weight": torch.ones(4, 1, 16, 16)}, tmp_path / "a.safetensors")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="it lacks 'time_pos_embed'"):
        create_backbone(f"ced:{tmp_path / 'a.safetensors'}", GRID)


def test_lora_trains_the_attention_only(tmp_path):
    backbone = create_backbone(write("ced", tmp_path), GRID)
    add_lora(backbone, rank=2)
    trainable = [name for name, weight in backbone.named_parameters() if weight.requires_grad]
    assert len(trainable) >= 3
    assert all(".attn.qkv." in name for name in trainable)
