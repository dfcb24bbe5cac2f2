"""Results of a comparison: the page in Markdown, and the picture of its scores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bilstm_attention.reports.plots import BAR, INK, house_style, write
from bilstm_attention.reports.tables import interval, markdown_table, mean_and_sd

FAITHFULNESS = (
    "**Faithfulness of the attention** on dev sentences, means of all trainings; percentage points of the predicted"
    " class's probability. Comprehensiveness: the loss when the tokens on top of a ranking are deleted (higher: they"
    " were needed). Sufficiency: the loss when they alone are left (lower: they were enough). Both after DeYoung et al."
    " 2020 (arXiv:1911.03429), mean of 1, 5, 10, 20 and 50 % of the tokens. Entropy: percent of that of uniform"
    " weights. Then where the weight lies, in percent."
)
# parts of the names of columns, replaced in this order
TITLES = {
    "comprehensiveness_": "comp.: ",
    "sufficiency_": "suff.: ",
    "gradient_input": "gradient x input",
    "share_": "on ",
    "_": " ",
}


def comparison_page(
    title: str, command: str, sections: Sequence[str], missing: Sequence[str], name: str, made_with: Sequence[str]
) -> str:
    """The whole page, with a section for each table.

    `missing` are the tables that are not trained yet, `name` is a tag of each run, and `made_with` tells of date, code,
    machine and versions of the trainings.
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
    table: pd.DataFrame,
    *,
    about: str,
    score: str,
    scored_on: str,
    reference: str,
    picture: str,
    classes: pd.DataFrame | None = None,
    errors: pd.DataFrame | None = None,
    issues: tuple[str, str] | None = None,
) -> str:
    """One table of the page, from `search.results.tabulate`, under the line `about`.

    `scored_on` is `dev`, or names the folds; the other variants are tested against `reference`. What is None is not
    shown: `classes` and `errors`, from `scores_by_class` and `frequent_confusions` of `search.results`, and `issues`, a
    variant and the address of its `label_issues`. Addresses are relative to the page.
    """
    parts = [f"## {about.strip()}"] if about else []
    parts += [markdown_table(score_rows(table, score, scored_on, reference)), f"![{score}]({picture})"]
    if classes is not None:
        parts += ["F1 on test, mean over the seeds; direction counts:", markdown_table(_one_digit(classes))]
    if errors is not None:
        about_errors = "the most frequent; of each the wrong answer with the highest confidence:"
        shown = errors.assign(confidence=errors["confidence"].map("{:.0f} %".format))
        parts += [f"**Confusions of `{reference}`** on {scored_on}, {about_errors}", markdown_table(shown)]
    if issues is not None:
        parts.append(
            f"[Possible errors of labels]({issues[1]}): training sentences whose label is not what `{issues[0]}`"
            " predicts out of fold, the most certain first."
        )
    if "entropy" in table:
        measures = table.loc[:, "comprehensiveness_attention":]
        for name, title in TITLES.items():
            measures.columns = measures.columns.str.replace(name, title)
        sentences = table["faithfulness_rows"].map("{:.0f}".format)
        shown = pd.DataFrame({"variant": "`" + table["variant"] + "`", "sentences": sentences}).join(
            _one_digit(measures)
        )
        parts += [FAITHFULNESS, markdown_table(shown)]
    return "\n\n".join(parts)


def compared_scores(table: pd.DataFrame) -> pd.DataFrame:
    """`variant`, `mean`, `sd`, `low`, `high` and a column `seed_N` per seed: of test where the models answer it."""
    prefix = "test_" if "test_mean" in table else ""
    scores = table.filter(regex=f"^{prefix}(mean|sd|low|high|seed_.*)$")
    return table[["variant"]].join(scores.rename(columns=lambda name: name.removeprefix(prefix)))


def score_rows(table: pd.DataFrame, score: str, scored_on: str, reference: str) -> pd.DataFrame:
    """The scores of each variant as text; the arguments as for `comparison_section`."""
    test, compared = "test_mean" in table, compared_scores(table)
    shown = pd.DataFrame(
        {
            "variant": "`" + table["variant"] + "`",
            "weights added": table["weights_added"].map("{:,}".format),
            f"{scored_on} {score}": table.apply(mean_and_sd, axis=1),
        }
    )
    if test:
        shown[f"test {score}"] = compared.apply(mean_and_sd, axis=1)
    shown["by seed"] = [", ".join(map("{:.1f}".format, row)) for row in compared.filter(regex="^seed_").to_numpy()]
    shown["95 % interval"] = compared.apply(interval, axis=1)
    if test:
        shown["ensemble"] = table["test_ensemble"].map("{:.2f}".format)
    if len(table) > 1:
        shown[f"p against {reference}"] = table["p"].map(_p)
    return shown


def _one_digit(table: pd.DataFrame) -> pd.DataFrame:
    """Floats with one digit as text; an unknown number is empty."""
    return table.map(lambda value: f"{value:.1f}" if isinstance(value, float) else str(value)).replace("nan", "")


def _p(p: float) -> str:
    """A bound if none of a thousand random exchanges made as much difference."""
    return "" if pd.isna(p) else "≤ 0.001" if p < 0.001 else f"{p:.3f}"


@house_style
def plot_variants(frame: pd.DataFrame, metric: str, path: Path) -> None:
    """A score (percent) of several variants, the best on top: a dot per seed, their mean as a bar, and its interval.

    A variant so far below the rest that they would get half of the width is left out: its mean stands at the edge.
    `frame` is from `compared_scores`, `path` is that of a PNG.
    """
    ordered = frame.sort_values("mean", ascending=False, kind="stable")
    places, far = np.arange(len(ordered)), _far(ordered)
    drawn, rows = ordered[~far], places[~far]
    figure = Figure(figsize=(8, 0.8 + 0.27 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(rows, drawn["low"], drawn["high"], color=BAR, linewidth=6)
    axes.plot(drawn.filter(regex="^seed_"), rows, "o", color=INK, markerfacecolor="white", markersize=5)
    axes.plot(drawn["mean"], rows, "|", color=INK, markersize=13, markeredgewidth=2)
    for place, mean in zip(places[far], ordered["mean"][far], strict=True):
        axes.annotate(f"◂ {mean:.1f}", (0, place), (3, 0), axes.get_yaxis_transform(), "offset points", va="center")
    axes.set_yticks(places, ordered["variant"])
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    # of the figure, since beside long names the axes are narrow
    score = metric.replace("_f1", " F1")
    figure.supxlabel(f"{score} in percent; dot: a seed, bar: mean, band: 95 % interval", size=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True)
    write(figure, path)


def _far(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Which variants are further below the rest than the rest is wide, among those beyond Tukey's outer fence."""
    means = frame["mean"].to_numpy(np.float64)
    first, third = np.quantile(means, [0.25, 0.75])
    near = means >= first - 3 * (third - first)
    rest = frame[near].drop(columns=["variant", "sd"]).to_numpy(np.float64)
    return np.asarray(~near & (means < rest.min() - np.ptp(rest)))
