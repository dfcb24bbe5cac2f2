"""A promoted model answers raw text over HTTP where only MLflow and the requirements of the model are installed."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
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


def test_server_gives_the_answers_of_the_checkout(project: Project, server: Server) -> None:
    lines = (project.root / "data/sample/test.txt").read_text().splitlines()
    sentences = [line.partition("\t")[2].strip('"') for line in lines if "\t" in line][:60]
    pd.DataFrame({"text": sentences}).to_csv(project.root / "texts.csv", index=False)
    project.run("bilstm-attention", "predict", "--attention", "--input", "texts.csv", "--output", "answers.csv")
    for row, wanted in enumerate(pd.read_csv(project.root / "answers.csv").to_dict("records")):
        (answer,) = server.answer(sentences[row : row + 1], attention=True)
        assert list(answer) == ["label", "score", "probabilities", "tokens", "weights"]
        assert answer["label"] == wanted["label"]
        for part in ("probabilities", "weights"):
            assert answer[part] == pytest.approx(json.loads(wanted[part]), abs=1e-6)
    assert list(server.answer(sentences)[0]) == ["label", "score", "probabilities"]


def test_bad_request_is_refused_and_the_server_stays_up(server: Server) -> None:
    status, message = server.ask(b'{"dataframe_records": [{"text": "The wheel broke."}]}')
    assert status == 400
    assert "row 0: has no markers; a relation sentence marks both" in json.loads(message)["message"]
    assert server.answer([SENTENCE])[0]["score"] > 0
