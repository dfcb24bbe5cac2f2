"""Hooks of mkdocs: links of the pages work in the repository and on the site.

A page links to files as they lie in the repository, `../experiments/results/speed.md`. Linked files outside `docs`
become part of the site under their path in the repository, and links to them are rewritten. A notebook becomes a page.
"""

import json
import re
from collections.abc import Iterator
from os.path import normpath, relpath
from pathlib import Path
from posixpath import dirname
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the linked files of the repository, those that they link to, and notebooks as pages."""
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        notebook = json.loads(file.content_string)
        files.append(File.generated(config, to_site(f"docs/{file.src_uri}"), content=notebook_page(notebook)))
        files.remove(file)
    pages = [file for file in files if file.is_documentation_page()]
    while pages:
        page = pages.pop()
        for target in links(page.content_string, to_repository(page.src_uri)):
            if not files.get_file_from_path(to_site(target)) and (ROOT / target).is_file():
                file = File.generated(config, to_site(target), abs_src_path=str(ROOT / target))
                files.append(file)
                pages += [file] * file.is_documentation_page()
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links to files that lie elsewhere on the site."""
    source = page.file.src_uri

    def rewrite(link: re.Match[str]) -> str:
        target = to_site(resolve(link[1], to_repository(source)))
        return relpath(target, dirname(source) or ".") if files.get_file_from_path(target) else link[1]

    return LINK.sub(rewrite, markdown)


def notebook_page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook as Markdown, without outputs."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts) + "\n"


def links(markdown: str, source: str) -> Iterator[str]:
    """Paths in the repository that a page of it links to."""
    return (resolve(link, source) for link in LINK.findall(markdown))


def resolve(link: str, source: str) -> str:
    """The path in the repository to which a page links."""
    return normpath(f"{dirname(source)}/{link}" if dirname(source) else link)


def to_site(path: str) -> str:
    """The path on the site of a path in the repository."""
    if path == "README.md":
        return "index.md"
    return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))


def to_repository(path: str) -> str:
    """The reverse of `to_site`."""
    source = ROOT / "docs" / path
    return f"docs/{path}" if source.exists() or source.with_suffix(".ipynb").exists() else path
