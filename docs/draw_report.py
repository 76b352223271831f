"""Take the picture of the report in the documentation: ``python docs/draw_report.py``."""

import shutil
import tempfile
from io import BytesIO
from pathlib import Path

import soundfile
from PIL import Image
from selenium import webdriver

from skanopatch import AnomalousSoundDetector, MelPatcher
from skanopatch.datasets import make_machine_sounds
from skanopatch.report import make_report

PICTURE = Path(__file__).parent / "_static" / "report.webp"

sounds = make_machine_sounds(
    ["slider"], n_units=1, n_train=60, n_normal=8, n_anomalous=8, target_fraction=0.0,
    severity=4.0, duration=4.0, random_state=0,
)  # fmt: skip
is_new = (sounds.split == "test") & (sounds.domain == "source")

options = webdriver.ChromeOptions()
options.binary_location = shutil.which("chromium")
for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
    options.add_argument(argument)
service = webdriver.ChromeService(shutil.which("chromedriver"))
with (
    tempfile.TemporaryDirectory() as folder,
    webdriver.Chrome(options=options, service=service) as browser,
):
    normal_files = []  # the nearest normal clip is played from its file
    for i, clip in enumerate(sounds.clips[sounds.split == "train"]):
        normal_files.append(Path(folder) / f"normal_{i:02}.wav")
        soundfile.write(normal_files[-1], clip, sounds.sample_rate)
    new_files = []  # a day apart: the timeline shows their dates
    for day, clip in enumerate(sounds.clips[is_new], start=1):
        new_files.append(Path(folder) / "new" / f"2026-11-{day:02}.wav")
        new_files[-1].parent.mkdir(exist_ok=True)
        soundfile.write(new_files[-1], clip, sounds.sample_rate)
    model = AnomalousSoundDetector(MelPatcher(duration=4.0))
    html = make_report(
        model.fit(normal_files, sessions=[i // 6 for i in range(len(normal_files))]),
        new_files,
        y=[fault.replace("none", "normal").replace("_", " ") for fault in sounds.fault[is_new]],
        title="Slider, hall 2",
    )
    path = Path(folder) / "report.html"
    path.write_text(html, encoding="utf-8")
    browser.set_window_size(1000, 1680)
    browser.get(path.as_uri())
    browser.find_element("css selector", "td.file button").click()
    browser.execute_script("scrollTo(0, 0); document.activeElement.blur()")
    shot = browser.get_screenshot_as_png()
Image.open(BytesIO(shot)).convert("RGB").save(PICTURE, quality=75)
print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")
