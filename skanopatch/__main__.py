"""The program ``skanopatch``, also as ``python -m skanopatch``."""

import atexit
import gc

from skanopatch.cli import main


def run() -> None:
    """Run the command of `sys.argv`, and end the process."""
    # A short command mostly imports. Python looks for garbage among what was imported, again and
    # again and once more at exit, and finds none: with torch, a quarter of the time.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    main(prog_name="skanopatch")


if __name__ == "__main__":
    run()
