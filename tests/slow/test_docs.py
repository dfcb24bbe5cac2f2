"""The documentation is built without a warning, and its pages load nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:)?//|<link[^>]*stylesheet[^>]*https?://""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    # links and anchors are checked by mkdocs, see `validation` in its file
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.relative_to(site): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 20
    assert {str(name) for name, text in pages.items() if LOADED.search(text)} == set()


def test_linked_result_pages_are_part_of_the_site(site: Path) -> None:
    text = (site / "sweeps.html").read_text(encoding="utf-8")
    (link,) = set(re.findall(r'href="(experiments/sweeps/README\.html|experiments/sweeps/index\.html)"', text))
    assert (site / link).is_file()


def test_reference_holds_docstrings(site: Path) -> None:
    text = (site / "reference/model.html").read_text(encoding="utf-8")
    assert "Pools a sequence of states into one vector by learned weights" in text
