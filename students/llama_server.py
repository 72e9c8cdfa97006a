"""The real llama.cpp server of the `xllamacpp` wheel, as a process of its own: the child that `students.llamacpp` owns.

    python -m students.llama_server --model model.gguf

Listens on 127.0.0.1 only, without web UI, CORS or any endpoint that can be switched off. The first line of stdin is the
API key it will ask for (an empty line: none), so that the key is in no process list. Stdout gets one line of JSON:

    {"ready": true, "url": "http://127.0.0.1:40123", "seconds": 0.61, "tools": false}
    {"ready": false, "error": "..."}

`tools`: the model's chat template knows tools. When stdin ends, the process ends: whoever started it holds the other
end, and the kernel lets go of that even when the parent is killed with -9.

Imports nothing of this project, so that it can be run by its path, from any directory.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import os
import select
import signal
import sys
import time
from typing import Any, TextIO
from urllib.parse import urlsplit

PR_SET_PDEATHSIG = 1

LOG_SECONDS = 0.5
"""The native code writes its log in a thread of its own: how long a failed start gives it to say why."""


def main() -> None:
    """Start, say so, and serve until stdin ends. Exit code 1 when the model could not be started."""
    options = _options()
    started = time.monotonic()
    out = _silence(options.log)
    _die_with_parent(signal.SIGKILL)
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
        if not line or select.select([stdin], [], [], 0)[0]:  # the parent died before it could be asked for the signal
            os._exit(0)
        key = line.decode().strip()
        try:
            server = _serve(options, key)  # must stay alive: the server ends with its object
            tools = _knows_tools(server.listening_address, key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            print(json.dumps({"ready": False, "error": str(error) or type(error).__name__}), file=out, flush=True)
            time.sleep(LOG_SECONDS)
            os._exit(1)
        seconds = round(time.monotonic() - started, 3)
        ready = {"ready": True, "url": server.listening_address, "seconds": seconds, "tools": tools}
        print(json.dumps(ready), file=out, flush=True)
        _die_with_parent(0)
        while stdin.read(4096):
            pass
    os._exit(0)  # not by way of the server's own shutdown, which waits for the answers under way


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="students.llama_server", description="The llama.cpp server, on loopback.")
    parser.add_argument("--model", required=True, metavar="FILE", help="a GGUF file")
    parser.add_argument("--alias", default="llama", metavar="NAME", help="the model's name in answers")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="0: a free one")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens of context of each slot")
    parser.add_argument("--slots", type=int, default=4, metavar="N", help="answers generated at once")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--batch", type=int, default=512, metavar="N", help="prompt tokens read in one step")
    parser.add_argument("--cache", type=int, default=512, metavar="MIB", help="memory for prompts of idle slots")
    parser.add_argument("--template", default="", metavar="JINJA", help="in place of the model's own chat template")
    parser.add_argument("--log", default=os.devnull, metavar="FILE", help="the server's own log; appended")
    return parser.parse_args()


def _silence(log: str) -> TextIO:
    """Point stdout and stderr to `log`, for the native code writes to both; return what was stdout."""
    out = os.fdopen(os.dup(1), "w")
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    return out


def _die_with_parent(signal_number: int) -> None:
    """Ask Linux for this signal when the parent dies; 0: no longer.

    Only while the model is loaded: the wheel holds the GIL then, so nobody here can notice that stdin ended. Not
    afterwards, because the signal comes when the *thread* ends that started us, and the process may well live on.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)


def _serve(options: argparse.Namespace, key: str) -> Any:
    """The running server; returns when the model is loaded and the port is open."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.api_keys = [key] if key else []
    params.n_parallel = options.slots
    params.n_ctx = options.context * options.slots  # it is divided among the slots
    params.n_batch = params.n_ubatch = options.batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.cache_ram_mib = options.cache  # its own default is 8 GiB
    params.chat_template = options.template  # empty: the model's own
    params.enable_reasoning = 0  # a thinking model cannot be given the beginning of its answer
    params.offline = True
    params.ui = False
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.cors_origins = ""
    params.cors_credentials = False
    return xllamacpp.Server(params)


def _knows_tools(url: str, key: str) -> bool:
    """Whether the chat template knows tools. Waits until the server says that it is healthy."""
    while (answer := _get(url, "/health", key)) is None:
        time.sleep(0.01)
    answer = _get(url, "/props", key) or {}
    return bool(answer.get("chat_template_caps", {}).get("supports_tools", False))


def _get(url: str, path: str, key: str) -> dict[str, Any] | None:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        body = response.read()
        return json.loads(body) if response.status == 200 else None
    finally:
        connection.close()


if __name__ == "__main__":
    main()
