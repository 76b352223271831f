"""Draw the picture at the top of the README: ``python docs/draw_anomaly_map.py``."""

from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from skanopatch import AnomalyMapDisplay, PatchKNNDetector, make_map_pipeline
from skanopatch.datasets import make_machine_sounds

PICTURE = Path(__file__).parent / "_static" / "anomaly_map.png"

sounds = make_machine_sounds(
    ["slider"], n_units=1, n_train=60, n_normal=8, n_anomalous=8, target_fraction=0.0,
    severity=3.0, duration=4.0, random_state=0,
)  # fmt: skip
pipe = make_map_pipeline(detector=PatchKNNDetector(), melpatcher__duration=4.0)
pipe.fit(sounds.clips[sounds.split == "train"])

is_new = (sounds.split == "test") & (sounds.domain == "source")
figure, axes = plt.subplots(2, 1, figsize=(9, 5.4), sharex=True, layout="constrained")
for ax, fault, title in zip(
    axes, ["none", "rail_defect"], ["a slider that runs well", "with a damaged rail"], strict=True
):
    clip = sounds.clips[is_new & (sounds.fault == fault)][0]
    AnomalyMapDisplay.from_estimator(pipe, clip, ax=ax)
    ax.set_title(title)
axes[0].set_xlabel("")
drawn = BytesIO()
figure.savefig(drawn, dpi=90)
Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(
    PICTURE, optimize=True
)
print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")
