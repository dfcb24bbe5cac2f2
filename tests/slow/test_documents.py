"""The programs in the documentation run, and print what stands beneath them; the tutorial runs and holds no output."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
SNIPPET = ROOT / "docs/snippet.md"
TUTORIAL = ROOT / "docs/tutorial.ipynb"
# a program and, if the next block is text, what it prints
PROGRAM = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", flags=re.MULTILINE | re.DOTALL)


def run_programs(page: Path) -> list[tuple[str, str]]:
    """What each program of a page is said to print, and what it prints; they share their names."""
    names: dict[str, Any] = {}
    printed = []
    for program, shown in PROGRAM.findall(page.read_text(encoding="utf-8")):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(program, names)
        printed.append((shown, output.getvalue()))
    return printed


def test_programs_of_the_snippet_print_what_its_page_shows() -> None:
    # with `mask_zero`, as the page says
    with pytest.warns(UserWarning, match="will therefore destroy the mask information"):
        outputs = run_programs(SNIPPET)
    assert [shown for shown, _ in outputs] == [printed for _, printed in outputs]
    assert len([shown for shown, _ in outputs if shown]) == 3


def test_tutorial_has_no_outputs() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) == 10
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []
    # nothing of the machine or of the editor it was written on
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert [cell for cell in notebook.cells if cell.metadata] == []


def test_tutorial_runs() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    # an error of a cell is raised
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": TUTORIAL.parent}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 2
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
