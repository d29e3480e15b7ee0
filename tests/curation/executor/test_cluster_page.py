"""The page "On a cluster", executed: its scripts and commands as they stand, on one machine in place of many.

``srun`` runs its words here, ``sleep`` waits until the scheduler listens, ``/mnt`` is a folder, a worker is one
process, and so is a pod. Not typed is ``ssh``, which wants a second machine.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from textures import texture

from curation.cli import main

FENCE = re.compile(r'^```(?:bash|yaml) title="([^"]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
SMALL = """
encoder: {name: vit_tiny_patch16_224, args: {img_size: 32, patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}}
objective: {name: mae, decoder_depth: 1, decoder_dim: 16, decoder_heads: 2}
data: {workers: 0, shards: absent}
optim: {warmup_epochs: 0}
epochs: 1
global_batch: 4
picture_every: 0
device: cpu
"""


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs/cluster.md").read_text(encoding="utf-8").replace("\\\n", " ")


@pytest.fixture
def machine(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk that all see, and the programs that are found on it."""
    (tmp_path / "raw/mine").mkdir(parents=True)
    for number in range(8):
        texture(number).save(tmp_path / "raw/mine" / f"{number}.jpg")
    recipe = f"name: mine\nsources: [{{id: mine, path: {tmp_path}/raw/mine}}]\nshards: {{max_samples: 2}}\n"
    (tmp_path / "mine.yaml").write_text(recipe)
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "bin").mkdir()
    python = f'exec "{sys.executable}" -m'
    for name, does in {
        "srun": 'exec "$@"', "hostname": "echo 127.0.0.1", "sleep": f"{python} wait_for_scheduler",
        "dask": f'{python} dask "$@"', "rs-curate": f'{python} curation "$@"',
        "torchrun": f'{python} torch.distributed.run "$@"',
    }.items():  # fmt: skip
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin/wait_for_scheduler.py").write_text(WAIT)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{repository}:{tmp_path}/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WAIT = """
import os, socket, time
for _ in range(600):
    with socket.socket() as asks:
        if asks.connect_ex(("127.0.0.1", int(os.environ["PORT"]))) == 0:
            break
    time.sleep(0.1)
"""


def job(text: str, machine: Path, **meant: str) -> str:
    """Run a script as a cluster would: when it ends, so does what it started. Returns what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for word, here in {"/mnt": str(machine), "8786": port, "29500": port, "8787": port, **meant}.items():
        text = text.replace(word, here)
    environment = {**os.environ, "PORT": port, "SLURM_CPUS_PER_TASK": "1", "SLURM_NNODES": "1"}
    started = subprocess.Popen(
        ["bash", "-e", "-c", f"trap 'echo the job ended with $?' EXIT\n{text}"],
        env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    told = (machine / "said").open("w")
    try:
        assert started.stdout is not None
        for line in started.stdout:
            told.write(line)
            if line.startswith("the job ended"):
                break
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        told.close()
    return (machine / "said").read_text()


def scripts(page: str) -> dict[str, str]:
    return dict(FENCE.findall(page))


def pods(page: str) -> str:
    """The containers' commands, one behind the other."""
    documents = list(yaml.safe_load_all(scripts(page)["curate-on-kubernetes.yaml"]))
    (service,) = [each for each in documents if each["kind"] == "Service"]
    assert service["spec"]["ports"] == [{"port": 8786}]
    specs = [each["spec"]["template"]["spec"] for each in documents if each["kind"] in ("Deployment", "Job")]
    scheduler, worker, run = (" ".join(spec["containers"][0]["command"]) for spec in specs)
    return f"{scheduler} &\n{worker} &\nsleep 30\n{run}\n"


def by_hand(page: str) -> str:
    scheduler, worker, run = re.findall(r"^    ((?:dask|rs-curate) .*)$", page, re.MULTILINE)[:3]
    return f"{scheduler.partition('#')[0]} &\n{worker.partition('#')[0]} &\nsleep 30\n{run}\n"


SETTINGS = {"by hand": by_hand, "Slurm": lambda page: scripts(page)["curate.sh"], "Kubernetes": pods}


SOAK = pytest.mark.soak


@pytest.mark.parametrize(
    "where", ["by hand", pytest.param("Slurm", marks=SOAK), pytest.param("Kubernetes", marks=SOAK)]
)
def test_a_corpus_is_made_on_many_machines(page: str, machine: Path, where: str) -> None:
    small = {"--nworkers 16": "--nworkers 1", "--nworkers 8": "--nworkers 1"}
    told = job(SETTINGS[where](page), machine, **small, **{"HOST": "127.0.0.1", "tcp://scheduler": "tcp://127.0.0.1"})
    assert told.endswith("the job ended with 0\n"), told
    assert main(["verify", "corpus", "--quick"]) == 0


def test_the_dashboard_is_where_the_page_says(page: str, machine: Path) -> None:
    (line,) = re.findall(r"^    (rs-curate run .* --dashboard .*)$", page, re.MULTILINE)
    told = job(f"{line} --workers 1\n", machine)
    assert told.endswith("the job ended with 0\n"), told
    assert re.search(r"^.*http://127\.0\.0\.1:\d+/status", told), told


def typed_on_each_node(page: str) -> str:
    (line,) = re.findall(r"^    (torchrun .*)$", page, re.MULTILINE)
    return line


def training_pod(page: str) -> str:
    """What each pod runs, where the name of the first is this machine's."""
    service, work = yaml.safe_load_all(scripts(page)["train-on-kubernetes.yaml"])
    spec = work["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": work["metadata"]["name"]}
    command = " ".join(spec["containers"][0]["command"])
    meeting = f"{work['metadata']['name']}-0.{service['metadata']['name']}:29500"
    assert spec["subdomain"] == service["metadata"]["name"] and command.count(meeting) == 1
    return command.replace(meeting, "127.0.0.1:29500")


@pytest.mark.soak
@pytest.mark.parametrize("node", [typed_on_each_node, training_pod])
def test_training_on_two_nodes(page: str, machine: Path, node: Callable[[str], str]) -> None:
    """What a node runs, run twice; then the script of one node, which has nothing left to do."""
    small = {"selective_mae_vit_b": "small.yaml", "--nproc-per-node 8": "--nproc-per-node 1"}
    assert main(["run", "mine.yaml", "--out", "corpus", "--workers", "1"]) == 0
    told = job(f"{node(page)} &\n{node(page)}\nwait $!\n", machine, HOST="127.0.0.1", **small)
    assert told.endswith("the job ended with 0\n"), told
    assert "nothing to do" in job(scripts(page)["train.sh"], machine, **small)
