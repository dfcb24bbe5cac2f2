"""Parameters by dotted names: `-S key=value`, named experiments, and writing `params.yaml` with its comments kept."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from bilstm_attention.blocks import PLAIN, check, read_yaml
from bilstm_attention.errors import ParamsError
from bilstm_attention.params import Params, load_params
from bilstm_attention.paths import written_whole


def flatten(params: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as `{"model.lstm_units": 100, ...}`; lists, and mappings of labels to files, stay whole."""
    return dict(_leaves(params.model_dump() if isinstance(params, BaseModel) else params))


def parse_override(text: str) -> tuple[str, Any]:
    """`"model.lstm_units=200"` to `("model.lstm_units", 200)`; the value is read as YAML.

    Raises:
        ParamsError: no `=`, or a value that is not YAML.
    """
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
        _assign(values, key, value)
    return check(values, where, Params)


def _with_comments() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _assign(values: Any, key: str, value: Any) -> None:
    *blocks, last = key.split(".")
    for block in blocks:
        inner = values.get(block)
        if not isinstance(inner, Mapping):
            # leaves the fault where the schema check will name it
            values[block] = inner = {}
        values = inner
    values[last] = value


def _on_one_line(value: Any) -> Any:
    """Lists are written as `[0, 1]`, the way params.yaml shows them; text with line breaks or controls in quotes."""
    if isinstance(value, str) and not value.isprintable():
        return DoubleQuotedScalarString(value)
    if not isinstance(value, list):
        return value
    line = CommentedSeq(value)
    line.fa.set_flow_style()
    return line


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted overrides of a nested file; `data.train: {pos: a, neg: b}` is one value, not two."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in ("data.train", "data.dev", "data.test"):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def read_overrides(path: Path) -> dict[str, Any]:
    """What a file of `experiments/configs` makes of the defaults: every parameter, as dotted keys.

    All of them, so that what an experiment means does not depend on the one applied before.
    """
    given = flatten(read_yaml(path))
    with_overrides(Params(), given, where=str(path))
    return {**flatten(Params()), **given}


def apply_overrides(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Writes overrides into a `params.yaml` in place, comments kept; nothing is written unless the whole is legal.

    Returns:
        those that changed a parameter, as dotted keys.

    Raises:
        ParamsError: as `load_params`.
    """
    before = load_params(path)
    after = flatten(with_overrides(before, overrides, where=f"{path} with overrides"))
    changed = {key: value for key, value in after.items() if flatten(before)[key] != value}
    yaml = _with_comments()
    document = read_yaml(path, yaml)
    for key, value in changed.items():
        _assign(document, key, _on_one_line(value))
    text = io.StringIO()
    yaml.dump(document, text)
    with written_whole(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return changed


def config_text(params: Params, comment: str) -> str:
    """A named experiment as a file of `experiments/configs` has it: what differs from the defaults, under a comment."""
    usual, document = flatten(Params()), dict[str, Any]()
    for key, value in flatten(params).items():
        if value != usual[key]:
            _assign(document, key, _on_one_line(value))
    text = io.StringIO()
    _with_comments().dump(document, text)
    return f"# {comment}\n{text.getvalue()}"
