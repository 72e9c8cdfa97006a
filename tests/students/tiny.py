"""Models of a few thousand random weights, and tokenizers made in a second: every family without a download."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BloomConfig,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from students.torch_model import TorchModel

torch.set_num_threads(1)  # two threads on a busy machine wait for each other at each of a tiny model's operations

Family = Literal["llama", "qwen2", "qwen3", "gemma3", "bloom", "t5", "bart"]

CAUSAL: tuple[Family, ...] = ("llama", "qwen2", "qwen3", "gemma3", "bloom")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = (
    "Count from 1 to 30, separated by commas. 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12.",
    "Die Ölpreise stiegen über 5 % an der Börse. Größe, Maß und Übermut.",
    "The quick brown fox jumps over the lazy dog while the band plays on.",
    "Question: how many apples are left? Answer: five apples are left.",
) * 4


def tokenizer(kind: Literal["bytes", "pieces"] = "bytes", size: int = 400, chat: bool = True) -> Any:
    """`bytes`: BPE over bytes, where any text can be written; `pieces`: Unigram with `▁`, as T5 has it."""
    return _trained(kind, size, chat)


@cache
def _trained(kind: str, size: int, chat: bool) -> Any:
    special = ["<pad>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.train_from_iterator(
            CORPUS,
            trainers.BpeTrainer(
                vocab_size=size,
                special_tokens=special,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
    else:
        # Written down and not trained: the trainer of these is not the same twice.
        words = sorted({f"▁{word}" for text in CORPUS for word in text.split()})
        letters = sorted({letter for text in CORPUS for letter in text.replace(" ", "▁")})
        scores = [(token, 0.0) for token in special] + [(word, -4.0) for word in words]
        scores += [(letter, -8.0) for letter in letters]
        made = Tokenizer(models.Unigram(scores[:size], unk_id=special.index("<unk>")))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        made.add_special_tokens(special)
    made_of: Any = PreTrainedTokenizerFast
    return made_of(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="<|im_end|>" if chat else "</s>",
        unk_token="<unk>",
        chat_template=CHATML if chat else None,
    )


def network(family: Family, vocabulary: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """A model with random weights. In float64 the rounding of a batch is far below what could choose another token."""
    common: dict[str, Any] = {"vocab_size": vocabulary, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    usual = common | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.5,
    }
    t5: Any = T5Config
    configs: dict[Family, Any] = {
        "llama": lambda: LlamaConfig(**usual),
        "qwen2": lambda: Qwen2Config(**usual),
        "qwen3": lambda: Qwen3Config(**usual),
        # A window that the tests' texts are longer than, in layers of both kinds.
        "gemma3": lambda: Gemma3TextConfig(
            **usual, sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        ),
        "bloom": lambda: BloomConfig(**common, hidden_size=32, n_layer=3, n_head=4, initializer_range=0.5),
        "t5": lambda: t5(
            **(common | {"decoder_start_token_id": 0}),
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            n_positions=256,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            initializer_factor=4.0,
        ),
        "bart": lambda: BartConfig(
            **(common | {"decoder_start_token_id": 0, "bos_token_id": 3}),
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=256,
            init_std=0.5,
        ),
    }
    config = configs[family]()
    torch.manual_seed(seed)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_config(config).to(dtype).eval()


def tiny(
    family: Family,
    *,
    chat: bool = True,
    seed: int = 0,
    read_tokens: int = 256,
    size: int = 400,
    context: int | None = None,
) -> TorchModel:
    """As `TorchModel.load` would give it."""
    words = tokenizer("pieces" if family in ("t5", "bart") else "bytes", size, chat)
    return TorchModel(network(family, len(words), seed=seed), words, read_tokens=read_tokens, context=context)
