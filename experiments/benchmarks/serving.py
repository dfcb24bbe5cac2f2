"""How fast a trained model answers: in this process, or by `mlflow models serve` on a port.

    python experiments/benchmarks/serving.py
    python experiments/benchmarks/serving.py --port 5001

Run it in a project after `dvc repro`, on a machine with nothing else to do.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import numpy as np

from bilstm_attention import paths
from bilstm_attention.config import load_params
from bilstm_attention.data.formats import Row, read_rows, split_sources

REQUESTS = 250  # of each client


def milliseconds(calls: Iterable[Callable[[], Any]]) -> list[float]:
    """How long each call takes; the first is not counted."""
    times = []
    for call in calls:
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return times[1:]


def ask(port: int, texts: list[str]) -> list[float]:
    """Times a request for each text, over one connection."""
    connection = HTTPConnection("127.0.0.1", port)

    def request(text: str) -> None:
        body = json.dumps({"dataframe_split": {"columns": ["text"], "data": [[text]]}})
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.read() and response.status != 200:
            raise SystemExit(f"port {port} answers with status {response.status}")

    return milliseconds(lambda text=text: request(text) for text in texts)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--port", type=int, help="of a server of MLflow; without it, the model of seed 0 in this process")
options = parser.parse_args()
params = load_params(paths.PARAMS)
rows = [row for source in split_sources(params.data, "test") for row in read_rows(source, params.data)]
texts = np.resize([row.text for row in rows if isinstance(row, Row)], 1000).tolist()
if options.port:
    for clients in (1, 4):
        with ThreadPoolExecutor(clients) as pool:
            found = list(pool.map(ask, [options.port] * clients, [texts[:REQUESTS]] * clients))
        print(f"{clients} clients: {np.median(found):.2f} ms a request")
else:
    from bilstm_attention.serving.classifier import load_seed

    classifier = load_seed(params, 0)
    one = np.median(milliseconds(lambda text=text: classifier.answer([text]) for text in texts[:400]))
    many = np.median(milliseconds([lambda: classifier.answer(texts)] * 8))
    print(f"{one:.2f} ms a sentence, {1e6 / many:,.0f} sentences a second in batches of 1,000")
