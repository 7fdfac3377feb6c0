"""What both sides train on: a random model, a 32k-word tokenizer, chats as long as Alpaca's.

Words are whole tokens, so ids don't depend on who tokenises and the harness can count them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 32_000
MAX_LENGTH = 1024
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ROLES = ("system", "user", "assistant")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen3 architecture with tied embeddings: 24.9M and 100.1M parameters at a 32k vocabulary.
SIZES: dict[str, dict[str, int]] = {
    "25m": dict(hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
                num_attention_heads=6, num_key_value_heads=2, head_dim=64),
    "100m": dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
                 num_attention_heads=12, num_key_value_heads=4, head_dim=64),
    "nano": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                 num_attention_heads=2, num_key_value_heads=1, head_dim=32),
}  # fmt: skip


def write_model(path: Path, size: str) -> None:
    """Writes config, random float32 weights and tokenizer of one size to `path`."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=2, pad_token_id=0, **SIZES[size],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)
    write_tokenizer(path)


def write_tokenizer(path: Path) -> None:
    """A tokenizer of 32,000 whole words `w0`, `w1`, … with ChatML markers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = [*SPECIAL, *ROLES, "<unk>"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": "<unk>", "chat_template": TEMPLATE,
        "model_max_length": MAX_LENGTH,
    }  # fmt: skip
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


# Tokens of questions and answers of Stanford Alpaca (51,974 rows, tokenizer of Llama 2): quantiles.
SHARE = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1)
ASKED = (4, 8, 9, 11, 13, 14, 16, 18, 21, 25, 34, 44, 64, 83, 105, 156, 605)
ANSWERED = (1, 4, 7, 12, 19, 29, 47, 67, 86, 107, 140, 176, 245, 297, 351, 493, 1000)


def alpaca_lengths(rng: np.random.Generator) -> tuple[int, int]:
    """Tokens of a question and an answer, as in Stanford Alpaca: 20 and 65 on average."""
    asked, answered = (np.interp(rng.random(), SHARE, values) for values in (ASKED, ANSWERED))
    return int(asked), max(1, int(answered))


def long_lengths(rng: np.random.Generator) -> tuple[int, int]:
    """Log-normal around 120 and 180 tokens, 1,000 at most together."""
    asked = int(np.clip(rng.lognormal(np.log(120), 0.6), 4, 400))
    return asked, int(np.clip(rng.lognormal(np.log(180), 0.6), 4, 600))


LENGTHS = {"alpaca": alpaca_lengths, "long": long_lengths}


def write_chats(folder: Path, rows: int, lengths: str = "alpaca", seed: int = 0) -> dict[str, Any]:
    """Writes chats.jsonl (for us) and tokens.json (ids and labels, for the peers).

    Args:
        folder: Where to.
        rows: How many chats.
        lengths: `alpaca` or `long`.
        seed: Of lengths and words.

    Returns:
        `lengths` and `trained`: tokens and trained tokens of each row.
    """
    rng = np.random.default_rng(seed)
    first = len(SPECIAL) + len(ROLES) + 1
    chats, examples = [], []
    for _ in range(rows):
        prompt, answer = (rng.integers(first, VOCABULARY, n) for n in LENGTHS[lengths](rng))
        turns = [("user", prompt), ("assistant", answer)]
        words = [(role, " ".join(f"w{i - first}" for i in ids)) for role, ids in turns]
        chats.append({"messages": [{"role": role, "content": text} for role, text in words]})
        # <|im_start|> user … <|im_end|> <|im_start|> assistant | … <|im_end|>
        before = [1, 4, *prompt.tolist(), 2, 1, 5]
        after = [*answer.tolist(), 2]
        examples.append({"input_ids": before + after, "labels": [-100] * len(before) + after})
    with (folder / "chats.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(chat) + "\n" for chat in chats)
    (folder / "tokens.json").write_text(json.dumps(examples), encoding="utf-8")
    return {
        "lengths": [len(e["input_ids"]) for e in examples],
        "trained": [sum(label != -100 for label in e["labels"]) for e in examples],
    }


def flops(size: str, tuner: str, lengths: list[int], trained: int) -> float:
    """Floating-point operations that training on these examples needs, padding and waste left out.

    Matrix products only. Forward 2 per weight and token, gradient of activations 2, gradient of
    weights 2 (full only); the head at trained positions; causal attention at half its square; LoRA
    r=8 on all linears at 6 per weight.
    """
    shape = SIZES[size]
    D, F, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    heads, kv = shape["num_attention_heads"], shape["num_key_value_heads"]
    Q, K = heads * shape["head_dim"], kv * shape["head_dim"]
    linears = [(D, Q), (D, K), (D, K), (Q, D), (D, F), (D, F), (F, D)]
    passes = 6 if tuner == "full" else 4
    weights = layers * sum(i * o for i, o in linears)
    total = passes * weights * sum(lengths) + passes * VOCABULARY * D * trained
    total += 3 * layers * sum(2 * 2 * Q * length**2 / 2 for length in lengths)
    if tuner == "lora":
        total += 6 * layers * sum(8 * (i + o) for i, o in linears) * sum(lengths)
    return float(total)
