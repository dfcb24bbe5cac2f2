from typing import Any
from unittest.mock import Mock

import pandas as pd

from bilstm_attention.reports.comparison_page import _errors, _p
from bilstm_attention.search.standings import Errors


def test_p_is_a_bound_where_no_exchange_made_as_much_difference() -> None:
    assert [_p(p) for p in (1 / 1001, 2 / 1001, 0.5, None)] == ["≤ 0.001", "0.002", "0.500", ""]


def errors(wrong: int, kinds: dict[str, int], counted: str, **entities: list[str]) -> str:
    confusions = pd.DataFrame({"gold": ["A"], "predicted": ["B"], "answers": [1234]})
    tokens = pd.DataFrame({"tokens": ["0 to 2"], "answers": [5000], "right": [75.32]})
    example: dict[str, Any] = {"id": ["7"], "gold": ["A"], "predicted": ["B"], "confidence": [99.6], **entities}
    found = Errors(5000, wrong, kinds, confusions, counted, tokens, pd.DataFrame(example))
    return _errors(Mock(table=Mock(reference="best"), judged_on="5 folds"), found)


def test_errors_of_relations_are_shown_by_kind_and_with_their_entities() -> None:
    page = errors(1234, {"another relation": 1234}, "tokens between the entities", first=["a drawer"], second=["room"])
    assert "**What `best` gets wrong** on 5 folds: 1,234 of 5,000 answers." in page
    assert "| another relation | 1,234 | 100 % |" in page
    assert "| tokens between the entities | answers | right |" in page
    assert "| gold | answered | answers | sentence | first entity | second entity | probability |" in page
    assert "| A | B | 1,234 | 7 | a drawer | room | 100 % |" in page


def test_errors_of_plain_classes_are_shown_without_kinds_and_entities() -> None:
    page = errors(1234, {}, "tokens in the sentence")
    assert "kind" not in page
    assert "| tokens in the sentence | answers | right |\n| --- | --- | --- |\n| 0 to 2 | 5,000 | 75.3 % |" in page
    assert "| gold | answered | answers | sentence | probability |\n| --- |" in page
    assert page.endswith("| A | B | 1,234 | 7 | 100 % |")
    assert "entit" not in page


def test_where_nothing_is_wrong_there_is_nothing_more_to_say() -> None:
    assert errors(0, {}, "tokens in the sentence") == "**What `best` gets wrong** on 5 folds: 0 of 5,000 answers."
