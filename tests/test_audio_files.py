"""Files and their segments: broken, long, growing, linked and oddly named ones."""

import io
import os
import pickle
import re
import struct
import threading
import time
import tracemalloc

import numpy as np
import pytest
import soundfile

from skanopatch import Segment, split_recording
from skanopatch.audio import (
    as_clip_list,
    clip_duration,
    clip_format,
    clip_name,
    clip_state,
    file_names,
    file_of,
    files_in_writing,
    load_clip,
    printable_path,
    read_clip,
)

NOISE = np.random.default_rng(0).normal(scale=0.1, size=480_000).astype(np.float32)


def decibels(difference, reference):
    return 20 * np.log10(np.abs(difference).max() / np.abs(reference).max())


def test_a_text_file_named_wav_is_refused(tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("the pump was loud on Monday")
    with pytest.raises(ValueError, match=r"^libsndfile cannot read it \(Format not recognised\)$"):
        load_clip(path)


def test_a_truncated_header_is_refused(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.zeros(100), 16000)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"^libsndfile cannot read it \("):
        load_clip(path)


def test_a_segment_is_the_same_stretch_of_the_whole_file(tmp_path):
    path = tmp_path / "recording.wav"
    soundfile.write(path, NOISE[:160_000], 16000, subtype="FLOAT")
    segment = Segment(path, 2.5, 4.0)
    np.testing.assert_array_equal(load_clip(segment), NOISE[40_000:64_000])
    np.testing.assert_array_equal(read_clip(segment)[0][:, 0], NOISE[40_000:64_000])
    assert clip_duration(segment, sample_rate=1) == 1.5
    np.testing.assert_array_equal(load_clip(segment, duration=0.5), NOISE[40_000:48_000])
    np.testing.assert_array_equal(load_clip(segment, duration=2.0)[24_000:], NOISE[40_000:48_000])


@pytest.mark.parametrize("rate", [8000, 22050, 26667, 44100, 48000])
@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_a_segment_that_is_resampled_agrees_with_the_whole_file(tmp_path, rate, extension):
    path = tmp_path / f"recording.{extension}"
    soundfile.write(path, NOISE[: 9 * rate], rate)
    whole = load_clip(path)
    for start, stop in [(0.0, 1.0), (3.3333, 5.0), (4.0, 9.0)]:
        stretch = whole[round(start * 16000) :][: round((stop - start) * 16000)]
        samples = load_clip(Segment(path, start, stop))
        assert len(samples) == len(stretch)
        assert decibels(samples - stretch, whole) < -90


def test_a_segment_is_a_value(tmp_path):
    segment = Segment(tmp_path / "a.wav", np.float32(1), 2)
    assert pickle.loads(pickle.dumps(segment)) == segment == Segment(str(tmp_path / "a.wav"), 1, 2)
    assert len({segment, Segment(str(tmp_path / "a.wav"), 1.0, 2.0)}) == 1
    assert (
        repr(Segment(np.array(["a.wav"])[0], 0, 1)) == "Segment(path='a.wav', start=0.0, stop=1.0)"
    )
    assert clip_name(segment, 3) == f"clip 3 ('{tmp_path / 'a.wav'}', 1 to 2 s)"
    assert file_of(segment) == str(tmp_path / "a.wav")
    assert as_clip_list([segment, "b.wav"]) == [segment, "b.wav"]


def test_the_state_of_a_clip_changes_with_its_file_and_its_stretch(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"1")
    states = [clip_state(path), clip_state(Segment(path, 0, 1)), clip_state(Segment(path, 1, 2))]
    assert len(set(states)) == 3
    path.write_bytes(b"22")
    assert clip_state(path) != states[0]
    assert clip_state(Segment(path, 0, 1)) != states[1]


@pytest.mark.parametrize("times", [(-1, 2), (2, 2), (3, 2), (0, np.inf), (np.nan, 1)])
def test_a_segment_without_a_stretch_is_refused(times):
    message = r"^A Segment must have 0 <= start < stop, in seconds\. Got start="
    with pytest.raises(ValueError, match=message):
        Segment("a.wav", *times)


def test_a_segment_beyond_the_end_of_its_file_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", NOISE[:16000], 16000)
    with pytest.raises(ValueError, match=r"^its file ends at 1 s, before stop=1\.5 s$"):
        load_clip(Segment(tmp_path / "a.wav", 0.5, 1.5))


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "shift.wav"
    with soundfile.SoundFile(path, "w", 48000, 2, subtype="PCM_U8") as file:
        for _ in range(60):
            file.write(np.zeros((480_000, 2)))
    return path


@pytest.mark.parametrize("start", [0.0, 300.0, 590.0])
def test_a_segment_of_a_long_file_takes_the_memory_of_the_segment(long_recording, start):
    def memory_for(**kwargs):
        tracemalloc.start()
        samples = load_clip(**kwargs)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(samples) == 160_000
        return peak

    # Ten minutes are 115 MB as float32 stereo; 10 s are 1.9 MB as mono.
    assert memory_for(clip=Segment(long_recording, start, start + 10)) < 12e6
    assert memory_for(clip=long_recording, duration=10.0) < 12e6


def test_a_long_file_is_resampled_in_blocks(long_recording):
    tracemalloc.start()
    samples = load_clip(long_recording)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == 600 * 16000
    assert peak < 2 * samples.nbytes + 12e6  # the blocks, and the whole made of them


def test_windows_cover_a_recording(tmp_path):
    path = tmp_path / "recording.wav"
    soundfile.write(path, np.zeros(8000 * 25), 8000)

    def windows(*args, **kwargs):
        return [(w.start, w.stop) for w in split_recording(path, *args, **kwargs)]

    assert windows(10.0) == [(0, 10), (10, 20), (15, 25)]
    assert windows(5.0) == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 25)]
    assert windows(10.0, hop=5.0) == [(0, 10), (5, 15), (10, 20), (15, 25)]
    assert windows(30.0) == [(0, 25)]
    assert all(len(load_clip(w, sample_rate=8000)) == 8000 for w in split_recording(path, 1.0, 0.3))
    with pytest.raises(ValueError, match=r"^duration and hop must be seconds with 0 < hop <= dur"):
        windows(1.0, hop=2.0)
    with pytest.raises(ValueError, match=r"^'nowhere\.wav' cannot be split: there is no such file"):
        split_recording("nowhere.wav", 1.0)


@pytest.mark.parametrize("container", ["wav", "aiff", "au", "w64", "rf64", "flac", "mp3"])
@pytest.mark.parametrize("wanted", [{}, {"duration": 5.0}])
def test_a_file_that_is_cut_off_is_refused_with_both_lengths(tmp_path, container, wanted):
    path = tmp_path / f"clip.{container}"
    soundfile.write(path, NOISE[:96_000], 16000, format=container)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = (
        r"^its header promises (6|5)\.00 s, "
        r"of which (2|3)\.\d\d s can be read: it is cut off, damaged or still being written$"
    )
    with pytest.raises(ValueError, match=message):
        load_clip(path, **wanted)


def test_a_cut_off_file_has_no_duration_and_no_windows(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, NOISE[:96_000], 16000)
    path.write_bytes(path.read_bytes()[:96_044])
    message = r"its header promises 6\.00 s, of which 3\.00 s can be read"
    with pytest.raises(ValueError, match=f"^{message}"):
        clip_duration(path, sample_rate=1)
    with pytest.raises(ValueError, match=f"cannot be split: {message}"):
        split_recording(path, 1.0)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF024, 0x80000000])
def test_a_file_that_came_through_a_pipe_is_read_to_its_end(tmp_path, length):
    path = tmp_path / "clip.wav"
    soundfile.write(path, NOISE[:16000], 16000)
    content = bytearray(path.read_bytes())
    at = content.find(b"data") + 4
    content[at : at + 4] = struct.pack("<I", length)
    path.write_bytes(content)
    assert len(load_clip(path)) == 16000


def test_a_header_does_not_decide_how_much_memory_is_asked_for(tmp_path):
    path = tmp_path / "clip.flac"
    soundfile.write(path, NOISE[:16000], 16000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the upper bits of the number of samples: 64 thousand million
    path.write_bytes(content)
    assert soundfile.info(path).frames > 6e10
    tracemalloc.start()
    message = r"^its header promises 4026532\.84 s, of which 0\.00 s can be read: it is cut off"
    with pytest.raises(ValueError, match=message):
        load_clip(path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_a_length_that_only_a_header_claims_is_refused(tmp_path):
    path = tmp_path / "liar.flac"
    soundfile.write(path, np.zeros(4096), 16000)
    data = bytearray(path.read_bytes())
    data[22:26] = b"\xff" * 4  # the lower 32 of 36 bits of the number of samples
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"promises 268435.46 s, of which 0.00 s can be read"):
        clip_duration(path, sample_rate=16000)
    soundfile.write(path, np.zeros(16000 * 600), 16000)  # silence is as short as that
    assert clip_duration(path, sample_rate=16000) == 600


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.zeros((0, 2)), 48000)
    for read in (load_clip, read_clip, lambda path: split_recording(path, 1.0)):
        with pytest.raises(ValueError, match=r"it has no samples"):
            read(path)
    path.write_bytes(b"")
    for read in (load_clip, read_clip, lambda path: split_recording(path, 1.0)):
        with pytest.raises(ValueError, match=r"it is empty \(0 bytes\)"):
            read(path)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (2_000_000_000, "its sample rate must be at most 100000000 Hz. Got 2000000000"),
        (1, "its sample rate of 1 Hz is less than 1 % of the 16000 wanted"),
    ],
)
def test_a_rate_that_is_none_of_a_sound_is_refused(tmp_path, rate, message):
    path = tmp_path / "clip.wav"
    soundfile.write(path, NOISE[:16000], 16000)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_clip(path)


def test_files_that_grow_are_still_being_written(tmp_path):
    paths = [tmp_path / name for name in ("old.wav", "new.wav", "growing.wav")]
    for path in paths:
        path.write_bytes(b"RIFF")
    os.utime(paths[0], (1, 1))
    is_done = threading.Event()

    def write():
        with open(paths[2], "ab", buffering=0) as file:
            while not is_done.wait(0.02):
                file.write(b"0" * 100)

    writer = threading.Thread(target=write)
    writer.start()
    assert files_in_writing([*paths, tmp_path / "gone.wav"], seconds=0.3) == [paths[2]]
    is_done.set()
    writer.join()
    start = time.perf_counter()
    assert files_in_writing(paths[:1], seconds=5.0) == []
    assert time.perf_counter() - start < 1


def test_every_failure_to_read_is_a_value_error(tmp_path, monkeypatch):
    path = tmp_path / "clip.wav"
    soundfile.write(path, NOISE[:16000], 16000)
    (tmp_path / "x.RAW").write_bytes(bytes(6400))
    (tmp_path / "link.wav").symlink_to("annex/object")
    for clip, message in [
        (tmp_path / "x.RAW", "a .raw file says neither its rate nor its type: read it with"),
        (tmp_path, "it is no regular file"),
        (path / "below.wav", "there is no such file"),
        (tmp_path / "link.wav", "it is a link to 'annex/object', which is missing"),
        (str(tmp_path / ("a" * 300)), "it cannot be read (File name too long)"),
        ("a\0b.wav", "embedded null byte"),
    ]:
        for read in (load_clip, read_clip, lambda clip: clip_duration(clip, sample_rate=1)):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
                read(clip)
        assert clip_format(clip) is None
    for error, message in [
        (PermissionError(13, "Permission denied"), "it cannot be read (Permission denied)"),
        (RuntimeError("no codec"), "it cannot be read (RuntimeError: no codec)"),
        (MemoryError(), "it cannot be read (MemoryError: )"),
    ]:

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(soundfile, "SoundFile", fail)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            load_clip(path)


def test_a_recording_is_read_from_a_stream_of_bytes(tmp_path):
    stream = io.BytesIO()
    soundfile.write(stream, np.stack([NOISE[:800], -NOISE[:800]], axis=1), 8000, format="flac")
    stream.seek(0)
    samples, rate = read_clip(stream)
    assert rate == 8000
    np.testing.assert_allclose(samples[:, 1], -NOISE[:800], atol=2**-15)


def test_a_file_whose_name_is_no_utf8_is_read_and_named(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/L\xfcfter.wav")
    soundfile.write(os.fsencode(path), NOISE[:800], 16000)
    np.testing.assert_allclose(load_clip(path), NOISE[:800], atol=2**-15)
    np.testing.assert_array_equal(load_clip(Segment(path, 0, 0.05)), load_clip(path))
    assert printable_path(path) == str(tmp_path / "L\\xfcfter.wav")
    assert clip_name(path, 0).encode() == f"clip 0 ('{tmp_path}/L\\xfcfter.wav')".encode()
    assert file_names([path], 1) == [path]


def test_names_come_from_a_link_and_not_from_its_target(tmp_path):
    soundfile.write(tmp_path / "object", NOISE[:800], 16000, format="wav")
    link = tmp_path / "normal" / "fan.wav"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "object")
    clips = [link, Segment(link, 0.0, 0.01), NOISE]
    assert file_names(clips, 3) == [str(link), str(link), ""]
    assert clip_name(link, 0) == f"clip 0 ('{link}')"
    np.testing.assert_allclose(load_clip(link), NOISE[:800], atol=2**-15)
