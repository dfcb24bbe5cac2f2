"""Where a step's time goes: milliseconds by kind of operation, of ours with dense and with sparse updates.

python experiments/benchmarks/profile_step.py --batch 32 --dimension 300
"""

import argparse
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import keras_lstm
import pandas as pd
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2
from work import Setup

PASSES, SHOWN = 3, 12
NESTED = ("Process", "Run", "While", "PartitionedCall", "Eager", "Execut", "step", "inference", "TFE_")


def operations(setup: Setup) -> Counter[str]:
    """Milliseconds a step by kind of operation, on one thread."""
    take, _ = keras_lstm.contender(setup)
    steps = take()["steps"] * PASSES
    with TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(PASSES):
                take()
        space = xplane_pb2.XSpace.FromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    found = Counter[str]()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            kind = plane.event_metadata[event.metadata_id].name.rpartition(":")[2]
            if not any(name in kind for name in NESTED):
                found[kind] += event.duration_ps / 1e9 / steps
    return found


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--dimension", type=int, default=50)
options = parser.parse_args()
size = {"threads": 1, "batch_size": options.batch, "dimension": options.dimension, "sentences": 60 * options.batch}
table = pd.DataFrame({name: operations(Setup(contender=name, **size)) for name in ("ours", "sparse")}).fillna(0.0)
table = table.sort_values("ours", ascending=False).rename(columns={"ours": "dense"})
others = table.iloc[SHOWN:].sum().rename("others")
print(pd.concat([table.head(SHOWN), others.to_frame().T]).round(2).to_markdown())
