"""Fine-tuning strategies: what learns, at which rate, and in how much memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from mini_beats import save_mini_beats
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skanopatch import AnoPatchEmbedder, FineTuning, patchify, unpatchify
from skanopatch.backbones import create_backbone
from skanopatch.embedding.arcface import ArcFace
from skanopatch.embedding.layers import rate_factors, recomputed_layers
from skanopatch.embedding.lora import LowRankUpdate, add_lora, merge_lora
from skanopatch.embedding.module import EmbeddingNetwork
from skanopatch.embedding.net import FineTuningNet
from skanopatch.spectra.patches import PatchGrid

GRID = PatchGrid(n_time=2, n_freq=8, height=16, width=16)
PARAMS = {
    "backbone": "timm:test_vit",  # of timm's own tests: 6 layers of 64
    "statistics": False,
    "batch_size": 8,
    "random_state": 0,
}
QKV = "backbone.vit.blocks.{}.attn.qkv"
BEATS_BASE = {"relative_position_embedding": True, "gru_rel_pos": True, "deep_norm": True}


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    log_mel = rng.normal(size=(16, 32, 128))
    labels = np.arange(16) % 2
    log_mel[labels == 1, :, 30:60] += 2
    return patchify(log_mel), labels


def embedder_of(params=PARAMS, **settings):
    """Make an embedder that is fine-tuned with settings."""
    return AnoPatchEmbedder(fine_tuning=FineTuning(**{"max_epochs": 2, **settings}), **params)


def tensors(embedder):
    return embedder.module_.state_dict()


# --- LoRA -----------------------------------------------------------------------------------


def test_an_update_is_the_product_of_its_matrices_in_the_rows_of_query_and_value():
    weight = torch.randn(12, 4)
    update = LowRankUpdate(weight, rank=2)
    assert_array_equal(update(weight).detach(), weight)  # at the start
    nn.init.normal_(update.up)
    expected = weight.clone()
    expected[:4] += update.up[0] @ update.down
    expected[8:] += update.up[1] @ update.down
    assert_array_equal(update(weight).detach(), expected.detach())


def test_lora_trains_its_updates_of_q_and_v_only(clips):
    X, labels = clips
    # The seed draws the backbone's weights first.
    before = tensors(AnoPatchEmbedder(**PARAMS).fit(X))
    embedder = embedder_of(tuning="lora", lora_rank=4).fit(X, labels=labels)
    after = tensors(embedder)
    assert set(after) == {*before, "head.weight", "head.bias"}
    for name in before:
        if name.startswith("backbone.") and not name.endswith("attn.qkv.weight"):
            assert_array_equal(after[name], before[name], err_msg=name)
    for i in range(6):
        weight = f"{QKV.format(i)}.weight"
        change = (after[weight] - before[weight]).unflatten(0, (3, -1)).numpy()
        assert_array_equal(change[1], 0)
        for rows in (change[0], change[2]):
            assert np.linalg.matrix_rank(rows, tol=1e-7) == 4
            assert np.abs(rows).max() > 1e-5


def test_merged_and_unmerged_updates_give_equal_embeddings(clips):
    module = EmbeddingNetwork("timm:test_vit", grid=GRID, n_dims=4, tuning="lora").eval()
    log_mel = torch.from_numpy(unpatchify(clips[0]))
    as_new = module(log_mel).detach()
    for i in range(6):
        nn.init.normal_(module.get_submodule(f"{QKV.format(i)}.parametrizations.weight.0").up)
    unmerged = module(log_mel).detach()
    merge_lora(module.backbone)
    assert not any("parametrizations" in name for name in module.state_dict())
    assert_array_equal(module(log_mel).detach(), unmerged)
    assert (unmerged - as_new).abs().max() > 0.01


def test_the_updates_of_a_backbone_of_90_million_weights_take_less_than_10_mb():
    with torch.device("meta"):
        module = EmbeddingNetwork(
            "beats:of a size without a file",
            config=BEATS_BASE,
            grid=PatchGrid(n_time=62, n_freq=8, height=16, width=16),
            n_dims=32,
            tuning="lora",
            lora_rank=64,
            pretrained=False,
        )
    n_backbone = sum(t.numel() for t in module.backbone.parameters() if not t.requires_grad)
    learnt = {name: t.numel() for name, t in module.named_parameters() if t.requires_grad}
    assert n_backbone == pytest.approx(90e6, rel=0.01)
    # 12 layers, one matrix to the rank and two from it.
    assert sum(n for name, n in learnt.items() if "blocks" in name) == 12 * 3 * 64 * 768
    assert 4 * sum(learnt.values()) < 9e6


def test_a_backbone_without_qkv_layers_is_refused():
    with pytest.raises(ValueError, match=r"without linear layers 'attn\.qkv'"):
        add_lora(nn.Linear(3, 3), rank=1)


# --- Head, frozen, full ---------------------------------------------------------------------


def test_the_head_is_trained_on_a_backbone_that_stays_to_the_bit(clips):
    X, labels = clips
    params = {**PARAMS, "backbone": "anopatch-tiny"}
    own = create_backbone("anopatch-tiny", GRID).state_dict()
    head = embedder_of(params, tuning="head").fit(X, labels=labels)
    full = embedder_of(params, tuning="full").fit(X, labels=labels)
    for name, weight in own.items():
        assert_array_equal(tensors(head)[f"backbone.{name}"], weight, err_msg=name)
    assert any((tensors(full)[f"backbone.{name}"] != weight).any() for name, weight in own.items())
    assert head.transform(X).shape == (16, 192)
    assert head.history_[-1]["train_loss"] < head.history_[0]["train_loss"]


def test_a_frozen_embedder_ignores_labels(clips):
    X, labels = clips
    frozen = embedder_of(tuning="frozen").fit(X, labels=labels)
    assert_array_equal(frozen.transform(X), AnoPatchEmbedder(**PARAMS).fit_transform(X))
    assert frozen.classes_ is None
    assert frozen.history_ is None


def test_frozen_weights_are_not_in_the_optimizer(clips):
    net = make_net(tuning="head")
    assert {id(p) for group in net.optimizer_.param_groups for p in group["params"]} == {
        id(p)
        for name, p in [*net.module_.named_parameters(), *net.criterion_.named_parameters()]
        if not name.startswith("backbone.")
    }


# --- Layers ---------------------------------------------------------------------------------


def make_net(layer_decay=1.0, **module_params):
    params = {"backbone": "timm:test_vit", "grid": GRID, "n_dims": 4, **module_params}
    return FineTuningNet(
        EmbeddingNetwork,
        **{f"module__{name}": value for name, value in params.items()},
        criterion=ArcFace,
        criterion__n_dims=4,
        criterion__n_classes=2,
        optimizer=torch.optim.AdamW,
        lr=0.1,
        layer_decay=layer_decay,
        verbose=0,
    ).initialize()


def test_the_rate_halves_from_layer_to_layer():
    net = make_net(layer_decay=0.5)
    rate = {id(p): group["lr"] for group in net.optimizer_.param_groups for p in group["params"]}
    rates = {name: rate[id(p)] for name, p in net.module_.named_parameters()}
    assert rate[id(net.criterion_.centers)] == 0.1
    assert rates["head.weight"] == rates["pooling.token_to_hidden.bias"] == 0.1
    assert rates["backbone.vit.norm.weight"] == 0.1
    for i in range(6):
        assert rates[f"{QKV.format(i)}.weight"] == pytest.approx(0.1 * 0.5 ** (6 - i))
    assert rates["backbone.vit.pos_embed"] == pytest.approx(0.1 * 0.5**7)
    assert rates["backbone.vit.patch_embed.proj.weight"] == pytest.approx(0.1 * 0.5**7)
    assert net.optimizer_.param_groups[0]["lr"] == 0.1  # the one in the history


def test_rates_fall_from_the_highest_layer_that_is_used():
    names = ["backbone.norm.bias", "backbone.blocks.0.x", "backbone.blocks.1.x", "head.bias"]
    assert list(rate_factors(names, 2, 0.5).values()) == [0.125, 0.25, 0.5, 1]
    assert list(rate_factors(names, 1, 0.5).values()) == [0.25, 0.5, 1, 1]


def test_layers_are_weighted_by_the_softmax_of_what_is_learnt(clips):
    X, labels = clips
    params = {**PARAMS, "output": "patches"}
    embedder = AnoPatchEmbedder(layers="weighted", **params).fit(X)
    average = AnoPatchEmbedder(layers="all", **params).fit_transform(X)
    assert_allclose(embedder.transform(X), average, atol=1e-5)
    weights = np.array([0.1, 0.2, 0.3, 0.2, 0.15, 0.05], dtype=np.float32)
    embedder.module_.layer_logits.copy_(torch.from_numpy(np.log(weights)))
    by_layer = [AnoPatchEmbedder(layers=i, **params).fit_transform(X) for i in range(6)]
    expected = np.tensordot(weights, by_layer, axes=1)
    assert_allclose(embedder.transform(X), expected, atol=1e-5)
    assert np.abs(expected - average).max() > 0.01
    tuned = embedder_of({**PARAMS, "layers": "weighted"}, tuning="head").fit(X, labels=labels)
    assert tensors(tuned)["layer_logits"].abs().min() > 1e-5


@pytest.mark.parametrize("name", ["timm", "beats"])
def test_recomputed_layers_give_equal_gradients_and_keep_less(name, tmp_path, clips):
    backbone = "timm:test_vit" if name == "timm" else save_mini_beats(tmp_path / "mini.pt")
    torch.manual_seed(0)
    module = EmbeddingNetwork(backbone, grid=GRID, layers="weighted", n_dims=4)
    log_mel = torch.from_numpy(unpatchify(clips[0]))

    def gradients(enabled):
        kept = {}

        def keep(tensor):
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        torch.manual_seed(1)  # of dropout
        module.zero_grad()
        with recomputed_layers(module.backbone, enabled=enabled):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = module(log_mel).square().sum()
            loss.backward()
        of_weights = sum(p.nbytes for p in module.parameters())
        return {n: p.grad.clone() for n, p in module.named_parameters()}, (
            sum(kept.values()) - of_weights
        )

    expected, kept = gradients(enabled=False)
    recomputed, kept_then = gradients(enabled=True)
    for parameter, gradient in recomputed.items():
        assert_array_equal(gradient, expected[parameter], err_msg=parameter)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0
    assert kept_then < kept / 2
    assert all("forward" not in vars(m) for m in module.modules())


def test_recomputation_changes_no_bit_of_a_fit(clips):
    X, labels = clips
    plain, recomputed = (
        embedder_of(gradient_checkpointing=g).fit(X, labels=labels).transform(X)
        for g in (False, True)
    )
    assert_array_equal(recomputed, plain)


def test_lora_with_decayed_rates_goes_on_from_a_checkpoint(clips, tmp_path, monkeypatch):
    X, labels = clips
    settings = {"max_epochs": 3, "tuning": "lora", "layer_decay": 0.7}
    straight = embedder_of(**settings).fit(X, labels=labels)
    notify = FineTuningNet.notify

    def interrupt(net, method_name, **kwargs):
        if method_name == "on_epoch_begin" and len(net.history) == 1:
            raise KeyboardInterrupt
        notify(net, method_name, **kwargs)

    embedder = embedder_of(checkpoint_dir=tmp_path, **settings)
    monkeypatch.setattr(FineTuningNet, "notify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        embedder.fit(X, labels=labels)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("*.pt"))) == 1
    assert_array_equal(embedder.fit(X, labels=labels).transform(X), straight.transform(X))


# --- The size of BEATs ----------------------------------------------------------------------

_FIT = """
import resource
import numpy as np
from skanopatch import AnoPatchEmbedder, FineTuning, patchify, unpatchify

log_mel = np.random.default_rng(0).normal(size=(8, {n_frames}, 128))
labels = np.arange(8) % 2
log_mel[labels == 1, :, 30:60] += 2
settings = FineTuning({tuning!r}, max_epochs=6, lr={lr}, time_mask=0, frequency_mask=0)
embedder = AnoPatchEmbedder(
    {name!r}, fine_tuning=settings, batch_size=8, normalization="fit", random_state=0
).fit(patchify(log_mel), labels=labels)
losses = [epoch["train_loss"] for epoch in embedder.history_]
print(losses[0], losses[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("tuning", "lr"), [("full", 1e-4), ("lora", 5e-4)])
def test_a_backbone_of_the_size_of_beats_learns_on_8_clips_in_8_gb(tuning, lr, tmp_path):
    name = save_mini_beats(tmp_path / "base.pt", cfg=BEATS_BASE)
    script = _FIT.format(name=name, tuning=tuning, lr=lr, n_frames=96)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    first, last, kilobytes = map(float, run.stdout.split())
    assert last < 0.8 * first
    assert kilobytes * 1024 < 8e9
