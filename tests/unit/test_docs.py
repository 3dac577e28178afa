"""The documents are true where a machine can tell: links lead somewhere, commands exist, pipeline files load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from replicator import clidoc
from replicator.cli import app
from replicator.config import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ENV = {"SHOP_SOURCE_PASSWORD": "x", "SHOP_TARGET_PASSWORD": "y"}


def name(page: object) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else ""


def find_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def list_anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in LINK.findall(text):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        place = (page.parent / path) if path else page
        assert place.exists(), link
        assert not anchor or anchor in list_anchors(place), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    commands: Any = get_command(app)
    code = [*find_blocks(page, "sh"), *re.findall(r"`([^`\n]*)`", page.read_text())]
    for line in (line for block in code for line in block.splitlines()):
        if not (match := re.match(r"(?:\S*/)?replicator ([a-z]+)((?: --?[a-z-]+)*)", line)):
            continue
        assert match[1] in commands.commands, line
        known = {option for p in commands.commands[match[1]].params for option in p.opts}
        assert set(match[2].split()) <= known, line


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {t for page in PAGES for t in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test", "setup"} <= told <= targets


@pytest.mark.parametrize("page", [p for p in PAGES if find_blocks(p, "yaml")], ids=name)
def test_pipeline_files_load(page: Path, tmp_path: Path) -> None:
    for block in find_blocks(page, "yaml"):
        path = tmp_path / "pipeline.yaml"
        path.write_text(block)
        assert load(path, ENV).warnings == ()


def test_the_readme_has_a_pipeline_file() -> None:
    assert len(find_blocks(ROOT / "README.md", "yaml")) == 1


def test_the_page_of_commands_is_current() -> None:
    assert (ROOT / clidoc.REFERENCE).read_text() == clidoc.render_reference(), (
        "run: python -m replicator.clidoc"
    )


def test_every_page_is_reachable_from_the_readme() -> None:
    seen, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        places = (link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link)
        queue += [(page.parent / place).resolve() for place in places if place]
        queue += [child for place in queue if place.is_dir() for child in place.glob("*.md")]
    assert set(PAGES) <= seen
