"""What requests wait for SQLite, whether a commit waits for the disk or not: `python -m benchmarks.durability`.

Both in turn, several times, on one machine: compare them with each other, and with another disk only by their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from gateway.chat import Call
from gateway.ledger.engines import Synchronous
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage


async def waits(folder: Path, clients: int, seconds: float, synchronous: Synchronous) -> list[float]:
    """Milliseconds that requests of two calls to the ledger, an intent and a settlement, waited for it."""
    ledger = await SqlLedger.open(f"sqlite:///{folder}/ledger.db", synchronous=synchronous)
    found: list[float] = []
    ends = time.perf_counter() + seconds

    async def client(name: int) -> None:
        number = 0
        while time.perf_counter() < ends:
            request_id = f"{name}-{number}"
            number += 1
            call = Call("c", request_id, "answer", "teacher", "openai", "gpt-6-sol", None, 1.8e9, Money(1000))
            began = time.perf_counter()
            await ledger.intend(call)
            between = time.perf_counter()
            await asyncio.sleep(0.02)  # the model
            again = time.perf_counter()
            call.line = Line("answer", "gpt-6-sol", Usage(), None, Money(10))
            await ledger.settle(Entry(request_id, 1.8e9, "m", "*", "teacher", "", "bob", "ok", False, (call,), None))
            found.append((between - began + time.perf_counter() - again) * 1_000)

    await asyncio.gather(*(client(name) for name in range(clients)))
    await ledger.aclose()
    return found


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk that is asked about")
    asked = parser.parse_args()
    print("clients  synchronous  requests  p50 ms  p99 ms")
    for clients in (1, 16, 64):
        told: dict[Synchronous, list[float]] = {"normal": [], "full": []}
        for _ in range(asked.rounds):
            for level in told:
                with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
                    told[level] += asyncio.run(waits(Path(folder), clients, asked.seconds, level))
        for level, sums in told.items():
            cuts = statistics.quantiles(sums, n=100)
            print(f"{clients:7}  {level:11}  {len(sums):8,}  {cuts[49]:6.2f}  {cuts[98]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
