"""``skanopatch watch``: score what comes, all day, and raise alarms."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from skanopatch.cli import options
from skanopatch.cli.models import load

if TYPE_CHECKING:
    from skanopatch.streaming.live import Stop

_STANDARD_INPUT, _MICROPHONE = "-", "mic"
_SQLITE = "sqlite:"
_SECONDS = click.FloatRange(min=0, min_open=True)


@click.command(
    epilog=options.example("skanopatch watch fan.skano recordings/new --once --to sqlite:fan.db")
)
@options.MODEL
@click.argument("source")
@click.option(
    "--to",
    "sinks",
    multiple=True,
    metavar="URL",
    default=("jsonl:-",),
    help="Where results go; may be given several times. jsonl:FILE, csv:FILE, sqlite:FILE, "
    "mqtt://HOST/TOPIC, https://..., prometheus:PORT; - is standard output.",
)
@click.option("--on", type=_SECONDS, default=1.0, help="The score above which an alarm begins.")
@click.option(
    "--off",
    type=_SECONDS,
    show_default="0.8 times --on, or what 3/4 of the normal windows are below",
    help="The score below which it ends.",
)
@click.option(
    "--for",
    "persistence",
    type=click.IntRange(min=1),
    default=3,
    help="Windows in a row that begin or end an alarm.",
)
@click.option(
    "--false-alarm-rate",
    type=options.RATE,
    show_default="that of fit",
    help="Scale the scores so that 1 is the threshold of this rate: the share of new normal "
    "windows that may be beyond it.",
)
@click.option(
    "--alarms-per-hour",
    type=_SECONDS,
    help="Choose the false-alarm rate so that an hour of normal sound raises at most so many.",
)
@click.option("--hop", type=_SECONDS, show_default="that of fit", help="Seconds between windows.")
@options.GROUP
@click.option("--name", help="What results call live sound.  [default: SOURCE]")
@click.option("--sample-rate", type=click.IntRange(min=1), help="Of raw PCM or a microphone, Hz.")
@click.option("--channels", type=click.IntRange(min=1), default=1, help="Of these.")
@click.option(
    "--format",
    "sample_format",
    default="s16le",
    metavar="FORMAT",
    help="Of raw PCM, as ffmpeg calls it: u8, s8, s16le, s24le, s32le, f32le, f64le; be for le.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Skip the oldest sound of standard input when scoring is too slow, rather than making "
    "the program that writes it wait.",
)
@click.option("--once", is_flag=True, help="End when all files in the folder are scored.")
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=1.0,
    help="Seconds for which a file has not changed when it is complete.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False),
    show_default="a file of the user; none with --to sqlite:",
    help="Where it stands how far files were scored.",
)
@click.option("--again", is_flag=True, help="Score files that were scored before.")
def watch(
    model: str,
    source: str,
    sinks: tuple[str, ...],
    on: float,
    off: float | None,
    persistence: int,
    false_alarm_rate: float | None,
    alarms_per_hour: float | None,
    hop: float | None,
    group: str | None,
    name: str | None,
    again: bool,
    state: str | None,
    **settings: Any,
) -> None:
    """Score a SOURCE with a MODEL file, window by window, until it ends or is stopped.

    SOURCE is a folder that grows, a recording, - for standard input (WAV or raw PCM), or mic or
    mic:DEVICE for a microphone.

    Ctrl-C and SIGTERM finish the window in work and write all results; the next start goes on
    there. A second Ctrl-C ends at once.

    Exit codes: 0 stopped, or the source ended; 1 an error, or results were lost; 2 wrong usage; 130
    a second Ctrl-C.
    """
    if alarms_per_hour is not None and (false_alarm_rate is not None or on != 1):
        raise click.UsageError("--alarms-per-hour excludes --false-alarm-rate and --on.")
    if off is not None and off > on:
        raise click.UsageError(f"--off must be at most --on. Got {off:g} and {on:g}.")
    is_live = source in (_STANDARD_INPUT, _MICROPHONE) or source.startswith(f"{_MICROPHONE}:")
    if is_live and again:
        raise click.UsageError("--again is for files and folders: live sound comes once.")
    if not is_live and not os.path.exists(source):
        raise click.UsageError(f"SOURCE '{source}' is no file or folder.")
    with ExitStack() as stack:
        stop = stack.enter_context(_stop_signals())  # also while torch is imported
        from skanopatch.streaming.alarms import make_alarm
        from skanopatch.streaming.scoring import WindowScorer
        from skanopatch.streaming.sinks import open_sink
        from skanopatch.streaming.watching import Watch

        loaded, group = load(model, group)
        _place_threshold(loaded, false_alarm_rate, alarms_per_hour, hop, persistence)
        alarm = make_alarm(loaded, on=on, off=off, persistence=persistence)
        scorer = WindowScorer(loaded, alarm=alarm, group=group)
        if hop is not None and hop > scorer.duration:
            raise click.UsageError(
                f"--hop must be at most the {scorer.duration:g} s of a window. Got {hop:g}."
            )
        database = next((u.removeprefix(_SQLITE) for u in sinks if u.startswith(_SQLITE)), None)
        if state is None and database is None and not is_live:
            state = _state_file(model, source)
        progress = _progress(state, database, again)
        stack.callback(progress.close)
        # The database comes last: it says from where the next start goes on.
        ordered = sorted(sinks, key=lambda url: url.startswith(_SQLITE))
        opened = [stack.enter_context(open_sink(url)) for url in ordered]
        watcher = Watch(scorer, opened, progress, stop=stop, say=_say, hop=hop)
        _run(watcher, source, name or source, stop, scorer, stack, settings)
    ending = "Stopped" if stop.is_set() else "Done"
    _say(
        f"{ending}: {watcher.n_windows} windows, {watcher.n_alarms} alarms, "
        f"{watcher.n_unscored} without a score."
    )
    n_lost = sum(sink.n_lost for sink in opened)
    if n_lost:
        raise click.ClickException(
            f"{n_lost} results could not be delivered and are lost. The warnings say where."
        )


def _run(
    watcher: Any,
    source: str,
    name: str,
    stop: Stop,
    scorer: Any,
    stack: ExitStack,
    settings: dict[str, Any],
) -> None:
    """Watch a source to its end, or until `stop` is set."""
    from skanopatch.streaming.live import BlockQueue, open_microphone, read_descriptor

    rate, n_channels = settings["sample_rate"], settings["channels"]
    if source == _STANDARD_INPUT:
        queue = BlockQueue(stop, is_live=settings["live"])
        read_descriptor(
            queue,
            0,
            sample_rate=rate,
            n_channels=n_channels,
            sample_format=settings["sample_format"],
        )
        watcher.stream(queue, name)
    elif os.path.isdir(source):
        watcher.folder(source, settle=settings["settle"], once=settings["once"])
    elif os.path.exists(source):
        watcher.file(source)
    else:
        queue = BlockQueue(stop, is_live=True)
        device = source.partition(":")[2] or None
        rate = rate or scorer.patcher.sample_rate
        stack.enter_context(open_microphone(queue, device, sample_rate=rate, n_channels=n_channels))
        watcher.stream(queue, name)


def _place_threshold(
    model: Any,
    false_alarm_rate: float | None,
    alarms_per_hour: float | None,
    hop: float | None,
    persistence: int,
) -> None:
    """Move the threshold of a model to a rate of windows, or of alarms."""
    from skanopatch.inspection.decisions import decider, patcher_of, unwrap
    from skanopatch.streaming.alarm_rates import false_alarm_rate_for, neighbour_correlation

    detector = decider(model)
    if alarms_per_hour is not None:
        hop = hop or getattr(detector, "hop", None) or patcher_of(model).duration_
        correlation = neighbour_correlation(unwrap(model), hop)
        false_alarm_rate = false_alarm_rate_for(alarms_per_hour, hop, persistence, correlation)
        known = "unknown" if correlation is None else f"at most {correlation:.2f}"
        _say(
            f"At most {alarms_per_hour:g} alarms an hour of normal sound: {false_alarm_rate:.2%} "
            f"of windows every {hop:g} s may be beyond the threshold, {persistence} in a row "
            f"raise an alarm (correlation of neighbouring windows: {known})."
        )
        n_normal = len(detector.training_scores_)
        if false_alarm_rate * (n_normal + 1) < 1:
            _say(
                f"The {n_normal} normal windows of fit reach down to a rate of "
                f"{1 / (n_normal + 1):.2%}: below it the threshold rests on the distribution that "
                "was fitted to them."
            )
    if false_alarm_rate is not None:
        detector.set_false_alarm_rate(false_alarm_rate)


def _progress(state: str | None, database: str | None, again: bool) -> Any:
    """Return what was scored before: by a state file, else by the database of a SQLite sink."""
    from skanopatch.streaming.progress import Progress

    if state is None:
        if database is None or again or not os.path.exists(database):
            return Progress()
        from skanopatch.streaming.history import History

        return Progress(history=History(database))
    if again and os.path.exists(state):
        os.remove(state)
    progress = Progress(state)
    if progress.n_sources:
        _say(
            f"{progress.n_sources} files were scored before ('{state}'): --again scores them anew."
        )
    return progress


def _state_file(model: str, source: str) -> str:
    """Return a file of the user for a model and a source."""
    key = "\0".join(map(os.path.abspath, (model, source)))
    digest = hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
    return os.path.join(click.get_app_dir("skanopatch"), "watch", f"{digest}.jsonl")


@contextmanager
def _stop_signals() -> Iterator[Stop]:
    """Request a stop on SIGINT and SIGTERM; a second SIGINT is a KeyboardInterrupt."""
    from skanopatch.streaming.live import Stop

    stop = Stop()

    def request(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    previous = {
        number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
