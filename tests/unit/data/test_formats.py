import bz2
import gzip
import json
import lzma
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import refusal
from tests.small import write
from tests.unit.data.tables import read_index, read_split

from bilstm_attention.config import Data
from bilstm_attention.data.formats import split_sources
from bilstm_attention.data.relations import marking_fault
from bilstm_attention.errors import DataError

FIRST = '1\t"A <e1>kettle</e1> stood on the <e2>stove</e2>."'
SECOND = '2\t"The <e2>shed</e2> kept "old" <e1>rakes</e1> dry."'
SEMEVAL = f"{FIRST}\r\nOther\r\nComment:\r\n\r\n{SECOND}\r\nContent-Container(e1,e2) \r\nComment: a shed\r\n\r\n"


def table(folder: Path, name: str, content: str | bytes, **settings: object) -> Data:
    write(folder / name, content)
    return Data.model_validate({"format": "table", "folder": str(folder), "train": name, "test": None, **settings})


def semeval(folder: Path, content: str | bytes, name: str = "train.txt") -> Data:
    return table(folder, name, content, format="semeval2010")


def rows_of(data: Data) -> list[list[str]]:
    return read_split(data, "train")[["text", "label"]].values.tolist()


def faults(data: Data) -> list[str]:
    return refusal(lambda: read_index(data), DataError).replace(data.folder + "/", "").split("\n")


KBP37 = "<e2> Ada </e2> works at <e1> the mill </e1> ."
OF = "per:employee_of(e2,e1)"


@pytest.mark.parametrize(
    ("kind", "content", "rows"),
    [
        ("semeval2010", SEMEVAL, [["1", FIRST[3:-1], "Other"], ["2", SECOND[3:-1], "Content-Container(e1,e2)"]]),
        ("kbp37", "".join(f'{n}\t" {KBP37} "\n{OF}  \n\n\n' for n in "78"), [["7", KBP37, OF], ["8", KBP37, OF]]),
    ],
)
def test_block_is_a_row(tmp_path, kind, content, rows):
    found = read_split(table(tmp_path, "train.txt", content, format=kind), "train")
    assert found[["id", "text", "label"]].values.tolist() == rows
    assert found["source"].tolist() == [f"{tmp_path}/train.txt:{line}" for line in (1, 5)]


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"])
def test_line_ends_and_byte_order_mark_change_nothing(tmp_path, ending):
    plain = read_split(semeval(tmp_path, SEMEVAL), "train")
    other = b"\xef\xbb\xbf" + SEMEVAL.rstrip().replace("\r\n", ending).encode()
    pd.testing.assert_frame_equal(read_split(semeval(tmp_path, other), "train"), plain)


def test_rare_line_separators_do_not_end_a_sentence(tmp_path):
    found = read_split(semeval(tmp_path, SEMEVAL.replace("stood on", "stood\x85on\u2028\x0b")), "train")
    assert "stood\x85on" in found["text"][0]
    assert found["source"][1].endswith(":5")


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (SEMEVAL.replace("Other\r\nComment:\r\n", ""), "train.txt:1: sentence 1 has no label under it"),
        (SEMEVAL.replace("Comment: a", "Remark: a"), "train.txt:7: 'Remark: a shed' stands under the label of"),
        (SEMEVAL.replace('2\t"', "2\t"), "train.txt:5: a block begins with '2\\tThe"),
        (SEMEVAL.replace('2\t"', '2 "'), "train.txt:5: a block begins with '2 \"The"),
        (f"{'w' * 61}\nOther\n", f"train.txt:1: a block begins with '{'w' * 57}...'"),
        (SEMEVAL.replace("2\t", "1\t"), "train.txt:5: id 1 is also the id at train.txt:1"),
        (SEMEVAL.replace(SECOND, '2\t" "'), "train.txt:5: sentence 2 is empty"),
        (SEMEVAL.replace("</e1> stood", " stood"), "train.txt:1: sentence 1 has <e1> <e2> </e2> but no </e1>"),
        (SEMEVAL.replace("dry", "<e2>dry"), "train.txt:5: sentence 2 has <e2> more than once"),
        ("\n\n", "train.txt: no sentence in it; data.train names it."),
    ],
)
def test_malformed_block_is_named_by_line(tmp_path, broken, expected):
    (line,) = faults(semeval(tmp_path, broken))
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "changed",
    [
        SEMEVAL.replace("Comment:\r\n", "").replace("Comment: a shed\r\n", ""),
        SEMEVAL.replace("Comment:\r\n", "Comment: of many\r\nlines, such as\r\nOther\r\n"),
        SEMEVAL.replace("\r\n\r\n", "\r\n"),
        SEMEVAL.replace("\r\nComment:\r\n\r\n", "\r\n").replace("Comment: a shed\r\n\r\n", ""),
        SEMEVAL.replace('1\t"', "1\t\u201c").replace('stove</e2>."', "stove</e2>.\u201d"),
        SEMEVAL.replace('stove</e2>."', 'stove</e2>".').replace("\r\n\r\n", "\r\n\r\n\r\n"),
        SEMEVAL.replace("\t", " \t ").replace("Other", "  Other"),
    ],
)
def test_blocks_as_others_write_them(tmp_path, changed):
    assert rows_of(semeval(tmp_path, changed)) == rows_of(semeval(tmp_path, SEMEVAL, "other.txt"))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("the<e1>cat</e1>s and <e2>dogs</e2>", ""),
        ("<e2>cats</e2><e1>dogs</e1>", ""),
        ("</e1>cats<e1> and <e2>dogs</e2>", "order </e1> <e1> <e2> </e2>"),
        ("<e1>cats <e2>and</e1> dogs</e2>", "order <e1> <e2> </e1> </e2>"),
        ("<e1>cats <e2>and</e2> dogs</e1>", "order <e1> <e2> </e2> </e1>"),
        ("cats and dogs", "no markers"),
        ("<e1> </e1> and <e2>dogs</e2>", ""),
    ],
)
def test_markers_may_touch_words_and_swap_but_not_cross(text, wrong):
    assert wrong in marking_fault(text)
    assert bool(marking_fault(text)) == bool(wrong)


def test_bytes_of_another_encoding_are_named_by_line_with_what_it_may_be(tmp_path):
    lines = faults(semeval(tmp_path, SEMEVAL.encode().replace(b"shed</e2>", b"sh\x96d</e2>")))
    assert lines[0].startswith("train.txt:5: character 14 of the line is 0x96, which is not utf-8; set data.encoding")
    rows = "".join(f"text {n} über größere Häuser\tgut\n" for n in range(50))
    lines = faults(table(tmp_path, "t.tsv", f"text\tlabel\n{rows}".encode("cp1252")))
    assert "cp1252" in lines[0]
    lines = faults(table(tmp_path, "t.tsv", ("text\tlabel\n" + "这部电影很好看，我喜欢\t好\n" * 30).encode("gb18030")))
    assert "gb" in lines[0]
    assert "cp1252" not in lines[0]
    (line,) = faults(table(tmp_path, "t.tsv", "text\tlabel\na\0b\tc\n"))
    assert line.startswith("t.tsv:2: character 2 of the line is NUL")


def test_missing_file_names_its_neighbours_and_the_fetch_command(tmp_path):
    data = semeval(tmp_path, SEMEVAL)
    (line,) = faults(data.model_copy(update={"train": "trian.txt"}))
    assert "did you mean 'train.txt'" in line
    assert "fetch" not in line
    (line,) = faults(Data(folder="data/external/mr", train="train.txt", test=None))
    assert "does not exist" in line
    assert "`bilstm-attention fetch mr` fetches it." in line


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz", "jsonl.bz2", "tsv.xz"])
def test_table_of_pandas_is_read_back_with_words_like_na(tmp_path, ending):
    frame = pd.DataFrame({"said": ["NA", 'a "fine", day', "1"], "kind": ["null", "NaN", "None"], "id": ["x", "y", "z"]})
    path = tmp_path / f"t.{ending}"
    if "json" in ending:
        frame.to_json(path, orient="records", lines="jsonl" in ending)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if "csv" in ending else "\t", index=False)
    data = table(tmp_path, path.name, path.read_bytes(), text="said", label="kind", id="id")
    found = read_split(data, "train")
    assert found[["id", "text", "label"]].values.tolist() == frame[["id", "said", "kind"]].values.tolist()
    first = 2 if "csv" in ending or "tsv" in ending else 1
    places = [1, 1, 1] if ending == "json" else [first, first + 1, first + 2]
    assert found["source"].tolist() == [f"{path}:{place}" for place in places]


def test_line_numbers_count_line_breaks_in_fields(tmp_path):
    found = read_split(table(tmp_path, "t.csv", 'text,label\r\n"one\r\ntwo",a\r\n\r\nthree,b\r\n'), "train")
    assert found[["id", "source"]].values.tolist() == [["1", f"{tmp_path}/t.csv:2"], ["2", f"{tmp_path}/t.csv:5"]]


ROWS = [["good; really, good", "pos"], ["bad film", "neg"]]
PLAIN_CSV = 'text,label\n"good; really, good",pos\nbad film,neg\n'
LONG = "word " * 40_000
READ = {
    "semicolons": ("t.csv", 'text;label\n"good; really, good";pos\nbad film;neg\n', {}),
    "sep= line": ("t.csv", 'sep=;\ntext;label\n"good; really, good";pos\nbad film;neg\n', {}),
    "bars": ("t.csv", "text|label\ngood; really, good|pos\nbad film|neg\n", {}),
    "delimiter": ("t.txt", "text#label\ngood; really, good#pos\nbad film#neg\n", {"delimiter": "#"}),
    "UTF-16 of Excel": ("t.txt", "text\tlabel\r\ngood; really, good\tpos\r\nbad film\tneg".encode("utf-16"), {}),
    "UTF-16 that is named": ("t.csv", PLAIN_CSV.encode("utf-16-le"), {"encoding": "utf-16-le"}),
    "byte order mark": ("t.csv", f"\ufeff{PLAIN_CSV}", {}),
    "no header": ("t.csv", 'pos,"good; really, good"\nneg,bad film\n', {"header": False, "text": 1, "label": 0}),
    "bare tabs": ("t.tsv", "pos\tgood; really, good\nneg\tbad film\n", {"header": False, "text": 1, "label": 0}),
    "names alike": ("t.csv", ',Text , LABEL\n0,"good; really, good",pos\n1,bad film,neg\n', {}),
    "repeated ids": ("t.csv", 'id,text,label\n7,"good; really, good",pos\n7,bad film,neg\n', {}),
    "ending in capitals": ("T.CSV", PLAIN_CSV, {}),
    "json array": (
        "t.json",
        '[{"text": "good; really, good", "label": "pos"},\n\n {"text": "bad film",\n "label": "neg", "more": [1]}\n]\n',
        {},
    ),
    "other keys in a row": (
        "t.jsonl",
        '{"label": "pos", "text": "good; really, good"}\n\n{"text": "bad film", "label": "neg", "x": 1}\n',
        {},
    ),
    "fastText": ("t.txt", "__label__pos good; really, good\n__label__neg\tbad film\n", {"format": "fasttext"}),
}


@pytest.mark.parametrize(("name", "content", "settings"), READ.values(), ids=READ)
def test_tables_as_people_have_them(tmp_path, name, content, settings):
    assert rows_of(table(tmp_path, name, content, **settings)) == ROWS


@pytest.mark.parametrize(
    ("name", "line", "settings", "expected"),
    [
        # the last column takes the rest of its line
        ("t.csv", 'x,good, really "good', {"quoting": "none", "text": "label", "label": "text"}, 'good, really "good'),
        ("t.tsv", 'say "cheese\tx', {}, 'say "cheese'),
        ("t.tsv", '"open\tx', {}, '"open'),
        ("t.tsv", '"a ""b"" c"\tx', {}, 'a "b" c'),
        ("t.tsv", '"a" or "b"\tx', {}, '"a" or "b"'),
        ("t.tsv", '"whole"\tx', {"quoting": "none"}, '"whole"'),
        ("t.csv", '"a \\"b\\" c",x', {"quoting": "backslash"}, 'a "b" c'),
        ("t.csv", f'"{LONG}",x', {}, LONG.strip()),
    ],
)
def test_quotes(tmp_path, name, line, settings, expected):
    header = f"text{',' if name == 't.csv' else chr(9)}label"
    assert rows_of(table(tmp_path, name, f"{header}\n{line}\n", **settings)) == [[expected, "x"]]


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0"), (1.0, "1"), (0.5, "0.5"), (True, "true"), ("1.0", "1.0"), ("über", "über")]
)
def test_labels_may_be_numbers_and_booleans(tmp_path, value, expected):
    data = table(tmp_path, "t.jsonl", json.dumps({"text": "a", "label": value}))
    assert rows_of(data) == [["a", expected]]
    pd.DataFrame({"text": ["a"], "label": [value]}).to_parquet(tmp_path / "t.parquet")
    assert rows_of(table(tmp_path, "t.parquet", (tmp_path / "t.parquet").read_bytes())) == [["a", expected]]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "texts,label\na,b\n", "t.csv:1: no column 'text'; did you mean 'texts'? There are texts, label."),
        ("t.csv", "good film,pos\n", "t.csv:1: no column 'text'. no column 'label'. There are good film, pos."),
        ("t.csv", b"text,label,\xff\n", "t.csv:1: character 12 of the line is 0xff, which is not utf-8"),
        ("t.csv", "text,text,label\na,b,c\n", "t.csv:1: several columns are called text"),
        ("t.csv", "text,label\na,b,c\nd,e\n", "t.csv:2: 3 fields where the header has 2"),
        ("t.csv", 'text,label\n"a"b,c\nd,e\n', "t.csv:2: the record that begins here cannot be read"),
        ("t.csv", 'text,label\na,b\n"c,d\n', "t.csv:3: the record that begins here cannot be read"),
        ("t.tsv", 'text\tlabel\n"a\nd\te\n', "t.tsv:2: 1 fields where the header has 2"),
        ("t.tsv", "text\tlabel\na\t \nc\td\n", "t.tsv:2: sentence 1 has no label"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "a"\n', "t.jsonl:2: not JSON"),
        ("t.jsonl", "1\n", "t.jsonl:1: not a JSON object"),
        ("t.json", '[{"text": "a", "label": "b"},\n{"text": }]', "t.json:2: not JSON"),
        ("t.json", '[{"text": "a", "label": "b"},\n5]', "t.json:2: not a JSON object"),
        ("t.jsonl", '{"text": "a"}\n', "t.jsonl:1: no column 'label'. There is text."),
        ("t.jsonl", '{"text": null, "label": "a"}\n', "t.jsonl:1: sentence 1 is empty"),
        ("t.jsonl", '{"text": {"a": 1}, "label": "a"}\n', "t.jsonl:1: holds '{\"a\": 1}'; legal is text"),
        ("t.jsonl", '{"text": "\\ud800", "label": "a"}\n', "t.jsonl:1: holds"),
        ("t.xlsx", "", "t.xlsx: ends in '.xlsx'; tables are .csv"),
        ("t.parquet", "text", "t.parquet: cannot be read as parquet"),
        ("t.csv.gz", "text,label\n", "t.csv.gz: damaged, or not what its name says"),
        ("t.csv", "", "t.csv:1: no column 'text'. no column 'label'. There are none."),
    ],
)
def test_malformed_record_is_named_by_line(tmp_path, name, content, expected):
    (line,) = faults(table(tmp_path, name, content))
    assert line.startswith(expected)


def test_all_faults_of_a_file_are_listed_at_once(tmp_path):
    content = 'text,label\n"a"b,x\ngood,pos\nc,d,e\n"f"g,y\nbad,neg\n,neg\n'
    lines = faults(table(tmp_path, "t.csv", content))
    assert [line.split(":")[1] for line in lines] == ["2", "4", "5", "7"]


def test_test_file_without_labels_is_for_predict(tmp_path):
    (tmp_path / "test.csv").write_text("id,text\n1,a\n")
    data = table(tmp_path, "t.csv", "text,label\na,x\nb,y\n", test="test.csv")
    assert faults(data)[-1] == "A file without labels is for `predict --input`; leave data.test empty."


@pytest.mark.parametrize("pack", [gzip, bz2, lzma])
def test_cut_archive_is_an_error(tmp_path, pack):
    ending = {gzip: "gz", bz2: "bz2", lzma: "xz"}[pack]
    content = pack.compress(("text,label\n" + "".join(f"{n * 7919} words,a\n" for n in range(9999))).encode())
    (line,) = faults(table(tmp_path, f"t.csv.{ending}", content[: len(content) // 2]))
    assert line.startswith(f"t.csv.{ending}: damaged")


def classes(folder, files):
    return Data(format="classes", folder=str(folder), train=files, test=None)


def test_class_files_give_label_and_id(tmp_path):
    for name, text in {
        "good.txt": "fine film \nnice\n\n",
        "bad.txt": "dull\n\nslow\n",
        "t.csv": "text,label\n",
    }.items():
        write(tmp_path / name, text)
    data = classes(tmp_path, {1: "good.txt", 0: "bad.txt"})
    assert split_sources(data, "dev") == []
    rows = read_split(data, "train")[["id", "text", "label"]].values.tolist()
    assert rows == [["1-1", "fine film", "1"], ["1-2", "nice", "1"], ["0-1", "dull", "0"], ["0-3", "slow", "0"]]
    for files, expected in (
        ({"pos": "a.txt", "neg": "b.txt"}, ["a.txt: ", "b.txt: "]),
        ({"pos": "good.txt", "neg": "good.txt"}, ["good.txt: named for several classes in data.train"]),
        ({"pos": "good.txt", "neg": "t.csv"}, ["t.csv: a table"]),
    ):
        for line, start in zip(faults(classes(tmp_path, files)), expected, strict=True):
            assert line.startswith(start)


@pytest.mark.parametrize("named", ["train", {"neg": "train/neg", "pos": "train/pos/*.txt"}])
def test_folders_of_reviews_give_a_row_per_file(tmp_path, named):
    for name, text in {"pos/0_7": "Fine.\n\nNice.", "pos/1_7": "Good", "neg/0_7": "Dull"}.items():
        write(tmp_path / f"train/{name}.txt", text)
    write(tmp_path / "train/pos/.hidden", "no example")
    (tmp_path / "train/.hidden").mkdir()
    found = read_split(classes(tmp_path, named), "train")
    assert found[["id", "text", "label"]].values.tolist() == [
        ["neg-0_7", "Dull", "neg"],
        ["pos-0_7", "Fine.  Nice.", "pos"],
        ["pos-1_7", "Good", "pos"],
    ]
    assert found["source"][1] == f"{tmp_path}/train/pos/0_7.txt:1"
    empty = faults(classes(tmp_path, {"a": "train/neg", "b": "train/*.md"}))[0]
    assert empty.startswith("train/*.md: no files there; data.train names it for the class 'b'.")


def test_fasttext_line_without_one_label_is_named(tmp_path):
    data = table(tmp_path, "t.txt", "__label__a good\nno label\n__label__a __label__b two\n", format="fasttext")
    assert [line.split(":")[1] for line in faults(data)] == ["2", "3"]


MARKED = "The <e1>lid</e1> of the <e2>tea pot</e2> broke ."
OTHER_MARKS = "text,label\nThe [E1]lid[/E1] of the $tea pot# broke .,x\n"
PLAIN = "The lid of the tea pot broke ."
TACRED = {"token": PLAIN.split(), "label": "x", "subj_start": 1, "subj_end": 1, "obj_start": 4, "obj_end": 5}
MARKED_TEXT, WORDS = {"relations": "markers"}, {"relations": "words", "entities": ["h", "t"]}
PLACES = {"relations": "spans", "entities": list("abcd")}


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("m.csv", f"text,label\n{MARKED},x\n", MARKED_TEXT),
        ("o.csv", OTHER_MARKS, {"relations": "markers", "markers": ["[E1]", "[/E1]", "$", "#"]}),
        ("t.json", json.dumps([TACRED]), {"relations": "spans", "text": "token"}),
        ("s.csv", f"text,label,a,b,c,d\n{PLAIN},x,4,7,15,22\n", PLACES),
        ("w.csv", f"text,label,h,t\n{PLAIN},x,lid,tea pot\n", WORDS),
    ],
)
def test_relations_in_tables(tmp_path, name, content, settings):
    expected = MARKED if ".csv" in name else "The <e1> lid </e1> of the <e2> tea pot </e2> broke ."
    assert rows_of(table(tmp_path, name, content, **settings)) == [[expected, "x"]]


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        ("text,label\nno marks,x\n", MARKED_TEXT, "sentence 1 has no markers"),
        ("text,label,h,t\na lid on a lid,x,lid,on\n", WORDS, "has the entity 'lid' 2 times"),
        ("text,label,a,b,c,d\nab cd,x,0,2,3,9\n", PLACES, "has the positions ['0', '2', '3', '9'] in 5 characters"),
        ("text,label,a,b,c,d\nab cd,x,0,4,3,5\n", PLACES, "sentence 1 has its markers in the order"),
    ],
)
def test_faults_of_relations_are_named_by_line(tmp_path, content, settings, expected):
    (line,) = faults(table(tmp_path, "t.csv", content, **settings))
    assert line.startswith(f"t.csv:2: {expected}")
