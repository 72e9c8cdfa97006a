"""A transformers model and the cache of all who speak with it: reads prompts, takes one step for a whole batch.

Rows of different lengths stand right-aligned in one cache, with masked columns before the shorter ones. A model whose
positions are given, relative, or counted by the mask does not see those; `keeps_rows_apart` tries it at the start.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GgufConfig
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.logging import disable_progress_bar

from students.gguf_files import read_once
from students.rows import Chosen, Row, Settings
from students.sampler import choose
from students.spec import TransformersSpec

LOADING = threading.Lock()
"""transformers makes models with process-wide settings (an empty device, a type): two threads at it mix them up."""

GROWTH = 64
"""Tokens by which a full cache grows, so that it is copied once in so many steps instead of in each."""


class Room(DynamicLayer):  # type: ignore[no-untyped-call]  # its __init_subclass__ has no types
    """One layer's keys and values, written in place into room that is there beforehand."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None, length: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor has it
        self._room = (keys, values)
        self._length = length
        if keys is not None and values is not None:
            self.dtype, self.device = keys.dtype, keys.device
            self.keys, self.values = keys[:, :, :length], values[:, :, :length]
            self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append, and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._length + key_states.shape[-2]
        keys = self._place(self._room[0], key_states, end)
        values = self._place(self._room[1], value_states, end)
        self._room, self._length = (keys, values), end
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _place(self, room: Tensor | None, states: Tensor, end: int) -> Tensor:
        if room is None or end > room.shape[-2]:
            larger = states.new_zeros((*states.shape[:2], end + GROWTH, states.shape[-1]))
            if room is not None:
                larger[:, :, : self._length] = room[:, :, : self._length]
            room = larger
        room[:, :, self._length : end] = states
        return room


class TorchModel:
    """Reads and writes tokens of one model, for one thread (`students.batching.Model`).

    `context`: tokens that a prompt and its answer may have; None: what the model says. `read_tokens`: the most that one
    `read` reads.
    """

    def __init__(self, network: Any, tokenizer: Any, *, context: int | None = None, read_tokens: int = 256) -> None:
        self.tokenizer = tokenizer
        self.config = network.config
        self.encodes = bool(network.config.is_encoder_decoder)
        """An encoder reads the prompt, a decoder writes the answer."""
        text = network.config.get_text_config()
        lengths = [getattr(text, key, None) for key in ("max_position_embeddings", "n_positions", "seq_length")]
        self.context: int = context or next(filter(None, lengths), 2048)
        self.vocabulary = int(text.vocab_size)
        self.defaults = {key: value for key, value in network.generation_config.to_dict().items() if value is not None}
        self.ends = _ends(network.generation_config.eos_token_id, text.eos_token_id, tokenizer.eos_token_id)
        begins = [
            getattr(config, "decoder_start_token_id", None) for config in (network.config, network.generation_config)
        ]
        self.start: int = next((token for token in [*begins, text.pad_token_id] if token is not None), 0)
        """What a decoder behind an encoder reads first."""
        self._network = network.eval()
        self._read_tokens = read_tokens
        self._takes = set(inspect.signature(network.forward).parameters)
        self._alone: dict[Row, _Batch] = {}
        self._batch = _Batch([], Cache(layer_class_to_replicate=Room))

    @classmethod
    def load(cls, spec: TransformersSpec) -> TorchModel:
        """Read the model's files. Raises OSError, ValueError and whatever else transformers raises."""
        if spec.threads is not None or spec.device == "cpu":
            # As many threads as cores make each other wait at every operation as soon as anything else runs.
            torch.set_num_threads(spec.threads or max(1, len(os.sched_getaffinity(0)) - 1))
        path, named = str(spec.path), {}
        once: AbstractContextManager[None] = nullcontext()
        if path.endswith(".gguf"):
            named = {"gguf_file": Path(path).name}
            path = str(Path(path).parent)
            once = read_once()
        with LOADING, once:
            disable_progress_bar()  # type: ignore[no-untyped-call]
            tokenizer = AutoTokenizer.from_pretrained(path, revision=spec.revision, **named)
            config = AutoConfig.from_pretrained(path, revision=spec.revision, **named)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            # A GGUF's weights would be unpacked at each use instead of once.
            unpacked = {"quantization_config": GgufConfig(dequantize=True)} if named else {}
            network: Any = kind.from_pretrained(
                path, config=config, revision=spec.revision, dtype=_dtype(spec), **named, **unpacked
            )
        model = cls(network.to(spec.device), tokenizer, context=spec.context, read_tokens=spec.read_tokens)
        if spec.slots > 1 and not model.keeps_rows_apart():
            raise ValueError("the model's positions cannot be kept apart in a batch; it needs `slots: 1`")
        return model

    @torch.inference_mode()
    def read(self, row: Row) -> int:
        """The next piece of a prompt, up to its last token, which the first step reads. See `batching.Model`."""
        batch = self._alone.get(row)
        if batch is None:
            batch = self._alone[row] = _Batch([row], Cache(layer_class_to_replicate=Room))
            if self.encodes:
                self._encode(batch, row)
                return len(row.source)
        done = batch.widths[0]
        piece = row.ids[done : min(done + self._read_tokens, len(row.ids) - 1)]
        if piece:
            self._forward(batch, [piece])
        return len(piece)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[Chosen]:
        """See `batching.Model`."""
        self._seat(rows)
        return choose(self._forward(self._batch, [[row.last] for row in rows]), rows)

    @torch.inference_mode()
    def keeps_rows_apart(self) -> bool:
        """Whether a short row's logits are the same, but for rounding, beside a longer row as they are alone."""
        short, twin, long = (_trial(length, self) for length in (3, 3, 9))
        for row in (short, twin, long):
            while self.read(row):
                pass
        self._seat([twin])
        alone = self._forward(self._batch, [[twin.last]])
        self.forget(twin)
        self._seat([short, long])
        beside = self._forward(self._batch, [[short.last], [long.last]])
        self._batch = _Batch([], Cache(layer_class_to_replicate=Room))
        rounding = 0.1 if self._network.dtype in (torch.bfloat16, torch.float16) else 0.01
        return bool((alone[0] - beside[0]).abs().max() <= rounding * alone[0].std())

    def forget(self, row: Row) -> None:
        """See `batching.Model`. A row of the batch goes with the next step; the last one at once."""
        self._alone.pop(row, None)
        if self._batch.rows == [row]:
            self._batch = _Batch([], Cache(layer_class_to_replicate=Room))

    def _seat(self, rows: Sequence[Row]) -> None:
        """Bring the batch to these rows."""
        if self._batch.rows == list(rows):
            return
        old = self._batch
        kept = [old.rows.index(row) for row in rows if row in old.rows]
        parts = [(old, kept)] if kept else []
        order = [old.rows[index] for index in kept]
        for row in rows:
            if row not in old.rows:
                parts.append((self._alone.pop(row), [0]))
                order.append(row)
        if order != list(rows):
            raise ValueError("rows keep their order, and new ones come last")
        self._batch = _joined(parts, order, self.encodes)

    def _encode(self, batch: _Batch, row: Row) -> None:
        encoder = self._network.get_encoder()
        ids = torch.tensor([row.source], device=self._network.device)
        batch.encoded = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        batch.sources = [len(row.source)]
        batch.cache = EncoderDecoderCache(batch.cache, Cache(layer_class_to_replicate=Room))
        self._forward(batch, [row.ids[:1]])  # the decoder looks at the source, once for all its tokens
        if len(row.ids) == 1:
            itself = Cache(layer_class_to_replicate=Room)  # its only token is what the next step reads
            batch.cache, batch.widths = EncoderDecoderCache(itself, batch.cache.cross_attention_cache), [0]

    def _forward(self, batch: _Batch, pieces: list[list[int]]) -> Tensor:
        """Read these pieces, one a row and all of one length; returns the logits (rows, vocabulary) at their ends."""
        device, new = self._network.device, len(pieces[0])
        ids = torch.tensor(pieces, device=device)
        widths = torch.tensor(batch.widths, device=device)
        mask = _mask(widths + new, max(batch.widths) + new)
        more: dict[str, Any] = {"cache": batch.cache, "use_cache": True}
        if "logits_to_keep" in self._takes:
            more["logits_to_keep"] = 1
        if "position_ids" in self._takes:
            more["position_ids"] = widths[:, None] + torch.arange(new, device=device)
        if batch.encoded is None:
            out = self._network(input_ids=ids, attention_mask=mask, **more)
        else:
            sources = torch.tensor(batch.sources, device=device)
            out = self._network(
                decoder_input_ids=ids,
                decoder_attention_mask=mask,
                encoder_outputs=BaseModelOutput(last_hidden_state=batch.encoded),
                attention_mask=_mask(sources, batch.encoded.shape[1]),
                **more,
            )
        batch.widths = [width + new for width in batch.widths]
        logits: Tensor = out.logits[:, -1]
        # Half precision is for the network; shares of tokens are added up in more.
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits.clone()


class _Batch:
    """Rows, how many tokens the cache holds of each, and the cache. `encoded`: what an encoder made of sources."""

    def __init__(self, rows: list[Row], cache: Any) -> None:
        self.rows = rows
        self.cache = cache
        self.widths = [0] * len(rows)
        self.encoded: Tensor | None = None
        self.sources: list[int] = []


def _joined(parts: Sequence[tuple[_Batch, list[int]]], rows: list[Row], encodes: bool) -> _Batch:
    batch = _Batch(rows, None)
    batch.widths = [part.widths[index] for part, chosen in parts for index in chosen]
    if not encodes:
        batch.cache = _merged([(part.cache, chosen) for part, chosen in parts], max(batch.widths))
        return batch
    batch.sources = [part.sources[index] for part, chosen in parts for index in chosen]
    longest = max(batch.sources)
    crossed = [(part.cache.cross_attention_cache, chosen) for part, chosen in parts]
    itself = [(part.cache.self_attention_cache, chosen) for part, chosen in parts]
    batch.cache = EncoderDecoderCache(_merged(itself, max(batch.widths)), _merged(crossed, longest, room=0))
    first = parts[0][0].encoded
    assert first is not None  # noqa: S101 - an encoder has read every row that joins
    # Its keys and values are in the cache; what is read of it from here on is its shape.
    batch.encoded = first.new_zeros(1).expand(len(rows), longest, first.shape[-1])
    return batch


def _merged(parts: Sequence[tuple[Any, list[int]]], length: int, room: int = GROWTH) -> Any:
    """The chosen rows of several caches in one, right-aligned."""
    layers: list[Any] = []
    for number in range(max(len(cache.layers) for cache, _ in parts)):
        pair = []
        for name in ("keys", "values"):
            pieces = [(getattr(cache.layers[number], name), chosen) for cache, chosen in parts if cache.layers]
            model = pieces[0][0]
            rows = sum(len(chosen) for _, chosen in parts)
            joined = model.new_zeros((rows, model.shape[1], length + room, model.shape[-1]))
            first = 0
            for cache, chosen in parts:
                if cache.layers:  # else its row has one token, which the next step reads
                    states = getattr(cache.layers[number], name)
                    width = min(length, states.shape[-2])
                    columns = states[:, :, states.shape[-2] - width :]
                    if len(chosen) < len(columns):
                        columns = columns[torch.tensor(chosen, device=columns.device)]
                    joined[first : first + len(chosen), :, length - width : length] = columns
                first += len(chosen)
            pair.append(joined)
        layers.append(Room(pair[0], pair[1], length))
    return Cache(layers=layers) if layers else Cache(layer_class_to_replicate=Room)


def _mask(widths: Tensor, length: int) -> Tensor:
    """1 in the last `width` of `length` columns of each row, 0 before."""
    return (torch.arange(length, device=widths.device) >= length - widths[:, None]).long()


def _trial(length: int, model: TorchModel) -> Row:
    """A row of this many tokens that is read and never written."""
    ids = [(7 + 5 * index) % model.vocabulary for index in range(length)]
    return Row(
        name="trial",
        ids=ids,
        source=ids if model.encodes else [],
        settings=Settings(),
        limit=1,
        ends=frozenset(),
        decode=lambda token: None,
        piece=lambda token: ("", None),
        tell=lambda event: None,
    )


def _ends(*tokens: int | Sequence[int] | None) -> frozenset[int]:
    ends: set[int] = set()
    for token in tokens:
        ends |= set() if token is None else {token} if isinstance(token, int) else set(token)
    return frozenset(ends)


def _dtype(spec: TransformersSpec) -> torch.dtype | str:
    if spec.dtype is not None:
        return spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)
    return torch.float32 if spec.device == "cpu" else "auto"
