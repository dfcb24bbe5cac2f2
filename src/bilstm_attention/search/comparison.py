"""What a comparison trains: a file of `experiments/comparisons`, checked whole before the first training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from bilstm_attention.config import Block, Params, Train, check, flatten, read_overrides, read_yaml, with_overrides
from bilstm_attention.data.splits import Split
from bilstm_attention.errors import ParamsError
from bilstm_attention.training.fit import digest

# of a table: it names files
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Part = Literal["faithfulness", "classes", "errors"]


class Variant(Block):
    """One of the configurations that are compared.

    Args:
        base: a file of `experiments/configs`; None: that of the table.
        set: its own parameters, by dotted name, over all others.
        words: what is said of it, by column.
    """

    base: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    words: dict[str, str] = Field(default_factory=dict)


class Table(Block):
    """One table of the page: variants under the same budget and seeds.

    Args:
        about: Markdown over the table.
        base: a file of `experiments/configs`; None: that of the page.
        overrides: parameters of all variants, by dotted name, over those of the page; `train.threads` is 1 unless it
            stands here, since a core does more with a training of its own than as the second thread of another's.
        seeds: a training each, or one for each fold.
        folds: of a cross-validation on the training set, each judged by the model that did not learn from it; None: the
            models are judged on dev. Of a corpus with a test file the fold is dev; of one without it is test, and dev
            is split off the rest as ever.
        test: whether the models answer the test set as well: for what is final, never for choosing.
        reference: the variant that the others are tested against.
        columns: what is said of every variant in words, as columns.
        show: what else is shown: `faithfulness` of the attention, test scores by class (`classes`), and what the
            reference got wrong on dev or the folds (`errors`).
        along: a parameter that is a number, by which the picture is drawn, a curve for each base; None: a row for each
            variant.
        variants: by name.
    """

    about: str = ""
    base: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)]
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    test: bool = False
    reference: str
    columns: list[str] = Field(default_factory=list)
    show: list[Part] = Field(default_factory=list)
    along: str | None = None
    variants: Annotated[dict[str, Variant], Field(min_length=1)]

    @model_validator(mode="after")
    def _holds_together(self) -> "Table":
        if self.folds is not None and self.test:
            raise ValueError("folds and test: a model of a fold has not learnt from all of train; leave one out")
        if "classes" in self.show and not self.test:
            raise ValueError("show: classes are of the test set; set test: true")
        if taken := {"class", "items"} & set(self.variants):
            raise ValueError(f"variants: {taken.pop()!r} is a column of the table of classes; take another name")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} repeats a seed")
        if self.reference not in self.variants:
            raise ValueError(f"reference: {self.reference!r} is none of the variants, {', '.join(self.variants)}")
        said = {column for variant in self.variants.values() for column in variant.words}
        if unknown := sorted(said - set(self.columns)):
            raise ValueError(f"words: {', '.join(unknown)}: none of the columns, {', '.join(self.columns) or 'none'}")
        return self


class Page(Block):
    """A file of `experiments/comparisons`.

    Args:
        about: Markdown at the top.
        base: a file of `experiments/configs`.
        overrides: parameters of all variants of all tables, by dotted name.
        tables: by name.
    """

    about: str
    base: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    tables: Annotated[dict[Name, Table], Field(min_length=1)]


@dataclass(frozen=True)
class Comparison:
    """A table of a page, its variants' parameters checked.

    Args:
        page: name of the file.
        name: of the table.
        table: what the file says.
        variants: by name, all parameters.
        bases: by variant, the file of `experiments/configs` that it begins with.
    """

    page: str
    name: str
    table: Table
    variants: dict[str, Params]
    bases: dict[str, Path]

    @property
    def monitor(self) -> str:
        """The score by which variants are compared."""
        return self.variants[self.table.reference].train.monitor

    @property
    def judged_on(self) -> str:
        """What the score is of, as the page calls it."""
        return "dev" if self.table.folds is None else f"{self.table.folds} folds"


@dataclass(frozen=True)
class Training:
    """One training of a table.

    Args:
        page: the file of comparisons.
        table: the table that wants it.
        variant: its name.
        seed: with which.
        fold: of the training set, by which it is judged; None: by dev.
        params: all of them.
        test: whether the model answers the test set.
        faithfulness: whether that of its attention is measured: where a table of the page shows it.
        root: the folder that holds its data.
    """

    page: str
    table: str
    variant: str
    seed: int
    fold: int | None
    params: Params
    test: bool
    faithfulness: bool
    root: Path

    @property
    def work(self) -> str:
        """What is to be done, whoever wants it: tables may share a training."""
        return digest(self.params.model_dump(), self.seed, self.test)

    @property
    def judged(self) -> Split:
        """The split by which it is judged: dev, or a fold that is test."""
        return "dev" if self.fold is None or self.params.data.test else "test"

    @property
    def name(self) -> str:
        """How its run is called."""
        return f"{self.variant} seed={self.seed}" + ("" if self.fold is None else f" fold={self.fold}")


def read_page(path: Path) -> tuple[Page, list[Comparison]]:
    """Reads and checks a file of comparisons: every key, value and combination.

    Raises:
        ParamsError: a key is missing or unknown, a parameter is illegal, or a reference is no variant.
    """
    page = check(read_yaml(path), str(path), Page)
    return page, [_comparison(path, page, name, table) for name, table in page.tables.items()]


def _comparison(path: Path, page: Page, name: str, table: Table) -> Comparison:
    where = f"{path}: {name}"
    shared = {**flatten(page.overrides), **flatten(table.overrides)}
    shared |= {} if table.folds is None else {"data.folds": table.folds}
    bases = {variant: Path(given.base or table.base or page.base) for variant, given in table.variants.items()}
    variants = {
        variant: with_overrides(
            Params(),
            {**read_overrides(bases[variant]), **shared, **flatten(given.set)},
            where=f"{where}: {variant}",
        )
        for variant, given in table.variants.items()
    }
    for variant, params in variants.items():
        if fault := _fault(table, params):
            raise ParamsError(f"{where}: {variant}: {fault}.")
    _check_alike(where, variants)
    return Comparison(path.stem, name, table, variants, bases)


def _fault(table: Table, params: Params) -> str | None:
    """What keeps a variant out of its table."""
    data = params.data
    if table.folds is not None and (data.dev or data.folds != table.folds):
        return (
            f"folds are of train where the base names no dev file, and in all variants {table.folds}; here data.dev is"
            f" {data.dev}, data.folds {data.folds}"
        )
    if table.folds is not None and data.test and params.train.restore_best_weights:
        return (
            "train.restore_best_weights: true: the fold is dev, and would pick the epoch whose answers it judges; set"
            " it to false, and train.epochs to what all folds are to have"
        )
    if data.fold is not None:
        return f"data.fold: {data.fold}: a table has all folds or none; set its `folds`"
    if params.train.seeds != Train().seeds:
        return f"train.seeds: {params.train.seeds}: seeds are of the table; set its `seeds`"
    if table.along is not None:
        values = flatten(params)
        if table.along not in values:
            return f"along: {table.along} is no parameter"
        if not isinstance(values[table.along], int | float) or isinstance(values[table.along], bool):
            return f"along: {table.along}: {values[table.along]!r} is no number, so it has no place on an axis"
    return None


def _check_alike(where: str, variants: Mapping[str, Params]) -> None:
    """Variants differ, and are judged by one score."""
    names: dict[str, str] = {}
    for name, params in variants.items():
        if (same := names.setdefault(params.model_dump_json(), name)) != name:
            raise ParamsError(f"{where}: {same} and {name} have the same parameters; leave one out.")
    monitors = {params.train.monitor for params in variants.values()}
    if monitors == {"loss"}:
        raise ParamsError(f"{where}: train.monitor: loss compares no labels; name a score, for instance accuracy.")
    if len(monitors) > 1:
        raise ParamsError(f"{where}: train.monitor: variants are judged by different scores; name one.")


def trainings(comparison: Comparison, folder: Path, faithfulness: bool) -> list[Training]:
    """Every variant with every seed on every fold, all variants with the first seed and fold first.

    Args:
        comparison: a table.
        folder: under which those of the same data share a folder, whatever comparison they are of.
        faithfulness: whether it is measured; the same for all tables of a page, since they may share trainings.
    """
    table, planned = comparison.table, []
    for seed in table.seeds:
        for fold in [None] if table.folds is None else range(table.folds):
            for name, params in comparison.variants.items():
                if fold is not None:
                    params = with_overrides(params, {"data.fold": fold})
                root = folder / digest(params.data.model_dump(), params.embeddings.model_dump())[:12]
                of = comparison.page, comparison.name, name, seed, fold
                planned.append(Training(*of, params, table.test, faithfulness, root))
    return planned


def of_variants(
    planned: Sequence[Training], found: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[tuple[Training, Mapping[str, Any]]]]:
    """By variant its trainings, in the order of `planned`, each with what it gave, which is by `Training.work`."""
    names = dict.fromkeys(training.variant for training in planned)
    return {
        name: [(training, found[training.work]) for training in planned if training.variant == name] for name in names
    }
