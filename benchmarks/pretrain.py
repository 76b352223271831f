"""Train the weights of `backbone="anopatch-tiny"` again.

    python benchmarks/pretrain.py FOLDER OUT.safetensors [--epochs 60] [--seed 0]

FOLDER holds recordings of anything (wav, flac, ogg), in any number of folders. Simulated machines
join them. The task is that of masked autoencoders (He et al. 2022; Huang et al. 2022, Audio-MAE):
of a stretch of 2 s, whose pitch, tempo or tilt was changed at random, the ViT sees a quarter of the
patches, and a small decoder draws the rest from its tokens. It is judged by what a fine-tuned
detector gains, not by the loss: tasks that name recordings learn to overlook what faults change.

A run that was broken off goes on where it was, given the same options and recordings. It takes 75
minutes on one core.
"""

import argparse
from pathlib import Path

import joblib
import numpy as np
import torch
from environment import print_environment
from safetensors.torch import save_file
from skorch.callbacks import GradientNormClipping
from timm.models.vision_transformer import Block
from torch import nn

from skanopatch import MelPatcher
from skanopatch.audio import load_clip
from skanopatch.backbones.vit import TINY_GRID, vit_tiny
from skanopatch.datasets import make_machine_sounds
from skanopatch.embedding.augmentation import CHANGES
from skanopatch.embedding.net import (
    EpochSeed,
    FineTuningNet,
    ResumableCheckpoint,
    SpectrogramDataset,
    WarmupCosine,
)

SAMPLE_RATE = 16000
DURATION = 2.475  # seconds: 240 frames, so that 192 of them can be played 1.25 times as fast
NOISE = 15.0  # dB that a recording is above the pink noise it gets: no bin is ever silent
BATCH_SIZE = 64


class MaskedAutoencoder(nn.Module):
    """Reconstruct masked patches; the output is the mean squared error of each clip.

    Parameters
    ----------
    mean, std : float
        What spectrograms are normalised by.
    visible : float, default=0.25
        Share of the patches that the encoder sees.
    """

    def __init__(self, mean: float, std: float, *, visible: float = 0.25, n_decoder: int = 128):
        super().__init__()
        self.mean, self.std = mean, std
        self.n_visible = round(visible * TINY_GRID.n_time * TINY_GRID.n_freq)
        self.encoder = vit_tiny(TINY_GRID).vit
        self.to_decoder = nn.Linear(self.encoder.embed_dim, n_decoder)
        self.masked = nn.Parameter(torch.zeros(n_decoder))
        self.position = nn.Parameter(0.02 * torch.randn(self.encoder.pos_embed.shape[1], n_decoder))
        self.decoder = Block(n_decoder, num_heads=4)
        self.to_patch = nn.Sequential(
            nn.LayerNorm(n_decoder), nn.Linear(n_decoder, TINY_GRID.height * TINY_GRID.width)
        )

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the errors (n_clips,) of spectrograms (n_clips, n_frames, n_mels)."""
        cells = ((log_mel - self.mean) / self.std).unflatten(2, (-1, TINY_GRID.width))
        cells = cells.unflatten(1, (-1, TINY_GRID.height)).transpose(2, 3)
        patches = cells.flatten(3).flatten(1, 2)
        order = torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)[..., None]
        visible, hidden = order[:, : self.n_visible], order[:, self.n_visible :]

        encoder = self.encoder
        kernel = encoder.patch_embed.proj
        tokens = nn.functional.linear(patches, kernel.weight.flatten(1), kernel.bias)
        tokens = (tokens + encoder.pos_embed).take_along_dim(visible, dim=1)
        tokens = self.to_decoder(encoder.norm(encoder.blocks(tokens)))

        drawn = self.masked.expand(len(patches), len(self.position), -1)
        drawn = drawn.scatter(1, visible.expand_as(tokens), tokens) + self.position
        drawn = self.to_patch(self.decoder(drawn))
        error = (drawn - patches).square().mean(dim=2)
        return error.take_along_dim(hidden[..., 0], dim=1).mean(dim=1)


class MeanError(nn.Module):
    """The criterion of a network that puts out errors."""

    def forward(self, error: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        """Average the errors of a batch."""
        return error.mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--units", type=int, default=12, help="simulated, a machine and severity")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print_environment(seed=options.seed)

    rng = np.random.RandomState(options.seed)
    recordings = read_pieces(options.folder, rng)
    simulated = simulate(options.units, rng)
    print(f"{len(recordings)} pieces of recordings, {len(simulated)} simulated", flush=True)

    patches = np.asarray(MelPatcher(duration=DURATION).fit_transform(recordings + simulated))
    patches = patches - patches.mean(axis=(1, 2, 3), keepdims=True)  # level says nothing here
    n_clips = len(patches)
    torch.manual_seed(options.seed)
    run = joblib.hash((patches, options.epochs, options.seed))
    checkpoint = ResumableCheckpoint(options.out.with_suffix(f".{run}.checkpoint"))
    net = FineTuningNet(
        MaskedAutoencoder,
        module__mean=0.0,
        module__std=float(patches.std()),
        criterion=MeanError,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=0.05,
        optimizer__betas=(0.9, 0.95),
        lr=1e-3,
        max_epochs=options.epochs,
        batch_size=BATCH_SIZE,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[
            EpochSeed(options.seed),
            WarmupCosine(options.epochs * -(-n_clips // BATCH_SIZE), warmup=0.05),
            GradientNormClipping(1.0),
            checkpoint,
        ],
    ).initialize()
    if not checkpoint.restore(net):
        no_labels = np.zeros(n_clips, dtype=int)
        net.train_on(
            SpectrogramDataset(
                patches,
                no_labels,
                np.arange(n_clips),
                segment=TINY_GRID.n_frames,
                changes=CHANGES,
            )
        )
    encoder = net.module_.encoder
    weights = {name: weight.half().contiguous() for name, weight in encoder.state_dict().items()}
    save_file(weights, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


def read_pieces(folder: Path, rng: np.random.RandomState) -> list[np.ndarray]:
    """Cut recordings into pieces of equal length; a short one starts over."""
    n_samples = round(DURATION * SAMPLE_RATE)
    pieces = []
    files = (p for p in sorted(folder.rglob("*")) if p.suffix in {".wav", ".flac", ".ogg"})
    for path in files:
        samples = load_clip(path, sample_rate=SAMPLE_RATE, channel=0, duration=None)
        n_pieces = max(1, len(samples) // n_samples)
        for piece in np.resize(samples, (n_pieces, n_samples)):
            level = np.sqrt(np.mean(piece**2)) + 1e-4
            noise = pink_noise(n_samples, rng) * level * 10 ** (-NOISE / 20)
            pieces.append((piece + noise).astype(np.float32))
    return pieces


def simulate(n_units: int, rng: np.random.RandomState) -> list[np.ndarray]:
    """Make every machine with all its faults, slight ones and strong ones."""
    clips = []
    for severity in (1.0, 3.0):
        sounds = make_machine_sounds(
            n_units=n_units,
            n_train=0,
            n_normal=16,
            n_anomalous=24,
            severity=severity,
            duration=DURATION,
            random_state=rng,
        )
        clips += list(sounds.clips)
    return clips


def pink_noise(n_samples: int, rng: np.random.RandomState) -> np.ndarray:
    """Return noise of unit power whose spectrum falls by 3 dB an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum, n_samples)
    return noise / np.sqrt(np.mean(noise**2))


if __name__ == "__main__":
    main()
