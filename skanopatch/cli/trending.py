"""``skanopatch trend``: a page about what a watch has written for hours and weeks."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from skanopatch.cli.options import NEW_FILE_OR_STDOUT, example, write_text

_HOUR = 3600.0


@click.command(epilog=example("skanopatch trend fan.db -o trend.html"))
@click.argument("history", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", type=NEW_FILE_OR_STDOUT, required=True, help="The page (HTML).")
@click.option(
    "--source",
    metavar="PATTERN",
    help="A machine, or a pattern of files such as '/recordings/fan-3/*'.  [default: all]",
)
@click.option("--since", type=click.DateTime(), metavar="DATE", help="The first time (UTC).")
@click.option("--until", type=click.DateTime(), metavar="DATE", help="The time after it (UTC).")
@click.option(
    "--period",
    type=click.FloatRange(min=0),
    default=24.0,
    help="Hours of a cycle that is normal; 0 is for none, 168 for a week.",
)
@click.option("--title", default="Trend", help="The heading of the page.")
def trend(
    history: str,
    output: str,
    source: str | None,
    since: datetime | None,
    until: datetime | None,
    period: float,
    title: str,
) -> None:
    """Write a page about a HISTORY, the database of skanopatch watch --to sqlite:HISTORY.

    It shows the score with the threshold, alarms and gaps, and says whether it rises slowly, by a
    Mann-Kendall test that allows for a daily cycle and autocorrelation.
    """
    from skanopatch.report.trend_page import make_trend_page
    from skanopatch.streaming.history import History

    with History(history) as opened:
        windows = opened.windows(
            source=source,
            since=float("-inf") if since is None else since.replace(tzinfo=UTC).timestamp(),
            until=float("inf") if until is None else until.replace(tzinfo=UTC).timestamp(),
        )
        if windows.distance.isna().all():
            names = ", ".join(map(repr, opened.sources()[:5])) or "none"
            raise ValueError(
                f"'{history}' has no score in this time of this source. Its first sources: {names}."
            )
    write_text(output, make_trend_page(windows, title=title, period=period * _HOUR))
