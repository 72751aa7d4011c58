"""What is written about the house is true of it: READMEs, links, decisions, the tour."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "src" / "shardline"
ROOMS = sorted(path.parent for path in HOUSE.glob("*/__init__.py"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*"))
ROOM_README_LINES_MAX = 40
DECISION_LINES_MAX = 60
STAGES = 9

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ABROAD = re.compile(r"[a-z]+:")
STAGE = re.compile(r"^## \d+\. .*?\]\(\.\./(src/[^)]+)\)$(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"[A-Za-z0-9_.-]+")
# In pieces, so that this file does not hold what it looks for.
PIECES = [("wo", "rk/"), ("fa", "rm/"), ("ro", "ot/"), ("opt/py", "pi"), ("opt/whe", "els")]
WORKPLACES = [f"/{first}{second}" for first, second in PIECES]
OUTSIDE = {"__pycache__", "build", "dist"}


def repository_files() -> list[Path]:
    """What git keeps, or would keep once it is added; without git, what lies here."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        files = list(ROOT.rglob("*"))
    else:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in files if path.is_file() and not outside(path)]


def outside(path: Path) -> bool:
    """Environments, caches and what is built."""
    folders = set(path.relative_to(ROOT).parent.parts)
    hidden = {folder for folder in folders if folder.startswith(".")} - {".ci"}
    return bool(hidden or folders & OUTSIDE)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_every_room_has_a_short_readme_and_a_line_in_the_drawing(room: Path) -> None:
    assert (room / "README.md").read_text().count("\n") <= ROOM_README_LINES_MAX
    assert f"[{room.name}]({room.name}/README.md)" in (HOUSE / "README.md").read_text()


def test_links_between_our_pages_lead_somewhere() -> None:
    broken = [
        f"{relative(page)}: {target}"
        for page in repository_files()
        if page.suffix == ".md"
        for target in LINK.findall(FENCED.sub("", page.read_text()))
        if not ABROAD.match(target)
        and target.partition("#")[0]
        and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert broken == []


def test_decisions_are_short_and_numbered_once() -> None:
    names = [path.name for path in DECISIONS]
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name) for name in names), names
    numbers = [name[:4] for name in names]
    assert sorted(set(numbers)) == numbers
    for path in DECISIONS:
        text = path.read_text()
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        assert text.count("\n") <= DECISION_LINES_MAX, path.name


def test_every_dependency_says_why_it_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted: list[str] = list(project["project"]["dependencies"])
    for extra in project["project"].get("optional-dependencies", {}).values():
        wanted += extra
    wanted += project["dependency-groups"]["dev"]
    reasons = "\n".join(path.read_text() for path in DECISIONS if "dependencies" in path.name)
    names = [found[0] for text in wanted if (found := NAME.match(text))]
    assert [name for name in names if f"| `{name}` |" not in reasons] == []


def test_the_tour_shows_lines_that_are_there() -> None:
    stages = STAGE.findall((ROOT / "docs" / "tour.md").read_text())
    assert len(stages) == STAGES
    assert len({file for file, _ in stages}) == STAGES
    for file, text in stages:
        source = {line.strip() for line in (ROOT / file).read_text().splitlines()}
        shown = [line.strip() for block in CODE.findall(text) for line in block.splitlines()]
        assert shown, file
        assert set(shown) - source == set(), file


def test_nothing_names_the_machine_that_it_was_written_on() -> None:
    found = [
        f"{relative(path)}: {place}"
        for path in repository_files()
        for place in WORKPLACES
        if place.encode() in path.read_bytes()
    ]
    assert found == []
