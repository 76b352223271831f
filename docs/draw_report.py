"""Take the picture of the report in the documentation: ``python docs/draw_report.py``."""

import shutil
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver
from sklearn.pipeline import make_pipeline

from skanopatch import MahalanobisDetector, MelPatcher, MelStatistics, SubbandKNNDetector
from skanopatch.datasets import make_machine_sounds
from skanopatch.report import make_report

PICTURE = Path(__file__).parent / "_static" / "report.webp"

sounds = make_machine_sounds(
    ["slider"], n_units=1, n_train=60, n_normal=8, n_anomalous=8, target_fraction=0.0,
    severity=4.0, duration=4.0, random_state=0,
)  # fmt: skip
normal_clips = sounds.clips[sounds.split == "train"]
is_new = (sounds.split == "test") & (sounds.domain == "source")
patcher = MelPatcher(duration=4.0)
html = make_report(
    make_pipeline(patcher, MelStatistics(), MahalanobisDetector()).fit(normal_clips),
    sounds.clips[is_new],
    map_pipeline=make_pipeline(patcher, SubbandKNNDetector()).fit(normal_clips),
    y=[fault.replace("none", "normal").replace("_", " ") for fault in sounds.fault[is_new]],
    normal_clips=normal_clips,
    title="Slider, hall 2",
)

options = webdriver.ChromeOptions()
options.binary_location = shutil.which("chromium")
for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
    options.add_argument(argument)
service = webdriver.ChromeService(shutil.which("chromedriver"))
with (
    tempfile.TemporaryDirectory() as folder,
    webdriver.Chrome(options=options, service=service) as browser,
):
    path = Path(folder) / "report.html"
    path.write_text(html, encoding="utf-8")
    browser.set_window_size(1000, 1300)
    browser.get(path.as_uri())
    browser.find_element("css selector", "td.file button").click()
    browser.execute_script("scrollTo(0, 0); document.activeElement.blur()")
    shot = browser.get_screenshot_as_png()
Image.open(BytesIO(shot)).convert("RGB").save(PICTURE, quality=75)
print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")
