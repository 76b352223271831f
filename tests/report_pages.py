"""Sounds for the tests of the report, and what its pages say."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import soundfile

RATE = 16000


def hum(seed, *, whine=0.0, start=0.0, seconds=1.0):
    """Return a humming machine in noise, with a tone of 3 kHz from `start` on."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = whine * np.sin(2 * np.pi * 3000 * time) * (time >= start)
    return 0.1 * np.sin(2 * np.pi * 100 * time) + 0.02 * rng.normal(size=len(time)) + tone


class Page(HTMLParser):
    """What a browser would make of a page: its rows, its text and its scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.rows, self.contents = [], [], [], {}
        self._key = "outside"
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.attributes.append(attributes)
        if attributes.get("class") == "clip":
            self.rows.append(attributes)
        if tag == "td" and attributes["class"] == "score":
            self.rows[-1]["score"] = float(attributes["data-value"])
        self._key = attributes.get("id") or tag

    def handle_data(self, data):
        self.contents[self._key] = self.contents.get(self._key, "") + data

    def handle_endtag(self, tag):
        self._key = "outside"

    def media(self, name):
        return json.loads(self.contents[name])


def cells(html, column):
    """Return the text of a column, row by row."""
    found = re.findall(rf'<td role="cell" class="{column}"[^>]*>(.*?)</td>', html)
    return [re.sub("<.*?>", "", cell) for cell in found]


def decode(media):
    return soundfile.read(io.BytesIO(base64.b64decode(media["sound"])))
