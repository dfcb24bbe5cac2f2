"""Results of a comparison as Markdown: the table of scores, and what else its file asks for."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bilstm_attention.reports.tables import markdown_table

SMALLEST_P = 0.001  # what a thousand random exchanges can show
RANKINGS = {"attention": "attention", "random": "random", "gradient_input": "gradient x input"}
FAITHFULNESS = (
    "**Faithfulness of the attention** on {rows} dev sentences of each training, means of all; percentage points of the"
    " predicted class's probability. Comprehensiveness: the loss when the tokens on top of a ranking are deleted"
    " (higher: they were needed). Sufficiency: the loss when they alone are left (lower: they were enough). Both after"
    " DeYoung et al. 2020 (arXiv:1911.03429), mean of 1, 5, 10, 20 and 50 % of the tokens. Entropy: percent of that of"
    " uniform weights. Then where the weight lies, in percent."
)


def comparison_page(
    title: str, command: str, sections: Sequence[str], missing: Sequence[str], name: str, made_with: Sequence[str]
) -> str:
    """The whole page.

    Args:
        title: one line.
        command: that made it.
        sections: one for each table.
        missing: names of tables that are still in training.
        name: of the page, a tag of each run.
        made_with: what the trainings were made with, each once.
    """
    parts = [
        f"# {title.strip()}",
        f"```sh\n{command}\n```",
        *sections,
        f"**Incomplete:** {', '.join(missing)} missing; the command goes on." if missing else "",
        f"Every training is a run in MLflow under the tags `comparison = '{name}'`, `table`, `variant`, `seed` and"
        f" `fold`. All scores in full: [{name}.csv]({name}.csv). sd is over seeds, intervals are over sentences"
        " (percentile bootstrap), p is of paired approximate randomisation over sentences, all seeds together,"
        " two-sided, each for one comparison alone.",
        "Trained with\n\n" + "\n".join(f"- {each}" for each in made_with),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def comparison_section(
    *,
    about: str,
    score: str,
    scored_on: str,
    reference: str,
    seeds: Sequence[int],
    table: pd.DataFrame,
    classes: pd.DataFrame | None,
    errors: pd.DataFrame | None,
    picture: str,
) -> str:
    """One table of the page.

    Args:
        about: one line above it.
        score: name of the score.
        scored_on: `dev`, or the folds.
        reference: the variant that the others are tested against.
        seeds: of the trainings.
        table: from `search.results.tabulate`.
        classes: from `search.results.scores_by_class`; None: not shown.
        errors: from `search.results.frequent_confusions`; None: not shown.
        picture: address of the picture, relative to the page.
    """
    parts = [
        f"## {about.strip()}" if about else "",
        _scores(table, score, scored_on, reference, seeds),
        f"![{score}]({picture})",
        "" if classes is None else _classes(classes),
        "" if errors is None else _errors(errors, reference, scored_on),
        _faithfulness(table) if "entropy" in table else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _scores(table: pd.DataFrame, score: str, scored_on: str, reference: str, seeds: Sequence[int]) -> str:
    test = "test_mean" in table
    prefix = "test_" if test else ""
    columns: dict[str, Any] = {
        "variant": [f"`{name}`" for name in table["variant"]],
        "weights added": [f"{count:,}" for count in table["weights_added"]],
        f"{scored_on} {score}": _means(table, ""),
    }
    if test:
        columns[f"test {score}"] = _means(table, "test_")
    columns["by seed"] = [
        ", ".join(f"{row[f'{prefix}seed_{seed}']:.1f}" for seed in seeds) for row in table.to_dict("records")
    ]
    limits = zip(table[f"{prefix}low"], table[f"{prefix}high"], strict=True)
    columns["95 % interval"] = [f"{low:.2f}–{high:.2f}" for low, high in limits]
    if test:
        columns["ensemble"] = [f"{value:.2f}" for value in table["test_ensemble"]]
    if len(table) > 1:
        columns[f"p against {reference}"] = [_p(value) for value in table["p"]]
    return markdown_table(pd.DataFrame(columns))


def _means(table: pd.DataFrame, prefix: str) -> list[str]:
    pairs = zip(table[f"{prefix}mean"], table[f"{prefix}sd"], strict=True)
    return [f"{mean:.2f}" if pd.isna(sd) else f"{mean:.2f} ± {sd:.2f}" for mean, sd in pairs]


def _classes(classes: pd.DataFrame) -> str:
    shown = classes.rename(columns={name: f"`{name}`" for name in classes if name not in ("class", "items")})
    shown = shown.map(lambda value: f"{value:.1f}" if isinstance(value, float) else str(value))
    return f"F1 on test, mean over the seeds; direction counts:\n\n{markdown_table(shown)}"


def _errors(errors: pd.DataFrame, reference: str, scored_on: str) -> str:
    shown = errors.assign(confidence=[f"{value:.0f} %" for value in errors["confidence"]])
    return (
        f"**Confusions of `{reference}`** on {scored_on}, the most frequent; of each the wrong answer with the highest"
        f" confidence:\n\n{markdown_table(shown)}"
    )


def _faithfulness(table: pd.DataFrame) -> str:
    rows = " to ".join(f"{count:.0f}" for count in sorted({*table["faithfulness_rows"].agg(["min", "max"])}))
    columns: dict[str, Any] = {"variant": [f"`{name}`" for name in table["variant"]]}
    for measure in ("comprehensiveness", "sufficiency"):
        columns |= {
            f"{measure[:4]}.: {title}": _one_digit(table[f"{measure}_{ranking}"]) for ranking, title in RANKINGS.items()
        }
    columns["entropy"] = _one_digit(table["entropy"])
    for column in [name for name in table if str(name).startswith("share_")]:
        columns[f"on {str(column).removeprefix('share_').replace('_', ' ')}"] = _one_digit(table[column])
    return f"{FAITHFULNESS.format(rows=rows)}\n\n{markdown_table(pd.DataFrame(columns))}"


def _one_digit(values: "pd.Series[float]") -> list[str]:
    return ["" if pd.isna(value) else f"{value:.1f}" for value in values]


def _p(p: float) -> str:
    """A bound if none of the random exchanges made as much difference."""
    return "" if pd.isna(p) else f"≤ {SMALLEST_P:.3f}" if p < SMALLEST_P else f"{p:.3f}"
