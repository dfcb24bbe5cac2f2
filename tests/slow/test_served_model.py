"""A promoted model answers raw text over HTTP where only MLflow and the requirements of the model are installed."""

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from tests.project import Project
from tests.servers import free_port, wait_until_it_answers

REQUESTS, AT_ONCE = 1000, 4
SENTENCE = "The <e1>wheel</e1> of the <e2>car</e2> broke."


@dataclass
class Server:
    address: str
    folder: Path

    def ask(self, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
        request = urllib.request.Request(f"{self.address}/invocations", body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def answer(self, texts: list[str], **params: bool) -> list[dict[str, Any]]:
        body = {"dataframe_records": [{"text": text} for text in texts], "params": params}
        status, said = self.ask(json.dumps(body).encode())
        assert status == 200, said
        return list(said["predictions"])


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    """A project whose only model is the champion."""
    project = new_project()
    project.run("dvc", "repro")
    assert "version 1 is champion" in project.run("bilstm-attention", "promote", "best")
    return project


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`mlflow models serve` in an empty folder, in an environment of the model's own requirements and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    store = f"sqlite:///{project.root}/experiments/mlflow.db"
    mlflow.set_tracking_uri(store)
    needed = mlflow.artifacts.download_artifacts("models:/sample@champion/requirements.txt", dst_path=str(folder / "r"))
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", needed], check=True)
    installed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "bilstm" not in installed
    port = free_port()
    empty = folder / "empty"
    empty.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "PYTHON", "VIRTUAL"))}
    path = f"{environment}/bin{os.pathsep}{os.environ['PATH']}"
    command = [environment / "bin/mlflow", "models", "serve", "-m", "models:/sample@champion"]
    with (folder / "log").open("w") as log:
        serving = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port)],
            cwd=empty,
            env={**kept, "PATH": path, "MLFLOW_TRACKING_URI": store},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    found = Server(f"http://127.0.0.1:{port}", folder)
    try:
        wait_until_it_answers(f"{found.address}/ping", serving, folder / "log")
        yield found
    finally:
        os.killpg(serving.pid, 15)
        serving.wait(timeout=30)


@pytest.fixture(scope="module")
def sentences(project: Project) -> list[str]:
    lines = (project.root / "data/sample/test.txt").read_text().splitlines()
    return [line.partition("\t")[2].strip('"') for line in lines if "\t" in line]


def test_requests_get_the_answers_of_the_checkout(
    project: Project, server: Server, sentences: list[str], record_property: Callable[[str, object], None]
) -> None:
    table = project.root / "given.csv"
    pd.DataFrame({"text": sentences}).to_csv(table, index=False)
    project.run("bilstm-attention", "predict", "--input", "given.csv", "--output", "answered.csv")
    wanted = pd.read_csv(project.root / "answered.csv")
    probabilities = wanted["probabilities"].map(json.loads)
    # the stage evaluate answered the same sentences
    evaluated = pd.read_csv(project.root / "experiments/current/predictions.csv")
    assert wanted["label"].tolist() == evaluated["predicted"].tolist()
    assert wanted["score"].tolist() == pytest.approx(evaluated["probability"].tolist(), abs=1e-6)

    def request(number: int) -> tuple[float, int]:
        # one to seven sentences, so that each is batched with different ones
        rows = [(7 * number + step) % len(sentences) for step in range(1 + number % 7)]
        began = time.perf_counter()
        answers = server.answer([sentences[row] for row in rows])
        seconds = time.perf_counter() - began
        wrong = 0
        for row, answer in zip(rows, answers, strict=True):
            same = answer["label"] == wanted["label"][row]
            near = answer["probabilities"] == pytest.approx(probabilities[row], abs=1e-6)
            wrong += not (same and near)
        return seconds, wrong

    server.answer(sentences[:1])
    with ThreadPoolExecutor(AT_ONCE) as clients:
        done = list(clients.map(request, range(REQUESTS)))
    assert sum(wrong for _, wrong in done) == 0
    milliseconds = statistics.quantiles([1000 * seconds for seconds, _ in done], n=100)
    record_property("p50 ms", milliseconds[49])
    record_property("p99 ms", milliseconds[98])
    print(f"p50 {milliseconds[49]:.1f} ms, p99 {milliseconds[98]:.1f} ms, {AT_ONCE} clients")


def test_attention_comes_on_request(project: Project, server: Server, sentences: list[str]) -> None:
    command = ["bilstm-attention", "predict", "--attention", "--model", "models:/sample@champion", sentences[0]]
    direct = json.loads(project.run(*command).splitlines()[-1])
    (answer,) = server.answer(sentences[:1], attention=True)
    assert list(answer) == ["label", "score", "probabilities", "tokens", "weights"]
    assert answer["tokens"] == direct["tokens"]
    assert answer["weights"] == pytest.approx(direct["weights"], abs=1e-6)
    assert list(server.answer(sentences[:1])[0]) == ["label", "score", "probabilities"]


def records(*texts: object, column: str = "text") -> bytes:
    return json.dumps({"dataframe_records": [{column: text} for text in texts]}).encode()


BAD = {
    "no text": (records(""), "row 0: an empty sentence"),
    "null": (records(SENTENCE, None), "row 1: None is no text"),
    "a number": (records(5), "row 0: 5 is no text"),
    "no markers": (records(SENTENCE, "The wheel broke."), "row 1: has no markers; a relation sentence marks both"),
    "markers reversed": (records("The </e1>wheel<e1> of the <e2>car</e2>."), "row 0: "),
    "a megabyte": (records(f"{SENTENCE} {'x ' * 500_000}"), "characters; a sentence has at most 100,000"),
    "ten thousand rows": (records(*[SENTENCE] * 10_000), "10,000 rows: at most 5,000 at once; send them in parts"),
    "no JSON": (b'{"dataframe_records": [', "Ensure that input is a valid JSON"),
    "another column": (records(SENTENCE, column="sentence"), "Model is missing inputs ['text']"),
    "another form": (b'{"sentences": ["a"]}', "exactly one of the input fields"),
    "no column": (b'{"dataframe_records": []}', "text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_request_is_refused_and_the_server_stays_up(name: str, server: Server) -> None:
    body, said = BAD[name]
    status, message = server.ask(body)
    assert 400 <= status < 500
    assert said in json.loads(message)["message"]
    assert server.answer([SENTENCE])[0]["score"] > 0


def test_csv_is_answered_like_json(server: Server) -> None:
    status, said = server.ask(f"text\n{SENTENCE}\n".encode(), "text/csv")
    assert (status, said["predictions"]) == (200, server.answer([SENTENCE]))
    assert server.ask(b"text", "text/plain")[0] == 415
