"""What the gateway itself costs: CPU time per request beside the least that a pass-through needs, in the same run.

Run it with `python -m benchmarks.overhead`; `README.md` beside this file says what is measured and how to read it.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import os
import platform
import pstats
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import orjson
import typer
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import Job, Result
from benchmarks.mock_upstream import CONTINUATION, GUIDANCE, GUIDANCE_TOKENS
from benchmarks.process import HOST, ROOT, NotServing, Server, cores, free_port, pinned, serving

console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that is measured: a path and model of one server. `bare` names the subject it is compared with."""

    name: str
    server: str
    path: str
    model: str
    hops: int
    bare: str


@dataclass(frozen=True, slots=True)
class Mode:
    """How the client asks, and how fast the upstream speaks: `paced` pauses between the chunks."""

    name: str
    stream: bool
    paced: bool
    says: str


SUBJECTS: Final = (
    Subject("bare, one hop", "pass-through", "/one/v1/chat/completions", "gpt-6-sol", 1, "bare, one hop"),
    Subject("bare, two hops", "pass-through", "/two/v1/chat/completions", "gpt-6-sol", 2, "bare, two hops"),
    Subject("gateway, teacher", "gateway", "/v1/chat/completions", "solo", 1, "bare, one hop"),
    Subject("gateway, cut-off", "gateway", "/v1/chat/completions", "guided", 2, "bare, two hops"),
)
MODES: Final = (
    Mode("json", False, False, "JSON answers, upstream at full speed"),
    Mode("json-paced", False, True, "JSON answers, upstream speaks chunk by chunk"),
    Mode("stream", True, False, "streams of 43 chunks, upstream at full speed (chunks merge on the way)"),
    Mode("stream-paced", True, True, "streams of 43 chunks, upstream speaks chunk by chunk (each arrives alone)"),
)


class Spoiled(RuntimeError):
    """A measurement that does not mean what it should; nothing is reported."""


def gateway_config(upstream: str, folder: Path) -> dict[str, Any]:
    """The configuration under test: both routes, the ledger in `folder`, one mock in both seats."""
    url = f"{upstream}/v1"
    return {
        "server": {"host": HOST, "port": 0},
        "ledger": {"url": f"sqlite:///{folder / 'ledger.db'}"},
        "upstreams": {
            "teacher": {
                "kind": "openai_api",
                "model": "gpt-6-sol",
                "base_url": url,
                "provider": "openai",
                "streaming": "as_asked",
                "probe": False,
            },
            "student": {
                "kind": "openai_api",
                "model": "student",
                "base_url": url,
                "prefill": "continue_flag",
                "probe": False,
            },
        },
        "routes": {
            "solo": {"strategy": "teacher", "teacher": "teacher"},
            "guided": {
                "strategy": "cut-off",
                "teacher": "teacher",
                "student": "student",
                "guidance_tokens": GUIDANCE_TOKENS,
            },
        },
        "prices": {"student": {"input": 0.1, "output": 0.1}},
    }


def start_gateway(
    config_path: Path, port: int, *, core: int | None, profile: Path | None = None
) -> contextlib.AbstractContextManager[Server]:
    """The gateway as an operator starts it, ready to answer; under cProfile if `profile` names a file."""
    arguments = ["-m", "gateway.cli", "serve", "--config", str(config_path), "--port", str(port)]
    if profile is not None:
        arguments = ["-m", "cProfile", "-o", str(profile), *arguments]
    log = config_path.with_name("gateway.log")
    # Python ends at once on SIGTERM, without writing a profile; on SIGINT it unwinds.
    stop = signal.SIGTERM if profile is None else signal.SIGINT
    return serving("gateway", arguments, port, core=core, log=log, ready="/readyz", stop=stop)


@contextlib.contextmanager
def load_generator(core: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """`benchmarks.load` in a process of its own, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.load"]
    with pinned(core):
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        yield process
        process.terminate()


def measure(load: subprocess.Popen[bytes], job: Job) -> Result:
    """Have the load generator run one job. Raises `Spoiled` when it could not."""
    assert load.stdin is not None
    assert load.stdout is not None
    load.stdin.write(orjson.dumps(asdict(job)) + b"\n")
    load.stdin.flush()
    answer = orjson.loads(load.stdout.readline() or b'{"error": "the load generator ended"}')
    if "error" in answer:
        raise Spoiled(answer["error"])
    return Result(**answer)


def tell(mock: Server, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the mock upstream for its counts, or set its pace."""
    connection = http.client.HTTPConnection(HOST, mock.port, timeout=10)
    try:
        connection.request(method, path, None if body is None else orjson.dumps(body))
        answer: dict[str, Any] = orjson.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


def check(subject: Subject, mode: Mode, result: Result, calls: int) -> None:
    """Raise `Spoiled` unless the answer was whole and each request made as many upstream calls as it has hops."""
    text = result.text
    if not (text.startswith(GUIDANCE[0]) and text.endswith("".join(CONTINUATION))):
        raise Spoiled(f"{subject.name}, {mode.name}: the answer is not the upstream's: {text!r}")
    if calls != result.sent * subject.hops:
        raise Spoiled(
            f"{subject.name}, {mode.name}: {result.sent} requests made {calls} calls, not {subject.hops} each"
        )
    if mode.stream and mode.paced and result.chunks < len(CONTINUATION):
        raise Spoiled(f"{subject.name}, {mode.name}: a stream of {result.chunks} chunks is not streamed token by token")
    if subject.server == "gateway" and not result.receipt:
        raise Spoiled(f"{subject.name}, {mode.name}: the answer carries no receipt")


Rounds = dict[tuple[str, str], list[Result]]
"""All results by mode and subject, one a round."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how hard; what the command line says."""

    rounds: int
    seconds: float
    warm_up: float
    connections: int
    gap_ms: float
    coalesce: int


def run_rounds(
    settings: Settings,
    modes: Sequence[Mode],
    subjects: Sequence[Subject],
    servers: dict[str, Server],
    load: subprocess.Popen[bytes],
) -> Rounds:
    """Measure each subject in each mode once a round, side by side, so that a drift of the machine meets all alike."""
    mock, results = servers["mock"], Rounds()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=settings.rounds * len(modes) * len(subjects))
        for number in range(settings.rounds):
            for mode in modes:
                gap = settings.gap_ms if mode.paced else 0.0
                tell(mock, "PUT", "/pace", {"gap_ms": gap, "coalesce": settings.coalesce})
                for subject in subjects:
                    progress.update(task, description=f"round {number + 1}, {mode.name}: {subject.name}")
                    server = servers[subject.server]
                    before = sum(tell(mock, "GET", "/calls").values())
                    job = Job(
                        pid=server.pid,
                        port=server.port,
                        path=subject.path,
                        model=subject.model,
                        stream=mode.stream,
                        connections=settings.connections,
                        seconds=settings.seconds,
                        warm_up=settings.warm_up,
                    )
                    result = measure(load, job)
                    check(subject, mode, result, sum(tell(mock, "GET", "/calls").values()) - before)
                    results.setdefault((mode.name, subject.name), []).append(result)
                    progress.advance(task)
    return results


def experiment(
    settings: Settings, modes: Sequence[Mode], subjects: Sequence[Subject], profile: Path | None
) -> tuple[Rounds, dict[str, int]]:
    """Start all processes, measure, end them; returns the results and the rows of the gateway's ledger."""
    core, around = cores()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overhead-")))
        # This process only waits, but not on the core of the servers.
        stack.enter_context(pinned(around))

        def start(name: str, core: int | None, *arguments: str) -> Server:
            port = free_port()
            command = ["-m", f"benchmarks.{name}", "--port", str(port), *arguments]
            return stack.enter_context(serving(name, command, port, core=core, log=folder / f"{name}.log"))

        mock = start("mock_upstream", around)
        bare = start("passthrough", core, "--upstream", f"{mock.url}/v1/chat/completions")
        servers = {"mock": mock, "pass-through": bare}
        load = stack.enter_context(load_generator(around))
        if all(subject.server != "gateway" for subject in subjects):
            return run_rounds(settings, modes, subjects, servers, load), {}
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(gateway_config(mock.url, folder), sort_keys=False))
        with start_gateway(config, free_port(), core=core, profile=profile) as servers["gateway"]:
            results = run_rounds(settings, modes, subjects, servers, load)
        return results, ledger_rows(folder / "ledger.db")


def figures(results: Rounds) -> list[dict[str, Any]]:
    """One row for each mode and subject: medians of the rounds, and the ratio of the medians to the bare figure's."""

    def middle(mode: str, subject: str, what: str) -> float:
        return float(median(getattr(result, what) for result in results[mode, subject]))

    bare_of = {subject.name: subject.bare for subject in SUBJECTS}
    rows = []
    for (mode, subject), rounds in results.items():
        measured = ("cpu_us", "per_second", "p50_ms", "p99_ms", "busy", "reads")
        row: dict[str, Any] = {what: middle(mode, subject, what) for what in measured}
        spread = [result.cpu_us for result in rounds]
        row |= {
            "mode": mode,
            "subject": subject,
            "cpu_ratio": row["cpu_us"] / middle(mode, bare_of[subject], "cpu_us"),
            "cpu_us_range": [min(spread), max(spread)],
            "rounds": [{key: value for key, value in asdict(result).items() if key != "text"} for result in rounds],
        }
        rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]], modes: Sequence[Mode]) -> None:
    """Print one table a mode."""
    for mode in modes:
        unit = "stream" if mode.stream else "request"
        table = Table(title=mode.says, title_justify="left", title_style="bold", header_style="")
        table.add_column("")
        columns = (f"CPU us/{unit}", "min-max", "x bare", f"{unit}s/s", "p50 ms", "p99 ms", "busy", "reads")
        for column in columns:
            table.add_column(column, justify="right")
        for row in (row for row in rows if row["mode"] == mode.name):
            low, high = row["cpu_us_range"]
            table.add_row(
                row["subject"],
                f"{row['cpu_us']:,.0f}",
                f"{low:,.0f}-{high:,.0f}",
                f"{row['cpu_ratio']:.2f}",
                f"{row['per_second']:,.0f}",
                f"{row['p50_ms']:.1f}",
                f"{row['p99_ms']:.1f}",
                f"{row['busy']:.0%}",
                f"{row['reads']:.1f}",
            )
        console.print(table)


def ledger_rows(path: Path) -> dict[str, int]:
    """How many rows each table of the gateway's ledger holds; read after the gateway has ended."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: ledger.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608 - names come from the database itself


def machine() -> dict[str, Any]:
    """Where the figures were taken; they mean nothing without it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ("uvicorn", "uvloop", "httptools", "starlette", "aiohttp", "orjson")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Two short rounds: a first look, not a figure.")] = False,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 2.0,
    warm_up: Annotated[float, typer.Option(help="Seconds before each measurement.")] = 0.5,
    connections: Annotated[int, typer.Option(min=1)] = 16,
    gap: Annotated[float, typer.Option(min=1, help="Milliseconds between two chunks in the paced modes.")] = 2.0,
    coalesce: Annotated[int, typer.Option(min=1, help="Chunks that the upstream sends in one write.")] = 1,
    mode: Annotated[list[str] | None, typer.Option(help="Only this mode; may be repeated.")] = None,
    gateway: Annotated[bool, typer.Option(help="Measure the gateway, not the pass-through alone.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write all figures of all rounds to this file.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Run the gateway under cProfile, and write here; its figures are then inflated.")
    ] = None,
) -> None:
    """Measure what the gateway costs beside a bare pass-through, in CPU time per request."""
    modes = [known for known in MODES if not mode or known.name in mode]
    if unknown := set(mode or ()) - {known.name for known in MODES}:
        raise typer.BadParameter(f"{sorted(unknown)}: there are {[known.name for known in MODES]}")
    settings = Settings(rounds, seconds, warm_up, connections, gap, coalesce)
    if quick:
        settings = Settings(2, 0.6, 0.3, connections, gap, coalesce)
    subjects = [subject for subject in SUBJECTS if gateway or subject.server != "gateway"]
    core, around = cores()
    where = machine()
    console.print(
        f"{where['cpu']}, {where['cores']} cores, load {where['load']}, Python {where['python']}; "
        + (f"servers on core {core}, upstream and load on core {around}" if core is not None else "nothing is pinned")
    )
    if where["load"] > 0.5:
        console.print("[yellow]The machine is not quiet: compare the ratios, not the microseconds.[/]")

    try:
        results, booked = experiment(settings, modes, subjects, profile)
    except (Spoiled, NotServing) as problem:
        console.print(str(problem), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None

    rows = figures(results)
    show(rows, modes)
    names = {subject.name for subject in SUBJECTS if subject.server == "gateway"}
    sent = sum(result.sent for (_, name), group in results.items() for result in group if name in names)
    if gateway:
        console.print(f"{sent} requests went to the gateway; rows in its ledger: {booked}")
        if sent not in booked.values():
            console.print("[red]No table of the ledger has one row for each request.[/]")
    if profile is not None and profile.exists():
        pstats.Stats(str(profile)).sort_stats("tottime").print_stats(40)
    if json is not None:
        report = {
            "machine": where,
            "settings": asdict(settings),
            "profiled": profile is not None,
            "figures": rows,
            "gateway_requests": sent,
            "ledger_rows": booked,
        }
        json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    if gateway and sent not in booked.values():
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
