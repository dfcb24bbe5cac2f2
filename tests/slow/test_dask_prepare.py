"""A corpus prepared by a Dask cluster: the bytes are those of one process, and what is wrong there is told."""

import shutil
from pathlib import Path

import pytest
from tests.servers import DaskCluster, dask_cluster, free_port

from bilstm_attention import paths, stages
from bilstm_attention.config import Data
from bilstm_attention.data import index
from bilstm_attention.data.cluster import AHEAD, encode_on_cluster
from bilstm_attention.data.index import index_corpus
from bilstm_attention.errors import DataError, UserError
from bilstm_attention.search import dask as cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's parameters and sample, which is cut into many chunks."""
    shutil.copytree(ROOT / "data/sample", tmp_path / "data/sample")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(index.index_corpus, "__defaults__", (300,))
    return tmp_path


def outputs() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.PREPARED.iterdir()}


def test_a_cluster_prepares_the_same_bytes(project: Path, dask: DaskCluster) -> None:
    stages.prepare()
    alone = outputs()
    shutil.rmtree(paths.PREPARED)
    stages.prepare(dask.address)
    assert outputs() == alone
    assert len(alone) == 6
    assert len(index_corpus(Data()).chunks) == 13


def test_what_is_done_ahead_of_the_writing_is_bounded(
    project: Path, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dask.distributed import Client

    data, asked = Data(), []
    compute = Client.compute
    monkeypatch.setattr(
        Client, "compute", lambda self, *given, **named: asked.append(1) or compute(self, *given, **named)
    )
    frames = encode_on_cluster(dask.address, index_corpus(data).chunks, data)
    first = next(frames)
    assert first["id"].tolist() == [str(number) for number in range(1, 301)]
    assert len(asked) == AHEAD * 2
    assert [len(frame) for frame in frames][-1] == 200
    assert len(asked) == 13


def test_faults_are_those_of_one_process(project: Path, dask: DaskCluster) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("max_length: 100", "max_length: 9"))
    said = []
    for address in (None, dask.address):
        with pytest.raises(DataError) as caught:
            stages.prepare(address)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith("data/sample/train.txt:")
    assert not any(paths.PREPARED.iterdir())


def test_a_worker_that_does_not_see_the_corpus_is_told(project: Path, dask: DaskCluster) -> None:
    chunks = index_corpus(Data()).chunks
    shutil.rmtree("data/sample")
    with pytest.raises(DataError, match=r"--dask .*: a worker does not see .*data/sample/train.txt; put the project"):
        list(encode_on_cluster(dask.address, chunks, Data()))


def test_no_scheduler_no_workers_and_lost_workers_are_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 1)
    chunks = index_corpus(Data()).chunks
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"--dask {nowhere}: no Dask scheduler answers there"):
        next(encode_on_cluster(nowhere, chunks, Data()))
    with dask_cluster(workers=1) as dying:
        dying.workers[0].kill()
        dying.workers[0].wait()
        with pytest.raises(UserError, match="has no workers; start some, `dask worker"):
            next(encode_on_cluster(dying.address, chunks, Data()))
