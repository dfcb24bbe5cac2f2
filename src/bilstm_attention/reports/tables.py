"""Scores as text: a table for the terminal, a Markdown page, and the descriptions of runs in MLflow.

In a description, an address `artifact:NAME` is a file of the run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.style import Style
from rich.table import Table
from rich.text import Text

from bilstm_attention.config import Params, flatten
from bilstm_attention.reports.attention_page import AttentionExample

LABELS_SHOWN = 30
HEAVIEST = (107, 174, 214)  # red, green and blue behind the heaviest token of a sentence


def score_table(scores: Mapping[str, Any]) -> Table:
    """The content of `scores.json` for the terminal, a row per metric of test: mean, sd, interval, other models."""
    seeds = next(iter(scores["test"].values()))["by_seed"]
    several = len(seeds) > 1
    models_shown = f"{'mean ± sd over seeds' if several else 'seed'} {', '.join(seeds)}"
    title = f"{scores['corpus']}: test scores in percent, {models_shown}"
    # narrow enough for 80 columns
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("metric")
    models = _other_models(scores, several)
    for name in ("model", "95 % interval", *(model.replace("_", "\n") for model in models)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, summary in scores["test"].items():
        others = (f"{model[name]:.2f}" for model in models.values())
        table.add_row(
            name.replace("_without_other", "\nwithout other"), mean_and_sd(summary), interval(summary), *others
        )
    return table


def score_document(scores: Mapping[str, Any], params: Params, made_with: str) -> str:
    """The content of `scores.json` as a Markdown page: protocol, scores of every seed on dev and test, other models.

    `made_with` tells of date, code, machine and versions.
    """
    test, monitor = scores["test"], params.train.monitor
    dev = scores["dev"][monitor]
    seeds = list(dev["by_seed"])
    rows = [
        [f"seed {seed}", *(f"{summary['by_seed'][seed]:.2f}" for summary in (dev, *test.values()))] for seed in seeds
    ]
    if len(seeds) > 1:
        rows.append(["**mean ± sd**", *map(mean_and_sd, (dev, *test.values()))])
    rows.append(["95 % interval", "", *map(interval, test.values())])
    for name, model in _other_models(scores, len(seeds) > 1).items():
        rows.append([name, "", *(f"{model[metric]:.2f}" for metric in test)])
    epoch = f"Dev {monitor} selects the epoch" if params.train.restore_best_weights else "The last epoch is kept"
    raw, scaled = (scores["test_calibration"][kind]["ece"]["mean"] for kind in ("raw", "scaled"))
    coverage, defaults = scores["test_coverage"], flatten(Params())
    changed = [f"`{name}={value}`" for name, value in flatten(params).items() if value != defaults[name]]
    return "\n\n".join(
        [
            f"Test scores on {scores['corpus']} in percent. {epoch}; test selects nothing.",
            markdown_table(pd.DataFrame(rows, columns=["model", f"dev {monitor}", *test])),
            f"Expected calibration error on test {raw:.2f} %; {scaled:.2f} % with the temperature of dev.",
            f"Word vectors cover {coverage['tokens']:.2f} % of the tokens of test, {coverage['types']:.2f} % of its"
            " types.",
            f"Parameters that differ from the defaults: {', '.join(changed) or 'none'}.",
            f"Made with {made_with}.",
        ]
    )


def markdown_table(table: pd.DataFrame) -> str:
    """A Markdown table of the texts in `table`."""
    escaped = table.astype(str).map(lambda text: text.replace("|", r"\|"))
    # as text, or tabulate would write 0.10 as 0.1
    return str(escaped.to_markdown(index=False, disable_numparse=True))


def describe_training(params: Params, dev: Mapping[str, float], best_epoch: int, epochs: int) -> str:
    """The description of a model with these dev scores that is not evaluated yet."""
    score = _dev_score(params, dev[params.train.monitor])
    return f"{score}, epoch {best_epoch} of {epochs}. Not evaluated on test yet.\n"


def describe_seed(params: Params, scores: Mapping[str, Any], seed: int, page: str) -> str:
    """The description of one of several evaluated models, with a link to its attention page."""
    name, test = next((name, summary["by_seed"][str(seed)]) for name, summary in scores["test"].items())
    dev = _dev_score(params, scores["dev"][params.train.monitor]["by_seed"][str(seed)])
    link = f"[Attention on sentences of dev](artifact:attention/{page})"
    return f"**test {name} {test:.2f}**; {dev}. The parent run has the mean of the seeds. {link}\n"


def describe_evaluation(params: Params, scores: Mapping[str, Any], made_with: str, pages: Sequence[str]) -> str:
    """The description of a whole evaluation: summary, links to attention `pages`, pictures, and `score_document`."""
    name, summary = next(iter(scores["test"].items()))
    spread = "" if summary["sd"] is None else f" ± {summary['sd']:.2f} over {len(pages)} seeds"
    dev = _dev_score(params, scores["dev"][params.train.monitor]["mean"])
    links = [f"[{page.removesuffix('.html')}](artifact:attention/{page})" for page in pages]
    return "\n\n".join(
        [
            f"**test {name} {summary['mean']:.2f}**{spread}, 95 % interval {interval(summary)}; {dev}",
            f"Attention on sentences of dev: {', '.join(links)}",
            # pictures come first, since MLflow cuts long texts
            "![Learning curves](artifact:plots/learning_curves.png)",
            "![Confusion matrix on test](artifact:plots/confusion.png)",
            f"{score_document(scores, params, made_with)}\n",
        ]
    )


def shaded_text(example: AttentionExample) -> Text:
    """Label and score of a sentence, and below them its tokens, the background by weight, for the terminal."""
    text, weights = Text(f"{example.predicted}  {example.probability:.4f}\n"), example.mean_weights
    for token, weight in zip(example.tokens, weights, strict=True):
        shade = weight / max(weights.max(), 1e-9)
        red, green, blue = (round(255 - shade * (255 - channel)) for channel in HEAVIEST)
        # bytes of the command line that are no UTF-8
        shown = token.encode("utf-8", "replace").decode()
        text.append(shown, Style(color="black", bgcolor=f"rgb({red},{green},{blue})") if shade > 0.02 else "").append(
            " "
        )
    return text


def model_card(
    params: Params, seed: int, scores: Mapping[str, Any], splits: Mapping[str, Any], name: str, example: str
) -> str:
    """The description of the model of the best seed: data, protocol, scores, limits, and how to load it.

    Args:
        splits: the numbers of each split, as in `summary.json`.
        name: of the registered model.
        example: a sentence that it classifies; the other arguments as for `score_document`.
    """
    seeds, data, monitor = params.train.seeds, params.data, params.train.monitor
    rows = ", ".join(f"{split} {numbers['rows']:,}" for split, numbers in splits.items())
    labels = list(dict.fromkeys(label for split in splits.values() for label in split["labels"]))
    others = f", the best on dev of the seeds {', '.join(map(str, seeds))}, whose mean ± sd follows"
    epoch = f"Dev {monitor} selects the epoch" if params.train.restore_best_weights else "The last epoch is kept"
    lines = [
        f"- {key}: dev {mean_and_sd(scores['dev'][key])}, test {mean_and_sd(test)}, 95 % interval {interval(test)}"
        for key, test in scores["test"].items()
    ]
    listed = "\n".join(lines)
    marked = " Both entities must be marked." if data.relational else ""
    return f"""**Data.** `{data.folder}`, sentences: {rows}. {len(labels)} labels: {", ".join(labels[:LABELS_SHOWN])}\
{", ..." if len(labels) > LABELS_SHOWN else ""}.

**Protocol.** Seed {seed}{others if len(seeds) > 1 else ""}. {epoch}; test selects nothing.

**Scores in percent.**

{listed}

**Limits.** The scores hold for sentences like those of the corpus. Every sentence gets one of the labels, whatever it\
 is about.{marked} Words that the vocabulary lacks are all read alike, and a sentence is cut to\
 {data.tokens.max_length} tokens. A temperature fitted on dev calibrates the probabilities.\
 Attention weights show what was pooled, which need not be the reason for a prediction.

**Use.**

```python
import mlflow, pandas

model = mlflow.pyfunc.load_model("models:/{name}@champion")
model.predict(pandas.DataFrame({{"text": ["{example}"]}}))
```
"""


def _other_models(scores: Mapping[str, Any], several: bool) -> dict[str, Mapping[str, float]]:
    """Scores of the ensemble, if there are several seeds, and of the baselines."""
    return {**({"ensemble": scores["ensemble"]} if several else {}), **scores["baselines"]}


def mean_and_sd(summary: Mapping[Any, Any]) -> str:
    """`mean` with `sd`, which is not known of a single seed."""
    return f"{summary['mean']:.2f}" if pd.isna(summary["sd"]) else f"{summary['mean']:.2f} ± {summary['sd']:.2f}"


def interval(summary: Mapping[Any, Any]) -> str:
    """From `low` to `high`."""
    return f"{summary['low']:.2f}–{summary['high']:.2f}"


def _dev_score(params: Params, score: float) -> str:
    return f"dev {params.train.monitor} {score:.{4 if params.train.monitor == 'loss' else 2}f}"
