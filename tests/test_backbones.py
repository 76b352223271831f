"""Every backbone computes what the code of its authors computes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_backbones_ced
import test_backbones_eat
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torchaudio.compliance.kaldi import fbank

from skanopatch import (
    AnoPatchEmbedder,
    KNNDetector,
    MelPatcher,
    backbones,
    load_model,
    make_anopatch_pipeline,
    save_model,
    unpatchify,
)
from skanopatch.backbones import beats as beats_module
from skanopatch.backbones import (
    check_front_end,
    create_backbone,
    front_end,
    list_backbones,
    make_patcher,
)
from skanopatch.backbones.front_ends import DECIBELS, KALDI, KALDI_HANNING
from skanopatch.backbones.hub import sha256_of
from skanopatch.spectra.patches import PatchGrid

# The oracle of BEATs is written for earlier versions of torch.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm.* is deprecated:FutureWarning",
    "ignore:.*autocast.* is deprecated:FutureWarning",
)

GRID = PatchGrid(n_time=6, n_freq=8, height=16, width=16)
TOLERANCE = 1e-4

SMALL = {
    "encoder_layers": 3,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "embed_dim": 32,
}
# What the checkpoints of iter1 to iter3+ and OpenBEATs are like, and the other ways a cfg allows.
GATED = {
    **SMALL,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "deep_norm": True,
    "max_distance": 800,
}
UNGATED = {**SMALL, "relative_position_embedding": True, "num_buckets": 32, "max_distance": 100}
PRE_NORM = {
    **SMALL,
    "layer_norm_first": True,
    "activation_fn": "glu",
    "conv_bias": True,
    "embed_dim": 48,
    "conv_pos": 15,
    "fbank_mean": 14.0,
    "fbank_std": 5.0,
}


def relative_difference(tokens, reference):
    return float((tokens - reference).norm() / reference.norm())


def make_clip(seconds):
    return np.random.default_rng(0).normal(scale=0.1, size=round(16000 * seconds))


def own_tokens(backbone, patcher, clip):
    """Return the tokens of all layers, from samples on, by our own code."""
    log_mel = torch.from_numpy(unpatchify(patcher.fit_transform([clip])))
    mean, std = backbone.normalization
    with torch.inference_mode():
        return backbone.eval().layer_tokens((log_mel - mean) / std, range(backbone.n_layers))


def shaken(module):
    """Move all weights away from initial values that hide mistakes: zeros, ones, equals."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module.eval()


def make_openbeats(config):
    encoder_module = pytest.importorskip("openbeats.beats_encoder")
    torch.manual_seed(0)
    encoder = shaken(
        encoder_module.BeatsEncoder(
            0,
            beats_config=config,
            fbank_mean=config.get("fbank_mean", 15.41663),
            fbank_std=config.get("fbank_std", 6.55582),
        )
    )
    encoder_module.freeze_conv_module(encoder.patch_embedding_pad)
    encoder_module.freeze_conv_module(encoder.raw2fbank_pad)
    return encoder


def openbeats_tokens(encoder, clip):
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: outputs.append(out[0].transpose(0, 1)))
        for layer in encoder.encoder.layers
    ]
    with torch.inference_mode():
        encoder(torch.from_numpy(clip[None].astype("float32")), torch.tensor([len(clip)]))
        if encoder.encoder.layer_norm_first:
            outputs = [encoder.encoder.layer_norm(output) for output in outputs]
    for hook in hooks:
        hook.remove()
    return outputs


def write_beats(path, config, weights=None):
    weights = make_openbeats(config).state_dict() if weights is None else weights
    torch.save({"cfg": config, "model": weights}, path)
    return f"beats:{path}"


def compare_with_openbeats(path, config, seconds):
    encoder = make_openbeats(config)
    name = write_beats(path, config, encoder.state_dict())
    clip = make_clip(seconds)
    tokens = own_tokens(create_backbone(name, GRID), make_patcher(name, duration=seconds), clip)
    reference = openbeats_tokens(encoder, clip)
    assert len(tokens) == len(reference)
    for own, other in zip(tokens, reference, strict=True):
        assert own.shape == other.shape
        assert relative_difference(own, other) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, 10, 18])
@pytest.mark.parametrize("config", [GATED, UNGATED, PRE_NORM], ids=["gated", "ungated", "pre-norm"])
def test_beats_computes_what_openbeats_computes(tmp_path, config, seconds):
    compare_with_openbeats(tmp_path / "random.pt", config, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, 10, 18])
def test_beats_of_full_size_computes_what_openbeats_computes(tmp_path, seconds):
    full_size = {key: GATED[key] for key in GATED if key not in SMALL}
    compare_with_openbeats(tmp_path / "random.pt", full_size, seconds)


def beats_tokens(name):
    return own_tokens(create_backbone(name, GRID), make_patcher(name), make_clip(1))[-1]


def test_every_form_of_a_beats_checkpoint_is_the_same_network(tmp_path):
    weights = dict(make_openbeats(GATED).state_dict())
    expected = beats_tokens(write_beats(tmp_path / "plain.pt", GATED, weights))

    classifier = {"predictor.weight": torch.ones(527, 48), "predictor.bias": torch.ones(527)}
    fine_tuned_config = {**GATED, "finetuned_model": True, "predictor_class": 527}
    fine_tuned = write_beats(tmp_path / "fine.pt", fine_tuned_config, {**weights, **classifier})
    assert torch.equal(beats_tokens(fine_tuned), expected)

    save_file(
        {name: weight.clone() for name, weight in weights.items()},
        tmp_path / "plain.safetensors",
        metadata={"cfg": json.dumps(GATED)},
    )
    assert torch.equal(beats_tokens(f"beats:{tmp_path / 'plain.safetensors'}"), expected)

    espnet = tmp_path / "espnet"
    espnet.mkdir()
    whole = {f"encoder.{name}": weight for name, weight in weights.items()}
    torch.save({**whole, "decoder.linear_out.weight": torch.ones(5, 48)}, espnet / "best.pth")
    settings = {"encoder_conf": {"beats_config": GATED}}
    (espnet / "config.yaml").write_text(yaml.safe_dump(settings))
    assert torch.equal(beats_tokens(f"beats:{espnet / 'best.pth'}"), expected)


def test_a_network_is_built_again_from_its_config_without_its_file(tmp_path):
    path = tmp_path / "random.pt"
    name = write_beats(path, {**GATED, "not": "of BEATs"})
    backbone = create_backbone(name, GRID)
    path.unlink()
    config = json.loads(json.dumps(backbone.config))
    again = create_backbone(name, GRID, pretrained=False, config=config)
    again.load_state_dict(backbone.state_dict())
    patcher, clip = MelPatcher(), make_clip(1)
    assert torch.equal(
        own_tokens(again, patcher, clip)[-1], own_tokens(backbone, patcher, clip)[-1]
    )


def test_beats_trains_by_the_settings_of_its_cfg(tmp_path):
    log_mel = torch.randn(1, 96, 128, generator=torch.Generator().manual_seed(0))

    def train(**settings):
        no_dropout = {"dropout": 0.0, "attention_dropout": 0.0}
        name = write_beats(tmp_path / "random.pt", {**GATED, **no_dropout, **settings})
        backbone = create_backbone(name, GRID)
        with torch.inference_mode():  # what it keeps from here on must not spoil the training
            backbone.eval()(log_mel, [2])
        tokens = backbone.train().layer_tokens(log_mel, [0, 2])
        tokens[1].square().sum().backward()
        return tokens, backbone.patch_embed.weight.grad

    _, gradient = train()
    _, decayed = train(layer_wise_gradient_decay_ratio=0.5)
    torch.testing.assert_close(decayed, 0.5**3 * gradient)  # once before each of three layers
    (first, last), _ = train(encoder_layerdrop=1.0)
    assert torch.equal(first, last)
    (first, last), _ = train()
    assert not torch.allclose(first, last)


def test_a_checkpoint_that_is_not_of_its_cfg_is_refused(tmp_path):
    weights = dict(make_openbeats(GATED).state_dict())
    weights["encoder.mystery"] = torch.ones(1)
    with pytest.warns(UserWarning, match="makes no use of: .'encoder.mystery'."):
        create_backbone(write_beats(tmp_path / "more.pt", GATED, weights), GRID)
    del weights["encoder.layers.1.fc2.bias"], weights["encoder.mystery"]
    with pytest.raises(ValueError, match=r"it lacks \['encoder.layers.1.fc2.bias'\]"):
        create_backbone(write_beats(tmp_path / "less.pt", GATED, weights), GRID)
    with pytest.raises(ValueError, match="Got 'sine' instead"):
        create_backbone(
            write_beats(tmp_path / "sine.pt", {**GATED, "activation_fn": "sine"}, weights), GRID
        )
    torch.save(weights, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"no config\.yaml with encoder_conf\.beats_config"):
        create_backbone(f"beats:{tmp_path / 'bare.pt'}", GRID)


def test_an_official_file_is_found_among_torchs_checkpoints_and_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"unilm/tree/master/beats and put it there"):
        create_backbone("beats:BEATs_iter3.pt", GRID)
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "BEATs_iter3.pt"
    write_beats(path, GATED)
    with pytest.raises(OSError, match=r"8d1b234032a9ccff.* was expected"):
        create_backbone("beats:BEATs_iter3.pt", GRID)
    assert path.exists()  # it is the user's
    monkeypatch.setitem(beats_module.OFFICIAL, "BEATs_iter3.pt", sha256_of(path))
    assert create_backbone("beats:BEATs_iter3.pt", GRID).n_layers == 3


def make_ast(kind="ASTModel", **settings):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.ASTConfig(**small, intermediate_size=96, **settings)
    return shaken(getattr(transformers, kind)(config)), transformers.ASTFeatureExtractor()


def ast_tokens(model, log_mel):
    """Return the tokens of all layers in the order of time, without the first two."""
    with torch.inference_mode():
        states = model(log_mel, output_hidden_states=True).hidden_states[1:]
        states = [model.layernorm(state)[:, 2:] for state in states]
    return [state.unflatten(1, (12, -1)).transpose(1, 2).flatten(1, 2) for state in states]


@pytest.mark.parametrize("kind", ["ASTModel", "ASTForAudioClassification"])
def test_ast_computes_what_transformers_computes(tmp_path, kind):
    model, extractor = make_ast(kind)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    name = f"ast:{tmp_path}"
    seconds = (400 + 1023 * 160) / 16000  # 1024 frames, which transformers pads to or cuts at
    clip = make_clip(seconds)
    tokens = own_tokens(create_backbone(name, GRID), make_patcher(name, duration=seconds), clip)
    log_mel = extractor(clip, sampling_rate=16000, return_tensors="pt")["input_values"]
    reference = ast_tokens(getattr(model, "audio_spectrogram_transformer", model), log_mel)
    assert len(tokens) == len(reference) == 3
    for own, other in zip(tokens, reference, strict=True):
        assert own.shape == other.shape == (1, 1212, 48)
        assert relative_difference(own, other) < TOLERANCE


def test_an_embedder_with_an_ast_comes_back(tmp_path):
    model, _ = make_ast()
    model.save_pretrained(tmp_path / "ast")
    patches = make_patcher(f"ast:{tmp_path / 'ast'}", duration=1.0).fit_transform(
        [make_clip(1.0), make_clip(1.0)[::-1].copy()]
    )
    embedder = AnoPatchEmbedder(f"ast:{tmp_path / 'ast'}").fit(patches)
    save_model(tmp_path / "saved", embedder)
    shutil.rmtree(tmp_path / "ast")
    loaded = load_model(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.transform(patches), embedder.transform(patches))


@pytest.mark.parametrize("n_frames", [416, 1312])
def test_ast_of_other_lengths_has_the_positions_that_its_authors_give_it(tmp_path, n_frames):
    model, _ = make_ast()
    model.save_pretrained(tmp_path)
    other, _ = make_ast(max_length=n_frames)
    weights = dict(model.state_dict())
    positions = weights["embeddings.position_embeddings"]
    grid = positions[:, 2:].unflatten(1, (12, 101)).permute(0, 3, 1, 2)
    n_time = (n_frames - 16) // 10 + 1
    if n_time < 101:
        start = 50 - n_time // 2
        grid = grid[..., start : start + n_time]
    else:
        grid = torch.nn.functional.interpolate(grid, size=(12, n_time), mode="bilinear")
    positions = torch.cat([positions[:, :2], grid.flatten(2).transpose(1, 2)], dim=1)
    other.load_state_dict({**weights, "embeddings.position_embeddings": positions})
    log_mel = torch.randn(1, n_frames, 128)
    with torch.inference_mode():
        (tokens,) = create_backbone(f"ast:{tmp_path}", GRID).eval().layer_tokens(log_mel, [2])
    assert relative_difference(tokens, ast_tokens(other, log_mel)[2]) < TOLERANCE


def test_an_ast_for_another_front_end_is_refused(tmp_path):
    model, extractor = make_ast()
    model.save_pretrained(tmp_path)
    extractor.sampling_rate = 44100
    extractor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"sampling_rate=16000.*Got 44100"):
        create_backbone(f"ast:{tmp_path}", GRID)


def write_timm(folder):
    """Write a model as `timm.models.push_to_hf_hub` does; return it."""
    args = {"img_size": [96, 128], "in_chans": 1, "embed_dim": 48, "depth": 3, "num_heads": 3}
    torch.manual_seed(0)
    vit = shaken(timm.create_model("vit_base_patch16_224", num_classes=0, **args))
    save_file(vit.state_dict(), folder / "model.safetensors")
    cfg = {
        "input_size": [1, 96, 128],
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architecture": "vit_base_patch16_224",
                "num_classes": 0,
                "model_args": args,
                "pretrained_cfg": cfg,
            }
        )
    )
    return vit


@pytest.mark.parametrize("scheme", ["audiomae", "hf_hub"])
def test_a_vit_of_the_hub_computes_what_timm_computes(tmp_path, scheme):
    vit = write_timm(tmp_path)
    name = f"{scheme}:{tmp_path}"
    backbone = create_backbone(name, GRID).eval()
    log_mel = torch.randn(2, 96, 128)
    with torch.inference_mode():
        expected = vit.forward_features(log_mel[:, None])[:, 1:]
        assert relative_difference(backbone(log_mel, [2]), expected) < 1e-6

        # Another length: the class token keeps its position, the others are resampled.
        vit.patch_embed.strict_img_size = False
        vit.pos_embed.data = resample_abs_pos_embed(vit.pos_embed, [9, 8], [6, 8])
        longer = torch.randn(2, 144, 128)
        expected = vit.forward_features(longer[:, None])[:, 1:]
        long_backbone = create_backbone(name, GRID._replace(n_time=9)).eval()
        for other in (backbone, long_backbone):
            assert relative_difference(other(longer, [2]), expected) < 1e-6

    again = create_backbone("hf_hub:gone", GRID, pretrained=False, config=backbone.config)
    again.load_state_dict(backbone.state_dict())


def test_audiomae_normalises_by_twice_the_deviation(tmp_path):
    write_timm(tmp_path)
    backbone = create_backbone(f"audiomae:{tmp_path}", GRID)
    assert backbone.normalization == (-4.2677393, 2 * 4.5689974)


def test_a_timm_vit_computes_what_timm_computes():
    torch.manual_seed(0)
    backbone = create_backbone("timm:vit_tiny_patch16_224", GRID).eval()
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=(96, 128), in_chans=1, num_classes=0
    ).eval()
    vit.load_state_dict(backbone.vit.state_dict())
    log_mel = torch.randn(2, 96, 128)
    with torch.inference_mode():
        expected = vit.forward_features(log_mel[:, None])[:, 1:]
        assert relative_difference(backbone(log_mel, [11]), expected) < 1e-6


@pytest.mark.parametrize("name", ["anopatch-tiny", "vit_tiny"])
def test_our_own_vit_is_a_plain_one(name):
    vit = VisionTransformer(
        img_size=(192, 128),
        patch_size=16,
        in_chans=1,
        num_classes=0,
        global_pool="",
        embed_dim=192,
        depth=6,
        num_heads=3,
        class_token=False,
    ).eval()
    backbone = create_backbone(name, GRID._replace(n_time=12)).eval()
    weights = backbone.vit.state_dict()
    if name == "anopatch-tiny":
        weights = load_file(Path(backbones.__file__).parent / "weights" / f"{name}.safetensors")
    vit.load_state_dict(weights)
    log_mel = torch.randn(2, 192, 128)
    with torch.inference_mode():
        expected = vit.forward_features(log_mel[:, None])
        assert relative_difference(backbone(log_mel, [5]), expected) < 1e-6


# A backbone is listed with the test that holds it against its oracle.
PARITY = {
    "anopatch-tiny": test_our_own_vit_is_a_plain_one,
    "vit_tiny": test_our_own_vit_is_a_plain_one,
    "ced-tiny": test_backbones_ced.test_tokens_are_those_of_the_authors,
    "beats:<file>": test_beats_computes_what_openbeats_computes,
    "ast:<folder or hub name>": test_ast_computes_what_transformers_computes,
    "eat:<folder or hub name>": test_backbones_eat.test_eat_computes_what_its_authors_compute,
    "ced:<folder or hub name>": test_backbones_ced.test_tokens_are_those_of_the_authors,
    "dasheng:<file, folder or hub name>": test_backbones_ced.test_tokens_are_those_of_the_authors,
    "audiomae:<folder or hub name>": test_a_vit_of_the_hub_computes_what_timm_computes,
    "hf_hub:<folder or hub name>": test_a_vit_of_the_hub_computes_what_timm_computes,
    "timm:<name>": test_a_timm_vit_computes_what_timm_computes,
}


def test_every_backbone_has_a_parity_test_a_front_end_and_a_place_in_the_docs():
    assert list(PARITY) == list_backbones()
    docs = (Path(__file__).parents[1] / "docs" / "backbones.rst").read_text()
    for name in list_backbones():
        scheme = name.partition("<")[0]
        expected = KALDI_HANNING if scheme in ("ast:", "eat:", "audiomae:") else KALDI
        expected = DECIBELS if scheme in ("ced-tiny", "ced:", "dasheng:") else expected
        assert front_end(name) == expected
        assert f"``{name}``" in docs


def test_the_default_patcher_has_the_front_end_of_beats():
    assert MelPatcher().front_end == KALDI


def test_the_hanning_front_end_is_that_of_audiomaes_authors():
    clip = make_clip(1).astype("float32") + 0.01
    waveform = torch.from_numpy(clip - clip.mean())[None]
    expected = fbank(
        waveform,
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    patcher = make_patcher("audiomae:any", duration=1.0)
    log_mel = unpatchify(patcher.fit_transform([clip]))[0]
    np.testing.assert_allclose(log_mel, expected[:96].numpy(), atol=1e-3)


def test_a_front_end_that_does_not_fit_is_an_error_that_names_both_values():
    message = (
        "The backbone 'ast:x' was trained with window='hanning', scale=1.0, but the patches are "
        r"made with window='povey', scale=32768\.0\. skanopatch\.backbones\.make_patcher\("
        r"'ast:x'\) makes"
    )
    with pytest.raises(ValueError, match=message):
        check_front_end("ast:x", MelPatcher().front_end)
    with pytest.raises(ValueError, match=r"sample_rate=16000, f_max=8000\.0, but .*=8000, f_m"):
        make_patcher("beats:x", sample_rate=8000)
    with pytest.raises(ValueError, match=r"trained with window='povey', but .*='hanning'"):
        make_anopatch_pipeline("beats:x", melpatcher__window="hanning")
    with pytest.raises(ValueError, match="trained with n_mels=128, but the patches have 64 mel"):
        create_backbone("beats:x", GRID._replace(n_freq=4))
    # Patches of another size make the same spectrogram, and half the rate is the upper edge.
    make_patcher("beats:x", patch_size=8, f_max=8000.0, duration=2.0)
    make_patcher("vit_tiny", window="hanning")


def test_a_pipeline_is_made_of_parts_that_fit(tmp_path):
    name = write_beats(tmp_path / "random.pt", GATED)
    pipe = make_anopatch_pipeline(
        name, detector=KNNDetector(), melpatcher__duration=1.0, melpatcher__patch_size=8
    )
    clips = np.random.default_rng(0).normal(size=(4, 16000))
    patches = pipe["melpatcher"].fit_transform(clips)
    tokens = pipe["anopatchembedder"].set_params(output="patches").fit_transform(patches)
    patcher = make_patcher(name, duration=1.0)  # of patches of another size
    expected = own_tokens(create_backbone(name, GRID), patcher, clips[1])[-1][0]
    assert patches.shape == (4, 12, 16, 64)
    assert tokens.shape == (4, 6, 8, 48)
    np.testing.assert_allclose(tokens[1].reshape(48, 48), expected, atol=1e-5)
