"""A GGUF file written by hand: the weights of a Llama of transformers, in float32.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. llama.cpp rotates neighbouring
dimensions where transformers rotates halves, so rows of queries and keys change places.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ALIGNMENT = 32
UINT32, FLOAT32, STRING, ARRAY, INT32 = 4, 6, 8, 9, 5
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down", "mlp.up_proj": "ffn_up",
}  # fmt: skip


def pieces(file: Path) -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of llama2.c's tokenizer.bin."""
    data, at = file.read_bytes(), 4
    tokens, scores, types = [], [], []
    while at < len(data):
        score, size = struct.unpack_from("<fi", data, at)
        text = data[at + 8 : at + 8 + size].decode()
        at += 8 + size
        number = len(tokens)
        special = {0: ("<unk>", 2), 1: ("<s>", 3), 2: ("</s>", 3)}
        byte = 3 <= number < 259
        found = (f"<0x{number - 3:02X}>", 6) if byte else (text.replace(" ", "▁"), 1)
        found = special.get(number, found)
        tokens.append(found[0])
        scores.append(score)
        types.append(found[1])
    return tokens, scores, types


def write(folder: Path, vocabulary: Path, file: Path, template: str | None = None) -> Path:
    """Writes a Llama folder with tied embeddings as a GGUF file."""
    config = json.loads((folder / "config.json").read_text())
    tokens, scores, types = pieces(vocabulary)
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    numbers = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": shared,
        "rope.dimension_count": config["head_dim"],
        "vocab_size": config["vocab_size"],
    }
    told = [_pair("general.architecture", STRING, "llama")]
    told += [_pair(f"llama.{name}", UINT32, value) for name, value in numbers.items()]
    told += [
        _pair("llama.attention.layer_norm_rms_epsilon", FLOAT32, config["rms_norm_eps"]),
        _pair("llama.rope.freq_base", FLOAT32, config["rope_parameters"]["rope_theta"]),
        _pair("tokenizer.ggml.model", STRING, "llama"),
        _list("tokenizer.ggml.tokens", STRING, tokens),
        _list("tokenizer.ggml.scores", FLOAT32, scores),
        _list("tokenizer.ggml.token_type", INT32, types),
        _pair("tokenizer.ggml.bos_token_id", UINT32, 1),
        _pair("tokenizer.ggml.eos_token_id", UINT32, 2),
        _pair("tokenizer.ggml.unknown_token_id", UINT32, 0),
    ]
    if template is not None:
        told.append(_pair("tokenizer.chat_template", STRING, template))
    tensors = _tensors(load_file(folder / "model.safetensors"), heads, shared)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(told)) + b"".join(told)
    body = b""
    for name, values in tensors.items():
        sizes = struct.pack(f"<I{values.ndim}Q", values.ndim, *reversed(values.shape))
        head += _text(name) + sizes + struct.pack("<IQ", 0, len(body))
        body += _padded(values.tobytes())
    file.write_bytes(_padded(head) + body)
    return file


def _tensors(weights: dict[str, np.ndarray], heads: int, shared: int) -> dict[str, np.ndarray]:
    found = {}
    for name, values in weights.items():
        plain = name.removeprefix("model.").removesuffix(".weight")
        if plain == "embed_tokens":
            found["token_embd.weight"] = values
        elif plain == "norm":
            found["output_norm.weight"] = values
        elif plain.startswith("layers."):
            _, layer, part = plain.split(".", 2)
            count = {"self_attn.q_proj": heads, "self_attn.k_proj": shared}.get(part)
            found[f"blk.{layer}.{NAMES[part]}.weight"] = _turned(values, count)
    return {name: np.ascontiguousarray(v, dtype="<f4") for name, v in found.items()}


def _turned(values: np.ndarray, heads: int | None) -> np.ndarray:
    if heads is None:
        return values
    rows = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return rows.swapaxes(1, 2).reshape(values.shape)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _value(kind: int, value) -> bytes:
    if kind == STRING:
        return _text(value)
    return struct.pack({UINT32: "<I", FLOAT32: "<f", INT32: "<i"}[kind], value)


def _pair(name: str, kind: int, value) -> bytes:
    return _text(name) + struct.pack("<I", kind) + _value(kind, value)


def _list(name: str, kind: int, values: list) -> bytes:
    head = _text(name) + struct.pack("<IIQ", ARRAY, kind, len(values))
    return head + b"".join(_value(kind, value) for value in values)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGNMENT)
