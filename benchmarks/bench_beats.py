"""Time BEATs, and weigh its peak memory, against the `openbeats` package on random weights.

python benchmarks/bench_beats.py

Both read the same checkpoint of BEATs' base size and embed the same spectrograms: 4 clips of 10 s.
Times are taken in turns in one process; memory is how far that of a process of its own rises while
it reads the checkpoint, and then while it embeds the clips (Linux only). It needs
``pip install openbeats``.
"""

import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import torch
from environment import print_environment, time_in_turns

SEED, REPEATS = 0, 3
N_CLIPS, N_FRAMES, N_MELS = 4, 992, 128
CONFIG = {"relative_position_embedding": True, "gru_rel_pos": True, "deep_norm": True}


def main():
    print_environment(SEED)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "random.pt")
        write_checkpoint(path)
        memory = [peak_memory(which, path) for which in ("ours", "openbeats")]
        log_mel = spectrograms()
        ours, theirs = load_ours(path), load_openbeats(path)
        tokens, reference = ours(log_mel), theirs(log_mel)
        difference = float((tokens - reference).norm() / reference.norm())
        seconds = time_in_turns([lambda: ours(log_mel), lambda: theirs(log_mel)], REPEATS)
    print(
        f"{N_CLIPS} clips of {N_FRAMES} frames: {seconds[0]:.2f} s, openbeats {seconds[1]:.2f} s: "
        f"{seconds[1] / seconds[0]:.2f} times as fast; relative difference of the tokens "
        f"{difference:.1e}"
    )
    for name, ours, theirs in zip(("reading", "embedding"), *memory, strict=True):
        print(f"memory of {name}: {ours:.0f} MB, openbeats {theirs:.0f} MB: {ours / theirs:.2f}")


def spectrograms():
    generator = torch.Generator().manual_seed(SEED)
    return 15.4 + 6.6 * torch.randn(N_CLIPS, N_FRAMES, N_MELS, generator=generator)


def write_checkpoint(path):
    """Write random weights, in a process of its own for the sake of the memory of this one."""
    script = (
        "import sys, torch; from openbeats.beats_encoder import BeatsEncoder;"
        f"torch.manual_seed({SEED}); cfg = {CONFIG};"
        "model = BeatsEncoder(0, beats_config=cfg).state_dict();"
        "torch.save({'cfg': cfg, 'model': model}, sys.argv[1])"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, path], check=True)


def load_ours(path):
    from skanopatch.backbones import create_backbone
    from skanopatch.spectra.patches import PatchGrid

    backbone = create_backbone(f"beats:{path}", PatchGrid(62, 8, 16, 16)).eval()
    mean, std = backbone.normalization

    @torch.inference_mode()
    def embed(log_mel):
        return backbone((log_mel - mean) / std, [backbone.n_layers - 1])

    return embed


def load_openbeats(path):
    from openbeats.model import OpenBeats

    encoder = OpenBeats.from_pretrained(path).encoder

    @torch.inference_mode()
    def embed(log_mel):
        lengths = torch.full((len(log_mel),), log_mel.shape[1])
        return encoder(log_mel, lengths, waveform_input=False)[0]

    return embed


def peak_memory(which, path):
    """Return the MB that a process of its own takes to read a checkpoint, and then to embed."""
    command = [sys.executable, "-W", "ignore", __file__, which, path]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(number) for number in output.split()]


def embed_once(which, path):
    """Read the checkpoint, embed the clips, and print how far the memory rises in each."""
    import_module({"ours": "skanopatch.backbones", "openbeats": "openbeats.model"}[which])
    start = resident("VmRSS")
    embed = {"ours": load_ours, "openbeats": load_openbeats}[which](path)
    print(resident("VmHWM") - start)
    log_mel = spectrograms()
    start = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    embed(log_mel)
    print(resident("VmHWM") - start)


def resident(kind):
    """Return this process's resident memory in MB, now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+)", status)[1]) / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        embed_once(*sys.argv[1:])
    else:
        main()
