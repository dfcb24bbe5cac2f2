"""Thousands of damaged files are read whole or refused in clear lines; no row is lost without a word."""

import json
import random
import re
from collections import Counter
from tempfile import TemporaryFile

import pandas as pd
import pytest

from bilstm_attention.config import Data
from bilstm_attention.data.corpus import read_chunks, read_corpus
from bilstm_attention.data.tables import BYTE_ORDER_MARKS
from bilstm_attention.errors import OFFENDERS_SHOWN, DataError

FILES = 1_000  # of each kind
TEXTS = [
    'A good film, "really" good',
    "Nicht schön; aber kurz",
    "it's 5 | 6\u2009km",
    "यह फ़िल्म अच्छी है",
    "这部电影很好",
    "a\\b c",
]
ROWS = [(TEXTS[n % len(TEXTS)] + f" {n}", ("pos", "neg")[n % 2]) for n in range(12)]


def csv_file(delimiter: str) -> str:
    quoted = ((text.replace('"', '""'), label) for text, label in ROWS)
    return f"text{delimiter}label\n" + "".join(f'"{text}"{delimiter}{label}\n' for text, label in quoted)


KINDS = {
    "t.csv": csv_file(","),
    "t.tsv": "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS),
    "t.jsonl": "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in ROWS),
    "t.txt": "".join(
        f'{n}\t"<e1>{text}</e1> and <e2>more</e2>"\n{label}\nComment: none\n\n' for n, (text, label) in enumerate(ROWS)
    ),
}
INSERTED = [
    *(b'"', b"'", b",", b";", b"\t", b"\n", b"\r\n", b"\r", b"\\", b"\0", b"\xff", b"\xe9", b"{", b" "),
    *(b"<e1>", b"\xef\xbb\xbf"),
]
SENTENCE = re.compile(r'\s*\S+\s*\t\s*["\u201c].*["\u201d]')


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to four changes: a byte flipped, a line cut or doubled, a mark put in, the end lost, encodings mixed."""
    for _ in range(draw.randint(1, 4)):
        place, lines = draw.randrange(len(content) + 1), content.splitlines(keepends=True)
        match draw.randrange(7):
            case 0 if place < len(content):
                content = content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
            case 1 if lines:
                line = draw.randrange(len(lines))
                lines[line] = lines[line][: draw.randrange(len(lines[line]) + 1)]
                content = b"".join(lines)
            case 2 if lines:
                lines.insert(draw.randrange(len(lines)), draw.choice(lines))
                content = b"".join(lines)
            case 3 | 4:
                content = content[:place] + draw.choice(INSERTED) + content[place:]
            case 5:
                content = content[:place]
            case 6:
                tail = content[place:].decode(errors="ignore")
                content = content[:place] + tail.encode(draw.choice(["cp1252", "utf-16", "gb18030"]), errors="ignore")
    return content


def letters(text: str) -> Counter[str]:
    return Counter(re.findall(r"[^\W_]", text))


def found_text(chunks: list[pd.DataFrame], name: str) -> str:
    rows = [row for chunk in chunks for row in chunk.itertuples()]
    return " ".join(f"{row.id if name == 't.txt' else ''} {row.text} {row.label}" for row in rows)


def without_comments(blocks: str) -> str:
    kept, comment = list[str](), False
    for line in blocks.split("\n"):
        comment = bool(line.strip()) and (comment or line.lstrip().startswith("Comment")) and not SENTENCE.match(line)
        kept.append("" if comment else line)
    return "\n".join(kept)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_file_is_read_whole_or_refused_by_line(name, tmp_path):
    draw, counts = random.Random(7), Counter[str]()
    settings = {"format": "semeval2010" if name == "t.txt" else "table", "folder": str(tmp_path), "test": None}
    data = Data.model_validate({**settings, "train": name})
    for _ in range(FILES):
        content = mutate(KINDS[name].encode(), draw)
        (tmp_path / name).write_bytes(content)
        try:
            with TemporaryFile() as file:
                rows = read_corpus(data, file)
                texts = list(read_chunks(file, rows))
        except DataError as error:
            lines = str(error).splitlines()
            assert 0 < len(lines) <= OFFENDERS_SHOWN + 1
            assert all(line.startswith((f"{tmp_path}/{name}", "... and ")) for line in lines), lines
            counts["refused"] += 1
            continue
        counts["read"] += 1
        encoding = next((codec for mark, codec in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
        whole = content.decode(encoding)
        if name == "t.jsonl":
            assert len(rows) == sum(bool(line.strip()) for line in re.split("\r\n|\r|\n", whole))
        elif "\r" not in whole:
            kept = without_comments(whole) if name == "t.txt" else whole.lstrip("\n").partition("\n")[2]
            assert letters(found_text(texts, name)) == letters(kept), content
    assert counts["read"] > FILES // 50
    assert counts["refused"] > FILES // 2
    print(name, dict(counts))
