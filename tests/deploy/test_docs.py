"""The documentation: what it says of the commands is what they say, its links lead somewhere, and it asks nobody."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "deploy" / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


def links(page: Path) -> list[str]:
    """The targets of a page's links to files and anchors of the repository."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    return [target for target in _LINK.findall(text) if not urlsplit(target).scheme]


def anchors(page: Path) -> set[str]:
    """What GitHub and MkDocs alike call the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{page.name}: {target}"
        assert file.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_links_are_found() -> None:
    assert {"deploy/docs/operations.md", "deploy/docs/pictures/demo.png"} <= set(links(ROOT / "README.md"))
    assert "#a-worker-was-killed" in links(DOCS / "operations.md")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 7_000


def test_the_commands_page_says_what_the_commands_say() -> None:
    script = runpy.run_path(str(ROOT / "deploy" / "commands_page.py"))
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert script["written"](page) == page, "run: python deploy/commands_page.py"


class Loaded(HTMLParser):
    """What a browser loads by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if (value := dict(attributes).get(_LOADING.get(tag, ""))) is not None:
            self.addresses.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as `make docs` builds them."""
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "deploy/mkdocs.yml"]
    built = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.long
def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {file.stem: file for file in site.glob("*.html")}
    assert {page.stem for page in DOCS.glob("*.md")} | {"contributing"} == pages.keys() - {"404"}
    assert 'href="design.html"' in pages["contributing"].read_text(encoding="utf-8")
    for file in pages.values():
        loaded = Loaded()
        loaded.feed(file.read_text(encoding="utf-8"))
        assert loaded.addresses
        assert not [address for address in loaded.addresses if urlsplit(address).netloc], file.name
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", styles)
