"""A file of `experiments/comparisons`: variants in tables, checked whole before the first training."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from bilstm_attention.config import Params, Train, flatten, read_overrides, with_overrides
from bilstm_attention.errors import ParamsError
from bilstm_attention.search.trainings import Folds, TrainingJob, data_root, fold_fault
from bilstm_attention.yaml_files import Block, check, read_yaml

# names files
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Variant(Block):
    """One of the configurations that are compared."""

    base: str | None = None  # a file of `experiments/configs`; None: that of the table
    set: dict[str, Any] = Field(default_factory=dict)  # its own parameters, by dotted name, over all others


class Table(Block):
    """Variants with the same budget and seeds.

    With `folds` of a cross-validation on the training set, each is scored by the model that did not learn from it; else
    scores are on dev. Of a corpus with a test file the fold is dev; of one without it is test, and dev is split off the
    rest.
    """

    about: str = ""  # one line
    base: str | None = None  # a file of `experiments/configs`; None: that of the page
    overrides: dict[str, Any] = Field(default_factory=dict)  # of all variants, by dotted name, over those of the page
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)]
    folds: Folds | None = None
    test: bool = False  # whether the models answer the test set too: for what is final, never for choosing
    reference: str  # the variant that the others are tested against
    # faithfulness of the attention, test scores by class, the reference's most frequent confusions on dev or the folds
    show: list[Literal["faithfulness", "classes", "errors"]] = Field(default_factory=list)
    variants: Annotated[dict[str, Variant], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_consistent(self) -> "Table":
        if self.folds is not None and self.test:
            raise ValueError("folds and test: a model of a fold has not learnt from all of train; leave one out")
        if "classes" in self.show and not self.test:
            raise ValueError("show: classes are of the test set; set test: true")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} repeats a seed")
        if self.reference not in self.variants:
            raise ValueError(f"reference: {self.reference!r} is none of the variants, {', '.join(self.variants)}")
        return self


class Page(Block):
    """A file of `experiments/comparisons`."""

    about: str  # one line, the page's title
    base: str  # a file of `experiments/configs`
    overrides: dict[str, Any] = Field(default_factory=dict)  # of all variants of all tables, by dotted name
    tables: Annotated[dict[Name, Table], Field(min_length=1)]


@dataclass(frozen=True)
class Comparison:
    """A table of a page, its variants' parameters checked."""

    page: str  # name of the file
    name: str
    table: Table
    variants: dict[str, Params]

    @property
    def monitor(self) -> str:
        """The score by which variants are compared."""
        return self.variants[self.table.reference].train.monitor

    @property
    def scored_on(self) -> str:
        """Where the score is taken, as the page calls it."""
        return "dev" if self.table.folds is None else f"{self.table.folds} folds"

    def trainings(self) -> list[tuple[str, TrainingJob]]:
        """Every variant with every seed on every fold, all variants with the first seed and fold first."""
        planned, folds = [], [None] if self.table.folds is None else range(self.table.folds)
        for seed, fold, (name, params) in product(self.table.seeds, folds, self.variants.items()):
            if fold is not None:
                params = with_overrides(params, {"data.fold": fold})
            sample = (params.evaluate.faithfulness, params.evaluate.faithfulness_seed)
            job = TrainingJob(
                name=f"{name} seed={seed}" + ("" if fold is None else f" fold={fold}"),
                params=params,
                seed=seed,
                root=data_root(params),
                scored="dev" if fold is None or params.data.test else "test",
                test=self.table.test,
                faithfulness=(sample,) if "faithfulness" in self.table.show else (),
            )
            planned.append((name, job))
        return planned


def read_page(path: Path) -> tuple[Page, list[Comparison]]:
    """Reads and checks a file of comparisons.

    Raises:
        ParamsError: a key is missing or unknown, a parameter is illegal, or a reference is no variant.
    """
    page, comparisons = check(read_yaml(path), str(path), Page), []
    for name, table in page.tables.items():
        where, shared = f"{path}: {name}", flatten(page.overrides) | flatten(table.overrides)
        if table.folds is not None:
            shared["data.folds"] = table.folds
        variants = {}
        for variant, each in table.variants.items():
            base = read_overrides(Path(each.base or table.base or page.base))
            overrides = base | shared | flatten(each.set)
            variants[variant] = with_overrides(Params(), overrides, where=f"{where}: {variant}")
        _check_variants(where, table, variants)
        comparisons.append(Comparison(path.stem, name, table, variants))
    return page, comparisons


def _check_variants(where: str, table: Table, variants: Mapping[str, Params]) -> None:
    """Checks that variants fit their table, differ, and are compared by one score."""
    names: dict[str, str] = {}
    for name, params in variants.items():
        if fault := _fault(table, params):
            raise ParamsError(f"{where}: {name}: {fault}.")
        if (same := names.setdefault(params.model_dump_json(), name)) != name:
            raise ParamsError(f"{where}: {same} and {name} have the same parameters; leave one out.")
    monitors = {params.train.monitor for params in variants.values()}
    if monitors == {"loss"}:
        raise ParamsError(f"{where}: train.monitor: loss compares no labels; name a score, for instance accuracy.")
    if len(monitors) > 1:
        raise ParamsError(f"{where}: train.monitor: variants have different scores; name one.")


def _fault(table: Table, params: Params) -> str | None:
    """Why a variant cannot be in its table; None: it can."""
    data = params.data
    if table.folds is not None and (fault := fold_fault(params)):
        return fault
    if table.folds is not None and data.folds != table.folds:
        return f"data.folds: {data.folds}: set `folds` of the table instead"
    if "faithfulness" in table.show and not params.evaluate.faithfulness:
        return "show: faithfulness is measured on evaluate.faithfulness sentences, here 0; set it to 200, for instance"
    if data.fold is not None:
        return f"data.fold: {data.fold}: set `folds` of the table instead"
    if params.train.seeds != Train().seeds:
        return f"train.seeds: {params.train.seeds}: set `seeds` of the table instead"
    return None
