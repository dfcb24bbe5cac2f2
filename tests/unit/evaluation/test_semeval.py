import re
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_attention.data.labels import NONE_LABELS, is_directed, relation_of
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation.semeval import (
    SEMEVAL_LABELS,
    OfficialResult,
    View,
    answerable,
    evaluate_official,
    read_answers,
    report,
    write_answers,
)

KEY = {
    "1": "Cause-Effect(e1,e2)",
    "2": "Cause-Effect(e1,e2)",
    "3": "Cause-Effect(e2,e1)",
    "4": "Message-Topic(e1,e2)",
    "5": "Message-Topic(e1,e2)",
    "6": "Other",
    "7": "Other",
    "8": "Other",
    "9": "Message-Topic(e1,e2)",
}
ANSWERS = {  # 5 and 8 are left out
    "1": "Cause-Effect(e1,e2)",
    "2": "Cause-Effect(e2,e1)",  # wrong direction
    "3": "Other",
    "4": "Message-Topic(e1,e2)",
    "6": "Cause-Effect(e1,e2)",
    "7": "Other",
    "9": "Product-Producer(e1,e2)",  # absent from the key
}


@pytest.fixture
def examples(real_data: Path) -> Path:
    return real_data / "semeval2010-task8/scorer-examples"


def published_numbers(text: str) -> list[str]:
    """Every number of an official result file in its order, those in titles, labels and column heads left out."""
    text = re.sub(r"^<<< ?\(.*$|\(9\+1\)-way", "", text, flags=re.MULTILINE)
    return re.findall(r"(?<![\w*.-])\d+(?:\.\d+)?", text)


def our_numbers(result: OfficialResult) -> list[str]:
    """The same numbers in the same order from our result."""
    columns = result.directed.confusion
    warnings = [str(columns[name].sum()) for name in columns if name not in columns.index]
    views = (numbers_of_view(view, view is result.official) for view in vars(result).values())
    return [*warnings, *chain.from_iterable(views), f"{result.score:.2f}"]


def numbers_of_view(view: View, official: bool) -> list[str]:
    def percents(*values: float) -> list[str]:
        return [f"{value:.2f}" for value in values]

    def counted(*values: int) -> list[str]:
        return [str(int(value)) for value in values]

    table = view.confusion.copy()
    table["sum"] = table.sum(axis=1)
    if official:
        table["wrong"] = view.wrong_direction
    table["skipped"], table["gold"] = view.skipped, view.per_relation["gold"]
    numbers = counted(*table.to_numpy().ravel(), *table.sum())
    for share in (view.coverage, view.accuracy_of_answered, view.accuracy, view.accuracy_if_skipped_is_other):
        numbers += [*counted(*share), *percents(share.percent)]
    for name, row in view.per_relation.iterrows():
        wrong = view.wrong_direction[name]
        parts = (row.predicted - wrong, wrong) if official else (row.predicted,)
        numbers += [*counted(row.correct, *parts), *percents(row.precision)]
        numbers += [*counted(row.correct, row.gold), *percents(row.recall, row.f1)]
    correct, predicted, gold = view.per_relation.drop("Other", errors="ignore")[["correct", "predicted", "gold"]].sum()
    numbers += [*counted(correct, predicted), *percents(view.micro.precision)]
    numbers += [*counted(correct, gold), *percents(view.micro.recall, view.micro.f1)]
    return numbers + percents(*view.macro)


def code(label: str) -> str:
    """The official result files' short name of a label: C-E1 for Cause-Effect(e1,e2)."""
    if label == "Other":
        return "_O_"
    first, second = relation_of(label).split("-") if is_directed(label) else label.split("-")
    return f"{first[0]}-{second[0]}" + {"(e1,e2)": "1", "(e2,e1)": "2"}.get(label[-7:], "")


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_every_number_of_the_official_example_results_is_reproduced(examples: Path, number: int) -> None:
    text = (examples / f"result_scores{number}.txt").read_text(encoding="utf-8")
    key = read_answers(examples / f"answer_key{number}.txt")
    result = evaluate_official(key, read_answers(examples / f"proposed_answer{number}.txt"))
    expected = published_numbers(text)
    assert len(expected) > 100
    assert our_numbers(result) == expected


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_rows_and_columns_bear_the_labels_of_the_official_example_results(examples: Path, number: int) -> None:
    text = (examples / f"result_scores{number}.txt").read_text(encoding="utf-8")
    key = read_answers(examples / f"answer_key{number}.txt")
    result = evaluate_official(key, read_answers(examples / f"proposed_answer{number}.txt"))
    heads = [line.split("<--")[0].split() for line in text.splitlines() if "classified as" in line]
    relations = re.findall(r"^ *_?(\S+) : ", text, flags=re.MULTILINE)
    views = list(vars(result).values())
    assert [name for view in views for name in view.labels] == relations
    for view, head in zip(views, heads, strict=True):
        codes = [code(name) for name in view.confusion.columns]
        absent = set(codes[len(view.labels) :]) - {"_O_"}
        assert ["*" + name.replace("-", "") if name in absent else name for name in codes] == head


def test_the_malformed_official_example_is_refused_with_each_of_its_four_lines(examples: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_answers(examples / "proposed_answer4.txt", SEMEVAL_LABELS)
    named = re.findall(r"proposed_answer4\.txt:(\d+):", str(caught.value))
    assert named == ["2", "3", "5", "7"]


def test_official_view_counts_a_turned_answer_in_precision_and_recall_but_not_as_right() -> None:
    view = evaluate_official(KEY, ANSWERS).official
    assert view.labels == ["Cause-Effect", "Message-Topic", "Other"]
    assert view.per_relation[["correct", "predicted", "gold"]].to_numpy().tolist() == [[1, 3, 3], [1, 1, 3], [1, 2, 3]]
    assert view.per_relation["f1"].tolist() == pytest.approx([100 / 3, 50, 40])
    assert view.wrong_direction.tolist() == [1, 0, 0]
    assert view.skipped.tolist() == [0, 1, 1]
    assert view.macro == pytest.approx((200 / 3, 100 / 3, 125 / 3))
    assert view.micro == pytest.approx((50, 100 / 3, 40))
    assert view.confusion.columns.tolist() == [*view.labels, "Product-Producer"]
    assert view.confusion.to_numpy().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]


def test_directed_and_undirected_views_equal_hand_computed_numbers() -> None:
    result = evaluate_official(KEY, ANSWERS)
    assert result.directed.macro.f1 == pytest.approx(100 / 3)
    assert result.directed.micro == pytest.approx((50, 100 / 3, 40))
    assert result.directed.accuracy_of_answered == (3, 7)
    assert result.undirected.macro.f1 == pytest.approx((200 / 3 + 50) / 2)
    assert result.undirected.micro == pytest.approx((75, 50, 60))
    assert result.undirected.accuracy_of_answered == (4, 7)
    assert result.undirected.accuracy_if_skipped_is_other == (5, 9)


def test_accuracies_say_what_they_do_with_skipped_items() -> None:
    view = evaluate_official(KEY, ANSWERS).official
    assert view.coverage == (7, 9)
    assert view.coverage.percent == pytest.approx(700 / 9)
    assert (view.accuracy, view.accuracy_if_skipped_is_other) == ((3, 9), (4, 9))


def test_kbp37_labels_are_scored_with_their_own_none_label() -> None:
    key = {"a": "per:spouse(e1,e2)", "b": "org:top_members/employees(e2,e1)", "c": "no_relation"}
    result = evaluate_official(key, {**key, "c": "per:spouse(e1,e2)"})
    assert result.official.labels == ["org:top_members/employees", "per:spouse", "no_relation"]
    assert result.score == pytest.approx((100 + 200 / 3) / 2)


def test_a_key_without_relations_and_no_answers_at_all_score_zero() -> None:
    assert evaluate_official({"1": "Other"}, {"1": "Other"}).score == 0
    empty = evaluate_official(KEY, {})
    assert (empty.score, empty.official.coverage, empty.official.accuracy_of_answered.percent) == (0, (0, 9), 0)


modest = settings(max_examples=40, deadline=None)  # a busy machine must not fail a test
labels = st.sampled_from(SEMEVAL_LABELS)


@modest
@given(st.lists(labels, min_size=1, max_size=40))
def test_perfect_answers_score_100_and_turned_ones_only_when_direction_is_ignored(gold: list[str]) -> None:
    turn = str.maketrans("12", "21")
    key = {str(number): label for number, label in enumerate(gold)}
    turned = {number: label.translate(turn) for number, label in key.items()}
    best = 100 if set(gold) != {"Other"} else 0
    assert evaluate_official(key, key).score == best
    result = evaluate_official(key, turned)
    assert (result.score, result.undirected.macro.f1) == (0, best)


@modest
@given(st.lists(st.tuples(labels, st.none() | labels), min_size=1, max_size=40))
def test_every_item_of_the_key_is_in_one_cell_of_each_view(pairs: list[tuple[str, str | None]]) -> None:
    key = {str(number): gold for number, (gold, _) in enumerate(pairs)}
    answers = {str(number): answer for number, (_, answer) in enumerate(pairs) if answer}
    result = evaluate_official(key, answers)
    for view in vars(result).values():
        cells = view.confusion.to_numpy().sum() + view.wrong_direction.sum() + view.skipped.sum()
        assert cells == view.coverage.whole == len(pairs)
        assert view.coverage.part == len(answers)
    assert result.score <= result.undirected.macro.f1 + 1e-9


def test_evaluation_refuses_answers_to_unknown_ids_and_an_empty_key() -> None:
    with pytest.raises(DataError, match=r"does not hold: 1\..*\n99"):
        evaluate_official(KEY, {**ANSWERS, "99": "Other"})
    with pytest.raises(DataError, match="no ids"):
        evaluate_official({}, {})
    with pytest.raises(DataError, match="'positive' is no relation"):
        evaluate_official({"1": "positive"}, {})


def test_report_prints_three_views_and_ends_with_the_official_score() -> None:
    lines = report(evaluate_official(KEY, ANSWERS)).splitlines()
    assert [line[:2] for line in lines if re.match(r"\d\. ", line)] == ["1.", "2.", "3."]
    assert re.search(r"direction taken into account.*: 41\.67$", lines[-1])
    rows = [" ".join(line.split()) for line in lines]
    assert "Cause-Effect 1 3 3 33.33 33.33 33.33" in rows
    assert "1 Cause-Effect 1 0 1 0 2 1 0 3" in rows
    assert "micro average without Other 2 4 6 50.00 33.33 40.00" in rows
    assert "macro average without Other 66.67 33.33 41.67" in rows
    assert "accuracy, skipped is Other 4 of 9 = 44.44 %" in rows
    assert "Answered but absent from the key: 4 Product-Producer" in rows


@modest
@given(st.dictionaries(st.integers(0, 9999).map(str), labels))
def test_answers_are_read_back_as_written(tmp_path_factory: pytest.TempPathFactory, answers: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("answers") / "answers.txt"
    write_answers(path, answers.keys(), answers.values())
    assert read_answers(path) == answers


def test_answers_are_written_in_the_official_format_and_one_label_for_each_id(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.txt", [8001, 8002], ["Other", "Message-Topic(e1,e2)"])
    assert (tmp_path / "a.txt").read_bytes() == b"8001\tOther\n8002\tMessage-Topic(e1,e2)\n"
    with pytest.raises(ValueError, match="zip"):
        write_answers(tmp_path / "b.txt", [1, 2], ["Other"])


def test_crlf_a_byte_order_mark_and_a_missing_last_line_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_bytes(b"\xef\xbb\xbf1\tOther\r\n\r\n2\tMessage-Topic(e1,e2)")
    assert read_answers(path) == {"1": "Other", "2": "Message-Topic(e1,e2)"}


def test_each_faulty_line_is_named_with_what_is_wrong_and_the_nearest_legal_label(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_text("1\tOther\n2 Other\n3\tOthr\n\tOther\n1\tOther\n4\tOther\tOther\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_answers(path)
    message = str(caught.value)
    assert "faulty lines: 5" in message
    assert f"{path}:2: '2 Other' is not ID<TAB>label" in message
    assert f"{path}:3: unknown label 'Othr'; did you mean 'Other'?" in message
    assert f"{path}:4: " in message
    assert f"{path}:5: id '1' was answered in line 1 already" in message
    assert f"{path}:6: unknown label" in message


def test_the_first_twenty_faulty_lines_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_text("1,Other\n" * 25, encoding="utf-8")
    with pytest.raises(DataError, match="and 5 more") as caught:
        read_answers(path)
    assert str(caught.value).count("is not ID<TAB>label") == 20


def test_labels_of_another_corpus_are_legal_when_given(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_text("1\tno_relation\n", encoding="utf-8")
    assert read_answers(path, labels=["no_relation"]) == {"1": "no_relation"}
    assert read_answers(path) == {"1": "no_relation"}
    with pytest.raises(DataError, match=":1: unknown label 'no_relation'"):
        read_answers(path, labels=SEMEVAL_LABELS)


def test_a_key_of_semeval_may_be_answered_with_all_of_its_labels_another_with_its_own_relations() -> None:
    assert answerable(["Cause-Effect(e1,e2)", "Other"]) == list(SEMEVAL_LABELS)
    assert answerable(["per:title(e2,e1)", "no_relation"]) == [
        "per:title(e1,e2)",
        "per:title(e2,e1)",
        *NONE_LABELS,
    ]


def test_a_file_that_is_missing_or_not_text_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"1\t\xff\xfe\n")
    for name in ("bytes.txt", "missing.txt"):
        with pytest.raises(DataError, match=re.escape(f"{tmp_path / name}: cannot be read")):
            read_answers(tmp_path / name)
