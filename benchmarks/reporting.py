"""What every report says of where and how it was measured."""

from __future__ import annotations

import datetime as dt
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

__all__ = ["circumstances", "machine", "save", "stem", "table", "typed"]

REPORTS = Path(__file__).parent / "reports"


def machine() -> str:
    """This machine in a few words."""
    name = platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} x {models[0] if models else name}, {memory_gib:.0f} GiB"


def circumstances(command: str) -> str:
    """By which command, at which commit, when, where and with what."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"`{command}` at {commit or 'no commit'}, {_today()}; {machine()}; {versions}."


def stem(theme: str) -> str:
    """What a report's file is called, without its ending."""
    hardware = "".join(c if c.isalnum() else "-" for c in machine().split(",")[0]).strip("-")
    return f"{theme.replace(' ', '-')}_{hardware}_{_today()}"


def table(rows: list[tuple[str, str, str]]) -> str:
    """Of (what, measured, goal)."""
    lines = [f"| {what} | {measured} | {goal} |" for what, measured, goal in rows]
    return "\n".join(["| what | measured | goal |", "|---|---|---|", *lines])


def typed() -> str:
    """The command as it was typed; of a place on this machine only the name."""
    given = [re.sub(r"^(--[\w-]+=)?[~.]*/(.*/)?", r"\1", word) for word in sys.argv[1:]]
    return " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *given])


def save(theme: str, rows: list[tuple[str, str, str]], data: dict[str, Any]) -> None:
    """Print a table of (what, measured, goal) and keep it with command, commit and raw numbers."""
    print(table(rows))
    text = "\n".join(
        [
            f"# {theme}",
            "",
            circumstances(typed()),
            "",
            table(rows),
            "",
            "```json",
            json.dumps(data, indent=1),
            "```",
            "",
        ]
    )
    (REPORTS / f"{stem(theme)}.md").write_text(text)


def _today() -> str:
    return dt.datetime.now(tz=dt.UTC).date().isoformat()
