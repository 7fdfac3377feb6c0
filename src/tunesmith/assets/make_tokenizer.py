"""Trains the tokenizer of `builtin:tiny`: byte-level BPE, so that nothing is ever unknown.

    python -m tunesmith.assets.make_tokenizer CORPUS_FOLDER OUT_FOLDER

Text is split as Qwen2 does (single digits, words with their space), a split that llama.cpp and
other engines know by name, so exports of this model tokenise the same there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SIZE = 6144
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Chinese characters are offered one by one: merges then stay inside a character, and the small
# vocabulary holds characters rather than the commonest phrases of the generated questions.
_HAN = re.compile(r"([\u4e00-\u9fff])")


def texts(corpus: Path) -> Iterator[str]:
    """Every text of the corpus, chat messages one by one."""
    for line in (corpus / "text.jsonl").open(encoding="utf-8"):
        yield from _HAN.sub(r"\n\1\n", json.loads(line)["text"]).split("\n")
    for line in (corpus / "chat.jsonl").open(encoding="utf-8"):
        for message in json.loads(line)["messages"]:
            yield from _HAN.sub(r"\n\1\n", message["content"]).split("\n")


def train(corpus: Path):
    """The trained tokenizer, as a `tokenizers.Tokenizer`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(corpus), trainer)
    return tokenizer


def main(corpus: Path, out: Path, context: int = 1024) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    out.mkdir(parents=True, exist_ok=True)
    train(corpus).save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (out / "chat_template.jinja").write_text(TEMPLATE, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
