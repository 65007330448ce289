"""``python -m sentinel`` is the command."""

from sentinel.cli import entry

entry()
