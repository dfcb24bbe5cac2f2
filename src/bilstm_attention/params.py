"""The typed, validated form of `params.yaml`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from bilstm_attention.blocks import Block, check, read_yaml
from bilstm_attention.errors import nearest

# Read off their text: importing them takes TensorFlow, and a list here would be a second place to change.
_MECHANISMS = (Path(__file__).parent / "network/attention.py").read_text(encoding="utf-8")
ATTENTION_KINDS = set(re.findall(r'^@mechanism\("(\w+)"\)$', _MECHANISMS, re.MULTILINE))
# Those that are of no use without marked entities.
ENTITY_KINDS = {"entity"}

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Tokens(Block):
    """How a sentence becomes tokens."""

    lowercase: bool = True
    numbers: Literal["keep", "zero"] = "zero"
    punctuation: Literal["keep", "drop"] = "keep"
    contractions: Literal["split", "keep"] = "split"
    context: Annotated[int, Field(ge=0, le=10_000)] | None = None
    max_length: Annotated[int, Field(ge=1, le=10_000)] = 100


class Data(Block):
    """The corpus and its splits; read by `prepare`."""

    format: Literal["semeval2010", "kbp37", "delimited", "classes"] = "semeval2010"
    folder: str = "data/sample"
    train: str | dict[str, str] = "train.txt"
    dev: str | dict[str, str] | None = None
    test: str | dict[str, str] | None = "test.txt"
    train_rows: Annotated[int, Field(ge=2)] | None = None
    text: str = "text"
    label: str = "label"
    dev_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    split_seed: Annotated[int, Field(ge=0)] = 0
    folds: Annotated[int, Field(ge=2, le=100)] = 10
    fold: Annotated[int, Field(ge=0)] | None = None
    tokens: Tokens = Tokens()

    @model_validator(mode="after")
    def _files_fit_the_format(self) -> "Data":
        for split in ("train", "dev", "test"):
            given = getattr(self, split)
            if given is None:
                continue
            if isinstance(given, dict) != (self.format == "classes"):
                wanted = "a mapping {label: file}" if self.format == "classes" else "one file's name"
                raise ValueError(f"data.{split}: format {self.format} takes {wanted}, not {given!r}")
        return self

    @model_validator(mode="after")
    def _first_rows_are_a_sample(self) -> "Data":
        if self.train_rows is not None and self.format == "classes":
            raise ValueError(
                f"data.train_rows: the first {self.train_rows} rows would be of the first class alone; leave it empty"
            )
        return self

    @model_validator(mode="after")
    def _fold_is_one_of_folds(self) -> "Data":
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"data.fold: {self.fold} is none of 0 to {self.folds - 1}; data.folds is {self.folds}")
        if self.fold is not None and self.dev is not None and self.test is not None:
            raise ValueError("data.fold: with a file for dev and one for test nothing is split off; leave it empty")
        return self

    @model_validator(mode="after")
    def _context_has_entities(self) -> "Data":
        if self.tokens.context is not None and not self.relational:
            raise ValueError(
                f"data.tokens.context: {self.tokens.context} is of marked entities, which data.format: {self.format}"
                " has not; leave it empty"
            )
        return self

    @property
    def relational(self) -> bool:
        """Whether every sentence marks two entities."""
        return self.format in ("semeval2010", "kbp37")


class Embeddings(Block):
    """The vocabulary and its vectors; read by `embed`."""

    source: Literal["file", "corpus", "random"] = "corpus"
    path: str = "data/prepared/train.parquet"
    member: str | None = None
    dimension: Annotated[int, Field(ge=1, le=4096)] = 50
    min_count: Annotated[int, Field(ge=1)] = 1
    extra_words: Annotated[int, Field(ge=0)] = 0
    max_words: Annotated[int, Field(ge=1)] | None = None
    hyphens: Literal["average", "unknown"] = "average"
    window: Annotated[int, Field(ge=1, le=100)] = 5
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _path_fits_the_source(self) -> "Embeddings":
        if self.source != "random" and (self.source == "corpus") != self.path.endswith(".parquet"):
            wanted = (
                "the training text, data/prepared/train.parquet" if self.source == "corpus" else "a file of vectors"
            )
            raise ValueError(f"embeddings.path: source {self.source} takes {wanted}, not {self.path}")
        return self


class Attention(Block):
    """How the states of the LSTM become one vector."""

    kind: Annotated[str, AfterValidator(lambda kind: _known_attention(kind))] = "zhou"
    tanh_output: bool = True
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    dropout: Fraction = 0.0
    size: Annotated[int, Field(ge=1, le=4096)] = 100
    hops: Annotated[int, Field(ge=1, le=64)] = 4
    penalty: Annotated[float, Field(ge=0.0, le=100.0)] = 0.1
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    key_size: Annotated[int, Field(ge=1, le=4096)] = 32
    steps: Annotated[int, Field(ge=1, le=10_000)] = 128
    per_feature: bool = False
    place: Literal["after", "before"] = "after"

    @model_validator(mode="after")
    def _place_fits_the_kind(self) -> "Attention":
        if self.place == "before" and self.kind != "dense_time":
            raise ValueError(
                f"model.attention.place: before the LSTM stands dense_time alone; {self.kind} goes after it"
            )
        return self


class Positions(Block):
    """Vectors for each token's distance to either entity."""

    size: Annotated[int, Field(ge=0, le=1024)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 30


class Dropout(Block):
    """Dropout rates, as fractions."""

    embedding: Fraction = 0.3
    lstm: Fraction = 0.3
    sentence: Fraction = 0.5


class Model(Block):
    """The network; read by `train`."""

    train_embeddings: bool = True
    frozen_copy: bool = False
    lstm_units: Annotated[int, Field(ge=1, le=4096)] = 100
    lstm_layers: Annotated[int, Field(ge=1, le=8)] = 1
    lstm_kernel: Literal["auto", "fused", "keras"] = "auto"
    merge: Literal["concat", "sum"] = "sum"
    attention: Attention = Attention()
    positions: Positions = Positions()
    entity_words: bool = False
    entity_states: bool = False
    dropout: Dropout = Dropout()
    l2: Annotated[float, Field(ge=0.0, le=1.0)] = 1e-5

    @model_validator(mode="after")
    def _a_copy_has_an_original(self) -> "Model":
        if self.frozen_copy and not self.train_embeddings:
            raise ValueError(
                "model.frozen_copy: with model.train_embeddings: false both would be the same; leave it out"
            )
        return self

    @property
    def entity_parameters(self) -> list[str]:
        """The parameters set so that the network looks at the entities of a relation corpus."""
        kind = self.attention.kind
        asked = {
            f"model.attention.kind: {kind}": kind in ENTITY_KINDS,
            f"model.positions.size: {self.positions.size}": self.positions.size > 0,
            "model.entity_words: true": self.entity_words,
            "model.entity_states: true": self.entity_states,
        }
        return [parameter for parameter, asking in asked.items() if asking]


class Schedule(Block):
    """How the learning rate moves over the epochs."""

    kind: Literal["constant", "cosine"] = "constant"
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0


class Train(Block):
    """Training; read by `train`, one instance per seed."""

    seeds: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field([0], min_length=1)
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
    patience: Annotated[int, Field(ge=1)] = 8
    restore_best_weights: bool = True
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    batch_tokens: Annotated[int, Field(ge=1, le=2**24)] | None = None
    optimizer: Literal["adam", "adamw", "nadam", "rmsprop", "sgd", "adadelta", "adagrad"] = "adam"
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 3e-3
    schedule: Schedule = Schedule()
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 5.0
    label_smoothing: Fraction = 0.0
    r_drop: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    adversarial: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    ema: Fraction = 0.0
    monitor: Literal["official_f1", "accuracy", "macro_f1", "loss"] = "official_f1"
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    devices: Annotated[int, Field(ge=1, le=1024)] = 1

    @model_validator(mode="after")
    def _warmup_ends(self) -> "Train":
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"train.schedule.warmup_epochs: {self.schedule.warmup_epochs} is more than train.epochs, {self.epochs}"
            )
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Train":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"train.seeds: {self.seeds} repeats a seed; each seed trains one model")
        return self


class Evaluate(Block):
    """Judging on the test set; read by `evaluate`."""

    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    bootstrap_seed: Annotated[int, Field(ge=0)] = 0
    faithfulness: Annotated[int, Field(ge=0, le=100_000)] = 200
    faithfulness_seed: Annotated[int, Field(ge=0)] = 0
    log_model: bool = True
    register_as: Annotated[str, Field(pattern=r"^[^/:.%\"'\\]+$")] | None = None


class Params(Block):
    """Everything in `params.yaml`: one block per stage, and `model` beside `train`."""

    data: Data = Data()
    embeddings: Embeddings = Embeddings()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _network_fits_the_corpus(self) -> "Params":
        asked = self.model.entity_parameters
        if asked and not self.data.relational:
            raise ValueError(
                f"{asked[0]} needs marked entities, which data.format: {self.data.format} has not;"
                " it is for semeval2010 and kbp37"
            )
        steps, longest = self.model.attention.steps, self.data.tokens.max_length
        if self.model.attention.kind == "dense_time" and steps < longest:
            raise ValueError(
                f"model.attention.steps: {steps} is less than data.tokens.max_length, {longest}: dense_time has no"
                " weight for the tokens beyond; raise the one or lower the other"
            )
        return self


def load_params(path: Path) -> Params:
    """Reads and checks a `params.yaml`.

    Raises:
        ParamsError: lists every unknown key, wrong type and value out of range, with what is legal.
    """
    return check(read_yaml(path), str(path), Params)


def _known_attention(kind: str) -> str:
    if kind not in ATTENTION_KINDS:
        legal = ", ".join(sorted(ATTENTION_KINDS))
        raise ValueError(
            f"model.attention.kind: {kind!r} is no mechanism{nearest(kind, ATTENTION_KINDS) or '.'} Legal: {legal}"
        )
    return kind
