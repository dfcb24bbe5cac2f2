"""What a comparison found as Markdown: the table of scores, and what else its file asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bilstm_attention.reports.tables import markdown_row
from bilstm_attention.search.comparison import Comparison
from bilstm_attention.search.standings import RANKINGS, SHARES, Errors

SMALLEST_P = 0.001  # what a thousand random exchanges can show
FAITHFULNESS = (
    "**Does the attention mean anything?** On {rows} dev sentences of each training, means of all; percentage points\n"
    "of the predicted class's probability. Comprehensiveness: what deleting the tokens on top of a ranking takes away\n"
    "(higher: they were needed). Sufficiency: what is missing when they alone are left (lower: they were enough).\n"
    "Both after DeYoung et al. 2020 (arXiv:1911.03429), mean of 1, 5, 10, 20 and 50 % of the tokens, each rounded up\n"
    "to whole ones. Entropy: percent of that of uniform weights. Then where the weight lies, in percent."
)


def section(
    comparison: Comparison,
    table: pd.DataFrame,
    classes: pd.DataFrame | None,
    errors: Errors | None,
    picture: str,
) -> str:
    """A table of the page, its words above it, its picture and what else is shown below.

    Args:
        comparison: what was compared.
        table: of `standings.tabulate`.
        classes: of `standings.by_class`; None: not shown.
        errors: of the reference; None: not shown.
        picture: address of the picture, relative to the page.
    """
    parts = [
        comparison.table.about.strip(),
        _scores(comparison, table),
        f"![{comparison.monitor}, {comparison.name}]({picture})",
    ]
    if classes is not None:
        parts.append(_classes(classes))
    if errors is not None:
        parts.append(_errors(comparison, errors))
    if "faithfulness" in comparison.table.show:
        parts.append(_faithfulness(table))
    return "\n\n".join(part for part in parts if part)


def _scores(comparison: Comparison, table: pd.DataFrame) -> str:
    given, monitor, judged = comparison.table, comparison.monitor, comparison.judged_on
    of_test = [f"test {monitor}", "test, by seed", "95 % interval", "ensemble"]
    p = f"p {'on test ' if given.test else ''}against {given.reference}"
    heads = [
        *given.columns,
        "weights added",
        f"{judged} {monitor}",
        *(of_test if given.test else ["by seed", "95 % interval"]),
    ]
    alone = len(table) == 1
    lines = _head("variant", *heads, *([] if alone else [p]))
    for row in table.to_dict("records"):
        said = given.variants[row["variant"]].words
        cells = [f"`{row['variant']}`", *(said.get(column, "") for column in given.columns)]
        cells += [f"{row['weights_added']:,}", _mean_and_sd(row["mean"], row["sd"])]
        if given.test:
            cells += [_mean_and_sd(row["test_mean"], row["test_sd"]), _by_seed(row, "test_seed", given.seeds)]
            cells += [f"{row['test_low']:.2f}–{row['test_high']:.2f}", f"{row['test_ensemble']:.2f}"]
        else:
            cells += [_by_seed(row, "seed", given.seeds), f"{row['low']:.2f}–{row['high']:.2f}"]
        lines.append(_row(*cells, *([] if alone else [_p(row["p"])])))
    return "\n".join(lines)


def _classes(classes: pd.DataFrame) -> str:
    variants = [name for name in classes if name not in ("class", "items")]
    lines = [
        "F1 on test, mean over the seeds; direction counts:",
        "",
        *_head("", "items", *(f"`{name}`" for name in variants)),
    ]
    for row in classes.to_dict("records"):
        lines.append(_row(str(row["class"]), str(row["items"]), *(f"{row[name]:.1f}" for name in variants)))
    return "\n".join(lines)


def _errors(comparison: Comparison, errors: Errors) -> str:
    reference, judged = comparison.table.reference, comparison.judged_on
    lines = [f"**What `{reference}` gets wrong** on {judged}: {errors.wrong:,} of {errors.answered:,} answers."]
    if not errors.wrong:
        return lines[0]
    if errors.kinds:
        lines += ["", *_head("kind", "answers", "of the wrong ones")]
        lines += [
            _row(kind, f"{count:,}", f"{100 * count / errors.wrong:.0f} %") for kind, count in errors.kinds.items()
        ]
    lines += ["", *_head(errors.counted, "answers", "right")]
    lines += [
        _row(row["tokens"], f"{row['answers']:,}", f"{row['right']:.1f} %")
        for row in errors.by_tokens.to_dict("records")
    ]
    entities = {"first": "first entity", "second": "second entity"} if "first" in errors.examples else {}
    lines += [
        "",
        "The most frequent, and of each the wrong answer that the model was surest of (its number in the corpus, whose",
        f"sentences are not repeated here{', and its two entities' if entities else ''}):",
        "",
        *_head("gold", "answered", "answers", "sentence", *entities.values(), "probability"),
    ]
    for often, surest in zip(errors.confusions.to_dict("records"), errors.examples.to_dict("records"), strict=True):
        which = [str(surest["id"]), *(surest[name] for name in entities), f"{surest['confidence']:.0f} %"]
        lines.append(_row(often["gold"], often["predicted"], f"{often['answers']:,}", *which))
    return "\n".join(lines)


def _faithfulness(table: pd.DataFrame) -> str:
    rows = " to ".join(f"{count:.0f}" for count in sorted({*table["faithfulness_rows"].agg(["min", "max"])}))
    names = ["attention", "random", "gradient x input"]
    measures = [f"{of}: {by}" for of in ("comp.", "suff.") for by in names]
    shares = [f"on {kind.replace('_', ' ')}" for kind in SHARES]
    lines = [FAITHFULNESS.format(rows=rows), "", *_head("", *measures, "entropy", *shares)]
    for row in table.to_dict("records"):
        numbers = [row[f"{of}_{by}"] for of in ("comprehensiveness", "sufficiency") for by in RANKINGS]
        numbers += [row["entropy"], *(row[f"share_{kind}"] for kind in SHARES)]
        lines.append(_row(f"`{row['variant']}`", *(_number(number, 1) for number in numbers)))
    return "\n".join(lines)


def page(
    about: str,
    command: str,
    sections: Sequence[str],
    missing: Sequence[str],
    experiments: Sequence[str],
    name: str,
    made_with: Sequence[str],
) -> str:
    """The whole page.

    Args:
        about: Markdown at the top.
        command: that made it.
        sections: one for each table.
        missing: names of tables that are still in training.
        experiments: of MLflow, in which the runs are.
        name: of the page, a tag of each run.
        made_with: what the trainings were made with, each once.
    """
    yet = f"**Not all is here yet:** {', '.join(missing)} missing; the command goes on." if missing else ""
    runs = (
        f"Every training is a run in MLflow, in {' and '.join(f'`{each}`' for each in experiments)}, under the tags"
        " `comparison`, `table`, `variant`, `seed` and `fold` of the table that trained it first, and"
        f" under no other's. Ids of all runs, and all scores in full: [{name}.csv]({name}.csv)."
    )
    made = "\n".join(f"- {each}" for each in made_with)
    parts = [about.strip(), f"```sh\n{command}\n```", *sections, yet, runs, f"Trained with\n\n{made}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _by_seed(row: Mapping[Any, Any], name: str, seeds: Sequence[int]) -> str:
    return ", ".join(f"{row[f'{name}_{seed}']:.1f}" for seed in seeds)


def _p(p: float | None) -> str:
    """As a bound where none of the random exchanges made as much difference."""
    return f"≤ {SMALLEST_P:.3f}" if not pd.isna(p) and p < SMALLEST_P else _number(p, 3)


def _mean_and_sd(mean: float, sd: float | None) -> str:
    return f"{mean:.2f}" if pd.isna(sd) else f"{mean:.2f} ± {sd:.2f}"


def _number(number: float | None, digits: int) -> str:
    return "" if pd.isna(number) else f"{number:.{digits}f}"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row(*["---"] * len(cells))]


def _row(*cells: str) -> str:
    return markdown_row(*(cell.replace("|", r"\|") for cell in cells))
