"""What `make docs` does besides MkDocs: CONTRIBUTING.md, which lies where tools look for it, is a page as well."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
_PAGES = "](deploy/docs/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page, with links as they are from among the other pages."""
    text = _CONTRIBUTING.read_text(encoding="utf-8").replace(_PAGES, "](")
    files.append(File.generated(config, "contributing.md", content=text))
    return files
