"""The report in a real browser: click, play, sort, filter, keyboard, phone, and hostile names."""

import shutil
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skanopatch import AnomalousSoundDetector, MelPatcher, PatchKNNDetector
from skanopatch.cli.clips import read_column
from skanopatch.report import make_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.common.exceptions import NoAlertPresentException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="chromium and chromedriver are not on the PATH (Debian: chromium, chromium-driver)",
)

RATE = 16000
SECONDS = 3.0
HOSTILE_FILE = "<img src=x onerror=alert(1)>.wav"
HOSTILE_LABEL = "</script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it cannot be had by root in a container
        "--disable-dev-shm-usage",
        "--autoplay-policy=no-user-gesture-required",
        "--mute-audio",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Report on twelve recordings of two pumps; every third one whines from some moment on."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    time = np.arange(round(SECONDS * RATE)) / RATE

    def hum(whine=0.0, start=0.0):
        tone = whine * np.sin(2 * np.pi * 3000 * time) * (time >= start)
        noise = 0.02 * rng.normal(size=len(time))
        return 0.1 * np.sin(2 * np.pi * 100 * time) + noise + tone

    normal = [folder / f"normal {i}.wav" for i in range(16)]
    for path in normal:
        soundfile.write(path, hum(), RATE)
    paths = [folder / f"clip {i}.wav" for i in range(11)] + [folder / HOSTILE_FILE]
    for i, path in enumerate(paths):
        soundfile.write(path, hum(0.02 * (i + 1) if i % 3 == 0 else 0.0, start=1.0), RATE)
    (folder / "broken.wav").write_text("no sound at all")
    model = AnomalousSoundDetector(MelPatcher(duration=SECONDS)).fit(normal)
    # Maps of the patches as they are: those of their statistics refer to the mean of the clip's
    # band, from which the moments without the whine differ as well.
    maps = make_pipeline(FunctionTransformer(), PatchKNNDetector())
    model.map_pipeline_ = maps.fit(model.patcher_.transform(normal))
    html = make_report(
        model,
        [*paths, folder / "broken.wav"],
        y=[*["whine", "normal", "normal"] * 3, "whine", "normal", HOSTILE_LABEL, None],
        groups=["pump 1"] * 6 + ["pump 2"] * 7,
        title=HOSTILE_LABEL,
    )
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture
def page(browser, report):
    """The page as it is opened from a file, on a screen; it must not have logged anything."""
    browser.set_window_size(1200, 900)
    browser.get(report.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def find(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def shown(page, column):
    """Return the text of a column in the rows that are shown, from top to bottom."""
    return page.execute_script(
        "return [...document.querySelectorAll('tr.clip:not([hidden]) td.' + arguments[0])]"
        ".map((cell) => (cell.querySelector('button') ?? cell).textContent)",
        column,
    )


def open_clip(page, name):
    for button in page.find_elements(By.CSS_SELECTOR, "td.file button"):
        if button.text == name:
            button.click()
            return
    raise AssertionError(f"no row is named {name}")


def current_time(page, player=0):
    return page.execute_script(
        "return document.querySelectorAll('audio')[arguments[0]].currentTime", player
    )


def wait_until(page, condition):
    WebDriverWait(page, 15, poll_frequency=0.05).until(lambda _: condition())


def is_playing(page, player=0):
    return not page.execute_script(
        "return document.querySelectorAll('audio')[arguments[0]].paused", player
    )


def seek_by(page, act):
    """Return where the first player is right after `act` has made it seek."""
    page.execute_script(
        "window.soughtTo = null; const audio = document.querySelector('audio');"
        "audio.addEventListener('seeked', () => { window.soughtTo = audio.currentTime; },"
        "{ once: true })"
    )
    act()
    wait_until(page, lambda: page.execute_script("return window.soughtTo") is not None)
    return page.execute_script("return window.soughtTo")


def focused(page):
    return page.execute_script("return document.activeElement.textContent.trim()")


def press(page, *keys):
    webdriver.ActionChains(page).send_keys(*keys).perform()


def test_click_opens_one_clip_at_a_time_beside_its_nearest_normal_one(page):
    assert page.find_elements(By.CSS_SELECTOR, "audio, tbody img") == []  # nothing is decoded yet
    open_clip(page, "clip 9.wav")
    assert find(page, ".detail figcaption").text == "clip 9.wav"
    captions = page.find_elements(By.CSS_SELECTOR, ".detail figcaption")
    assert captions[1].text.startswith("nearest normal clip: normal ")
    is_drawn = "return [...document.images].map((image) => image.naturalWidth > 0)"
    wait_until(page, lambda: page.execute_script(is_drawn) == [True, True])
    open_clip(page, "clip 3.wav")
    assert find(page, ".detail figcaption").text == "clip 3.wav"
    assert len(page.find_elements(By.CSS_SELECTOR, ".detail")) == 1
    open_clip(page, "clip 3.wav")
    assert page.find_elements(By.CSS_SELECTOR, ".detail") == []


def test_map_is_painted_over_the_fault_and_can_be_taken_off(page):
    open_clip(page, "clip 9.wav")
    # Opacity of each cell in the band of 3 kHz; 18 cells of 0.16 s.
    opacity = page.execute_script(
        "const canvas = document.querySelector('.detail canvas');"
        "const row = Math.floor(canvas.height * arguments[0]);"
        "const { data } = canvas.getContext('2d').getImageData(0, row, canvas.width, 1);"
        "return [...data].filter((_, i) => i % 4 === 3)",
        1 - 0.68,  # where 3 kHz is on the mel scale from 20 to 8000 Hz, from the top
    )
    assert len(opacity) == 18
    assert min(opacity) >= 0.4 * 255
    find(page, ".detail .overlay input").click()
    assert not find(page, ".detail .spectrogram canvas").is_displayed()
    find(page, ".detail .overlay input").click()
    assert find(page, ".detail .spectrogram canvas").is_displayed()


def test_the_scale_of_the_map_has_the_colours_of_the_map(page):
    open_clip(page, "clip 9.wav")
    pixels = page.execute_script(
        "const canvas = document.querySelector('.detail .legend');"
        "return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, 1).data]"
    )
    first, *_, last = np.reshape(pixels, (-1, 4))
    np.testing.assert_allclose(first, [240, 190, 40, 102], atol=2)  # at the threshold
    np.testing.assert_allclose(last, [165, 0, 40, 153], atol=2)  # at ten times


@pytest.mark.parametrize("name", ["clip 3.wav", "clip 9.wav"])
def test_one_value_has_one_colour_in_the_maps_of_all_clips(page, name):
    open_clip(page, name)
    anomaly_map, pixels = page.execute_script(
        "const row = document.querySelector('.detail').previousElementSibling;"
        "const { map } = JSON.parse(document.getElementById(row.dataset.media).textContent);"
        "const canvas = document.querySelector('.detail canvas');"
        "const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return [map, [...data]]"
    )
    values = np.array(anomaly_map).T[::-1]
    pixels = np.reshape(pixels, (*values.shape, 4))
    assert (pixels[values <= 1, 3] == 0).all()
    share = np.clip(np.log10(values[values > 1]), 0, 1)  # red from 10 times the threshold on
    expected = np.column_stack([240 - 75 * share, 190 * (1 - share), np.full(len(share), 40)])
    np.testing.assert_allclose(pixels[values > 1, :3], expected, atol=3)  # alpha rounds them
    np.testing.assert_allclose(pixels[values > 1, 3], 2.55 * (40 + 20 * share), atol=1)


def test_a_clip_whose_map_stays_below_the_threshold_says_so(page):
    name, highest = page.execute_script(
        "return rows().find(([, highest]) => highest <= 1);"
        "function rows() { return [...document.querySelectorAll('tr.clip[data-media^=clip]')].map("
        "(row) => [row.querySelector('td.file button').textContent,"
        "JSON.parse(document.getElementById(row.dataset.media).textContent).highest]); }"
    )
    open_clip(page, name)
    assert find(page, ".detail .moments").text == (
        f"Nothing in the map is above the threshold: its highest value is {highest:.2f}, and 1 is "
        "the threshold."
    )
    assert page.find_elements(By.CSS_SELECTOR, ".detail .player:first-child .marks span") == []
    # A switch that shows nothing is not there.
    assert page.find_elements(By.CSS_SELECTOR, ".detail .player:first-child .overlay") == []
    assert page.find_elements(By.CSS_SELECTOR, ".detail .player:first-child canvas") == []


def test_playing_moves_the_marker_and_stops_the_other_player(page):
    open_clip(page, "clip 9.wav")
    page.execute_script("document.querySelector('audio').play()")
    wait_until(page, lambda: current_time(page) > 0.3)
    left = page.execute_script("return parseFloat(document.querySelector('.playhead').style.left)")
    assert left > 5  # per cent
    page.execute_script("document.querySelectorAll('audio')[1].play()")
    wait_until(page, lambda: current_time(page, 1) > 0.1)
    assert not is_playing(page, 0)


def test_duration_of_the_sound_is_that_of_the_patcher(page):
    open_clip(page, "clip 9.wav")
    duration = "return document.querySelector('audio').duration"
    wait_until(page, lambda: page.execute_script(duration))
    assert page.execute_script(duration) == pytest.approx(SECONDS, abs=0.01)


def test_worst_moments_are_buttons_that_jump_there_and_play(page):
    open_clip(page, "clip 9.wav")
    buttons = page.find_elements(By.CSS_SELECTOR, ".detail .moments button")
    assert len(buttons) >= 2
    for button in buttons:
        time = float(button.get_attribute("data-time"))
        assert 0.8 <= time <= SECONDS  # the whine begins at 1 s
        assert seek_by(page, button.click) == pytest.approx(time, abs=0.1)  # it plays on
        assert is_playing(page)
    assert len(page.find_elements(By.CSS_SELECTOR, ".marks span")) == len(buttons)


def test_the_explanation_is_in_words_with_buttons_that_play_what_they_are_about(page):
    open_clip(page, "clip 9.wav")
    words = [item.text for item in page.find_elements(By.CSS_SELECTOR, ".detail .words li")]
    assert any("3 kHz" in text or "3.01 kHz" in text for text in words[:-1])
    assert words[-1].startswith("Its distance, where the threshold is 1: ")
    button = find(page, ".detail .words button")
    time = float(button.get_attribute("data-time"))
    assert 0.8 <= time <= 1.2  # where the whine begins
    assert seek_by(page, button.click) == pytest.approx(time, abs=0.1)
    letters = {mark.text for mark in page.find_elements(By.CSS_SELECTOR, ".detail .events span")}
    assert letters <= {text[0] for text in words if text[1:2] == ":"}
    assert "a" in letters


def test_the_spectrum_is_drawn_over_the_range_of_the_normal_clips(page):
    open_clip(page, "clip 9.wav")
    heights, ranges = page.execute_script(
        "const points = (name) => [...document.querySelector(`.detail .spectrum ${name}`).points]"
        ".map(({ x, y }) => [x, y]); return [points('.own'), points('.range')]"
    )
    (x, y), n = np.transpose(heights), len(heights)
    top, bottom = np.array(ranges)[:n, 1], np.array(ranges)[n:][::-1, 1]
    assert (top <= bottom + 1e-6).all()  # y points down
    peak = np.argmax(top - y)
    at = (x[peak] - x[0]) / (x[-1] - x[0])
    assert at == pytest.approx(0.657, abs=0.01)  # where 3 kHz is on the mel scale
    assert top[peak] - y[peak] > 10
    assert y.min() >= 17.9
    assert find(page, ".detail .player:nth-child(2) .spectrum .own")  # that of the nearest one too


def test_click_on_the_spectrogram_seeks(page):
    open_clip(page, "clip 9.wav")
    spectrogram = find(page, ".detail .spectrogram")
    # selenium counts from the middle, and rounds to pixels.
    at = webdriver.ActionChains(page).move_to_element_with_offset(
        spectrogram, spectrogram.size["width"] // 4, 0
    )
    covered = 18 * 0.16
    assert seek_by(page, at.click().perform) == pytest.approx(0.75 * covered, abs=0.02)


def test_columns_sort_both_ways_with_unreadable_clips_last(page):
    scores = [float(score) for score in shown(page, "score")[:-1]]
    assert scores == sorted(scores, reverse=True)
    header = find(page, "th.score")
    for order in ("descending", "ascending"):
        header.find_element(By.TAG_NAME, "button").click()
        assert header.get_attribute("aria-sort") == order
        assert [float(score) for score in shown(page, "score")[:-1]] == sorted(
            scores, reverse=order == "descending"
        )
        assert shown(page, "file")[-1] == "broken.wav"
    find(page, "th.file button").click()
    assert header.get_attribute("aria-sort") == "none"
    names = [HOSTILE_FILE, "broken.wav", *(f"clip {i}.wav" for i in range(11))]  # 2 before 10
    assert shown(page, "file") == names
    find(page, "th.file button").click()
    assert shown(page, "file") == names[::-1]


@pytest.mark.parametrize("column", ["verdict", "label", "machine"])
def test_columns_of_text_sort_alphabetically(page, column):
    find(page, f"th.{column} button").click()
    values = [value for value in shown(page, column) if value]
    assert values == sorted(values)
    assert len(set(values)) >= 2


def test_an_open_clip_stays_below_its_row_when_sorted(page):
    open_clip(page, "clip 3.wav")
    find(page, "th.file button").click()
    above = page.execute_script(
        "return document.querySelector('.detail').previousElementSibling"
        ".querySelector('td.file button').textContent"
    )
    assert above == "clip 3.wav"


def test_filters_combine_and_say_how_many_are_left(page):
    find(page, "#filter").send_keys("CLIP 1")
    assert sorted(shown(page, "file")) == ["clip 1.wav", "clip 10.wav"]
    assert find(page, "#count").text == "2 of 13 clips"
    Select(find(page, "#group")).select_by_visible_text("pump 2")
    assert shown(page, "file") == ["clip 10.wav"]
    find(page, "#filter").clear()
    Select(find(page, "#group")).select_by_visible_text("all")
    Select(find(page, "#verdict")).select_by_visible_text("unreadable")
    assert shown(page, "file") == ["broken.wav"]
    Select(find(page, "#verdict")).select_by_visible_text("anomaly")
    verdicts = shown(page, "verdict")
    assert set(verdicts) == {"anomaly"}
    assert find(page, "#count").text == f"{len(verdicts)} of 13 clips"


def test_a_clip_that_is_filtered_out_is_closed(page):
    open_clip(page, "clip 9.wav")
    find(page, "#filter").send_keys("clip 3")
    assert page.find_elements(By.CSS_SELECTOR, ".detail") == []


def test_unreadable_clip_says_why_and_has_no_player(page):
    assert "libsndfile cannot read it" in find(page, "tr.clip:last-child").text
    open_clip(page, "broken.wav")
    assert find(page, ".detail").text == "This clip could not be read."
    press(page, Keys.SPACE)  # plays nothing, and breaks nothing


def marks(page):
    """Return the name and the mark of each clip that has one."""
    return dict(
        page.execute_script(
            "return [...document.querySelectorAll('.review [aria-pressed=true]')].map((button) =>"
            "[button.closest('tr').querySelector('td.file button').textContent,"
            "button.dataset.label])"
        )
    )


def test_clips_that_were_listened_to_are_marked_and_saved(page, report, tmp_path):
    page.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    assert not find(page, "#reviewed").is_displayed()
    names = shown(page, "file")
    page.execute_script("document.querySelector('td.file button').focus()")
    press(page, "f", Keys.ARROW_DOWN, "b", Keys.ARROW_DOWN, "b", "b")  # the last takes it back
    assert marks(page) == {names[0]: "normal", names[1]: "anomaly"}
    row = page.find_elements(By.CSS_SELECTOR, "tr.clip")[3]
    row.find_element(By.CSS_SELECTOR, "[data-label=anomaly]").click()
    row.find_element(By.CSS_SELECTOR, "[data-label=normal]").click()  # it is one or the other
    expected = {names[0]: "normal", names[1]: "anomaly", names[3]: "normal"}
    assert marks(page) == expected
    assert page.find_elements(By.CSS_SELECTOR, ".detail") == []  # marking opens nothing
    assert find(page, "#reviewed output").text == "2 fine, 1 broken"
    for file in ("labels.csv", "normal.txt"):
        find(page, f"#reviewed [data-file='{file}']").click()
        wait_until(page, (tmp_path / file).exists)
    table = pd.read_csv(tmp_path / "labels.csv")
    assert dict(zip(table.file, table.label, strict=True)) == expected
    listed = [str(tmp_path / name) for name in expected]  # it may lie beside the recordings
    assert read_column(tmp_path / "labels.csv", "label", listed) == list(expected.values())
    assert all((report.parent / name).exists() for name in expected)
    assert (tmp_path / "normal.txt").read_text() == f"{names[0]}\n{names[3]}\n"


def test_names_with_commas_and_quotes_are_one_cell_of_the_table(page):
    page.execute_script(
        "document.querySelector('td.file button').textContent = 'a, \"b\".wav';"
        "document.querySelector('.review [data-label=anomaly]').click();"
        "const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { window.saved = blob.text(); return make(blob); };"
    )
    find(page, "#reviewed [data-file='labels.csv']").click()
    text = page.execute_async_script("window.saved.then(arguments[0])")
    assert text == 'file,label\n"a, ""b"".wav",anomaly\n'


def test_a_machine_of_the_summary_shows_its_clips(page):
    button = find(page, "[data-machine='pump 2']")
    button.click()
    assert set(shown(page, "machine")) == {"pump 2"}


def test_dots_over_time_open_their_clips_and_the_column_sorts_by_time(browser, tmp_path):
    rng = np.random.default_rng(0)
    clips = [rng.normal(scale=0.1, size=RATE) for _ in range(12)]
    model = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop").fit(clips)
    names = [f"2026-01-{day:02}.wav" for day in (3, 1, 2)]
    for name, gain in zip(names, (1, 4, 2), strict=True):
        soundfile.write(tmp_path / name, gain * clips[0] / 5, RATE)
    path = tmp_path / "report.html"
    path.write_text(make_report(model, [tmp_path / name for name in names]), encoding="utf-8")
    browser.set_window_size(1200, 900)
    browser.get(path.as_uri())
    find(browser, "th.time button").click()
    assert shown(browser, "file") == sorted(names)
    dots = browser.find_elements(By.CSS_SELECTOR, ".points circle")
    leftmost = min(dots, key=lambda dot: dot.rect["x"])
    leftmost.click()
    assert find(browser, ".detail figcaption").text == "2026-01-01.wav"


def test_slash_goes_to_the_filter_and_is_text_there(page):
    press(page, "/")
    assert page.switch_to.active_element == find(page, "#filter")
    press(page, "/")
    assert find(page, "#filter").get_attribute("value") == "/"


def test_everything_works_by_keyboard(page):
    names = shown(page, "file")
    page.execute_script("document.querySelector('th.machine button').focus()")
    press(page, Keys.TAB)  # a single stop for all the rows
    assert focused(page) == names[0]
    press(page, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert focused(page) == names[1]
    press(page, Keys.ENTER)
    button = page.switch_to.active_element
    assert button.get_attribute("aria-expanded") == "true"
    press(page, Keys.SPACE)
    wait_until(page, lambda: current_time(page) > 0.1)
    press(page, Keys.SPACE)
    wait_until(page, lambda: not is_playing(page))
    assert button.get_attribute("aria-expanded") == "true"
    before = current_time(page)
    assert seek_by(page, lambda: press(page, Keys.ARROW_RIGHT)) == pytest.approx(before + 1)
    press(page, Keys.TAB)  # into the players, which come next
    assert page.execute_script("return document.activeElement.closest('.detail') !== null")
    press(page, Keys.ESCAPE)
    assert page.find_elements(By.CSS_SELECTOR, ".detail") == []
    assert focused(page) == names[1]


def test_focus_is_seen(page):
    press(page, "/")
    style = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.execute_script(style) == "solid"


def test_a_phone_needs_no_scrolling_sideways(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        widths = "return [document.documentElement.scrollWidth, innerWidth]"
        assert page.execute_script(widths) == [360, 360]
        open_clip(page, "clip 9.wav")
        assert page.execute_script(widths) == [360, 360]
        assert find(page, ".detail .spectrogram").size["width"] > 250
        boxes = [header.rect for header in page.find_elements(By.TAG_NAME, "th")]
        for left, right in pairwise(boxes):  # side by side, or on a line of its own
            assert left["x"] + left["width"] <= right["x"] or left["y"] < right["y"]
        assert all(box["width"] > 30 for box in boxes)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_names_are_shown_and_do_nothing(page):
    assert find(page, "h1").text == HOSTILE_LABEL
    assert page.title == HOSTILE_LABEL
    assert HOSTILE_FILE in shown(page, "file")
    assert HOSTILE_LABEL in shown(page, "label")
    assert page.find_elements(By.TAG_NAME, "img") == []
    open_clip(page, HOSTILE_FILE)
    assert find(page, ".detail figcaption").text == HOSTILE_FILE
    assert len(page.find_elements(By.TAG_NAME, "img")) == 2  # the spectrograms
    with pytest.raises(NoAlertPresentException):
        page.switch_to.alert.text  # noqa: B018


def test_policy_stops_what_would_slip_through_the_escaping(browser, report, tmp_path):
    attack = "<img src=x onerror='window.isHacked = true'><script>window.isHacked = true</script>"
    html = report.read_text(encoding="utf-8").replace("<h1>", "<h1>" + attack)
    (tmp_path / "attacked.html").write_text(html, encoding="utf-8")
    browser.get((tmp_path / "attacked.html").as_uri())
    wait_until(browser, lambda: browser.execute_script("return document.images[0].complete"))
    assert browser.execute_script("return window.isHacked ?? false") is False
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert any("Content Security Policy" in message for message in messages)
