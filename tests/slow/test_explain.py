"""The command `explain` in a project that has been trained, and the faults that its user can mend."""

import re
from pathlib import Path

import pytest
from tests.project import Project

from bilstm_attention import cli, stages
from bilstm_attention.errors import UserError

Trained = tuple[Project, str]
SENTENCE = "The <e1>wheel</e1> of the <e2>Zyzzyva</e2> broke."


def titles(page: Path) -> list[str]:
    return re.findall(r'title="([^"]*): weight 0\.\d{4}, token', page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("given", "message"), [({}, "neither of --text and --split"), ({"text": ["a"], "split": "dev"}, "both of --text")]
)
def test_sentences_or_a_split_are_asked_for(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cli.explain(**given)


def test_the_page_is_written_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path / "notes")
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(stages, "explain", lambda *arguments: calls.append((*arguments, Path.cwd())))
    cli.explain(split="dev")
    monkeypatch.chdir(tmp_path / "notes")
    cli.explain(text=["a", "b"], seed=2, output=Path("../page.html"))
    assert calls == [
        ([], "dev", 50, None, tmp_path / "notes" / "attention.html", tmp_path),
        (["a", "b"], None, 50, 2, tmp_path / "notes" / "../page.html", tmp_path),
    ]


def test_a_split_is_shown_as_the_model_reads_it_with_the_same_bytes_again(first_repro: Trained, tmp_path: Path) -> None:
    project, _ = first_repro
    pages = [tmp_path / name for name in ("first.html", "second.html")]
    for page in pages:
        said = project.run("bilstm-attention", "explain", "--split", "dev", "--limit", "7", "--output", str(page))
        counts = re.fullmatch(rf"explain {page}: sentences 7  right (\d+)  wrong (\d+)\n", said)
        assert counts
    right, wrong = map(int, counts.groups())
    assert right + wrong == 7
    text = pages[0].read_text(encoding="utf-8")
    assert text.count("<li ") == 7
    assert f"sample, dev: 7 sentences, {right} read right, {wrong} wrong." in text
    assert "<h1>zhou u=8 seed=0</h1>" in text
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_given_text_is_tokenised_as_in_training(first_repro: Trained, tmp_path: Path) -> None:
    project, _ = first_repro
    page = tmp_path / "attention.html"
    text = ("--text", SENTENCE, "--text", "<e1>Wires</e1> cause <e2>fires</e2>")
    said = project.run("bilstm-attention", "explain", *text, "--seed", "0", "--output", str(page))
    assert said == f"explain {page}: sentences 2\n"
    assert titles(page) == [
        *[
            "the",
            "&lt;e1&gt;",
            "wheel",
            "&lt;/e1&gt;",
            "of",
            "the",
            "&lt;e2&gt;",
            "zyzzyva",
            "&lt;/e2&gt;",
            "broke",
            ".",
        ],
        *["&lt;e1&gt;", "wires", "&lt;/e1&gt;", "cause", "&lt;e2&gt;", "fires", "&lt;/e2&gt;"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "A wheel."), "error: row 0: has no markers; a relation sentence marks both entities"),
        (("--text", SENTENCE, "--text", " "), "error: row 1: an empty sentence."),
        (("--split", "dev", "--seed", "9"), "--seed 9: not one of train.seeds, [0]; no model has it."),
    ],
)
def test_a_fault_is_one_message_and_no_page(
    arguments: tuple[str, ...], message: str, first_repro: Trained, tmp_path: Path
) -> None:
    project, _ = first_repro
    page = tmp_path / "attention.html"
    said = project.run("bilstm-attention", "explain", *arguments, "--output", str(page), check=False)
    assert message in said
    assert "Traceback" not in said
    assert not page.exists()
