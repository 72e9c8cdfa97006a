"""Any server that speaks OpenAI's chat completions, over one pooled HTTP client. The hot path.

A call is always streamed, whatever `Prompt.stream` says: servers free a slot at once when the reader of a stream
leaves, some not at all otherwise, and one path is tested better than two.

Four deadlines, each a `TimedOut` that names itself:

    |-- connect --|
    |-- first_token: until the first event; comments do not count --|-- idle: without any byte --|
    |-- total: waiting for a place included --------------------------------------------------------->|

Idle time is time spent waiting for the upstream: any bytes end it, comments (`: ping`) too, and a slow reader on our
own side does not count against it.

Nothing is tried again here: that is the guard's (`students.guard`). One thing is no try at all: llama.cpp and many
proxies close a connection right after an answer, or while it idles in our pool; a call that finds its connection so is
made again on another one, at once.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from contextvars import ContextVar
from dataclasses import replace
from time import monotonic

import aiohttp
import orjson
import structlog
from yarl import URL

from students import embeddings
from students.bodies import TEMPLATE_OPTIONS, Bodies, Sent, encode
from students.capabilities import settings
from students.engine import Ability, Delta, Embedded, Event, Prompt
from students.errors import BadReply, EngineError, Refused, TimedOut, Unavailable
from students.faults import failure, present, quoted, read_error, read_retry_after
from students.prefill import WAYS, Proof, probe
from students.runs import Machine, Run
from students.spec import Deadlines, OpenAISpec
from students.templates import ChatTemplate, Template, TokenizerTemplate
from students.wire import Reply

log = structlog.get_logger("students.openai_api")

JSON = "application/json"
"""The type of an answer in one piece."""
READY_SECONDS = 10.0
"""For the answer to `GET /models`."""
DRAIN_SECONDS = 0.1
"""For the end of the body after [DONE]; a connection whose body has not ended cannot be used again."""
LIST_BYTES = 2**20
"""Of a list of models; a longer one is not understood."""
EMBEDDING_BYTES = 2**24
"""Of the vectors of a few texts; a longer answer is not understood."""
ERROR_BYTES = 65_536
"""Of the body of a failed request; the rest is not read."""


class OpenAIApi:
    """An `Engine` over HTTP. `key` is sent as a bearer token; None: no Authorization header. `Prompt.key` replaces it.

    `Prompt.prefix` without `Ability.CONTINUE` and `Prompt.n` without `Ability.SAMPLES` are a `ValueError`: the plan was
    wrong.

    The client session is made with the first call, in the running event loop, and closed by `aclose`.
    """

    def __init__(self, name: str, spec: OpenAISpec, *, key: str | None = None) -> None:
        self.name = name
        self.model = spec.model
        self.abilities = _claimed(spec)
        self._spec = spec
        self._key = key
        # Whoever asks brings a key; without one there is nothing to be proven but that somebody answers.
        self._keyless = key is None and spec.api_key_env is not None
        root = spec.base_url.rstrip("/")
        self._models = URL(root + "/models")
        self._chat = URL(root + "/chat/completions")
        self._embeddings = URL(root + "/embeddings")
        self._completions = URL(root + "/completions")
        self._apply_template = URL(root.removesuffix("/v1") + "/apply-template")
        self._template: Template | None = None
        if spec.chat_template is not None and spec.tokenizer is None:
            self._template = ChatTemplate(spec.chat_template)
        self._bodies = Bodies(spec)
        self._slots = asyncio.Semaphore(spec.max_concurrent)
        self._machine = Machine(name)
        self._http: aiohttp.ClientSession | None = None
        self._reading: set[aiohttp.StreamReader] = set()
        self._closed = False
        self._echoes: dict[bool, bool] = {}  # by whether the answer came in one piece; missing: not known yet
        self._proving = asyncio.Lock()
        self._loading = asyncio.Lock()
        self.proof: Proof | None = None
        """What the probe found; None: it has not been made."""

    def __repr__(self) -> str:
        return f"OpenAIApi({self.name!r}, model={self.model!r})"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`. The connection and the place are free again when `Finish` is yielded."""
        if prompt.prefix and Ability.CONTINUE not in self.abilities:
            raise ValueError(f"{self.name} cannot continue a given text")
        if prompt.n > 1 and Ability.SAMPLES not in self.abilities:
            raise ValueError(f"{self.name} cannot answer n = {prompt.n} in one call")
        if prompt.prefix and self._spec.prefill == "auto" and Ability.CONTINUE not in await self.ready():
            raise Refused("no way to continue a given text was found", engine=self.name)
        ends = monotonic() + self._spec.deadlines.total
        try:
            await self._enter()
            try:
                response, reply, deltas, run = await self._open(prompt, ends)
                content = response.content
                read = content.readany
                watch = _Watch(content, self._spec.deadlines, ends)
                try:
                    while True:
                        for delta in deltas:
                            yield delta
                        if reply.ended:
                            break
                        watch.waiting = monotonic()
                        data = await read()
                        watch.waiting = math.inf
                        deltas = reply.feed(data) if data else reply.end()
                    if reply.failure is None and not content.is_eof():
                        with suppress(TimeoutError, aiohttp.ClientError):
                            async with asyncio.timeout(DRAIN_SECONDS):
                                while await read():
                                    pass
                finally:
                    # Closes the connection, unless the body has ended and it is back in the pool already.
                    watch.stop()
                    self._reading.discard(content)
                    response.close()
                    run.end()
            finally:
                self._slots.release()
            if reply.echoed is not None:
                self._echoes[response.content_type == JSON] = reply.echoed
            yield reply.finish()
        except EngineError as error:
            self._present(error, prompt)
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise self._present(_unavailable(error), prompt) from None

    async def embed(self, texts: Sequence[str], runs: list[Run] | None = None) -> Embedded:
        """See `students.embeddings.Embedder.embed`: over the same connections, and not tried again."""
        try:
            await self._enter()
            try:
                async with asyncio.timeout(self._spec.deadlines.total):
                    return embeddings.read(await self._embedding(embeddings.body(self.model, texts), runs), len(texts))
            finally:
                self._slots.release()
        except EngineError as error:
            raise present(error, engine=self.name, keys=(self._key,), texts=texts) from None
        except aiohttp.ConnectionTimeoutError:
            raise TimedOut("no connection in time", engine=self.name, deadline="connect") from None
        except TimeoutError:
            raise TimedOut("the answer took too long", engine=self.name, deadline="total") from None
        except (aiohttp.ClientError, OSError) as error:
            raise present(_unavailable(error), engine=self.name, keys=(self._key,), texts=texts) from None

    async def _embedding(self, body: bytes, runs: list[Run] | None) -> bytes:
        """The answer, on another connection where the first was closed before it answered anything."""
        for last in (False, True):
            run = self._machine.run(runs)
            try:
                sent = Sent(body, run)
                async with self._session().post(self._embeddings, data=sent, allow_redirects=False) as response:
                    if response.status != 200:
                        raise await _failed(response)
                    return await _read(response, EMBEDDING_BYTES)
            except aiohttp.ServerDisconnectedError:
                if last:
                    raise
            finally:
                run.end()
        raise AssertionError("the last try returns or raises")

    async def ready(self) -> Ability:
        """Reach the server, and prove by one small call that it continues a text, where that is claimed.

        Raises `Refused` when its own key is not accepted, `Unavailable` or `TimedOut` when nobody answers. A server
        without `/models` passes. An unproven claim takes `Ability.CONTINUE` away; what was found is kept.
        """
        await self._reach()
        async with self._proving:
            if self.proof is None and self._spec.probe and Ability.CONTINUE in self.abilities:
                self.proof = await (self._find_a_way() if self._spec.prefill == "auto" else self._prove())
                if not self.proof.proven:
                    why = self.proof.why
                    log.warning("cannot continue a given text", engine=self.name, prefill=self._spec.prefill, why=why)
                    self.abilities &= ~Ability.CONTINUE
                if self.proof.limited is False:
                    log.warning("does not keep to the token limit", engine=self.name)
        return self.abilities

    async def _prove(self) -> Proof:
        """The configured way, tried as answers will be asked for."""
        way = None if self._spec.prefill == "auto" else self._spec.prefill
        try:
            proof = await probe(self)
            if proof.proven and self._spec.streaming == "as_asked":
                whole = await probe(self, stream=False)
                proof = proof if whole.proven else replace(whole, why=f"not streaming, it {whole.why}")
        except Refused as error:
            proof = Proof(False, f"refused: {error}")
        return replace(proof, prefill=way, echoes=any(self._echoes.values()))

    async def _find_a_way(self) -> Proof:
        """The ways in turn, each by an engine of its own; this one takes over the first that is proven."""
        tried, failed = [], None
        for way in WAYS:
            spec = self._spec.model_copy(update={"prefill": way})
            async with aclosing(OpenAIApi(self.name, spec, key=self._key)) as other:
                try:
                    proof = await other._prove()
                except (Unavailable, BadReply) as error:
                    if isinstance(error, Unavailable) and error.status is None:
                        raise
                    proof, failed = Proof(False, f"{type(error).__name__}: {error}"), error
            if proof.proven:
                self._spec, self._bodies, self._echoes = spec, Bodies(spec), other._echoes
                return proof
            tried.append(f"{way}: {proof.why}")
        if isinstance(failed, Unavailable):
            raise failed  # it may be that it only fails at the moment
        return Proof(False, "; ".join(tried))

    async def aclose(self) -> None:
        """Close all connections. Idempotent; running streams end in `Unavailable`."""
        self._closed = True
        # A closed session does not wake those who read from it.
        for content in tuple(self._reading):
            content.set_exception(Unavailable("the engine was closed"))
        if self._http is not None:
            await self._http.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Unavailable("the engine is closed")
        if self._http is None:
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
            headers |= _authorization(self._key) or {}
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=self._socket),  # `max_concurrent` is the limit
                headers=headers | self._spec.extra_headers,
                timeout=aiohttp.ClientTimeout(total=None, connect=self._spec.deadlines.connect),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._http

    @staticmethod
    def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        _made.get([]).append(made.fileno())
        return made

    async def _enter(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._spec.deadlines.total):
                await self._slots.acquire()
        except TimeoutError:
            raise TimedOut("no place became free in time", deadline="place") from None

    async def _open(self, prompt: Prompt, ends: float) -> _Opened:
        """Ask until the first event has come."""
        while True:
            with suppress(_Stale):
                return await self._ask(prompt, ends)

    async def _ask(self, prompt: Prompt, ends: float) -> _Opened:
        """One try: the response, once its first event is there, and its run, which ends with its body."""
        # An answer in one piece begins when it ends.
        first = self._spec.deadlines.first_token if self._bodies.streams(prompt) else math.inf
        seconds, deadline = min((first, "first_token"), (max(ends - monotonic(), 0.0), "total"))
        response = None
        run = self._machine.run(prompt.runs)
        made: list[int] = []
        _made.set(made)
        try:
            async with asyncio.timeout(seconds):
                if prompt.prefix and self._spec.prefill == "raw_completion":
                    url, body = self._completions, self._bodies.completion(prompt, await self._render(prompt))
                else:
                    url, body = self._chat, self._bodies.chat(prompt)
                headers = _authorization(prompt.key)
                sent = Sent(body, run)
                response = await self._session().post(url, data=sent, headers=headers, allow_redirects=False)
                # The last byte arrives while whoever reads us may still be busy with earlier ones.
                response.content.on_eof(run.end)
                self._reading.add(response.content)
                if response.status != 200:
                    raise await _failed(response)
                whole = response.content_type == JSON
                # Some repeat the prefix before they go on; llama.cpp does it only when it does not stream.
                reply = Reply(prompt.n, prompt.prefix if self._echoes.get(whole, True) else "")
                if whole:
                    return response, reply, reply.whole(await response.read()), run
                deltas: list[Delta] = []
                while not (reply.begun or reply.ended):
                    data = await response.content.readany()
                    deltas = reply.feed(data) if data else reply.end()
                if reply.failure is not None and not reply.begun:
                    raise reply.failure
                return response, reply, deltas, run
        except BaseException as error:
            run.end()
            if response is not None:
                self._reading.discard(response.content)
                response.close()
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise TimedOut("no connection in time", deadline="connect") from None
            if isinstance(error, TimeoutError):
                raise TimedOut("no answer began in time", deadline=deadline) from None
            if isinstance(error, (aiohttp.ClientError, OSError)):
                unsent = response is None and not isinstance(error, aiohttp.ClientConnectorError)
                if unsent and not made and not self._closed:
                    raise _Stale from None
                raise _unavailable(error) from None
            raise

    async def _render(self, prompt: Prompt) -> str:
        """The prompt as the model reads it, up to the end of what is given of its answer."""
        options = self._bodies.template_options(prompt)
        if self._spec.tokenizer is not None:
            async with self._loading:
                if self._template is None:
                    source, template = self._spec.tokenizer, self._spec.chat_template
                    self._template = await asyncio.to_thread(lambda: TokenizerTemplate(source, template))
        if self._template is not None:
            return self._template.render(prompt.messages, prompt.prefix, options)
        body = encode({"messages": prompt.messages, "add_generation_prompt": True, TEMPLATE_OPTIONS: options})
        headers = _authorization(prompt.key)
        post = self._session().post(self._apply_template, data=body, headers=headers, allow_redirects=False)
        async with post as response:
            if response.status != 200:
                raise await _failed(response)
            try:
                text = orjson.loads(await response.read())["prompt"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                text = None
        if not isinstance(text, str):
            raise BadReply("the server's /apply-template did not give a prompt")
        return text + prompt.prefix

    async def served(self) -> tuple[str, ...] | None:
        """The names in the server's list of models; None: it has none that can be read. Raises as `ready`."""
        return _names(await self._reach())

    async def _reach(self) -> bytes:
        """The body of `/models`, as much as is kept of it; empty where there is none."""
        try:
            async with asyncio.timeout(READY_SECONDS), self._session().get(self._models) as response:
                if response.status in (401, 403) and not self._keyless:
                    source = self._spec.api_key_env
                    hint = f"the key in {source} is not accepted" if source else "a key is needed: set api_key_env"
                    raise Refused(f"{response.status}: {hint}", engine=self.name, status=response.status)
                if response.status >= 500:
                    raise await _failed(response)
                return await _read(response, LIST_BYTES) if response.status == 200 else b""
        except EngineError as error:
            raise present(error, engine=self.name, keys=(self._key,), texts=()) from None
        except aiohttp.ConnectionTimeoutError:
            raise TimedOut("no connection in time", engine=self.name, deadline="connect") from None
        except TimeoutError:
            raise TimedOut("/models was not answered in time", engine=self.name, deadline="total") from None
        except (aiohttp.ClientError, OSError) as error:
            raise present(_unavailable(error), engine=self.name, keys=(self._key,), texts=()) from None

    def _present(self, error: EngineError, prompt: Prompt) -> EngineError:
        return present(error, engine=self.name, keys=(self._key, prompt.key), texts=quoted(prompt))


def _names(body: bytes) -> tuple[str, ...] | None:
    """The names of a list of models; None: it is none."""
    try:
        return tuple(str(model["id"]) for model in orjson.loads(body)["data"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _authorization(key: str | None) -> dict[str, str] | None:
    return None if key is None else {"Authorization": f"Bearer {key}"}


_made: ContextVar[list[int]] = ContextVar("made")
"""The sockets that were made for the request under way; tasks that it starts to connect add to the same list."""


_Opened = tuple[aiohttp.ClientResponse, Reply, list[Delta], Run]


class _Stale(Exception):
    """A connection from the pool was closed by the other side before it answered anything."""


class _Watch:
    """Ends the reading of a body when the idle or the total deadline passes.

    `waiting`: since when bytes are waited for (`time.monotonic`), infinite while they are not. The timer is not moved
    when bytes come; when it goes off too early, it is set again. The exception goes into the stream that is being
    read, so no task is cancelled and no task is needed.
    """

    __slots__ = ("_content", "_ends", "_idle", "_loop", "_timer", "waiting")

    def __init__(self, content: aiohttp.StreamReader, deadlines: Deadlines, ends: float) -> None:
        self.waiting = math.inf
        self._content = content
        self._idle = deadlines.idle
        self._ends = ends
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(min(self._idle, ends - monotonic()), self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = monotonic()
        if now >= self._ends:
            self._content.set_exception(TimedOut("the answer took too long", deadline="total"))
        elif now >= self.waiting + self._idle:
            self._content.set_exception(TimedOut("the answer stopped coming", deadline="idle"))
        else:
            due = min(min(self.waiting, now) + self._idle, self._ends)
            self._timer = self._loop.call_later(due - now, self._look)


def _claimed(spec: OpenAISpec) -> Ability:
    asked = settings(spec, spec.model)
    claims = {
        Ability.CONTINUE: spec.prefill != "context",
        Ability.SAMPLES: spec.samples,
        Ability.LOGPROBS: asked.logprobs,
        Ability.TOOLS: spec.tools,
        Ability.SCHEMA: spec.json_schema,
        Ability.IMAGES: asked.images,
    }
    abilities = Ability.NONE
    for ability, claimed in claims.items():
        if claimed:
            abilities |= ability
    return abilities


async def _failed(response: aiohttp.ClientResponse) -> EngineError:
    """What the response to a refused or failed request means."""
    if 300 <= response.status < 400:
        return Refused(f"{response.status}: the server redirects; is base_url right?", status=response.status)
    return failure(read_error(await _read(response, ERROR_BYTES)), response.status, read_retry_after(response.headers))


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = b""
    while len(body) < most and (data := await response.content.readany()):
        body += data
    return body


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"{type(error).__name__}: {error}".removesuffix(": "))
