"""What the README, the changelog and the pages of results name is there."""

import re
import subprocess
from pathlib import Path

import pytest
import typer

from bilstm_attention.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```\w*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PAGES = sorted((ROOT / "experiments/results").glob("*.md"))
SPAN = re.compile(r"`([^`\n]+)`")


def links(text: str) -> set[str]:
    """Every relative target of a link or an image, without its fragment."""
    prose = SPAN.sub("", FENCE.sub("", text))
    targets = re.findall(r"\]\(<?([^)\s>]+)", prose) + re.findall(r"\b(?:src|href)=\"([^\"]+)\"", prose)
    return {target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)}


def code(text: str) -> str:
    """All of it that is code."""
    return "\n".join(FENCE.findall(text) + SPAN.findall(FENCE.sub("", text)))


def named_after(command: str, text: str = README) -> set[str]:
    """The words that follow a command wherever the text's code calls it."""
    return set(re.findall(rf"(?<![\w/-]){command} ([a-z][a-z-]*)", code(text)))


def tree() -> list[str]:
    """Every path of the annotated tree, folders with a slash at the end; those in the annotations too."""
    (block,) = (block for block in FENCE.findall(README) if "\nsrc/bilstm_attention/\n" in block)
    folders: dict[int, str] = {}
    found = []
    for line in block.splitlines():
        depth = len(line) - len(line.lstrip())
        folders = {indent: folder for indent, folder in folders.items() if indent < depth}
        names, _, note = line.strip().partition("  ")
        inside = "".join(folders.values())
        found += [inside + name for name in names.split()]
        if names.endswith("/"):
            folders[depth] = names
            inside += names
        found += re.findall(r"tests/\w+", note)
        found += [name if (ROOT / name).exists() else inside + name for name in re.findall(r"\w+\.(?:py|yaml)", note)]
    return found


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_every_relative_link_and_image_leads_to_a_file(name: str) -> None:
    missing = [target for target in links((ROOT / name).read_text(encoding="utf-8")) if not (ROOT / target).is_file()]
    assert sorted(missing) == []


def test_links_and_images_are_found_and_addresses_and_code_are_not() -> None:
    text = '[a](b.md#c) ![d e](f/g.png) [h](https://i.org/j) [k](#l) `[m](n)`\n```text\n[o](p)\n```\n<img src="q.svg">'
    assert links(text) == {"b.md", "f/g.png", "q.svg"}
    assert links(README)


def test_no_placeholder_is_left_in_a_tracked_document() -> None:
    command = ["git", "ls-files", "-z", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in listed if name and (ROOT / name).is_file()}
    assert "README.md" in texts
    assert {name: left for name, text in texts.items() if (left := re.findall(r"@[A-Z]+@", text))} == {}


def test_every_command_that_the_readme_calls_exists() -> None:
    named = named_after("bilstm-attention")
    assert {"fetch", "apply"} <= named
    assert named <= set(typer.main.get_group(app).commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_of_results_calls_and_shows_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert named_after("bilstm-attention", text) <= set(typer.main.get_group(app).commands)
    files = {*re.findall(r"\bexperiments/[\w/.-]+\.(?:yaml|py)\b", code(text))}
    assert sorted(file for file in files if not (ROOT / file).is_file()) == []
    assert sorted(target for target in links(text) if not (page.parent / target).is_file()) == []


def test_every_make_target_that_the_readme_calls_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = named_after("make")
    assert {"repro", "test"} <= named
    assert named <= set(targets)


def test_every_path_of_the_annotated_tree_exists() -> None:
    paths = tree()
    missing = [path for path in paths if not (ROOT / path).exists() or (path[-1] == "/" and not (ROOT / path).is_dir())]
    assert missing == []
    assert {"dvc.yaml", "src/bilstm_attention/cli.py"} <= set(paths)
