"""A transformers model in this process: many requests, one batch, each with its own settings.

This is the side of the event loop. The model lives in a thread of its own (`students.batching`), where torch and
transformers are imported too; tokens become events there and are handed over here.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from students import exemplars
from students.batching import Batcher
from students.engine import Ability, Event, Finish, Prompt
from students.errors import EngineError, PromptTooLong, Refused, TimedOut, Unavailable
from students.rows import Row, Settings
from students.runs import Machine
from students.samples import samples
from students.spec import TransformersSpec

if TYPE_CHECKING:
    from students.rendering import Renderer
    from students.torch_model import TorchModel

log = structlog.get_logger("students.in_process")

TORCH = "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
NEEDED = {"torch": TORCH, "transformers": "pip install 'gkt-gateway[torch]'"}

UNKNOWN = ("tools", "tool_choice", "functions", "function_call", "response_format")
"""Members of a request that change what an answer is, and that this engine cannot honour."""

CLOSE_SECONDS = 10.0


class InProcess:
    """An `Engine` whose model is loaded by `ready` or by the first `stream`, once.

    What a `Prompt` leaves open is taken from the model's generation_config, as other servers do; what that does not
    say has no influence (temperature 1, the whole vocabulary). `top_k`, `min_p` and `repetition_penalty` are read from
    `Prompt.options`. Penalties count the tokens of the answer, its given beginning included. A seed makes an answer
    repeatable, but for rounding, whoever else is answered; sample `i` of `n` has `seed + i`.

    `Usage` is exact. `seconds` are the machine's: its reading of this prompt, and an equal share of each step, so that
    the seconds of all calls add up to the time that the model was busy. `cached` is None: no prompt is kept.

    Raises `Overloaded` when `max_concurrent` answers are written or wait, `PromptTooLong`, and `Refused` for messages
    that are no text, tools and schemas.
    """

    def __init__(self, name: str, spec: TransformersSpec, *, load: Callable[[], TorchModel] | None = None) -> None:
        """`load`, called in the model's thread, brings a model that is not on disk; None: `spec.path` is loaded."""
        self.name = name
        self.model = spec.model
        self.abilities = Ability.CONTINUE | Ability.SAMPLES | Ability.LOGPROBS
        self._spec = spec
        self._bring = load or self._load
        self._batcher: Batcher[TorchModel] | None = None
        self._speaker: Speaker | None = None
        self._closed = False
        self._tokenizing = asyncio.Lock()
        self._machine = Machine(name)

    def __repr__(self) -> str:
        return f"InProcess({self.name!r})"

    @property
    def occupancy(self) -> tuple[int, int]:
        """How many answers wait, and how many are read or written."""
        return self._batcher.occupancy if self._batcher is not None else (0, 0)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`."""
        said = set(UNKNOWN) & {key for key, value in prompt.options.items() if value}
        if said and prompt.options.get("response_format") != {"type": "text"}:
            raise Refused(f"{', '.join(sorted(said))}: this model cannot", engine=self.name)
        async with aclosing(samples(self._one, prompt) if prompt.n > 1 else self._one(prompt)) as events:
            async for event in events:
                yield event

    async def ready(self) -> Ability:
        """Load the model. Raises `Unavailable` when packages or files are missing or it is not there in time.

        That it continues a text needs no proof: it is given the very tokens. That rows of a batch do not disturb each
        other is tried, by `TorchModel.load`.
        """
        await self._loaded()
        return self.abilities

    async def aclose(self) -> None:
        """Let the model go after the step that is under way. Idempotent; running streams end in `Unavailable`."""
        self._closed = True
        batcher, self._batcher, self._speaker = self._batcher, None, None
        if batcher is not None:
            batcher.close()
            if not await asyncio.to_thread(batcher.join, CLOSE_SECONDS):
                log.warning("the model is still at work; its thread ends with it", engine=self.name)

    async def _one(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        batcher, speaker = await self._loaded()
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | EngineError] = asyncio.Queue()

        def tell(event: Event | EngineError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            async with self._tokenizing:  # a tokenizer that is set up by one thread while another uses it raises
                row = await asyncio.to_thread(speaker.row, prompt, tell)
        except EngineError as error:
            error.engine = self.name
            raise
        batcher.submit(row)
        run = self._machine.run(prompt.runs)
        run.begin()
        try:
            async for event in self._told(events):
                if isinstance(event, Finish):
                    run.end(row.seconds)
                yield event
        finally:
            batcher.leave(row)
            run.end(row.seconds)

    async def _told(self, events: asyncio.Queue[Event | EngineError]) -> AsyncGenerator[Event, None]:
        deadlines = self._spec.deadlines
        end, deadline = monotonic() + deadlines.total, "first_token"
        while True:
            seconds = min(deadlines.first_token if deadline == "first_token" else deadlines.idle, end - monotonic())
            try:
                async with asyncio.timeout(seconds):
                    event = await events.get()
            except TimeoutError:
                which = "total" if monotonic() >= end else deadline
                raise TimedOut(
                    f"no {which.replace('_', ' ')} in {getattr(deadlines, which):g} s", engine=self.name, deadline=which
                ) from None
            if isinstance(event, EngineError):
                raise event
            deadline = "idle"
            yield event
            if isinstance(event, Finish):
                return

    async def _loaded(self) -> tuple[Batcher[TorchModel], Speaker]:
        """The model with its owner; begins to load it when nobody has."""
        if self._closed:
            raise Unavailable("the engine is closed", engine=self.name)
        if self._batcher is None:
            for package, command in NEEDED.items():
                if importlib.util.find_spec(package) is None:
                    raise Unavailable(f"{package} is not installed: {command}", engine=self.name)
            spec = self._spec
            self._batcher = Batcher(
                self.name, self._bring, slots=spec.slots, places=spec.max_concurrent, read_tokens=spec.read_tokens
            )
            self._batcher.start()
        batcher = self._batcher
        if self._speaker is None:
            began = monotonic()
            try:
                # Shielded: one caller that leaves does not end it for the others.
                loading = asyncio.shield(asyncio.wrap_future(batcher.loaded))
                model = await asyncio.wait_for(loading, self._spec.start_seconds)
            except TimeoutError:
                raise Unavailable(f"not loaded in {self._spec.start_seconds:g} s", engine=self.name) from None
            except Exception as error:  # noqa: BLE001 - whatever transformers raises, the model is not there
                if self._batcher is batcher:
                    self._batcher = None  # the next use tries again
                log.warning("the model was not loaded", engine=self.name, reason=f"{type(error).__name__}: {error}")
                raise Unavailable(f"the model was not loaded: {error}", engine=self.name) from None
            if self._closed:
                raise Unavailable("the engine is closed", engine=self.name)
            speaker = await asyncio.to_thread(Speaker.of, self._spec, model)
            log.info("the model is loaded", engine=self.name, seconds=round(monotonic() - began, 1))
            self._speaker = self._speaker or speaker
        return batcher, self._speaker

    def _load(self) -> TorchModel:
        from students.torch_model import TorchModel

        return TorchModel.load(self._spec)


@dataclass(frozen=True, slots=True)
class Speaker:
    """How one model's prompts become rows. For one thread at a time."""

    spec: TransformersSpec
    model: TorchModel
    renderer: Renderer

    @classmethod
    def of(cls, spec: TransformersSpec, model: TorchModel) -> Speaker:
        """With the files that `spec` names. Raises `Unavailable` when one cannot be read."""
        from students.rendering import Renderer

        try:
            template = spec.chat_template.read_text(encoding="utf-8") if spec.chat_template else None
            pairs = exemplars.read(spec.exemplars)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise Unavailable(f"chat_template or exemplars cannot be read: {error}") from None
        renderer = Renderer(model.tokenizer, template=template, options=spec.template_options, exemplars=pairs)
        return cls(spec, model, renderer)

    def row(self, prompt: Prompt, tell: Callable[[Event | EngineError], None]) -> Row:
        """Raises `Refused` and `PromptTooLong`."""
        settings = Settings.of(prompt.sampling, prompt.options, self.model.defaults, self.model.vocabulary)
        ids, source, answer = self._ids(prompt)
        room = self.model.context - len(ids)
        if room < 1 or len(source) > self.model.context:
            raise PromptTooLong(f"the prompt has {max(len(ids), len(source))} tokens of {self.model.context}")
        limit = self.spec.max_output if prompt.max_tokens is None else prompt.max_tokens
        own = self.spec.stop if self.spec.stop is not None else self.renderer.stop
        return Row(
            name=self.spec.model,
            ids=ids,
            source=source,
            answer=answer,
            settings=settings,
            limit=max(1, min(limit, room)),
            ends=self.model.ends,
            decode=self.renderer.decoder(answer or ids[-4:]),
            piece=self.renderer.piece,
            tell=tell,
            stop=(*prompt.sampling.stop, *own),
            model=self.spec.model,
        )

    def _ids(self, prompt: Prompt) -> tuple[list[int], list[int], list[int]]:
        """What is written on from, what an encoder reads before, and the end of the former that is of the answer."""
        options = prompt.options.get("chat_template_kwargs")
        render = self.renderer
        if not self.model.encodes:
            ids = render.ids(render.text(prompt.messages, prompt.prefix, options))
            return ids, [], ids[len(ids) - len(render.bare(prompt.prefix)) :] if prompt.prefix else []
        inside = self.spec.guidance_in == "encoder"
        source = render.source(render.text(prompt.messages, prompt.prefix if inside else "", options))
        answer = [] if inside else render.bare(prompt.prefix)
        return [self.model.start, *answer], source, answer
