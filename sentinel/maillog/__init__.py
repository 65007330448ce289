"""Bytes of a mail log to a table of events. No I/O, no clock: time is what the log says."""
