"""A promoted model answers raw text over HTTP where only MLflow and the requirements of the model are installed."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import mlflow
import pandas as pd
import pytest
from tests.project import Project
from tests.servers import free_port, wait_until_it_answers

SENTENCE = "The <e1>wheel</e1> of the <e2>car</e2> broke."


@dataclass
class Server:
    address: str

    def ask(self, body: bytes) -> tuple[int, Any]:
        request = urllib.request.Request(f"{self.address}/invocations", body, {"Content-Type": "application/json"})
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
def project(first_repro: Project) -> Project:
    """A project whose only model is the champion."""
    assert "version 1 is champion" in first_repro.run("bilstm-attention", "promote")
    return first_repro


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
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", "-r", needed], check=True)
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
    server = Server(f"http://127.0.0.1:{port}")
    try:
        wait_until_it_answers(f"{server.address}/ping", serving, folder / "log")
        yield server
    finally:
        os.killpg(serving.pid, 15)
        serving.wait(timeout=30)


@pytest.fixture(scope="module")
def sentences(project: Project) -> list[str]:
    lines = (project.root / "data/sample/test.txt").read_text().splitlines()
    return [line.partition("\t")[2].strip('"') for line in lines if "\t" in line]


def test_requests_get_the_answers_of_the_checkout(project: Project, server: Server, sentences: list[str]) -> None:
    table = project.root / "texts.csv"
    pd.DataFrame({"text": sentences}).to_csv(table, index=False)
    project.run("bilstm-attention", "predict", "--input", "texts.csv", "--output", "answers.csv")
    wanted = pd.read_csv(project.root / "answers.csv")
    probabilities = wanted["probabilities"].map(json.loads)
    # the stage evaluate answered the same sentences
    evaluated = pd.read_csv(project.root / "experiments/current/predictions.csv")
    assert wanted["label"].tolist() == evaluated["predicted"].tolist()
    temperature = json.loads(project.read("experiments/current/calibration/seed-0.json"))["temperature"]
    powers = pd.DataFrame(probabilities.tolist()) ** temperature  # undoes the scaling
    raw = powers.max(axis=1) / powers.sum(axis=1)
    assert raw.tolist() == pytest.approx(evaluated["probability"].tolist(), abs=1e-6)

    def check(number: int) -> None:
        # one to seven sentences, so that each is batched with different ones
        rows = [(7 * number + step) % len(sentences) for step in range(1 + number % 7)]
        answers = server.answer([sentences[row] for row in rows])
        assert [answer["label"] for answer in answers] == wanted["label"][rows].tolist()
        for row, answer in zip(rows, answers, strict=True):
            assert answer["probabilities"] == pytest.approx(probabilities[row], abs=1e-6)

    with ThreadPoolExecutor(4) as clients:
        # a list, since the errors of a check are raised where its result is read
        assert len(list(clients.map(check, range(200)))) == 200


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
    "null": (records(SENTENCE, None), "row 1: None is no text"),
    "no markers": (records(SENTENCE, "The wheel broke."), "row 1: has no markers; a relation sentence marks both"),
    "ten thousand rows": (records(*[SENTENCE] * 10_000), "10,000 rows: at most 5,000 at once; send them in parts"),
    "no JSON": (b'{"dataframe_records": [', "Ensure that input is a valid JSON"),
    "another column": (records(SENTENCE, column="sentence"), "Model is missing inputs ['text']"),
    "no column": (b'{"dataframe_records": []}', "text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_request_is_refused_and_the_server_stays_up(name: str, server: Server) -> None:
    body, said = BAD[name]
    status, message = server.ask(body)
    assert 400 <= status < 500
    assert said in json.loads(message)["message"]
    assert server.answer([SENTENCE])[0]["score"] > 0
