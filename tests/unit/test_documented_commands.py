"""Command lines of the README and the documentation are legal: their commands, options and values exist."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from bilstm_attention.cli import app
from bilstm_attention.config import Params, flatten

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "experiments/results", "experiments/sweeps")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for name in FOLDERS for page in (ROOT / name).rglob("*.md")),
]
SHELL = re.compile(r"^```(?:sh|bash)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`(bilstm-attention [^`\n]+)`(?!`)")
CALL = re.compile(r"""bilstm-attention (?:'[^']*'|"[^"]*"|[^&|#'"])+""")


def command_lines(text: str) -> list[list[str]]:
    """The words of each `bilstm-attention ...` that a page shows, up to a pipe, `&&` or comment."""
    blocks = "\n".join(SHELL.findall(text)).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if "bilstm-attention " in line and "bilstm-attention[" not in line]
    shown = []
    for line in lines + SPAN.findall(text):
        for part in CALL.findall(line):
            shown.append(shlex.split(part)[1:])
    return shown


LINES = [(path, words) for path in PAGES for words in command_lines(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("path", "words"), LINES, ids=[f"{path.stem}: {' '.join(words)}" for path, words in LINES])
def test_documented_command_is_legal(path: Path, words: list[str]) -> None:
    group = typer.main.get_group(app)
    # `COMMAND --help` would end the process, and what is merely named lacks its arguments
    words = [word for word in words if word != "--help"]
    if not words:
        return
    name, command, arguments = group.resolve_command(click.Context(group), words)
    assert command is not None
    with command.make_context(name, list(arguments), resilient_parsing=len(words) == 1) as context:
        overrides = context.params.get("overrides") or ()
    assert {override.partition("=")[0] for override in overrides} <= set(flatten(Params()))


def test_pages_show_most_commands() -> None:
    commands = set(typer.main.get_group(app).commands)
    stages = {"prepare", "embed", "train", "evaluate", "report"}
    assert commands - stages <= {words[0] for _, words in LINES}
