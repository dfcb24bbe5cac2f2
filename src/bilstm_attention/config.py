"""The parameters of `params.yaml`: their types and ranges, reading, overriding, and writing back with comments.

First the blocks, then reading and overrides, then named experiments, the files of `experiments/configs`.
"""

import codecs
import sys
from collections.abc import Mapping
from os.path import normpath
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from ruamel.yaml.error import YAMLError

from bilstm_attention.errors import ParamsError, did_you_mean
from bilstm_attention.paths import PREPARED, atomic_write
from bilstm_attention.yaml_files import PLAIN, Block, assign, check, edited_text, read_yaml, round_trip_yaml

# Mechanisms of model/attention.py; a list here, since importing them takes TensorFlow. A test holds the two equal.
ATTENTION_KINDS = (
    *("feedforward", "zhou", "context", "luong_dot", "luong_general", "bahdanau", "structured", "multihead"),
    *("entity", "dense_time", "mean", "max", "last"),
)

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Tokens(Block):
    """How a sentence becomes tokens."""

    words: Literal["unicode", "whitespace", "characters"] = "unicode"
    clean: list[Literal["html", "urls", "users"]] = Field([])
    fold: bool = False
    lowercase: bool = True
    numbers: Literal["keep", "zero"] = "keep"
    punctuation: Literal["keep", "drop"] = "keep"
    contractions: Literal["split", "keep"] = "split"
    context: Annotated[int, Field(ge=0, le=10_000)] | None = None
    max_length: Annotated[int, Field(ge=1, le=10_000)] = 100


def _to_text(value: Any) -> Any:
    # YAML reads `0` as a number: a column without a name, or a class
    if isinstance(value, dict):
        return {_to_text(key): each for key, each in value.items()}
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_to_text)]
Files = Annotated[str | dict[str, str], BeforeValidator(_to_text)]


class Data(Block):
    """The corpus and its splits; read by `prepare`."""

    format: Literal["semeval2010", "kbp37", "table", "classes", "fasttext"] = "semeval2010"
    folder: str = "data/sample"
    train: Files = "train.txt"
    dev: Files | None = None
    test: Files | None = "test.txt"
    train_rows: Annotated[int, Field(ge=2)] | None = None
    encoding: str = "utf-8"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    quoting: Literal["auto", "doubled", "backslash", "none"] = "auto"
    header: bool = True
    id: Text | None = None
    text: Text = "text"
    label: Text = "label"
    relations: Literal["markers", "spans", "words"] | None = None
    entities: list[Text] = Field(default=["subj_start", "subj_end", "obj_start", "obj_end"])
    markers: Annotated[list[str], Field(min_length=4, max_length=4)] | None = None
    dev_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    split_seed: Annotated[int, Field(ge=0)] = 0
    count_repeats: bool = True
    folds: Annotated[int, Field(ge=2, le=100)] = 10
    fold: Annotated[int, Field(ge=0)] | None = None
    tokens: Tokens = Tokens()

    @model_validator(mode="after")
    def _fit_together(self) -> "Data":
        classes, context = self.format == "classes", self.tokens.context
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            legal = "utf-8, utf-16, cp1252, gb18030, ..."
            raise ValueError(f"data.encoding: {self.encoding!r} is no encoding; legal are {legal}") from None
        if PREPARED.is_relative_to(normpath(self.folder)):
            raise ValueError(f"data.folder: {self.folder} holds outputs of the pipeline; use one such as data/mine")
        for split in ("train", "dev", "test"):
            value = getattr(self, split)
            if isinstance(value, dict) and not classes:
                raise ValueError(f"data.{split}: format {self.format} takes one file's name, not {value!r}")
        if self.relations and self.format != "table":
            raise ValueError(f"data.relations: {self.relations} is of format table, not {self.format}; leave it empty")
        columns = {"spans": 4, "words": 2}.get(self.relations or "")
        if columns and len(self.entities) != columns:
            raise ValueError(f"data.entities: relations {self.relations} takes {columns} columns, not {self.entities}")
        if self.train_rows is not None and classes:
            raise ValueError(
                f"data.train_rows: the first {self.train_rows} rows would be of the first class alone; leave it empty"
            )
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"data.fold: {self.fold} is none of 0 to {self.folds - 1}; data.folds is {self.folds}")
        if self.fold is not None and self.dev is not None and self.test is not None:
            raise ValueError("data.fold: with a file for dev and one for test nothing is split off; leave it empty")
        if context is not None and not self.relational:
            raise ValueError(
                f"data.tokens.context: {context} is counted from marked entities, which data.format: {self.format} does"
                " not have; leave it empty"
            )
        return self

    @property
    def relational(self) -> bool:
        """Whether sentences mark two entities."""
        return self.format in ("semeval2010", "kbp37") or self.relations is not None


class VectorSource(Block):
    """Where the vectors of words come from."""

    source: Literal["file", "corpus", "encoder", "random", "joined"] = "corpus"
    path: str = "data/prepared/train.parquet"
    member: str | None = None
    dimension: Annotated[int, Field(ge=1, le=4096)] = 50

    @model_validator(mode="after")
    def _path_fits_the_source(self) -> "VectorSource":
        legal = {
            "file": "a file of vectors",
            "corpus": "the training text, data/prepared/train.parquet",
            "encoder": "a folder of sentence-transformers",
        }.get(self.source)
        if legal and (self.source == "corpus") != self.path.endswith(".parquet"):
            raise ValueError(f"embeddings.path: source {self.source} takes {legal}, not {self.path}")
        return self


class Embeddings(VectorSource):
    """The vocabulary and its vectors; read by `embed`.

    `source: joined` concatenates the vectors of `sources`, which take the same four keys: a source moves into the list
    as it stands. A dependency of a DVC stage is one path, so that `path` is then the folder of all their files.
    """

    sources: list[VectorSource] = Field([])
    min_count: Annotated[int, Field(ge=1)] = 1
    extra_words: Annotated[int, Field(ge=0)] = 0
    max_words: Annotated[int, Field(ge=1)] | None = None
    hyphens: Literal["average", "unknown"] = "average"
    window: Annotated[int, Field(ge=1, le=100)] = 5
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _sources_fit_together(self) -> "Embeddings":
        if bool(self.sources) != (self.source == "joined") or any(part.source == "joined" for part in self.sources):
            raise ValueError(
                "embeddings.sources: a list of file, corpus, encoder and random with source joined, else empty"
            )
        for part in self.sources:
            if part.source in ("file", "encoder") and not PurePath(part.path).is_relative_to(self.path):
                raise ValueError(f"embeddings.path: {self.path}; of joined sources a folder that holds {part.path}")
        if (total := sum(part.dimension for part in self.parts)) != self.dimension:
            raise ValueError(f"embeddings.dimension: {self.dimension} is not {total}, the sum of embeddings.sources")
        return self

    @property
    def parts(self) -> list[VectorSource]:
        """The sources, in the order of their parts in a vector."""
        return self.sources or [self]


def _check_attention_kind(kind: str) -> str:
    # a process may have registered mechanisms of its own
    attention = sys.modules.get("bilstm_attention.model.attention")
    legal = attention.MECHANISMS if attention else ATTENTION_KINDS
    if kind not in legal:
        hint = did_you_mean(kind, legal) or "."
        raise ValueError(f"model.attention.kind: {kind!r} is no mechanism{hint} Legal: {', '.join(legal)}")
    return kind


class Attention(Block):
    """How the LSTM's states become one vector."""

    kind: Annotated[str, AfterValidator(_check_attention_kind)] = "zhou"
    tanh_output: bool = True
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    dropout: Fraction = 0.0
    size: Annotated[int, Field(ge=1, le=4096)] = 100
    hops: Annotated[int, Field(ge=1, le=64)] = 4
    penalty: Annotated[float, Field(ge=0.0, le=100.0)] = 0.1
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    key_size: Annotated[int, Field(ge=1, le=4096)] = 32
    steps: Annotated[int, Field(ge=1, le=10_000)] = 128


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
    lstm_kernel: Literal["auto", "keras"] = "auto"
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
    optimizer: Literal["adam", "adadelta", "rmsprop", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 3e-3
    embedding_updates: Literal["dense", "sparse"] = "dense"
    schedule: Schedule = Schedule()
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 5.0
    label_smoothing: Fraction = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    r_drop: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    adversarial: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    ema: Fraction = 0.0
    monitor: Literal["official_f1", "micro_f1_without_other", "accuracy", "macro_f1", "loss"] = "official_f1"

    @model_validator(mode="after")
    def _fit_together(self) -> "Train":
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"train.schedule.warmup_epochs: {self.schedule.warmup_epochs} is more than train.epochs, {self.epochs}"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"train.seeds: {self.seeds} repeats a seed; each seed trains one model")
        return self


class Evaluate(Block):
    """Scores on the test set; read by `evaluate`."""

    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    bootstrap_seed: Annotated[int, Field(ge=0)] = 0
    faithfulness: Annotated[int, Field(ge=0, le=100_000)] = 200
    faithfulness_seed: Annotated[int, Field(ge=0)] = 0
    log_model: bool = True
    register_as: Annotated[str, Field(pattern=r"^[^/:.%\"'\\]+$")] | None = None


class Params(Block):
    """All of `params.yaml`."""

    data: Data = Data()
    embeddings: Embeddings = Embeddings()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _network_fits_the_corpus(self) -> "Params":
        model, attention = self.model, self.model.attention
        needs_entities = {
            f"model.attention.kind: {attention.kind}": attention.kind == "entity",
            f"model.positions.size: {model.positions.size}": model.positions.size > 0,
            "model.entity_words: true": model.entity_words,
            "model.entity_states: true": model.entity_states,
        }
        for parameter, used in needs_entities.items():
            if used and not self.data.relational:
                raise ValueError(
                    f"{parameter} needs marked entities, which data.format: {self.data.format} does not have; it is for"
                    " semeval2010, kbp37 and tables with data.relations"
                )
        if attention.kind == "dense_time" and attention.steps < self.data.tokens.max_length:
            raise ValueError(
                f"model.attention.steps: {attention.steps} is less than data.tokens.max_length,"
                f" {self.data.tokens.max_length}: dense_time has no weight for the tokens beyond; raise the one or"
                " lower the other"
            )
        return self


def load_params(path: Path) -> Params:
    """Reads a `params.yaml`; a `ParamsError` lists every unknown key, wrong type and value out of range."""
    return check(read_yaml(path), str(path), Params)


def flatten(params: BaseModel | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parameters as `{"model.lstm_units": 100, ...}`; lists, and mappings of labels to files, stay whole."""
    leaves = dict[str, Any]()
    for key, value in (params.model_dump() if isinstance(params, BaseModel) else params).items():
        name = f"{prefix}{key}"
        # `data.train: {pos: a, neg: b}` is one leaf
        whole = not isinstance(value, Mapping) or name in ("data.train", "data.dev", "data.test")
        leaves |= {name: value} if whole else flatten(value, f"{name}.")
    return leaves


def parse_override(text: str) -> tuple[str, Any]:
    """`"model.lstm_units=200"` to `("model.lstm_units", 200)`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ParamsError(f"-S {text}: an override is written key=value, for example -S model.lstm_units=200.")
    try:
        return key.strip(), PLAIN.load(value)
    except YAMLError as error:
        raise ParamsError(f"-S {text}: the value is not YAML: {error}") from None


def with_overrides(params: Params, overrides: Mapping[str, Any], where: str = "override") -> Params:
    """`params` with dotted keys replaced, checked again."""
    values = params.model_dump()
    for key, value in overrides.items():
        assign(values, key, value)
    return check(values, where, Params)


def read_overrides(path: Path) -> dict[str, Any]:
    """All parameters of a named experiment by dotted key, so that it does not depend on the one applied before."""
    return flatten(with_overrides(Params(), flatten(read_yaml(path)), where=str(path)))


def apply_overrides(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Writes overrides into a `params.yaml`, comments kept, if the whole is legal; returns what changed."""
    params = load_params(path)
    before, after = flatten(params), flatten(with_overrides(params, overrides, where=f"{path} with overrides"))
    changed = {key: value for key, value in after.items() if before[key] != value}
    document = read_yaml(path, round_trip_yaml())
    with atomic_write(path) as temporary:
        temporary.write_text(edited_text(document, changed), encoding="utf-8")
    return changed


def config_text(params: Params, comment: str) -> str:
    """The text of a named experiment: a comment, and the parameters that differ from the defaults."""
    defaults = flatten(Params())
    changed = {key: value for key, value in flatten(params).items() if value != defaults[key]}
    return f"# {comment}\n{edited_text({}, changed)}"
