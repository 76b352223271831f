"""Time the log-mel spectrogram of a 10 s clip against torchaudio's Kaldi filterbank.

pip install torchaudio "torch<2.15"
python benchmarks/bench_mel.py
"""

import numpy as np
import torch
from environment import print_environment, time_in_turns
from torchaudio.compliance.kaldi import fbank

from skanopatch import MelPatcher, unpatchify

SEED, REPEATS = 0, 200


def main():
    print_environment(SEED)
    samples = np.random.default_rng(SEED).normal(scale=0.1, size=160_000).astype(np.float32)
    patcher = MelPatcher().fit([samples])
    log_mel = patcher.front_end.log_mel
    waveform = torch.from_numpy(samples)[None] * 2**15

    def peer():
        return fbank(waveform, num_mel_bins=128, sample_frequency=16000)

    difference = np.abs(unpatchify(patcher.transform([samples]))[0] - peer()[:992].numpy())
    all_threads = torch.get_num_threads()
    for n_threads in dict.fromkeys((1, all_threads)):
        torch.set_num_threads(n_threads)
        ours, whole, theirs = time_in_turns(
            [lambda: log_mel(samples), lambda: patcher.transform([samples]), peer], REPEATS
        )
        print(
            f"{n_threads} thread(s): log-mel {1e3 * ours:.2f} ms, MelPatcher.transform "
            f"{1e3 * whole:.2f} ms, torchaudio {1e3 * theirs:.2f} ms: ratios {ours / theirs:.2f} "
            f"and {whole / theirs:.2f}; largest difference {difference.max():.1e} "
            f"(99.9 % of the cells: {np.quantile(difference, 0.999):.1e})"
        )


if __name__ == "__main__":
    main()
