"""Reads YAML files, checks them against a pydantic schema, and writes them back with their comments.

Parameters (`config.py`), sweeps and comparisons are read by it.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from bilstm_attention.errors import ParamsError, did_you_mean, join_lines


class Block(BaseModel):
    """A block of parameters: unknown keys are errors, and values are never changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Schema = TypeVar("Schema", bound=BaseModel)
PLAIN = YAML(typ="safe", pure=True)
COMMENT_COLUMN = 28  # of params.yaml


def read_yaml(path: Path, yaml: YAML = PLAIN) -> Any:
    """A YAML file of blocks.

    Raises:
        ParamsError: it is not there, is no YAML, or holds something else.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(document, Mapping):
        raise ParamsError(f"{path}: holds {type(document).__name__}; parameters are blocks of `key: value`.")
    return document


def check(values: Mapping[str, Any], where: str, schema: type[Schema]) -> Schema:
    """Checks nested mappings against the schema of their outermost block; `where` is their origin, for errors.

    Raises:
        ParamsError: lists every unknown key, wrong type and value out of range, with what is legal.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ParamsError(join_lines(_explain(fault, where, schema) for fault in error.errors())) from None


def _explain(fault: Any, where: str, schema: type[BaseModel]) -> str:
    # pydantic appends the branch of a union to the location; a key of params.yaml ends before it
    location = [str(part) for part in fault["loc"] if not re.search(r"[\[(]|^(str|dict|int|float|none)$", str(part))]
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        siblings = _fields_at(schema, location[:-1])
        # a name without its block
        hint = did_you_mean(location[-1], siblings) or did_you_mean(f".{location[-1]}", _names(schema))
        return (
            f"{where}: unknown parameter {key}{hint or '.'}"
            f" Legal{' in ' + '.'.join(location[:-1]) if location[1:] else ''}: {', '.join(siblings)}."
        )
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        # our own checks name the parameter in full
        names_key = not location or message.startswith(f"{location[0]}.")
        return f"{where}: {message}." if names_key else f"{where}: {key}: {message}."
    hint = ""
    if fault["type"] == "literal_error":
        hint = did_you_mean(str(fault["input"]), re.findall(r"'([^']*)'", message))
    elif fault["type"] == "list_type":
        hint = f"; write [{fault['input']}]."
    return f"{where}: {key}: {message}; received {fault['input']!r}{hint or '.'}"


def _names(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all parameters."""
    for name, info in schema.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _names(info.annotation, f"{prefix}{name}.")


def _fields_at(schema: type[BaseModel], location: Iterable[str]) -> list[str]:
    block: Any = schema
    for part in location:
        # a mapping from names to blocks has blocks alike under every name, and a list at every place
        block = get_args(block)[-1] if get_origin(block) in (dict, list) else block.model_fields[part].annotation
    return list((get_args(block)[-1] if get_origin(block) in (dict, list) else block).model_fields)


def assign(values: Any, key: str, value: Any) -> Any:
    """Sets a dotted key; returns the block that holds it."""
    *blocks, last = key.split(".")
    for block in blocks:
        inner = values.get(block)
        if not isinstance(inner, Mapping):
            # the check names a block that does not exist
            values[block] = inner = {}
        values = inner
    values[last] = value
    return values


class _Representer(RoundTripRepresenter):
    """Writes `1.0e-5` for ruamel's `1e-05`, which YAML 1.1 reads as text."""

    def represent_float(self, data: float) -> Any:
        node = super().represent_float(data)
        mantissa, _, exponent = node.value.partition("e")
        if exponent:
            node.value = f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent):+d}"
        return node


_Representer.add_representer(float, _Representer.represent_float)


def round_trip_yaml() -> YAML:
    """Reads and writes with comments and quotes kept."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def edited_text(document: Any, changed: Mapping[str, Any]) -> str:
    """`document` as YAML after changes; a comment that a long value moved goes back to its column."""
    for key, value in changed.items():
        block = assign(document, key, _on_one_line(value))
        tokens = block.ca.items.get(key.rpartition(".")[2], ()) if isinstance(block, CommentedMap) else ()
        for comment in filter(None, tokens):
            comment.start_mark.column = min(comment.start_mark.column, COMMENT_COLUMN)
    text = io.StringIO()
    round_trip_yaml().dump(document, text)
    return text.getvalue()


def _on_one_line(value: Any) -> Any:
    """Lists as `[0, 1]`, the way params.yaml shows them; text with line breaks or control characters in quotes."""
    if isinstance(value, str) and not value.isprintable():
        return DoubleQuotedScalarString(value)
    if not isinstance(value, list):
        return value
    line = CommentedSeq(value)
    line.fa.set_flow_style()
    return line
