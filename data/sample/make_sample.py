"""Writes `train.txt` and `test.txt`: a small relation corpus from a grammar, in the SemEval-2010 Task 8 format.

    python data/sample/make_sample.py                               # the committed files again, byte for byte
    python data/sample/make_sample.py FOLDER --sentences 5000000    # a large corpus of the same grammar

A sentence is one clause or two. A clause is a *cue*, which names a relation and says which of its roles is the subject
(`x`) and which the complement (`y`), in a *frame*, which says how the two are ordered. Hence the marked pair's label
follows from three things at once: which cue binds the pair, who is its subject, and in what order the frame puts them.
Most frames come in pairs with the same words, so that a bag of words knows little of the order.
"""

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SEED = 2016
TRAIN_SIZE, TEST_SIZE = 3000, 800
UNIQUE = 100_000  # sentences; more than the sample has, and few enough to hold when millions are written
OTHER_SHARE = 0.15
SHORTEST, LONGEST = 8, 25  # in tokens, with the four markers and punctuation

# The last quarter of each row is in the test set alone.
_NOUN_ROWS = {
    "event": """storm flood fire strike panic shortage collapse delay protest explosion drought landslide blackout crash
        outbreak scandal recession famine riot leak rebellion avalanche boycott epidemic
        heatwave stampede earthquake lockout spill eclipse rumour breakdown""",
    "text": """report letter speech lecture article essay film poem survey memo novel sermon column song interview
        pamphlet documentary editorial diary petition broadcast play review manual
        treatise leaflet podcast verdict ballad bulletin monologue questionnaire""",
    "thing": """crate drawer basket barrel box trunk bag cabinet chest case bottle bucket cart wagon boat locker tray
        shell capsule suitcase sack bowl van jar
        hamper canister pouch trolley casket flask satchel raft""",
    "machine": """engine pump robot drill crane computer scanner motor sensor turbine printer press lathe generator
        controller camera compressor loom tractor drone conveyor excavator furnace radio
        welder dredger projector router winch mixer kiln harvester""",
    "group": """team committee orchestra army council crew choir club company guild agency band squad federation league
        ministry syndicate brigade troupe department workshop parliament tribe society
        regiment commission cooperative consortium faculty assembly battalion panel""",
}
NOUNS = {name: row.split() for name, row in _NOUN_ROWS.items()}
HELD_OUT_NOUNS = frozenset(noun for row in NOUNS.values() for noun in row[len(row) * 3 // 4 :])

# Relation -> the noun classes that fill both of its roles (so that the nouns tell no direction), and its cues.
# `a` is the role that the relation's name puts first. "a caused b" is a verb, its past also its participle;
# "a led|to b" a verb phrase with a preposition; "a @cause b" a noun, "a was the cause of b".
RELATIONS = {
    "Cause-Effect": (
        "event text",
        "a caused b, a produced b, a led|to b, b stemmed|from a, a @cause b",
    ),
    "Component-Whole": (
        "machine thing",
        "b incorporated a, b featured a, a belonged|to b, a was built|into b, a @part b",
    ),
    "Content-Container": (
        "thing text",
        "b contained a, b enclosed a, a was packed|in b, a lay|inside b, b @container a",
    ),
    "Entity-Destination": (
        "thing machine group",
        "a entered b, a reached b, a was moved|into b, a went|to b, b @destination a",
    ),
    "Entity-Origin": (
        "thing machine text group",
        "b yielded a, a departed b, a came|from b, a was taken|from b, b @source a",
    ),
    "Instrument-Agency": (
        "machine group",
        "b used a, b operated a, b worked|with a, b relied|on a, a @tool b",
    ),
    "Member-Collection": (
        "group",
        "a joined b, b enrolled a, a belonged|to b, a served|in b, a @member b",
    ),
    "Message-Topic": (
        "text",
        "a described b, a discussed b, a dealt|with b, b came up|in a, b @topic a",
    ),
    "Product-Producer": (
        "machine group",
        "b produced a, b designed a, a was made|by b, b was credited|with a, a @product b",
    ),
    "Other": (
        "event text thing machine group",
        "a replaced b, a resembled b, a stood|beside b, a was compared|with b, a @rival b",
    ),
}

# "{tail}" is a predicate that says nothing of the pair.
FRAMES = {
    "verb": [
        "{x} {verb} {y}",
        "{y} was {verb} by {x}",
        "{x} that {verb} {y} {tail}",
        "{y} that {x} {verb} {tail}",
        "{verb} by {x} , {y} {tail}",
        "{y} {verb} by {x} {tail}",
    ],
    "phrase": [
        "{x} {verb} {prep} {y}",
        "{prep} {y} {verb} {x}",
        "{x} that {verb} {prep} {y} {tail}",
        "{y} that {x} {verb} {prep} {tail}",
        "{y} {prep} which {x} {verb} {tail}",
    ],
    "noun": [
        "{x} was the {noun} of {y}",
        "the {noun} of {y} was {x}",
        "{x} , the {noun} of {y} , {tail}",
        "{y} had {x} as its {noun}",
        "{y} , whose {noun} was {x} , {tail}",
    ],
}
# The same cues in word orders of the test set alone.
HELD_OUT_FRAMES = {
    "verb": ["it was {x} that {verb} {y}", "it was {y} that {x} {verb}"],
    "phrase": ["it was {x} that {verb} {prep} {y}", "it was {prep} {y} that {x} {verb}"],
    "noun": ["as the {noun} of {y} , {x} {tail}", "with {x} as its {noun} , {y} {tail}"],
}

DETERMINERS = ["the", "the", "the", "the", "a", "a", "one", "this", "another"]
ADJECTIVES = [
    *("old", "new", "large", "small", "famous", "local", "foreign", "modern", "strange", "ordinary", "empty", "heavy"),
]
TAILS = [
    *("drew attention", "was soon forgotten", "made the news", "surprised everyone", "changed little", "took years"),
    *("was seen again", "stood alone", "cost a fortune", "proved harmless", "outlasted {any}", "ignored {any}"),
]
ASIDES = ["beside {any}", ", unlike {any} ,", ", just like {any} ,", "near {any}"]
OPENINGS = [
    *("last year ,", "in the end ,", "this time ,", "during {event} ,", "according to {text} ,", "despite {any} ,"),
]
CLOSINGS = ["last spring", "once more", "after {event}", "in spite of {any}", "without {any}", "before {event}"]
JOINERS = [", and", ", but", ", while", ", whereas", "; meanwhile ,"]


class Construction(NamedTuple):
    """A cue in a frame: the label of its pair, and the frame with the cue's words filled in."""

    label: str
    clause: str
    classes: tuple[str, ...]  # of the nouns that may fill {x} and {y}; both are of one class
    held_out: bool


class Sentence(NamedTuple):
    """One example: the text with its pair marked as `<e1>..</e1>` and `<e2>..</e2>`, and the pair's label."""

    text: str
    label: str


def _constructions() -> list[Construction]:
    constructions = []
    for relation, (classes, cues) in RELATIONS.items():
        for cue in cues.split(","):
            subject, *middle, _ = cue.split()
            verb, _, prep = " ".join(middle).partition("|")
            family = "noun" if verb.startswith("@") else "phrase" if prep else "verb"
            words = {"verb": verb, "prep": prep, "noun": verb.removeprefix("@")}
            for frame in FRAMES[family] + HELD_OUT_FRAMES[family]:
                clause = frame
                for slot, word in words.items():
                    clause = clause.replace(f"{{{slot}}}", word)
                forward = (frame.index("{x}") < frame.index("{y}")) == (subject == "a")
                label = relation if relation == "Other" else f"{relation}({'e1,e2' if forward else 'e2,e1'})"
                constructions.append(
                    Construction(label, clause, tuple(classes.split()), frame in HELD_OUT_FRAMES[family])
                )
    return constructions


CONSTRUCTIONS = _constructions()
LABELS = sorted({construction.label for construction in CONSTRUCTIONS})


class _Writer:
    """Writes sentences of one split; a test writer may use the held-out nouns and frames."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng = rng
        self.nouns = {name: [n for n in row if held_out or n not in HELD_OUT_NOUNS] for name, row in NOUNS.items()}
        self.constructions = {
            label: [c for c in CONSTRUCTIONS if c.label == label and (held_out or not c.held_out)] for label in LABELS
        }

    def phrase(self, name: str, used: list[str]) -> str:
        """A noun phrase; its noun is appended to `used` and stands in the text as `#` and its index there."""
        name = self.rng.choice(list(NOUNS)) if name == "any" else name
        used.append(self.rng.choice([noun for noun in self.nouns[name] if noun not in used]))
        adjective = f"{self.rng.choice(ADJECTIVES)} " if self.rng.random() < 0.2 else ""
        return f"{self.rng.choice(DETERMINERS)} {adjective}#{len(used) - 1}"

    def fill(self, text: str, used: list[str]) -> str:
        """The text with a noun phrase in every slot."""
        return re.sub(r"{(\w+)}", lambda slot: self.phrase(slot[1], used), text)

    def clause(self, construction: Construction, used: list[str]) -> tuple[str, tuple[int, int]]:
        """The text of a clause, and the indices of its pair in `used`."""
        name = self.rng.choice(construction.classes)
        x, y = self.phrase(name, used), self.phrase(name, used)
        pair = len(used) - 2, len(used) - 1
        if self.rng.random() < 0.2:
            x += " " + self.rng.choice(ASIDES)
        text = construction.clause.replace("{tail}", self.rng.choice(TAILS)).replace("{x}", x).replace("{y}", y)
        return self.fill(text, used), pair

    def sentence(self, label: str) -> Sentence:
        """A sentence of a label; for `Other`, half of the pairs are taken across clauses of any relation."""
        rng, used = self.rng, list[str]()
        across = label == "Other" and rng.random() < 0.5
        main = rng.choice(self.constructions[rng.choice(LABELS) if across else label])
        text, pair = self.clause(main, used)
        bound = {pair}
        if rng.random() < 0.5:
            side = rng.choice(self.constructions[rng.choice(LABELS)])
            other, side_pair = self.clause(side, used)
            first, second = rng.sample([text, other], 2)
            text = f"{first} {rng.choice(JOINERS)} {second}"
            bound.add(side_pair)
        if rng.random() < 0.3:
            text = f"{rng.choice(OPENINGS)} {text}"
        if rng.random() < 0.3:
            text = f"{text} {rng.choice(CLOSINGS)}"
        text = self.fill(text, used)
        if across:
            # Any two nouns that no clause binds: their label is Other, whatever the clauses around them say.
            free = [(i, j) for j in range(len(used)) for i in range(j) if (i, j) not in bound]
            if not free:
                return self.sentence(label)
            pair = rng.choice(free)
        return Sentence(_marked(text, used, pair), label)


def _marked(text: str, nouns: list[str], pair: tuple[int, int]) -> str:
    """The text as people write it, with its nouns, and the pair marked in the order of the text."""
    first, second = sorted(pair, key=lambda index: text.index(f"#{index}"))
    tags = {first: "e1", second: "e2"}

    def noun(slot: re.Match[str]) -> str:
        index = int(slot[1])
        tag = tags.get(index)
        return f"<{tag}>{nouns[index]}</{tag}>" if tag else nouns[index]

    text = re.sub(r"#(\d+)", noun, text)
    text = re.sub(r"\ba (?=(<e[12]>)?[aeiou])", "an ", text)
    text = re.sub(r"( ,)+ ?(?=[;.]|$)", "", text).replace(" ,", ",").replace(" ;", ";").replace(",,", ",")
    return f"{text[0].upper()}{text[1:]}."


def tokens(text: str) -> list[str]:
    """The lower-cased words, punctuation marks and markers of a marked sentence.

    Not `prepare`'s tokeniser: a change to that one must not change the committed bytes.
    """
    return re.findall(r"</?e[12]>|\w+|[^\w\s]", text.lower())


def sample_sentences(train: int = TRAIN_SIZE, test: int = TEST_SIZE) -> Iterator[Sentence]:
    """The training and then the test sentences, the same on every call; the first `UNIQUE` texts are all different.

    Labels are even within each `TRAIN_SIZE` sentences.
    """
    rng, seen = random.Random(SEED), set[str]()

    def fresh(writer: _Writer, label: str) -> Sentence:
        while True:
            sentence = writer.sentence(label)
            plain = re.sub(r"</?e[12]>", "", sentence.text)
            if SHORTEST <= len(tokens(sentence.text)) <= LONGEST and plain not in seen:
                if len(seen) < UNIQUE:
                    seen.add(plain)
                return sentence

    for size, writer in ((train, _Writer(rng, held_out=False)), (test, _Writer(rng, held_out=True))):
        for done in range(0, size, TRAIN_SIZE):
            for label in _labels(rng, min(TRAIN_SIZE, size - done)):
                yield fresh(writer, label)


def _labels(rng: random.Random, size: int) -> list[str]:
    each = round(size * (1 - OTHER_SHARE) / (len(LABELS) - 1))
    labels = [label for label in LABELS if label != "Other"] * each
    labels += ["Other"] * (size - len(labels))
    rng.shuffle(labels)
    return labels


def write_sample(folder: Path, train: int = TRAIN_SIZE, test: int = TEST_SIZE) -> None:
    """Writes `train.txt` and `test.txt` of the given sizes into `folder`, the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = enumerate(sample_sentences(train, test), 1)
    for name, size in (("train.txt", train), ("test.txt", test)):
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            for number, sentence in islice(numbered, size):
                file.write(f'{number}\t"{sentence.text}"\n{sentence.label}\nComment:\n\n')


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Writes the sample corpus again, or a larger one of its grammar.")
    parser.add_argument("folder", type=Path, nargs="?", default=HERE, help="by default this script's own")
    parser.add_argument(
        "--sentences",
        type=int,
        help="so many training sentences, at least 1000, and a tenth as many for testing;"
        f" beyond the first {UNIQUE:,} a sentence may repeat",
    )
    options = parser.parse_args(arguments)
    if options.sentences is None:
        write_sample(options.folder)
    elif options.folder.resolve() == HERE.resolve():
        parser.error("--sentences: name a FOLDER too; the committed sample keeps its size.")
    elif options.sentences < 1000:
        parser.error(f"--sentences {options.sentences}: at least 1000.")
    else:
        write_sample(options.folder, options.sentences, options.sentences // 10)


if __name__ == "__main__":
    main()
