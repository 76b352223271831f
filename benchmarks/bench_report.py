"""Measure the report on 500 clips: what it weighs, and how long it and a browser take.

    python benchmarks/bench_report.py

Prints one line for each number of clips that have a player. Writing is timed without the scores,
which are the model's: it is what drawing and encoding take. The times in the browser are those of
Debian's chromium, headless, from a file; those of sorting, filtering and opening a clip include
the layout, and are the medians of 5 goes.
"""

import shutil
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import soundfile
from environment import print_environment
from selenium import webdriver

from skanopatch import AnomalousSoundDetector, MelPatcher
from skanopatch.report import make_report

SEED, REPEATS = 0, 5
N_CLIPS, N_NORMAL, RATE, SECONDS = 500, 100, 16000, 10

# Milliseconds of what a reader does, each with the layout that follows.
ACTIONS = {
    "sort": "document.querySelector('th.file button').click()",
    "filter": "const input = document.getElementById('filter');"
    "input.value = input.value ? '' : '7'; input.dispatchEvent(new Event('input'))",
    "open": "document.querySelector('tr.clip:not([hidden]) td.file button').click()",
}


def make_clips(n_clips, rng):
    """Return hum in noise, with a whine in every other clip."""
    time = np.arange(RATE * SECONDS) / RATE
    hum = 0.1 * np.sin(2 * np.pi * 100 * time)
    whine = 0.02 * np.sin(2 * np.pi * 3000 * time) * (time > SECONDS / 2)
    return [
        (hum + 0.02 * rng.normal(size=len(time)) + whine * (i % 2)).astype(np.float32)
        for i in range(n_clips)
    ]


def milliseconds(browser, action):
    script = (
        f"const start = performance.now(); {action}; document.body.getBoundingClientRect();"
        "return performance.now() - start"
    )
    return median(browser.execute_script(script) for _ in range(REPEATS))


def main():
    print_environment(SEED)
    rng = np.random.default_rng(SEED)
    normal_clips, clips = make_clips(N_NORMAL, rng), make_clips(N_CLIPS, rng)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with (
        tempfile.TemporaryDirectory() as folder,
        webdriver.Chrome(options=options, service=service) as browser,
    ):
        paths = [Path(folder) / f"{i}.wav" for i in range(N_NORMAL)]  # to be played beside others
        for path, clip in zip(paths, normal_clips, strict=True):
            soundfile.write(path, clip, RATE)
        model = AnomalousSoundDetector(MelPatcher(duration=SECONDS)).fit(paths)
        for n_players in (0, 200, 500):
            start = perf_counter()
            html = make_report(model, clips, max_players=n_players)
            seconds = perf_counter() - start
            if n_players == 0:
                scoring = seconds
            path = Path(folder) / f"{n_players}.html"
            path.write_text(html, encoding="utf-8")
            browser.get(path.as_uri())
            load = browser.execute_script(
                "return performance.getEntriesByType('navigation')[0].loadEventStart"
            )
            taken = ", ".join(
                f"{name} {milliseconds(browser, action):.0f} ms" for name, action in ACTIONS.items()
            )
            print(
                f"{n_players} players: {path.stat().st_size / 1e6:.1f} MB, written in "
                f"{seconds - scoring:.0f} s; load {load:.0f} ms, {taken}",
                flush=True,
            )


if __name__ == "__main__":
    main()
