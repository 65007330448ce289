"""Where the product's knowledge lies: inside the installed package, or beside it in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def resource(*parts: str) -> Path:
    """The path of a file or folder under ``rules/`` or ``dashboards/``."""
    installed = _PACKAGE / f"_{parts[0]}"
    return (installed if installed.is_dir() else _PACKAGE.parent / parts[0]).joinpath(*parts[1:])
