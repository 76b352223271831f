"""The report's list of bands and times at which a map is above the threshold."""

import numpy as np
import pytest
from torchaudio.compliance.kaldi import get_mel_banks

from skanopatch import MelPatcher
from skanopatch.report.moments import Axes, format_hz, worst_moments

AXES = Axes(seconds=10.0, edges=np.array([0.0, 100.0, 900.0, 1100.0, 8000.0]))


def entry(band, value, *times, is_steady=False):
    return {
        "band": band,
        "value": value,
        "is_steady": is_steady,
        "times": list(times),
        "more": 0,
    }


def test_times_of_one_band_are_one_entry_and_the_worst_band_is_first():
    odd = np.zeros((20, 2))
    odd[[3, 4, 10, 19], [0, 0, 1, 1]] = [1.5, 1.2, 2.0, 1.1]  # 4 is the slope of 3
    odd[7, 0] = 0.9
    assert worst_moments(odd, odd, AXES) == [
        entry("0.9 to 8 kHz", 2.0, (5.0, 5.5), (9.5, 10.0)),
        entry("0 to 900 Hz", 1.5, (1.5, 2.0)),
    ]


def test_there_are_no_moments_where_no_cell_is_above_the_threshold():
    odd = np.zeros((100, 1))
    odd[[0, 30, 50, 70], 0] = [0.4, 0.9, 0.2, 1.0]
    assert worst_moments(odd, odd, AXES) == []


def test_a_band_above_the_threshold_all_the_time_is_one_entry_without_times():
    rng = np.random.default_rng(0)
    odd = np.zeros((100, 4))
    odd[:, 2] = rng.uniform(2.0, 2.4, size=100)  # each cell is a peak of its own
    odd[:, 3] = 1.3  # the skirt of the tone
    (moment,) = worst_moments(odd, odd, AXES)
    assert (moment["band"], moment["times"]) == ("0.9 to 1.1 kHz", [])
    assert moment["value"] == pytest.approx(np.median(odd[:, 2]), abs=0.006)


def test_a_knock_over_a_steady_tone_is_an_entry_of_its_own():
    odd = np.full((100, 4), 0.2)
    odd[:, 1] = 1.5
    odd[40, :] = 6.0
    assert worst_moments(odd, odd, AXES) == [
        entry("0 to 8 kHz", 6.0, (4.0, 4.1)),
        entry("100 to 900 Hz", 1.5, is_steady=True),
    ]


def test_moments_in_a_band_that_is_raised_as_a_whole_say_when():
    moments = np.zeros((100, 4))
    moments[60:, 1] = 3.0
    odd = np.maximum(moments, [0.4, 13.0, 0.9, 0.2])
    assert worst_moments(odd, moments, AXES) == [
        entry("100 to 900 Hz", 13.0, (6.0, 10.0), is_steady=True)
    ]


def test_times_that_are_half_a_second_apart_or_less_are_one():
    odd = np.zeros((100, 1))
    odd[[10, 14, 20], 0] = 2.0  # 0.3 and 0.5 s lie between them
    (moment,) = worst_moments(odd, odd, AXES)
    assert moment["times"] == [(1.0, 1.5), (2.0, 2.1)]


def test_times_beyond_the_first_six_are_counted():
    odd = np.zeros((100, 1))
    odd[::10, 0] = 2.0
    (moment,) = worst_moments(odd, odd, AXES)
    assert [begin for begin, _ in moment["times"]] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert moment["more"] == 4


def test_bands_are_at_most_five():
    odd = np.zeros((100, 16))
    odd[np.arange(8) * 10, np.arange(8) * 2] = 2.0 + np.arange(8)
    moments = worst_moments(odd, odd, Axes(10.0, np.linspace(0, 1600, 17)))
    assert [moment["value"] for moment in moments] == [9.0, 8.0, 7.0, 6.0, 5.0]


@pytest.mark.parametrize("n_time", [1, 7])
def test_a_map_of_one_value_has_one_moment(n_time):
    assert len(worst_moments(*[np.full((n_time, 4), 1.5)] * 2, AXES)) == 1


def test_frequencies_are_written_in_the_unit_that_suits_them():
    assert format_hz(500) == "500 Hz"
    assert format_hz(200, 900) == "200 to 900 Hz"
    assert format_hz(900, 1234) == "0.9 to 1.2 kHz"


def test_frequency_axis_is_that_of_kaldi_s_filters():
    axes = Axes.of_patcher(MelPatcher(duration=2.0).fit([np.zeros(32000)]))
    banks, _ = get_mel_banks(128, 512, 16000.0, 20.0, 0.0, 100.0, -500.0, 1.0)
    tips = banks.argmax(dim=1).numpy() * 16000 / 512
    widths = np.diff(axes.edges)
    is_wide = widths > 16000 / 512  # elsewhere a filter is narrower than the bins of the FFT
    assert is_wide.sum() > 60
    assert (axes.edges[:-1] - 16000 / 512 <= tips)[is_wide].all()
    assert (tips <= axes.edges[1:] + 16000 / 512)[is_wide].all()
    assert axes.seconds == 12 * 16 * 0.01  # 198 frames are 12 patches
    labels, heights = zip(*axes.ticks(), strict=True)
    assert labels[-1] == "8 kHz"
    assert heights[-1] == 1
    assert (np.diff(heights) > 0.05).all()
