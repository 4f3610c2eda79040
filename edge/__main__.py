"""``python -m edge`` is the ``edge`` command."""

from edge.cli.main import run

run()
