"""Runs side by side on one page that needs nothing else: scores, significance, parameters, pictures, attention."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from bilstm_attention.errors import UserError
from bilstm_attention.experiment import scoring
from bilstm_attention.experiment.archive import Evaluated
from bilstm_attention.experiment.official import none_last
from bilstm_attention.insight import plots
from bilstm_attention.insight.html import environment
from bilstm_attention.insight.reading import AttentionExample
from bilstm_attention.paths import written_whole

SENTENCES = 8


@dataclass(frozen=True)
class Score:
    """A score on one split, of one run.

    Args:
        mean: over its seeds, in percent.
        sd: over its seeds; None: there is one.
        low: of the 95 % interval of the sentences.
        high: its other end.
        p: against the first run; None: it is that, or they have not as many seeds.
    """

    mean: float
    sd: float | None
    low: float
    high: float
    p: float | None


def check_comparable(runs: Sequence[Evaluated]) -> None:
    """Whether runs answered the same sentences.

    Raises:
        UserError: one answered others.
    """
    first = runs[0]
    for other in runs[1:]:
        for split, one, two in (("dev", first.dev, other.dev), ("test", first.test, other.test)):
            if not one[["id", "gold"]].equals(two[["id", "gold"]]):
                raise UserError(
                    f"{other.name}, run {other.run}, was judged on other {split} sentences than {first.name}, run"
                    f" {first.run}: their scores cannot stand side by side."
                )


def report(
    runs: Sequence[Evaluated], monitor: str, attention: Mapping[int, Sequence[AttentionExample]], path: Path
) -> None:
    """Writes the page; the epoch that the curves mark is kept as by the first run.

    Args:
        runs: comparable ones, the one that the others are compared with first.
        monitor: the dev score of the curves.
        attention: by place among `runs`, how its model read the same few sentences.
        path: the HTML file to write.
    """
    tables = {split: _scores([getattr(run, split) for run in runs]) for split in ("dev", "test")}
    names = dict.fromkeys(key for run in runs for key in run.params)
    differing = {name: values for name in names if len(set(values := [run.params.get(name, "") for run in runs])) > 1}
    curves = {
        (run.name if len(run.seeds) == 1 else f"{run.name}, seed {seed}"): history
        for run in runs
        for seed, history in run.histories.items()
    }
    labels = none_last(set(runs[0].test["gold"]))
    best = runs[0].params["train.restore_best_weights"] == "True"
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            runs=runs,
            tables=tables,
            differing=differing,
            sentences=[len(runs[0].dev), len(runs[0].test)],
            curves=_picture(lambda file: plots.learning_curves(curves, monitor, file, best)),
            confusions=[_picture(partial(plots.confusion_matrix, _confusion(run, labels))) for run in runs],
            attention=[[attention[place][row] for place in attention] for row in range(_shown(attention))],
            readers=[runs[place].name for place in attention],
        )
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def telling(runs: Sequence[Evaluated]) -> list[str]:
    """Ids of a few dev sentences: first those that the runs answered differently, in the order of dev."""
    answers = np.array([run.dev.iloc[:, 2] for run in runs])
    alike = (answers == answers[0]).all(axis=0)
    order = np.argsort(alike, kind="stable")[:SENTENCES]
    return [str(runs[0].dev["id"].iloc[number]) for number in sorted(order)]


def _scores(tables: Sequence[pd.DataFrame]) -> dict[str, list[Score]]:
    gold = tables[0]["gold"].tolist()
    answers = [table.iloc[:, 2:].T.to_numpy().tolist() for table in tables]
    labels = sorted({*gold, *(label for by_seed in answers for predicted in by_seed for label in predicted)})
    found: dict[str, list[Score]] = {}
    for name in scoring.metric_names(labels):
        for by_seed in answers:
            spread = scoring.spread_over_seeds(
                {seed: scoring.scores(gold, predicted, labels)[name] for seed, predicted in enumerate(by_seed)}
            )
            low, high = scoring.bootstrap_interval(gold, by_seed, name, repeats=1000, seed=0)
            paired = by_seed is not answers[0] and len(by_seed) == len(answers[0])
            p = scoring.compare(gold, answers[0], by_seed, name) if paired else None
            found.setdefault(name, []).append(Score(spread["mean"], spread["sd"], low, high, p))
    return found


def _confusion(run: Evaluated, labels: Sequence[str]) -> pd.DataFrame:
    """On test, summed over the seeds."""
    gold, answers = run.test["gold"].tolist(), [run.test[name].tolist() for name in run.test.columns[2:]]
    found = none_last({*labels, *(label for predicted in answers for label in predicted)})
    counts = [scoring.confusion(gold, predicted, found) for predicted in answers]
    return pd.DataFrame(sum(count.to_numpy() for count in counts), index=counts[0].index, columns=counts[0].columns)


def _shown(attention: Mapping[int, Sequence[AttentionExample]]) -> int:
    return min((len(examples) for examples in attention.values()), default=0)


def _picture(draw: Callable[[Path], None]) -> str:
    """A picture as an address that holds it."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        draw(file)
        return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
