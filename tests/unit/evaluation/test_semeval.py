import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import refusal

from bilstm_attention.data.relations import NONE_LABELS
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation import semeval
from bilstm_attention.evaluation.metrics import percent
from bilstm_attention.evaluation.semeval import SEMEVAL_LABELS, evaluate_official, legal_answers, read_answers, report

CAUSE, CAUSED, TOPIC = "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)"
KEY = dict(zip("123456789", (CAUSE, CAUSE, CAUSED, TOPIC, TOPIC, "Other", "Other", "Other", TOPIC), strict=True))
# 2 in the wrong direction, 5 and 8 left out, 9 absent from the key
ANSWERS = {"1": CAUSE, "2": CAUSED, "3": "Other", "4": TOPIC, "6": CAUSE, "7": "Other", "9": "Product-Producer(e1,e2)"}


def percents(result: semeval.OfficialResult) -> list[str]:
    """All percentages of the three views, in the order of the official scorer."""
    values: list[float] = []
    for view in result:
        table = view.per_relation[["precision", "recall", "f1"]].to_numpy().ravel()
        values += [*(percent(*share) for share in view.shares.values()), *table, *view.micro, *view.macro]
    return [f"{value:.2f}" for value in (*values, result.score)]


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_official_example_results_are_reproduced(real_data, number):
    folder = real_data / "semeval2010-task8/scorer-examples"
    text = (folder / f"result_scores{number}.txt").read_text(encoding="utf-8")
    answers = (read_answers(folder / f"{name}{number}.txt") for name in ("answer_key", "proposed_answer"))
    result = evaluate_official(*answers)
    assert percents(result) == re.findall(r"= +([\d.]+)%", text)
    assert len(percents(result)) > 40
    labels = [name for view in result for name in view.confusion.index]
    assert labels == re.findall(r"^ *_?(\S+) : ", text, flags=re.MULTILINE)


def test_views_equal_hand_computed_numbers():
    result = evaluate_official(KEY, ANSWERS)
    view = result.official
    assert view.confusion.index.tolist() == ["Cause-Effect", "Message-Topic", "Other"]
    # an answer in the wrong direction counts as predicted and gold, but not as correct
    assert view.per_relation[["correct", "predicted", "gold"]].to_numpy().tolist() == [[1, 3, 3], [1, 1, 3], [1, 2, 3]]
    assert view.per_relation["f1"].tolist() == pytest.approx([100 / 3, 50, 40])
    assert view.per_relation["wrong_direction"].tolist() == [1, 0, 0]
    assert view.per_relation["skipped"].tolist() == [0, 1, 1]
    assert view.macro == pytest.approx((200 / 3, 100 / 3, 125 / 3))
    assert view.micro == pytest.approx((50, 100 / 3, 40))
    assert view.confusion.columns.tolist() == [*view.confusion.index, "Product-Producer"]
    assert view.confusion.to_numpy().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert list(view.shares.values()) == [(7, 9), (3, 7), (3, 9), (4, 9)]
    assert result.directed.macro.f1 == pytest.approx(100 / 3)
    assert result.directed.micro == pytest.approx((50, 100 / 3, 40))
    assert list(result.directed.shares.values()) == [(7, 9), (3, 7), (3, 9), (4, 9)]
    assert result.undirected.macro.f1 == pytest.approx((200 / 3 + 50) / 2)
    assert result.undirected.micro == pytest.approx((75, 50, 60))
    assert list(result.undirected.shares.values()) == [(7, 9), (4, 7), (4, 9), (5, 9)]


def test_kbp37_labels_are_scored_with_their_own_none_label():
    key = {"a": "per:spouse(e1,e2)", "b": "org:top_members/employees(e2,e1)", "c": "no_relation"}
    result = evaluate_official(key, {**key, "c": "per:spouse(e1,e2)"})
    assert result.official.confusion.index.tolist() == ["org:top_members/employees", "per:spouse", "no_relation"]
    assert result.score == pytest.approx((100 + 200 / 3) / 2)


def test_key_without_relations_and_no_answers_score_zero():
    assert evaluate_official({"1": "Other"}, {"1": "Other"}).score == 0
    empty = evaluate_official(KEY, {})
    assert (empty.score, empty.official.shares["answered"]) == (0, (0, 9))
    assert "accuracy over the answered 0 of 0 = 0.00 %" in " ".join(report(empty).split())


modest = settings(max_examples=40)
labels = st.sampled_from(SEMEVAL_LABELS)


@modest
@given(st.lists(labels, min_size=1, max_size=40))
def test_turned_answers_score_only_without_direction(gold):
    turn = str.maketrans("12", "21")
    key = {str(number): label for number, label in enumerate(gold)}
    turned = {number: label.translate(turn) for number, label in key.items()}
    best = 100 if set(gold) != {"Other"} else 0
    assert evaluate_official(key, key).score == best
    result = evaluate_official(key, turned)
    assert (result.score, result.undirected.macro.f1) == (0, best)


@pytest.mark.parametrize(
    ("key", "answers", "message"),
    [
        (KEY, {**ANSWERS, "99": "Other"}, r"does not hold: 1\..*\n99"),
        ({}, {}, "no ids"),
        ({"1": "positive"}, {}, "'positive' is no relation"),
    ],
)
def test_unusable_keys_and_answers_are_errors(key, answers, message):
    with pytest.raises(DataError, match=message):
        evaluate_official(key, answers)


def test_report_prints_three_views_and_the_official_score():
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


def test_answers_are_written_and_read_in_the_official_format(tmp_path):
    path = tmp_path / "a.txt"
    semeval.write_answers(path, [8001, 8002], ["Other", "Message-Topic(e1,e2)"])
    assert path.read_bytes() == b"8001\tOther\n8002\tMessage-Topic(e1,e2)\n"
    assert read_answers(path) == {"8001": "Other", "8002": "Message-Topic(e1,e2)"}
    with pytest.raises(ValueError, match="zip"):
        semeval.write_answers(tmp_path / "b.txt", [1, 2], ["Other"])
    # CRLF, a byte order mark and a missing last line end
    path.write_bytes(b"\xef\xbb\xbf1\tOther\r\n\r\n2\tMessage-Topic(e1,e2)")
    assert read_answers(path) == {"1": "Other", "2": "Message-Topic(e1,e2)"}


def test_each_faulty_line_is_named_with_the_nearest_legal_label(tmp_path):
    path = tmp_path / "answers.txt"
    path.write_text("1\tOther\n2 Other\n3\tOthr\n\tOther\n1\tOther\n4\tOther\tOther\n", encoding="utf-8")
    message = refusal(lambda: read_answers(path), DataError)
    assert "faulty lines: 5" in message
    faults = ["'2 Other' is not ID<TAB>label", "unknown label 'Othr'; did you mean 'Other'?", ""]
    for line, fault in enumerate([*faults, "id '1' was answered in line 1 already", "unknown label"], start=2):
        assert f"{path}:{line}: {fault}" in message


def test_legal_answers_are_those_of_semeval_or_of_the_key(tmp_path):
    assert legal_answers(["Cause-Effect(e1,e2)", "Other"]) == list(SEMEVAL_LABELS)
    kbp37 = ["per:title(e1,e2)", "per:title(e2,e1)", *NONE_LABELS]
    assert legal_answers(["per:title(e2,e1)", "no_relation"]) == kbp37
    path = tmp_path / "answers.txt"
    path.write_text("1\tno_relation\n", encoding="utf-8")
    assert read_answers(path, labels=kbp37) == read_answers(path) == {"1": "no_relation"}
    with pytest.raises(DataError, match=":1: unknown label 'no_relation'"):
        read_answers(path, labels=SEMEVAL_LABELS)


def test_file_that_is_not_text_is_an_error(tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"1\t\xff\xfe\n")
    with pytest.raises(DataError, match=r"bytes.txt: cannot be read"):
        read_answers(tmp_path / "bytes.txt")
