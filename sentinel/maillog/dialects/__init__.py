"""Lines of mail servers that are not Postfix: sendmail, exim, qmail.

The compiled scanner finds them by their syslog tag or their stamp and leaves their text to ``read``. A reader takes a line apart with
regular expressions that are anchored where the text begins, so that a field is only taken from its own place; what each of them believes
of what strangers write stands on top of it. The rows are Postfix's: what a line of exim says at once (accepted and queued) are two rows.

Each reader is imported with the first of its lines.
"""

from importlib import import_module

from sentinel.maillog.dialects.event import Event
from sentinel.maillog.fields import DIALECTS

_readers = [None] * (len(DIALECTS) + 1)


def read(line: bytes, at: int, dialect: int) -> "list[Event] | None":
    """The rows of a line whose text begins at ``at``; empty for a line that says nothing to us, None for one that is not the server's.

    ``dialect``: its number in ``DIALECTS``, from 1.
    """
    reader = _readers[dialect]
    if reader is None:
        reader = _readers[dialect] = import_module(f"sentinel.maillog.dialects.{DIALECTS[dialect - 1]}").read
    found: list[Event] | None = reader(line, at)
    return found
