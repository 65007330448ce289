"""What following a log and reading a finished one must agree on, so that both hand out the same lines."""

MAX_LINE_BYTES = 1 << 20
"""The longest line handed out, newline included; longer ones are skipped and counted."""
