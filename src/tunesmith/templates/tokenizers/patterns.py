"""How byte-level tokenizers split text before BPE: a rule for each family, by name.

The rules stand in the code of models, hardly ever in their files. Sources: tiktoken's
`openai_public.py`, the tokenization code and tokenizer.json files of the models, llama.cpp's
`llama-vocab.cpp` (whose names GGUF files carry in `tokenizer.ggml.pre`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers as pre

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_TAIL}"
_QWEN = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_TAIL}"
_CASED = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_CASED}]*[{_LOWER}]+{_ENGLISH}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_CASED}]+[{_LOWER}]*{_ENGLISH}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# DeepSeek's own list of Latin, Greek, Cyrillic, Armenian, Georgian … letters.
_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd"
    "\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b"
    "\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787"
    "\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"


@dataclass(frozen=True)
class Split:
    """A rule: expressions that cut text one after the other, and what is done before and after."""

    regexes: tuple[str, ...]
    nfc: bool = False
    """Characters are composed first (Unicode NFC)."""
    whole_words: bool = False
    """A word that is a token is that token, whatever its merges would give, as in tiktoken."""

    def normalizer(self) -> Any:
        return normalizers.NFC() if self.nfc else None

    def pre_tokenizer(self, add_prefix_space: bool = False) -> Any:
        """The cuts, then bytes as letters."""
        cuts = [pre.Split(Regex(regex), "isolated") for regex in self.regexes]
        if add_prefix_space:  # before the cuts; its own expression is that of GPT-2
            return pre.ByteLevel(add_prefix_space=True, use_regex=True)
        return pre.Sequence([*cuts, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


PATTERNS: dict[str, Split] = {
    "cl100k": Split((_CL100K,), whole_words=True),
    "deepseek-coder": Split(
        ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}"),
    ),
    "deepseek-llm": Split(
        (
            "[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            _DEEPSEEK_CJK,
            r"\p{N}+",
        ),
    ),
    "deepseek-v3": Split(
        (
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    "falcon": Split((_PUNCTUATION, _GPT2, "[0-9][0-9][0-9]")),
    "glm4": Split((_CL100K,), whole_words=True),
    "gpt2": Split((_GPT2,)),
    "llama3": Split((_CL100K,), whole_words=True),
    "o200k": Split((_O200K,), whole_words=True),
    "qwen": Split((_QWEN,), nfc=True, whole_words=True),
    "qwen2": Split((_QWEN,), nfc=True),
    "starcoder": Split((r"\p{N}", _GPT2)),
}

# What names a rule: tokenizer_class of tokenizer_config.json, model_type of config.json, and
# tokenizer.ggml.pre of GGUF files, in lower case.
_NAMES: dict[str, str] = {
    "chatglm": "glm4",
    "chatglm-bpe": "glm4",
    "chatglm4tokenizer": "glm4",
    "codegen": "gpt2",
    "codegentokenizer": "gpt2",
    "command-r": "starcoder",
    "dbrx": "llama3",
    "deepseek-r1-qwen": "qwen2",
    "glm": "glm4",
    "gpt-2": "gpt2",
    "gpt-4o": "o200k",
    "gpt_bigcode": "starcoder",
    "gpt_neo": "gpt2",
    "gpt2tokenizer": "gpt2",
    "gpt2tokenizerfast": "gpt2",
    "gptj": "gpt2",
    "llama": "llama3",
    "llama-bpe": "llama3",
    "llama-v3": "llama3",
    "moss": "gpt2",
    "mosstokenizer": "gpt2",
    "mpt": "gpt2",
    "olmo": "gpt2",
    "opt": "gpt2",
    "phi": "gpt2",
    "phi-2": "gpt2",
    "qwen2_moe": "qwen2",
    "qwen2tokenizer": "qwen2",
    "qwen2tokenizerfast": "qwen2",
    "qwen3": "qwen2",
    "qwen3_moe": "qwen2",
    "qwentokenizer": "qwen",
    "refact": "starcoder",
    "smollm": "starcoder",
    "stablelm2": "qwen2",
    "starcoder2": "starcoder",
}


def named(name: str | None) -> str | None:
    """The rule that a name found in a file stands for; None if it stands for none we know."""
    low = (name or "").lower()
    if low in PATTERNS:
        return low
    return _NAMES.get(low)


def known() -> str:
    """All names, for people."""
    return ", ".join(PATTERNS)


# ---------------------------------------------------------------- tokens that stand in code


def code_tokens(name: str, ranks: int) -> dict[int, str]:
    """Special tokens of a family whose own code, not a file, names them; by id."""
    listed = _LISTED.get(name)
    return dict(enumerate(listed(), ranks)) if listed is not None else {}


def _qwen() -> list[str]:
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]


def _llama3() -> list[str]:
    """As in Llama 3's `tokenizer.py`: 256 in all, the named ones among reserved ones."""
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(251)]
    return [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        *reserved[:4],
        "<|start_header_id|>",
        "<|end_header_id|>",
        reserved[4],
        "<|eot_id|>",
        *reserved[5:],
    ][:256]


def _glm4() -> list[str]:
    return [
        "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>",
        "<|user|>", "<|assistant|>", "<|observation|>",
    ]  # fmt: skip


_LISTED = {"qwen": _qwen, "llama3": _llama3, "glm4": _glm4}
CODE_NAMED = {
    "qwen": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "glm4": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
"""Which of them begin and end texts, where no file says."""
