"""``python -m skanopatch`` is the command ``skanopatch``."""

from skanopatch.cli import main

main(prog_name="skanopatch")
