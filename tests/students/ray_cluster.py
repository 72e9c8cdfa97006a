"""A local Ray with the students of `deploy/ray/serve.yaml` on it, for as long as a test needs it."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "ray" / "serve.yaml"


@dataclass(frozen=True)
class Cluster:
    """Where the route is."""

    url: str

    def replicas(self) -> dict[int, str]:
        """The processes of the replicas of `Student`, by id, with their titles."""
        shown = {process.pid: title(process) for process in family()}
        return {pid: text for pid, text in shown.items() if "ServeReplica:students:Student" in text}


@contextmanager
def local() -> Iterator[Cluster]:
    """Ray on this machine alone, on loopback, without dashboard and reports; at the end no process of it is left."""
    import ray
    from ray import serve

    from students.ray_serve import Args, application

    before = {process.pid for process in family()}
    folder = tempfile.mkdtemp(prefix="ray")  # a short path, for it will hold sockets
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(sweep, before)
        environ = stack.enter_context(pytest.MonkeyPatch.context())
        environ.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environ.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or it would write one into the home directory
        stack.callback(ray.shutdown)
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            object_store_memory=100_000_000,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )
        stack.callback(serve.shutdown)
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        args, options = configured()
        serve.run(application(Args.model_validate(args), **options), name="students", route_prefix="/")
        yield Cluster(f"http://127.0.0.1:{port}/v1")


def configured() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The arguments of the file, and its deployments, made small enough for two cores: two replicas that stay two."""
    [told] = yaml.safe_load(FILE.read_text("utf-8"))["applications"]
    options = {each.pop("name"): each for each in told["deployments"]}
    del options["Student"]["autoscaling_config"]
    options["Student"] |= {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0.5}, "health_check_period_s": 1}
    options["Route"]["num_replicas"] = 1
    args: dict[str, Any] = told["args"]
    return args, options


def family() -> list[psutil.Process]:
    """All processes that descend from this one."""
    return psutil.Process().children(recursive=True)


def title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def sweep(before: set[int]) -> None:
    """Kill what descends from this process and was not there before."""
    left = [process for process in family() if process.pid not in before]
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
