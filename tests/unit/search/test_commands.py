"""What the sweep command says at the end is true of what it found."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from bilstm_attention.config import Params
from bilstm_attention.errors import ParamsError
from bilstm_attention.search import commands as sweeps
from bilstm_attention.search.commands import _say_winner

DEFINITION = SimpleNamespace(folder=Path("studies/s"), sweep=SimpleNamespace(metric="accuracy"))


@pytest.mark.parametrize(
    ("score", "confirmed", "p", "said"),
    [
        (77.0, True, 0.25, "77.00 on fresh seeds, p 0.250 against the second"),
        (77.0, True, None, "77.00 on fresh seeds"),
        (80.0, False, None, "not confirmed, and so too high"),
    ],
)
def test_a_score_is_said_to_be_of_fresh_seeds_only_where_it_is(
    score: float, confirmed: bool, p: float | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    best = SimpleNamespace(number=4, searched=80.0, score=score, confirmed=confirmed)
    _say_winner(DEFINITION, SimpleNamespace(finalists=[best], p=p))
    assert capsys.readouterr().out.splitlines() == [
        f"trial 4: 80.00 in the search, {said}",
        f"bilstm-attention apply studies/s/best.yaml && dvc repro gives dev accuracy {score:.2f}",
    ]


def test_a_metric_that_the_corpus_does_not_have_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("study: s\nmetric: official_f1\nspace: {model.lstm_units: [4]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "load_params", lambda path: Params())
    monkeypatch.setattr(sweeps, "check_up_to_date", lambda *since: None)
    monkeypatch.setattr("bilstm_attention.data.dataset.load_labels", lambda: ["negative", "positive"])
    with pytest.raises(ParamsError, match="metric: official_f1 is no score of this corpus"):
        sweeps.sweep(file, 1, None, sweeps.ExecutionOptions(), {})
    assert not (tmp_path / "experiments").exists()
