"""The commands, links, targets and paths that documents name exist."""

import csv
import re
import subprocess
from pathlib import Path

import pytest
import typer

from bilstm_attention.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs/design.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```\w*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
MADE_BY_READERS = {"mine", "reviews", "tiny", "NAME"}  # files of the examples
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *sorted(path for name in ("docs", "experiments") for path in (ROOT / name).rglob("*.md")),
]


def code(text: str) -> str:
    """Code blocks and spans."""
    return "\n".join(FENCE.findall(text) + SPAN.findall(FENCE.sub("", text)))


def words_after(command: str, text: str) -> set[str]:
    """The words that follow a command wherever the text's code calls it."""
    return set(re.findall(rf"(?<![\w/-]){command} ([a-z][a-z-]*)", code(text)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_commands_and_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    prose = SPAN.sub("", FENCE.sub("", text))
    links = {link.partition("#")[0] for link in re.findall(r"\]\(<?([^)\s>]+)", prose) if not re.match(r"\w+:|#", link)}
    assert sorted(link for link in links if not (document.parent / link).exists()) == []
    assert words_after("bilstm-attention", text) <= set(typer.main.get_group(app).commands)
    named = re.findall(r"\bexperiments/(?:comparisons|configs|benchmarks)/[\w/.-]+\.(?:yaml|py)\b", code(text))
    assert (
        sorted(name for name in named if not (ROOT / name).is_file() and Path(name).stem not in MADE_BY_READERS) == []
    )


# not those that `init` has written
CONFIGS = subprocess.run(["git", "ls-files", "experiments/configs"], cwd=ROOT, stdout=-1, text=True, check=True)


@pytest.mark.parametrize("config", [ROOT / name for name in CONFIGS.stdout.split()], ids=lambda path: path.stem)
def test_config_begins_with_a_score_of_the_results(config: Path) -> None:
    head, _ = config.read_text(encoding="utf-8").split("\n", 1)
    assert re.match("# .{60,118}$", head)
    scores, pages = re.findall(r"\d+\.\d+ ± \d+\.\d+", head), re.findall(r"experiments/results/\w+\.md", head)
    assert len(scores) == len(pages) == (config.stem != "sample")
    assert [score for score in scores if score not in (ROOT / pages[0]).read_text(encoding="utf-8")] == []


def test_results_are_those_of_the_comparison() -> None:
    with (ROOT / "experiments/results/semeval2010.csv").open(encoding="utf-8") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    shown = re.findall(r"^\| `(.+?)`:.* \| (\d+\.\d+) ± (\d+\.\d+) \| (\d+\.\d+) \|$", README, flags=re.MULTILINE)
    assert {name for name, *_ in shown} == {"zhou2016", "zhou2016-tuned", "best"}
    for name, *values in shown:
        expected = [rows[name][column] for column in ("test_mean", "test_sd", "test_ensemble")]
        assert values == [f"{float(value):.2f}" for value in expected]


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"repro", "test", "test-all"} <= words_after("make", README) <= set(targets)


def test_project_layout_exists() -> None:
    (block,) = (block for block in FENCE.findall(DESIGN) if "\nsrc/bilstm_attention/\n" in block)
    folder, named = "", []
    for line in block.splitlines():
        inside = line.startswith(" ")
        names, _, note = line.strip().partition("  ")
        named += [(folder if inside else "") + name for name in names.split()]
        if not inside:
            folder = names.split()[0]
        elif names.endswith("/"):
            named += [folder + names + name for name in re.findall(r"\w+\.py", note)]
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert "src/bilstm_attention/training/fit.py" in named
