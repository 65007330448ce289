"""sentinel finds, in a mail server's log, whose account is being abused, and can stop it.

``read_maillog`` gives a log as a pandas DataFrame, ``replay`` the detections of finished logs; ``Engine`` is the core for other
programs: chunks of log in, detections out. Names are loaded when they are used, so that ``import sentinel`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentinel.detect.detection import Detection
    from sentinel.detect.engine import Engine, Step
    from sentinel.detect.rules import load_rules
    from sentinel.errors import UserError
    from sentinel.maillog.chunk import Chunk
    from sentinel.replaying import read_maillog, replay

__all__ = ["Chunk", "Detection", "Engine", "Step", "UserError", "__version__", "load_rules", "read_maillog", "replay"]

_HOME = {
    "Chunk": "sentinel.maillog.chunk",
    "Detection": "sentinel.detect.detection",
    "Engine": "sentinel.detect.engine",
    "Step": "sentinel.detect.engine",
    "UserError": "sentinel.errors",
    "load_rules": "sentinel.detect.rules",
    "read_maillog": "sentinel.replaying",
    "replay": "sentinel.replaying",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Not at the top: this import takes longer than all the rest of a short command.
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("maillog-sentinel")
        except PackageNotFoundError:
            return "0.0.0+checkout"
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'sentinel' has no attribute '{name}'")
