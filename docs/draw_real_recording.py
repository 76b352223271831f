"""Draw the real recording of the README: ``python docs/draw_real_recording.py FOLDER``.

FOLDER is unit id_00 of the fan of the MIMII dataset (H. Purohit et al., 2019), with the folders
``normal`` and ``abnormal`` in it. The recordings are at https://zenodo.org/records/3384388, under
CC BY-SA 4.0; the picture is under the same licence.
"""

import sys
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from skanopatch import AnomalousSoundDetector, AnomalyMapDisplay, ExplanationDisplay

PICTURE = Path(__file__).parent / "_static" / "real_recording.png"

folder = Path(sys.argv[1])
normal = sorted((folder / "normal").glob("*.wav"))[:20]
clip = folder / "abnormal" / "00000002.wav"
model = AnomalousSoundDetector().fit(normal)
explanation = model.explain([clip])[0]

figure, axes = plt.subplot_mosaic(
    [["map", "map"], ["spectrum", "parts"]],
    figsize=(9, 6.6),
    width_ratios=(3, 2),
    layout="constrained",
)
AnomalyMapDisplay.from_estimator(model, clip, ax=axes["map"])
ExplanationDisplay(explanation).plot((axes["spectrum"], axes["parts"]))
axes["map"].set_title("where: cells of the spectrogram beyond the threshold, in colour")
axes["spectrum"].set_title("what: its spectrum and that of normal clips")
axes["parts"].set_title("how much: the parts of its score")
drawn = BytesIO()
figure.savefig(drawn, dpi=90)
Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(
    PICTURE, optimize=True
)
print("\n".join(explanation.sentences()).replace(str(clip), clip.name))
print(f"fitted on {len(normal)} clips; {PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")
