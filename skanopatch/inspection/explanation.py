"""ExplanationDisplay: a clip's spectrum over the range of normal ones, and what its score is of."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import Any, Self

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from skanopatch.inspection.style import BLUE, THRESHOLD_STYLE, VERMILION, Display
from skanopatch.recipes.explanation import Explanation
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.log_mel import hertz_to_mel, mel_to_hertz

_TICKS = np.array([200, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000])  # Hz, as in reports
_CHARACTERS = 100  # of a line above the axes


@dataclass
class ExplanationDisplay(Display):
    """Draw why a clip is an anomaly: its spectrum over that of normal clips, and its parts.

    Make one with `from_estimator`, or of an `Explanation`.

    Parameters
    ----------
    explanation : Explanation
        The explanation of a clip that can be read.

    Attributes
    ----------
    spectrum_ : Line2D
        The mean log-mel spectrum of the clip, in dB.
    range_ : PolyCollection
        The range from the quietest to the loudest normal clip.
    marks_ : list of Artist
        The bands and tones of the events.
    bars_ : BarContainer
        The distance of a typical normal clip, the parts by cause, and the sum. 1 is the threshold.
    ax_, bar_ax_, figure_ : Axes, Axes, Figure
        The axes of the spectrum and of the bars.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import AnomalousSoundDetector, MelPatcher
    >>> from skanopatch.inspection.explanation import ExplanationDisplay
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> detector = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(clips)
    >>> display = ExplanationDisplay.from_estimator(detector, 9 * clips[0])
    >>> display.ax_.get_ylabel()
    'level (dB)'
    """

    explanation: Explanation

    def plot(self, axes: tuple[Axes, Axes] | None = None) -> Self:
        """Draw the spectrum and the bars.

        Parameters
        ----------
        axes : pair of Axes, default=None
            For spectrum and bars. None makes a figure, with the explanation in words above them.
        """
        explained = self.explanation
        if np.isnan(explained.score):
            raise ValueError(f"{explained.name} cannot be read: there is nothing to draw.")
        if axes is None:
            figure, axes = plt.subplots(
                1, 2, figsize=(10.0, 4.2), width_ratios=(3, 2), layout="constrained"
            )
            lines = [fill(sentence, _CHARACTERS) for sentence in explained.sentences()[:-1]]
            words = "\n".join(lines)  # with a file's name, in which $ begins no formula
            figure.suptitle(words, fontsize="medium", x=0.01, ha="left", parse_math=False)
        self.bar_ax_ = axes[1]
        self._set_axes(axes[0])
        self._plot_spectrum()
        self._plot_bars()
        return self

    def _plot_spectrum(self) -> None:
        explained, ax = self.explanation, self.ax_
        middles = (explained.edges[1:] + explained.edges[:-1]) / 2
        lowest, highest = explained.normal_spectra.min(axis=0), explained.normal_spectra.max(axis=0)
        is_empty = highest - lowest < 1e-3  # a narrow filter without any bin of the FFT
        self.range_ = ax.fill_between(
            middles, lowest, highest, ~is_empty, color=BLUE, alpha=0.3, lw=0, label="normal clips"
        )
        (self.spectrum_,) = ax.plot(
            middles[~is_empty], explained.spectrum[~is_empty], "k-", lw=1.2, label="this clip"
        )
        self.marks_ = [
            ax.axvline(event.low, color=VERMILION, ls=":")
            if event.low == event.high
            else ax.axvspan(event.low, event.high, color=VERMILION, alpha=0.15, lw=0)
            for event in explained.events
            if event.low is not None and event.high is not None
        ]
        ax.set(xlim=explained.edges[[0, -1]], ylabel="level (dB)", xlabel="mel bin")
        if explained.unit == "Hz":
            ax.set_xscale("function", functions=(hertz_to_mel, mel_to_hertz))
            ticks = _TICKS[(explained.edges[0] <= _TICKS) & (explained.edges[-1] * 1.02 >= _TICKS)]
            ax.set_xticks(ticks, [f"{tick:d}" for tick in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel("frequency (Hz, mel scale)")
        ax.legend(frameon=False, fontsize="small")

    def _plot_bars(self) -> None:
        explained, ax = self.explanation, self.bar_ax_
        causes = explained.by_cause()
        names = ["typical clip", *causes, "all"]
        values = np.array([explained.typical, *causes.values(), -explained.score]) / explained.scale
        starts = np.concatenate([[0], np.cumsum(values[:-2]), [0]])
        colors = ["0.6", *[VERMILION if value > 0 else BLUE for value in values[1:-1]], "0.2"]
        self.bars_ = ax.barh(names, values, left=starts, color=colors)
        ax.bar_label(self.bars_, fmt="{:+.2f}", padding=3, fontsize="small")
        if explained.offset < 0:
            ax.axvline(1, **THRESHOLD_STYLE)
        ax.invert_yaxis()
        ax.margins(x=0.25)  # for the numbers
        ax.set_xlabel("distance (1 = threshold)" if explained.offset < 0 else "minus the score")

    @classmethod
    def from_estimator(
        cls,
        estimator: AnomalousSoundDetector,
        clip: Any,
        *,
        group: Any = None,
        axes: tuple[Axes, Axes] | None = None,
    ) -> Self:
        """Explain the score of a clip, and draw the explanation.

        Parameters
        ----------
        estimator : AnomalousSoundDetector
            Fitted.
        clip : path, array of shape (n_samples,), (array, sample_rate) or Segment
        group : hashable, default=None
            The machine of the clip, where `fit` was given groups.
        axes : pair of Axes, default=None
            As for `plot`.
        """
        groups = None if group is None else [group]
        return cls(estimator.explain([clip], groups=groups)[0]).plot(axes)
