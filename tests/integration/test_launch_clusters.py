"""The launchers where executors are processes of their own, with authentication and encryption in one case."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparton.distributed import slots

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
START_S = 120.0
END_LIMIT_S = 60.0  # from the death of an executor to the end of the launch, on a busy machine


def environment(conf: Path) -> dict[str, str]:
    """The environment of a Spark process whose configuration lies in a folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT / "lib"), os.environ.get("PYTHONPATH")]))
    own = {"SPARK_CONF_DIR": str(conf), "SPARK_LOCAL_IP": LOOPBACK, "PYSPARK_PYTHON": sys.executable}
    return os.environ | own | {"PYTHONPATH": paths}


def ask(name: str, master: str, conf: Path, folder: Path) -> tuple[dict[str, Any], str]:
    """Run the program on a cluster; returns its answers and its log."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "launch_program.py"), name, master, str(folder)],
        env=environment(conf), capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in ended.stdout.splitlines() if line.startswith("answers")]
    assert found, ended.stderr[-3000:]
    return json.loads(found[0].partition(" ")[2]), ended.stderr


def check(answers: dict[str, Any]) -> None:
    """What every launcher keeps on every cluster."""
    for launcher in ("barrier", "spark"):
        results = answers[launcher]
        assert [result["place"] for result in results] == [[0, 2, 0], [1, 2, 1]]
        assert [result["sum"] for result in results] == [3, 3]
        assert [result["secrets"] for result in results] == [[], []]
        assert results[0]["parents"] != results[1]["parents"]
    assert "3 workers need 3 task slots at once, the Spark application offers 2" in answers["slots"]["error"]
    assert (
        answers["slots"]["seconds"] < slots.EXECUTORS_WAIT_S
    )  # an application that is no longer young is not waited for
    assert answers["left behind"] == []


def discovery(folder: Path, *addresses: str) -> Path:
    """Write a discovery script that finds made-up GPUs."""
    script = folder / f"gpus-{'-'.join(addresses)}.sh"
    script.write_text(f"#!/bin/sh\necho '{json.dumps({'name': 'gpu', 'addresses': addresses})}'\n")
    script.chmod(0o755)
    return script


EXECUTOR_GPUS = "spark.executor.resource.gpu.amount 1\nspark.task.resource.gpu.amount 1\n"


def worker_gpus(script: Path) -> str:
    """Return the configuration of a worker daemon's GPU."""
    return f"spark.worker.resource.gpu.amount 1\nspark.worker.resource.gpu.discoveryScript {script}\n"


def placed(answers: dict[str, Any]) -> dict[str, list[str | None]]:
    """Return the GPUs that each launcher gave to the ranks."""
    return {name: [result["gpus"] for result in answers[name]] for name in ("barrier", "spark")}


def test_executors_of_a_local_cluster(tmp_path: Path) -> None:
    """Each executor finds the same GPU, so that none is told one: the local rank decides."""
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    with (conf / "spark-defaults.conf").open("a") as properties:
        properties.write(EXECUTOR_GPUS + worker_gpus(discovery(tmp_path, "0")))
    answers, _ = ask("local-cluster", "local-cluster[2,1,2048]", conf, tmp_path)
    check(answers)
    assert placed(answers) == {"barrier": [None, None], "spark": [None, None]}
    assert "spark.task.resource.gpu.amount=1" in answers["slots"]["error"]
    assert re.match(r"rank \d of 2: the process was lost with its executor", answers["lost"]["error"])
    assert answers["lost"]["seconds"] < END_LIMIT_S


@contextlib.contextmanager
def daemon(conf: Path, log: Path, name: str, *arguments: str) -> Iterator[Path]:
    """A process of a standalone cluster; its log is what it says."""
    command = ["spark-class", f"org.apache.spark.deploy.{name}", "--host", LOOPBACK, *arguments]
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment(conf), stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(30)


def wait_for(log: Path, text: str, count: int = 1) -> None:
    deadline = time.monotonic() + START_S
    while log.read_text().count(text) < count:
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        return int(server.getsockname()[1])


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[tuple[str, Path, str]]:
    """A master and two workers, each with a made-up GPU, as processes of their own, with encrypted connections.

    Yields the master's address, the folder of the configuration and the secret.
    """
    conf, secret, port = tmp_path / "conf", secrets.token_hex(16), free_port()
    conf.mkdir()
    (conf / "log4j2.properties").write_text(
        (ROOT / "conf" / "log4j2.properties").read_text().replace("= warn", "= info")
    )
    properties = conf / "spark-defaults.conf"
    properties.touch(mode=0o600)
    properties.write_text(
        (ROOT / "conf" / "spark-defaults.conf").read_text()
        + f"spark.authenticate true\nspark.authenticate.secret {secret}\nspark.network.crypto.enabled true\n"
        + f"spark.driver.host {LOOPBACK}\nspark.driver.bindAddress {LOOPBACK}\nspark.ui.enabled false\n"
        + f"spark.executor.memory 512m\n{EXECUTOR_GPUS}"
    )
    with contextlib.ExitStack() as held:
        ports = ["--port", str(port), "--webui-port", "0"]
        master = held.enter_context(daemon(conf, tmp_path / "master.log", "master.Master", *ports))
        wait_for(master, "I have been elected leader")
        url = f"spark://{LOOPBACK}:{port}"
        for number in range(2):
            own = tmp_path / f"worker{number}.conf"
            own.touch(mode=0o600)
            script = discovery(tmp_path, f"{number + 3}")
            own.write_text(properties.read_text() + worker_gpus(script))
            sizes = [
                "--properties-file",
                str(own),
                "--cores",
                "1",
                "--memory",
                "1g",
                "--work-dir",
                str(tmp_path / f"work{number}"),
                "--webui-port",
                "0",
            ]
            held.enter_context(daemon(conf, tmp_path / f"worker{number}.log", "worker.Worker", *sizes, url))
        wait_for(master, "Registering worker", 2)
        yield url, conf, secret


def test_executors_of_a_standalone_cluster_with_authentication(
    standalone: tuple[str, Path, str], tmp_path: Path
) -> None:
    url, conf, secret = standalone
    answers, log = ask("standalone", url, conf, tmp_path)
    check(answers)
    assert answers["encrypted"] == "true"
    for gpus in placed(answers).values():
        assert sorted(filter(None, gpus)) in ([], ["3", "4"])
    assert sorted(filter(None, placed(answers)["barrier"])) == ["3", "4"]
    assert answers["shown"] == []
    said = [
        log,
        *(path.read_text() for path in tmp_path.glob("*.log")),
        *map(Path.read_text, tmp_path.glob("work*/*/*/std*")),
    ]
    assert len(said) > 4
    assert not [text for text in said if secret in text]
