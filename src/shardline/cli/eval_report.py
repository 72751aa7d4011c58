"""What `shardline eval` keeps: one object for machines, one page for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from shardline.core.errors import BadInput
from shardline.evaluation import METHODS, as_json, markdown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shardline.evaluation import Row

__all__ = ["report", "report_files", "save_report"]


def report(rows: Sequence[Row], **facts: Any) -> dict[str, Any]:
    """As machines read it; `facts` say what was measured, and how."""
    worst = max(
        (-row.change for row in rows if row.percent and row.change is not None), default=0.0
    )
    return {
        **facts,
        "torch": str(torch.__version__),
        "lost_points_max": round(100 * max(worst, 0.0), 3),
        "worse": sum(row.worse for row in rows),
        "rows": as_json(rows),
    }


def report_files(place: Path) -> tuple[Path, Path]:
    """The page and the object of a name, which may have dots of its own, or be one of the two."""
    stem = place.stem if place.suffix in {".md", ".json"} else place.name
    return place.with_name(f"{stem}.md"), place.with_name(f"{stem}.json")


def save_report(found: dict[str, Any], rows: Sequence[Row], place: Path, *notes: str) -> None:
    """Both forms, beside each other; raises BadInput where that cannot be written."""
    facts = [f"{name.replace('_', ' ')} {value}" for name, value in found.items() if name != "rows"]
    told = ", ".join(fact for fact in facts if not fact.endswith(" None"))
    page = [f"# Table 1 of {found['model']}", f"{told}.", markdown(rows), METHODS, *notes]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        page_file, object_file = report_files(place)
        object_file.write_text(json.dumps(found, indent=1) + "\n")
        page_file.write_text("\n\n".join(page) + "\n")
    except OSError as error:
        raise BadInput(f"{place} cannot be written: {error.strerror}") from None
