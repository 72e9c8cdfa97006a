"""Students on Ray Serve: replicas of any engine on many machines, behind one OpenAI-compatible route.

    gateway ── HTTP ──> Ray's proxy ──> Route ── handle ──> Student (replica 1: an engine)
                                                     └────> Student (replica 2: an engine) ...

`Route` answers requests with `Replicas`, an engine whose models are the replicas of `Student`. When a replica dies, its
answers go on at another one, from the text already delivered. Ray is imported here alone, and this module by Ray Serve
alone (`deploy/ray/serve.yaml`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import structlog
from pydantic import Field
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from students.build import build
from students.engine import Ability, Event, Finish, Prompt
from students.errors import EngineError, Overloaded, Unavailable
from students.resume import Broken
from students.runs import Machine
from students.serving import Completions
from students.spec import EngineSpec, Strict, VariableName

log = structlog.get_logger("students.ray_serve")

LIVES = 5
"""Replicas that one answer is tried on before it fails."""
PAUSE_SECONDS = 0.2
"""Before the next one, for the router to learn of the death; doubled each time."""


class Args(Strict):
    """What `serve.yaml` says under `args`."""

    upstream: EngineSpec = Field(description="The engine of every replica, as under `upstreams` of a gateway.")
    api_key_env: VariableName | None = Field(
        None, description="The variable that holds the key which callers have to bring; None: none."
    )


class Student:
    """One replica: an engine, built here. It is up when its model is, and replaced when that can no longer be used."""

    def __init__(self, spec: EngineSpec) -> None:
        self._engine = build("student", spec)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event | EngineError, None]:
        """The engine's events. An error is the last item: raised, it would arrive as Ray's own."""
        async with aclosing(self._engine.stream(prompt)) as events:
            try:
                async for event in events:
                    yield event
            except EngineError as error:
                yield error

    async def model(self) -> tuple[str, Ability]:
        """The model's name, and what it proved."""
        return self._engine.model, await self._engine.ready()

    async def check_health(self) -> None:
        """Called by Ray, first before the replica is used: reaches the model, or raises `EngineError`."""
        await self._engine.ready()


class Replicas:
    """An `Engine` whose answers come from the replicas behind a handle, and survive the death of any of them.

    An answer that broke off is asked for again when nothing of it was delivered; else, when it is one plain text and
    the model can continue one, another replica goes on with it. Its usage is then None: nobody knows the whole.
    Until a replica has said what it proved (`ready`), it is taken to be able to do everything.
    """

    def __init__(self, name: str, model: str, student: DeploymentHandle[Any]) -> None:
        self.name = name
        self.model = model
        self.abilities = ~Ability.NONE
        self._student = student
        self._stream = student.options(stream=True)
        self._proven = False
        self._closed = False
        self._running: set[Any] = set()
        self._machine = Machine(name)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`."""
        if prompt.prefix and Ability.CONTINUE not in self.abilities:
            raise ValueError(f"{self.name} cannot continue a given text")
        broken = Broken(prompt)
        for life in range(1, LIVES + 1):
            asked, seam = broken.rest()
            try:
                async with aclosing(self._ask(asked)) as events:
                    async for event in events:
                        if isinstance(event, Finish):
                            if asked is not prompt:
                                event.usage = None
                            yield event
                            return
                        event.text = seam.new(event.text)
                        if event.text or event.fields or event.logprobs:
                            broken.add(event)
                            yield event
                raise Unavailable("the answer ended without its end")
            except Unavailable as error:
                error.engine = self.name
                able = not broken.begun or (broken.resumable and Ability.CONTINUE in self.abilities)
                if life == LIVES or not able or self._closed:
                    raise
                log.warning("a replica is gone", engine=self.name, begun=broken.begun, life=life, error=str(error))
            if broken.ended:
                yield Finish(("length",))
                return
            await asyncio.sleep(PAUSE_SECONDS * 2 ** (life - 1))

    async def ready(self) -> Ability:
        """Ask a replica for what it proved; kept, since all are alike."""
        if self._closed:
            raise Unavailable("the engine is closed", engine=self.name)
        if not self._proven:
            try:
                self.model, self.abilities = await self._student.model.remote()
            except (RayError, RayServeException) as error:
                raise _unavailable(error) from None
            self._proven = True
        return self.abilities

    async def aclose(self) -> None:
        """End running streams in `Unavailable`. The replicas are Ray's to end. Idempotent."""
        self._closed = True
        for response in self._running:
            response.cancel()

    async def _ask(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """One try, on the replica that Ray chooses. Its death is `Unavailable`."""
        if self._closed:
            raise Unavailable("the engine is closed")
        run = self._machine.run(prompt.runs)
        run.begin()
        response: Any = self._stream.stream.remote(replace(prompt, runs=None))
        self._running.add(response)
        try:
            async for event in response:
                if isinstance(event, EngineError):
                    raise event
                if isinstance(event, Finish):
                    run.end()
                yield event
        except BackPressureError:
            raise Overloaded("all replicas are full", status=503, retry_after=1.0) from None
        except (RayError, RayServeException, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # Ray may have made an error of its own of it
                raise asyncio.CancelledError from None
            raise (Unavailable("the engine was closed") if self._closed else _unavailable(error)) from None
        finally:
            run.end()
            self._running.discard(response)
            response.cancel()  # of no effect once it has ended


class Route:
    """The OpenAI-compatible route. It holds no model and is cheap; several may run."""

    def __init__(self, student: DeploymentHandle[Any], model: str, api_key_env: str | None) -> None:
        key = None
        if api_key_env is not None:
            key = os.environ.get(api_key_env, "").strip()
            if not key:
                raise ValueError(f"the environment variable {api_key_env} is not set where the route runs")
        self._completions = Completions(Replicas("replicas", model, student), key=key)

    async def __call__(self, request: Request) -> Response:
        return await self._completions.respond(request)


def students(args: dict[str, Any]) -> serve.Application:
    """The application that `serve.yaml` names. Raises pydantic's `ValidationError` when `args` are wrong."""
    return application(Args.model_validate(args))


def application(args: Args, **options: Mapping[str, Any]) -> serve.Application:
    """The two deployments, bound. `options`: by the name of a deployment, as `deployments` in `serve.yaml`."""
    upstream = args.upstream
    own = {"max_ongoing_requests": upstream.max_concurrent, **options.get("Student", {})}
    student = serve.deployment(**own)(Student).bind(upstream)
    own = {"max_ongoing_requests": 10_000, "ray_actor_options": {"num_cpus": 0.1}, **options.get("Route", {})}
    bound: serve.Application = serve.deployment(**own)(Route).bind(student, upstream.model, args.api_key_env)
    return bound


def _unavailable(error: BaseException) -> Unavailable:
    # Ray's own words name actors, addresses and lines of code; they are for its log.
    return Unavailable(f"the replica is gone ({type(error).__name__})")
