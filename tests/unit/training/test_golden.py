"""Three short trainings whose weights and scores may not change unless a change of results is meant.

Last bits differ between processors, so weights are compared by digest on those that `golden.json` knows, and scores
within a tolerance elsewhere. After a change of results that is meant, `pytest --update-golden` writes the digests of
this machine anew; the commit says why they changed.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from tests.small import train_seeds

from bilstm_attention import paths, stages
from bilstm_attention.config import apply_overrides, load_params, parse_override
from bilstm_attention.evaluation.evaluate import evaluate_models
from bilstm_attention.training.fit import use_threads

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 4.0  # percentage points, where the processor is unknown
SMALL = {"embeddings.epochs": 2, "evaluate.bootstrap": 100, "evaluate.faithfulness": 20}
# as after `apply -S`
CASES = {
    "sample": "train.epochs=3 train.seeds=[0,1] train.clip_norm=1.0",
    "every_ingredient": """
        data.tokens.context=3 model.frozen_copy=true model.lstm_units=24 model.lstm_layers=2 model.merge=concat
        model.positions.size=10 model.entity_words=true model.entity_states=true train.epochs=3 train.batch_size=16
        train.learning_rate=0.01 train.schedule.kind=cosine train.label_smoothing=0.1 train.adversarial=0.5
        train.clip_norm=0.5 train.ema=0.9 train.restore_best_weights=false
    """,
    "plain_classes": """
        data.format=table data.train=plain.csv data.test= model.attention.kind=feedforward
        model.attention.tanh_output=false model.merge=concat model.lstm_units=20 train.epochs=8 train.batch_size=8
        train.learning_rate=0.01 train.monitor=accuracy
    """,
}


def processor() -> str:
    """Kind of processor, and the versions that its last bits depend on."""
    info = dict(
        tuple(map(str.strip, line.split(":", 1)))
        for line in Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        if ":" in line
    )
    kind = [info.get(key, "") for key in ("vendor_id", "cpu family", "model")]
    vectors = "avx512" if "avx512f" in info.get("flags", "") else "avx2" if "avx2" in info.get("flags", "") else ""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "numpy", "gensim")]
    return ", ".join([" ".join([*kind, vectors, platform.machine()]), *versions])


def weights_digest(path: Path) -> str:
    """Digest of all weights of a saved model, whatever its layers are called."""
    digests = []

    def collect(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            values = np.asarray(item)
            digests.append(hashlib.sha256(f"{values.shape}{values.dtype}".encode() + values.tobytes()).hexdigest())

    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(collect)
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16]


def write_plain_classes(source: Path, target: Path) -> None:
    """A table of the sample's first sentences without markers, labelled by relation."""
    rows = re.findall(r'\t"(.*)"\n([^(\n]+)', source.read_text(encoding="utf-8"))[:400]
    table = pd.DataFrame(rows, columns=["text", "label"])
    table.replace({"text": "</?e[12]>"}, "", regex=True).to_csv(target, index=False)


def run_case(name: str, project: Path) -> dict[str, Any]:
    """Digests and scores of one case, run in `project`, the working directory."""
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, project)
    shutil.copytree(ROOT / "data/sample", project / "data/sample")
    write_plain_classes(project / "data/sample/train.txt", project / "data/sample/plain.csv")
    apply_overrides(project / paths.PARAMS, {**SMALL, **dict(map(parse_override, CASES[name].split()))})
    params = load_params(paths.PARAMS)
    use_threads(1)
    stages.prepare()
    stages.embed()
    results = train_seeds(params.train.seeds)
    digests = {str(seed): weights_digest(paths.seed_folder(seed) / "model.keras") for seed in params.train.seeds}
    dev = {str(seed): result.dev for seed, result in zip(params.train.seeds, results, strict=True)}
    scores = evaluate_models(params.train.seeds, params.evaluate).scores
    del scores["test_calibration"]  # came after the digests
    numbers = json.dumps(scores, sort_keys=True)
    test = {name: summary["by_seed"] for name, summary in scores["test"].items()}
    return {
        "weights": digests,
        "metrics": hashlib.sha256(numbers.encode()).hexdigest()[:16],
        "scores": {"dev": dev, "test": test, "ensemble": scores["ensemble"]},
    }


@pytest.mark.parametrize("name", CASES)
def test_training_gives_golden_results(name, tmp_path, request):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    # in a process of its own: the last bit of a probability depends on where earlier tests left the memory
    command = [sys.executable, __file__, name]
    source = os.environ | {
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    }  # of this checkout, whichever is installed
    done = subprocess.run(command, cwd=tmp_path, env=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    digests = {key: result[key] for key in ("weights", "metrics")}
    if request.config.getoption("--update-golden"):
        golden["scores"][name] = result["scores"]
        golden["digests"].setdefault(processor(), {})[name] = digests
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    elif known := golden["digests"].get(processor()):
        assert digests == known[name]
    else:
        expected, actual = (pd.json_normalize(each).iloc[0] for each in (golden["scores"][name], result["scores"]))
        names = [key for key in expected.index if not key.endswith(".loss")]
        assert actual[names].to_dict() == pytest.approx(expected[names].to_dict(), abs=TOLERANCE)


if __name__ == "__main__":
    print(json.dumps(run_case(sys.argv[1], Path.cwd())))
