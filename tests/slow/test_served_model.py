"""A promoted model answers raw text over HTTP where only MLflow and the requirements of the model are installed."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import mlflow
import pandas as pd
import pytest
from tests.servers import free_port, wait_until_it_answers


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
def project(first_repro):
    """A project whose only model is the champion."""
    assert "version 1 is champion" in first_repro.run("bilstm-attention", "promote")
    return first_repro


@pytest.fixture(scope="module")
def server(project, tmp_path_factory):
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


def test_server_gives_the_answers_of_the_checkout(project, server):
    lines = (project.root / "data/sample/test.txt").read_text().splitlines()
    sentences = [line.partition("\t")[2].strip('"') for line in lines if "\t" in line][:60]
    pd.DataFrame({"text": sentences}).to_csv(project.root / "texts.csv", index=False)
    project.run("bilstm-attention", "predict", "--attention", "--input", "texts.csv", "--output", "answers.csv")
    wanted = pd.read_csv(project.root / "answers.csv")
    answers = pd.DataFrame([server.answer([sentence], attention=True)[0] for sentence in sentences])
    assert list(answers) == ["label", "score", "probabilities", "tokens", "weights"]
    assert answers["label"].tolist() == wanted["label"].tolist()
    for part in ("probabilities", "weights"):
        for one, other in zip(answers[part], wanted[part].map(json.loads), strict=True):
            assert one == pytest.approx(other, abs=1e-6)
    # after a bad request the server stays up
    status, message = server.ask(b'{"dataframe_records": [{"text": "The wheel broke."}]}')
    assert status == 400
    assert "row 0: has no markers; a relation sentence marks both" in json.loads(message)["message"]
    assert list(server.answer(sentences)[0]) == ["label", "score", "probabilities"]
