"""The command `explain` in a trained project, and its user errors."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from tests.project import Project

from bilstm_attention import cli, stages

SENTENCE = "The <e1>wheel</e1> of the <e2>Zyzzyva</e2> broke."


def test_page_is_written_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path / "notes")
    explain = Mock()
    monkeypatch.setattr(stages, "explain", explain)
    cli.explain(text=["a", "b"], seed=2, output=Path("../page.html"))
    explain.assert_called_once_with(["a", "b"], None, 50, 2, tmp_path / "notes/../page.html")
    assert Path.cwd() == tmp_path


def test_page_of_a_split_counts_right_and_wrong(first_repro: Project, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    printed = first_repro.run("bilstm-attention", "explain", "--split", "dev", "--limit", "7", "--output", str(page))
    counts = re.fullmatch(rf"explain {page}: sentences 7  right (\d+)  wrong (\d+)\nnow: .*\n", printed)
    assert counts
    assert sum(map(int, counts.groups())) == 7
    text = page.read_text(encoding="utf-8")
    assert text.count("<li ") == 7
    assert "dev: 7 sentences, {} right, {} wrong.".format(*counts.groups()) in text
    assert "<h1>seed 0</h1>" in text


def test_text_is_tokenised_as_in_training(first_repro: Project, tmp_path: Path) -> None:
    page = tmp_path / "attention.html"
    sentences = ("--text", SENTENCE, "--text", "<e1>Wires</e1> cause <e2>fires</e2>")
    printed = first_repro.run("bilstm-attention", "explain", *sentences, "--seed", "0", "--output", str(page))
    label, first, _, _, second, _, closing, _ = printed.splitlines()
    assert re.fullmatch(r"\S+  [01]\.\d{4}", label)
    assert first.strip() == "the <e1> wheel </e1> of the <e2> zyzzyva </e2> broke ."
    assert (second.split()[:2], closing) == (["<e1>", "wires"], f"explain {page}: sentences 2")
    tokens = re.findall(r'title="([^"]*): weight 0\.\d{4}, token', page.read_text(encoding="utf-8"))
    text = " ".join(tokens).replace("&lt;", "<").replace("&gt;", ">")
    assert text == "the <e1> wheel </e1> of the <e2> zyzzyva </e2> broke . <e1> wires </e1> cause <e2> fires </e2>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", "A wheel."), "error: row 0: has no markers; a relation sentence marks both entities"),
        (("--split", "dev", "--seed", "9"), "--seed 9: not one of train.seeds, [0]; no model has it."),
    ],
)
def test_user_error_is_one_message_and_no_page(
    options: tuple[str, ...], message: str, first_repro: Project, tmp_path: Path
) -> None:
    page = tmp_path / "attention.html"
    printed = first_repro.run("bilstm-attention", "explain", *options, "--output", str(page), check=False)
    assert message in printed
    assert "Traceback" not in printed
    assert not page.exists()
