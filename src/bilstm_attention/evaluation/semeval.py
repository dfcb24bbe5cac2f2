"""The official SemEval-2010 Task 8 scorer: answer files, the three evaluations, and their report.

Written from the task's description and held to its published example results (Hendrickx et al. 2010). It fits any
corpus whose labels are `Name(e1,e2)`, `Name(e2,e1)` or a none label, such as KBP37. Models are scored by `metrics.py`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bilstm_attention.data.relations import NONE_LABELS, is_directed, none_last, relation_of
from bilstm_attention.errors import DataError, did_you_mean, join_lines
from bilstm_attention.evaluation.metrics import percent, precision_recall_f1

SEMEVAL_RELATIONS = (
    *("Cause-Effect", "Component-Whole", "Content-Container", "Entity-Destination", "Entity-Origin"),
    *("Instrument-Agency", "Member-Collection", "Message-Topic", "Product-Producer"),
)
DIRECTIONS = ("(e1,e2)", "(e2,e1)")
SEMEVAL_LABELS = (*(name + direction for name in SEMEVAL_RELATIONS for direction in DIRECTIONS), "Other")


class Average(NamedTuple):
    """Precision, recall and F1 over the relations of a view, the none label left out, in percent."""

    precision: float
    recall: float
    f1: float


class View(NamedTuple):
    """One of the three evaluations of the same answers; a ratio over nothing is 0, scores are in percent."""

    title: str  # what this view counts as correct
    confusion: pd.DataFrame  # items; rows: labels of the key, columns: those, then labels that the key does not have
    # Per row `correct`, `predicted`, `gold` (items), `precision`, `recall`, `f1`; `skipped`, items without an answer;
    # `wrong_direction`, items with the right relation in the wrong direction if they are not in `confusion`, else 0.
    per_relation: pd.DataFrame
    micro: Average  # from the summed counts of the rows but the none label; answers absent from the key count nowhere
    macro: Average  # the mean over the rows but the none label
    shares: dict[str, tuple[int, int]]  # part and whole, in items: those with an answer, and three kinds of accuracy


class OfficialResult(NamedTuple):
    """The three views of the official scorer, in its order."""

    directed: View
    undirected: View
    official: View

    @property
    def score(self) -> float:
        """The official score: macro F1 over the relations of the key, direction counted, in percent."""
        return self.official.macro.f1


def read_answers(path: Path | str, labels: Collection[str] | None = None) -> dict[str, str]:
    """Reads the official answer format, one `ID<TAB>label` a line in any order, into a label for each id.

    The file is UTF-8, its blank lines are ignored. Legal are `labels`, by default every relation with a direction, and
    the none labels.

    Raises:
        DataError: the file cannot be read, or lines are malformed, hold an unknown label, or answer an id again.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({fault}).") from fault
    answers: dict[str, str] = {}
    first_line: dict[str, int] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        key, tab, label = line.partition("\t")
        if not (tab and key.strip() and label):
            faults.append(f"{path}:{number}: {line!r} is not ID<TAB>label")
        elif key in first_line:
            faults.append(f"{path}:{number}: id {key!r} was answered in line {first_line[key]} already")
        elif label not in labels if labels else not (is_directed(label) or label in NONE_LABELS):
            faults.append(f"{path}:{number}: unknown label {label!r}{did_you_mean(label, labels or SEMEVAL_LABELS)}")
        first_line.setdefault(key, number)
        answers[key] = label
    if faults:
        raise DataError(
            f"{path}: faulty lines: {len(faults)}. A line is ID<TAB>label, each id once, "
            f"the label such as {next(iter(labels or SEMEVAL_LABELS))!r}.\n{join_lines(faults)}"
        )
    return answers


def legal_answers(gold: Iterable[str]) -> list[str]:
    """The labels that may answer a key: SemEval's if all its labels are, else both directions of its relations."""
    labels = set(gold)
    if labels <= set(SEMEVAL_LABELS):
        return list(SEMEVAL_LABELS)
    relations = {relation_of(label) for label in labels} - set(NONE_LABELS)
    return [name + direction for name in sorted(relations) for direction in DIRECTIONS] + list(NONE_LABELS)


def write_answers(path: Path | str, ids: Iterable[object], labels: Iterable[str]) -> None:
    """Writes the official answer format, one `ID<TAB>label` a line."""
    lines = [f"{key}\t{label}\n" for key, label in zip(ids, labels, strict=True)]
    Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")


def evaluate_official(gold: Mapping[str, str], answers: Mapping[str, str]) -> OfficialResult:
    """Scores answers, a label for each id or for some, against the key by the three evaluations of the scorer.

    Raises:
        DataError: an empty key, an answer to an id that the key lacks, or a label that is no relation.
    """
    if not gold:
        raise DataError("the key holds no ids; give the file that holds the gold labels.")
    if unknown := [key for key in answers if key not in gold]:
        raise DataError(
            f"answers to ids that the key does not hold: {len(unknown)}. "
            f"Score against the key of the same items.\n{join_lines(unknown)}"
        )
    pairs = [(label, answers.get(key)) for key, label in gold.items()]
    relations, rest, wrong = [], [], Counter[str]()
    for label, answer in pairs:
        relation, answered = relation_of(label), answer and relation_of(answer)
        relations.append((relation, answered))
        if relation == answered and label != answer:
            wrong[relation] += 1
        else:
            rest.append((relation, answered))
    return OfficialResult(
        _view("1. Relation and direction as one label", pairs, Counter()),
        _view("2. Relation alone, direction ignored", relations, Counter()),
        _view("3. Relation, direction taken into account (official)", rest, wrong),
    )


def _view(title: str, pairs: Sequence[tuple[str, str | None]], wrong_direction: Counter[str]) -> View:
    counts = Counter(pairs)
    rows = none_last({label for label, _ in pairs} | set(wrong_direction))
    columns = rows + none_last({answer for _, answer in pairs if answer is not None} - set(rows))
    confusion = pd.DataFrame([[counts[row, column] for column in columns] for row in rows], rows, columns)
    table = pd.DataFrame({"correct": [counts[row, row] for row in rows]}, index=rows)
    skipped = pd.Series([counts[row, None] for row in rows], rows)
    wrong = pd.Series([wrong_direction[row] for row in rows], rows)
    # The right relation in the wrong direction was predicted and was gold, so it lowers precision and recall.
    table["predicted"] = confusion[rows].sum() + wrong
    table["gold"] = confusion.sum(axis=1) + wrong + skipped
    table["precision"], table["recall"], table["f1"] = precision_recall_f1(*table.to_numpy().T)
    real = table[~table.index.isin(NONE_LABELS)]
    micro = Average(*map(float, precision_recall_f1(*real[["correct", "predicted", "gold"]].to_numpy().sum(axis=0))))
    macro = Average(*map(float, real[list(Average._fields)].mean().fillna(0.0)))
    correct, total = int(table["correct"].sum()), int(table["gold"].sum())
    answered = total - int(skipped.sum())
    shares = {
        "answered": (answered, total),
        "accuracy over the answered": (correct, answered),
        "accuracy, skipped is wrong": (correct, total),
        "accuracy, skipped is Other": (correct + int(skipped.drop(real.index).sum()), total),
    }
    return View(title, confusion, table.assign(skipped=skipped, wrong_direction=wrong), micro, macro, shares)


def report(result: OfficialResult) -> str:
    """The three views as plain text; the last line ends with the official score in percent, to two decimals."""
    last = f"Official score (macro F1, direction taken into account, without Other): {result.score:.2f}"
    return "\n\n".join([*map(_section, result), last])


def _section(view: View) -> str:
    table = view.per_relation.drop(columns=["skipped", "wrong_direction"]).astype(object)
    sums = table.loc[~table.index.isin(NONE_LABELS), ["correct", "predicted", "gold"]].sum()
    averages = [[*map(int, sums), *view.micro], ["", "", "", *view.macro]]
    names = pd.Index(["micro average without Other", "macro average without Other"])
    table = pd.concat([table, pd.DataFrame(averages, names, table.columns)])
    lines = [
        f"{name:<28}{part:>6} of {whole:>6} = {percent(part, whole):6.2f} %"
        for name, (part, whole) in view.shares.items()
    ]
    return "\n".join([view.title, "", *_matrix(view), "", *lines, "", table.to_string(float_format="{:.2f}".format)])


def _matrix(view: View) -> list[str]:
    names = [f"{position:>2} {name}" for position, name in enumerate(view.confusion.columns, start=1)]
    matrix = view.confusion.set_axis(names[: len(view.confusion)])
    matrix.columns = pd.Index([str(position) for position in range(1, len(names) + 1)])
    matrix["sum"] = matrix.sum(axis=1)
    for column, name in (("wrong way", "wrong_direction"), ("skipped", "skipped"), ("gold", "gold")):
        matrix[column] = view.per_relation[name].to_numpy()
    matrix.loc["all"] = matrix.sum()
    absent = ", ".join(name.strip() for name in names[len(view.confusion) :])
    return [
        "Items by gold label (rows) and answer (columns)",
        matrix.to_string(),
        *([f"Answered but absent from the key: {absent}"] if absent else []),
    ]
