"""How fast training is: ours, Keras's LSTM, the well-known Keras snippet, PyTorch and JAX, side by side in one run.

Run in a project whose data is prepared (`dvc repro embed`), on a machine with nothing else to do:

    python experiments/benchmarks/throughput.py --json throughput.json --pictures .

Every contender has a process of its own for each number of threads and takes training steps on the same sentences;
they take turns, round by round. Of each contender the fastest variant and number of threads counts. A ratio is the
median over the rounds of the ratios within a round. What is measured, all of it or what `--only` names:

    step                training steps of every contender, by batch size and dimension
    parts               where the time of a step of ours goes
    length              one bidirectional LSTM, forward and backward, by the length of the sentences
    rows                whole epochs of ours by the number of sentences
    rows_of_vocabulary  steps of ours by the number of words in the vocabulary, of which training shows the same
    run                 a whole training to the same accuracy on dev, ours and the snippet's

PyTorch and JAX are no dependencies of the project: who is not installed is left out.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "training"))

import crew
import measures
import report
from work import Setup

MEASURES = {
    "step": measures.steps,
    "parts": measures.parts,
    "length": measures.lengths,
    "rows": measures.rows,
    "rows_of_vocabulary": measures.rows_of_vocabulary,
    "run": measures.runs,
}


def main() -> None:
    """Prints tables, and writes every figure and pictures to files if they are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="what is measured")
    parser.add_argument("--contenders", nargs="+", default=list(measures.CONTENDERS), choices=measures.CONTENDERS)
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 10], help="sentences of a batch")
    parser.add_argument("--dimension", nargs="+", type=int, default=[50, 300], help="of the word vectors")
    parser.add_argument("--units", type=int, default=100, help="of the LSTM, per direction")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=100, help="of a pass")
    parser.add_argument("--clip-norm", type=float, default=5.0, help="global norm of the gradient, 0: no clipping")
    parser.add_argument("--score", type=float, default=60.0, help="accuracy on dev, percent, that ends a run")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--pictures", type=Path, help="folder for PNG files")
    given = parser.parse_args()
    begun = time.monotonic()
    options = {name: value for name, value in vars(given).items() if not isinstance(value, Path)}
    found: dict[str, Any] = {"machine": report.machine(), "options": options}
    for measure in given.only:
        found[measure] = MEASURES[measure](given)
        for title, table in report.tables(measure, found[measure]):
            print(f"\n{title}\n\n{report.written(table, given.markdown)}", flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if given.pictures:
            report.plot(measure, found[measure], given.pictures / f"speed-{measure}.png")
    print(f"\n{report.machine_line(found['machine'])}; took {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        crew.serve(Setup(**json.loads(sys.argv[2])))
    else:
        main()
