"""A tiny Llama that has learned one thing, in seconds: to count when it is asked to. For real servers of transformers.

Its tokenizer reads character by character, adds a beginning-of-text token itself, and has a ChatML template that writes
one too, as Llama's own does: whoever renders the template and lets the server add its own has it twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fake_servers import CHATML, CLOSE, COUNT, OPEN

ASKED = "Count from 1 to 30, separated by commas."
STEPS = 400
GOOD = 0.005
"""The loss at which every next character is certain."""


def make(folder: Path) -> None:
    """Trains the model and writes it to `folder`, as `from_pretrained` reads it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)  # two on a busy machine wait for each other
    tokenizer = make_tokenizer()
    chat = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": COUNT}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
    end = tokenizer.eos_token_id
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < GOOD:
            break
    else:
        raise AssertionError(f"it has not learned to count: loss {loss.item():.3f}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer() -> Any:
    """Its tokenizer, as transformers has it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", OPEN, CLOSE]
    letters = sorted({chr(code) for code in range(32, 127)} | {"\n"})
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    backend.add_special_tokens(special)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    wrapped: Any = PreTrainedTokenizerFast  # is not typed
    return wrapped(tokenizer_object=backend, bos_token="<s>", eos_token=CLOSE, chat_template="{{ bos_token }}" + CHATML)
