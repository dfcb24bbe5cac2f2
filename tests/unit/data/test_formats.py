import json
from pathlib import Path

import pandas as pd
import pytest
from tests.unit.data.tables import read_split

from bilstm_attention.config import Data
from bilstm_attention.data.corpus import index_corpus
from bilstm_attention.data.formats import marking_fault, split_files
from bilstm_attention.errors import DataError

FIRST = '1\t"A <e1>kettle</e1> stood on the <e2>stove</e2>."'
SECOND = '2\t"The <e2>shed</e2> kept "old" <e1>rakes</e1> dry."'
SEMEVAL = f"{FIRST}\r\nOther\r\nComment:\r\n\r\n{SECOND}\r\nContent-Container(e1,e2) \r\nComment: a shed\r\n\r\n"


def semeval(folder: Path, content: str | bytes, name: str = "train.txt") -> Data:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Data(format="semeval2010", folder=str(folder), train=name, test=None)


def delimited(folder: Path, name: str, content: str, **columns: str) -> Data:
    (folder / name).write_bytes(content.encode())
    return Data(format="delimited", folder=str(folder), train=name, test=None, **columns)


def faults(data: Data) -> list[str]:
    with pytest.raises(DataError) as caught:
        index_corpus(data)
    return str(caught.value).replace(data.folder + "/", "").split("\n")


def test_semeval_file_gives_one_row_per_block(tmp_path):
    found = read_split(semeval(tmp_path, SEMEVAL), "train")
    expected = pd.DataFrame(
        {
            "id": ["1", "2"],
            "text": [FIRST[3:-1], 'The <e2>shed</e2> kept "old" <e1>rakes</e1> dry.'],
            "label": ["Other", "Content-Container(e1,e2)"],
            "source": [f"{tmp_path}/train.txt:1", f"{tmp_path}/train.txt:5"],
        }
    )
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"])
def test_line_ends_and_byte_order_mark_change_nothing(tmp_path, ending):
    plain = read_split(semeval(tmp_path, SEMEVAL), "train")
    other = b"\xef\xbb\xbf" + SEMEVAL.rstrip().replace("\r\n", ending).encode()
    pd.testing.assert_frame_equal(read_split(semeval(tmp_path, other), "train"), plain)


def test_rare_line_separators_do_not_end_a_sentence(tmp_path):
    found = read_split(semeval(tmp_path, SEMEVAL.replace("stood on", "stood\x85on\u2028\x0b")), "train")
    assert "stood\x85on" in found["text"][0]
    assert found["source"][1].endswith(":5")


def test_kbp37_file_gives_one_row_per_block(tmp_path):
    block = '{}\t" <e2> Ada </e2> works at <e1> the mill </e1> . "\nper:employee_of(e2,e1)  \n\n\n'
    (tmp_path / "train.txt").write_text(block.format(7) + block.format(8))
    found = read_split(Data(format="kbp37", folder=str(tmp_path), train="train.txt", test=None), "train")
    assert found["id"].tolist() == ["7", "8"]
    assert found["label"].tolist() == ["per:employee_of(e2,e1)"] * 2
    assert found["text"][0] == "<e2> Ada </e2> works at <e1> the mill </e1> ."
    assert found["source"][1].endswith(":5")


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (SEMEVAL.replace("Comment:\r\n", ""), "train.txt:1: sentence 1 opens a block of 2 lines"),
        (SEMEVAL.replace("Comment:\r\n\r\n", "Comment:\r\n"), "train.txt:1: sentence 1 opens a block of 6 lines"),
        (SEMEVAL.replace("Comment: a", "Remark: a"), "train.txt:7: 'Remark: a shed' stands under sentence 2"),
        (SEMEVAL.replace('2\t"', "2\t"), "train.txt:5: a block begins with '2\\tThe"),
        (SEMEVAL.replace('2\t"', '2 "'), "train.txt:5: a block begins with '2 \"The"),
        (SEMEVAL.replace("2\t", "1\t"), "train.txt:5: id 1 is also the id at train.txt:1"),
        (SEMEVAL.replace(SECOND, '2\t" "'), "train.txt:5: sentence 2 is empty"),
        (SEMEVAL.replace("</e1> stood", " stood"), "train.txt:1: sentence 1 has <e1> <e2> </e2> but no </e1>"),
        (SEMEVAL.replace("dry", "<e2>dry"), "train.txt:5: sentence 2 has <e2> more than once"),
        ("\n\n", "train.txt: no sentence in it; data.train names it."),
        (SEMEVAL.replace("rakes", " "), "train.txt:5: sentence 2 has nothing between <e1> and </e1>"),
    ],
)
def test_malformed_block_is_named_by_line(tmp_path, broken, expected):
    (line,) = faults(semeval(tmp_path, broken))
    assert line.startswith(expected)


def test_twenty_faults_are_listed_and_the_rest_counted(tmp_path):
    good = "".join(f'{n}\t"<e1>a</e1> <e2>b</e2>"\nOther\nComment:\n\n' for n in range(30))
    lines = faults(semeval(tmp_path, good.replace("</e2>", "").replace("3\t", "3 ")))
    assert len(lines) == 21
    assert [line.split(":")[1] for line in lines[:4]] == ["1", "5", "9", "13"]
    assert "begins with '3 " in lines[3]
    assert lines[-1] == "... and 10 more"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("the<e1>cat</e1>s and <e2>dogs</e2>", ""),
        ("<e2>cats</e2><e1>dogs</e1>", ""),
        ("</e1>cats<e1> and <e2>dogs</e2>", "order </e1> <e1> <e2> </e2>"),
        ("<e1>cats <e2>and</e1> dogs</e2>", "order <e1> <e2> </e1> </e2>"),
        ("<e1>cats <e2>and</e2> dogs</e1>", "order <e1> <e2> </e2> </e1>"),
        ("cats and dogs", "no markers"),
    ],
)
def test_markers_may_touch_words_and_swap_but_not_cross(text, wrong):
    assert wrong in marking_fault(text)
    assert bool(marking_fault(text)) == bool(wrong)


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path):
    (line,) = faults(semeval(tmp_path, SEMEVAL.encode().replace(b"shed</e2>", b"sh\x96d</e2>")))
    assert line.startswith("train.txt:5: byte 14 of the line is 0x96, which is not UTF-8")


def test_missing_file_names_its_neighbours_and_the_fetch_command(tmp_path):
    (tmp_path / "train.txt").write_text(SEMEVAL)
    (line,) = faults(Data(folder=str(tmp_path), train="trian.txt", test=None))
    assert "did you mean 'train.txt'" in line
    assert "fetch" not in line
    (line,) = faults(Data(folder="data/external/mr", train="train.txt", test=None))
    assert "does not exist" in line
    assert "`bilstm-attention fetch mr` fetches it." in line


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_table_of_pandas_is_read_back_with_words_like_na(tmp_path, ending):
    table = pd.DataFrame({"said": ["NA", 'a "fine", day', "1"], "kind": ["null", "NaN", "None"], "id": ["x", "y", "z"]})
    path = tmp_path / f"t.{ending}"
    if ending == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, sep="," if ending == "csv" else "\t", index=False)
    data = Data(format="delimited", folder=str(tmp_path), train=path.name, test=None, text="said", label="kind")
    found = read_split(data, "train")
    assert found[["id", "text", "label"]].values.tolist() == table[["id", "said", "kind"]].values.tolist()
    assert found["source"].str.split(":").str[-1].tolist() == (
        ["1", "2", "3"] if ending == "jsonl" else ["2", "3", "4"]
    )


def test_line_numbers_count_line_breaks_in_fields(tmp_path):
    found = read_split(delimited(tmp_path, "t.csv", 'text,label\r\n"one\r\ntwo",a\r\n\r\nthree,b\r\n'), "train")
    assert found["source"].str.split(":").str[-1].tolist() == ["2", "5"]
    assert found["id"].tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "t.csv",
            "texts,label\na,b\n",
            "t.csv:1: no column 'text'; did you mean 'texts'? Set data.text to one of texts, ",
        ),
        ("t.csv", "text,label\na,b,c\nd,e\n", "t.csv:2: 3 fields where the header names 2"),
        ("t.csv", 'text,label\n"a"b,c\nd,e\n', "t.csv:2: the record that begins here cannot be read"),
        ("t.csv", 'text,label\na,b\n"c,d\n', "t.csv:3: the record that begins here cannot be read"),
        ("t.tsv", 'text\tlabel\n"a\tb\nc\td"\n', "t.tsv:2: a quote opens here and closes on a later line"),
        ("t.tsv", "text\tlabel\na\t \nc\td\n", "t.tsv:2: sentence 1 has no label"),
        ("t.csv", "id,text,label\n5,a,b\n5,c,d\n", "t.csv:3: id 5 is also the id at t.csv:2"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "a"\n', "t.jsonl:2: not JSON"),
        ("t.jsonl", "[1]\n", "t.jsonl:1: not a JSON object"),
        ("t.jsonl", '{"text": "a"}\n', "t.jsonl:1: no column 'label'. Set data.label to one of text."),
        ("t.jsonl", '{"text": null, "label": "a"}\n', "t.jsonl:1: 'text' is 'null'; legal is a string"),
        ("t.jsonl", '{"text": "a", "label": true}\n', "t.jsonl:1: 'label' is 'true'; legal is a string"),
        ("t.jsonl", '{"text": "\\ud800", "label": "a"}\n', "t.jsonl:1: 'text' is"),
        ("t.xlsx", "", "t.xlsx: ends in '.xlsx'; data.format delimited reads .csv, .tsv and .jsonl"),
    ],
)
def test_malformed_record_is_named_by_line(tmp_path, name, content, expected):
    (line,) = faults(delimited(tmp_path, name, content))
    assert line.startswith(expected)


def test_integer_is_a_legal_label(tmp_path):
    lines = "".join(json.dumps({"text": "über", "label": n}, ensure_ascii=False) + "\n" for n in (0, 1))
    found = read_split(delimited(tmp_path, "t.jsonl", lines), "train")
    assert found["label"].tolist() == ["0", "1"]
    assert found["text"][0] == "über"


def test_class_files_give_label_and_id(tmp_path):
    (tmp_path / "good.txt").write_text("fine film \nnice\n", encoding="utf-8")
    (tmp_path / "bad.txt").write_text("dull\n", encoding="utf-8")
    files = {"pos": "good.txt", "neg": "bad.txt"}
    found = read_split(Data(format="classes", folder=str(tmp_path), train=files, test=None), "train")
    assert split_files(Data(), "dev") == []
    assert found[["id", "text", "label"]].values.tolist() == [
        ["pos-1", "fine film", "pos"],
        ["pos-2", "nice", "pos"],
        ["neg-1", "dull", "neg"],
    ]
    (tmp_path / "bad.txt").write_text("dull\n\nslow\n", encoding="utf-8")
    assert faults(Data(format="classes", folder=str(tmp_path), train=files, test=None)) == [
        "bad.txt:2: sentence neg-2 is empty."
    ]
    missing = Data(format="classes", folder=str(tmp_path), train={"pos": "a.txt", "neg": "b.txt"}, test=None)
    assert [line.split(":")[0] for line in faults(missing)] == ["a.txt", "b.txt"]


def test_real_semeval_files_are_read(real_data):
    data = Data(folder=str(real_data / "semeval2010-task8"), train="TRAIN_FILE.TXT", test="TEST_FILE_FULL.TXT")
    train, test = read_split(data, "train"), read_split(data, "test")
    assert (len(train), len(test)) == (8000, 2717)
    assert train["label"].nunique() == 19
    assert (train["label"] == "Entity-Destination(e2,e1)").sum() == 1
    assert test["id"].tolist() == [str(n) for n in range(8001, 10718)]
