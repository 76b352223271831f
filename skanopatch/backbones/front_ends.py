"""The mel settings that networks were trained with."""

from __future__ import annotations

from dataclasses import replace

from skanopatch.spectra.log_mel import FrontEnd

# Front ends of the networks trained on AudioSet: Kaldi's defaults at 16-bit range (BEATs), and
# its Hann window on samples within -1 and 1 (AST, AudioMAE).
KALDI = FrontEnd(
    sample_rate=16000,
    n_mels=128,
    frame_length=0.025,
    frame_shift=0.010,
    f_min=20.0,
    f_max=None,
    window="povey",
    preemphasis=0.97,
    scale=2.0**15,
    patch_size=16,
)
KALDI_HANNING = replace(KALDI, window="hanning", scale=1.0)
DECIBELS = FrontEnd(
    sample_rate=16000,
    n_mels=64,
    frame_length=0.032,
    frame_shift=0.010,
    f_min=0.0,
    f_max=8000.0,
    window="hanning",
    preemphasis=0.0,
    scale=1.0,
    patch_size=16,
    filterbank="decibels",
)
