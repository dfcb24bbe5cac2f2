"""The examples in docstrings hold."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(("module", "examples"), [("data.splits", 1), ("data.text", 1), ("data.tokens", 3)])
def test_docstring_examples_hold(module, examples):
    result = doctest.testmod(importlib.import_module(f"bilstm_attention.{module}"))
    assert result.attempted >= examples
    assert result.failed == 0
