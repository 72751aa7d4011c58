"""Where a command's table goes: as wide as the terminal or, in a pipe, as the table needs."""

from __future__ import annotations

from rich.console import Console

__all__ = ["table_console"]

FILE_COLUMNS = 200
"""How wide the table may be where nobody's terminal sets a limit."""


def table_console() -> Console:
    """What prints a table to stdout."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, FILE_COLUMNS)
    return console
