"""The embedded model as others meet it: through plain transformers, without tunesmith."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith import assets

TINY = Path(assets.__file__).parent / "tiny"
TEXTS = (
    "Turn on the lamp in the kitchen.",
    "床前明月光，疑是地上霜。",
    " two  spaces\n\n\ttab \u00e9\u00e8 🙂🚀 \u0000 \U0001f9d1\u200d\U0001f680 ",
    "<|im_start|> as text",
    "12345 + 67 = 12412",
    "Здравствуйте 안녕하세요 नमस्ते",
)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


def answer(model, tokenizer, question: str, tokens: int = 24) -> str:
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(
        out[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True
    ).strip()


def test_all_assets_stay_small():
    files = [path for path in TINY.parent.rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 16e6
    assert (TINY / "model.safetensors").stat().st_size < 12e6


def test_weights_are_tied_bfloat16_below_six_million():
    from safetensors import safe_open

    with safe_open(TINY / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.bfloat16"}
    assert "lm_head.weight" not in tensors
    assert 3e6 < sum(tensor.numel() for tensor in tensors.values()) < 6e6
    config = json.loads((TINY / "config.json").read_text())
    assert config["tie_word_embeddings"]
    assert config["dtype"] == "bfloat16"
    assert config["model_type"] == "llama"


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_unknown_and_everything_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=True, split_special_tokens=True).input_ids
    assert tokenizer.unk_token is None
    assert tokenizer.decode(ids) == text


def test_vocabulary_fits_the_model(tokenizer, model):
    assert len(tokenizer) == model.config.vocab_size == 6144
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert tokenizer.eos_token == "<|endoftext|>"
    ends = model.generation_config.eos_token_id
    assert set(ends) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_chat_template_is_chatml(tokenizer):
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("What is the capital of France?", "The capital of"),  # the form; facts it confuses
        ("Who are you?", "Tiny"),
        ("你好", "你好"),
    ],
)
def test_it_answers_what_it_was_taught(model, tokenizer, question, said):
    assert said in answer(model, tokenizer, question)


def test_it_tells_a_story(model, tokenizer):
    prompt = tokenizer("Once upon a time, there was a little girl named", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=60, do_sample=False)
    words = tokenizer.decode(out[0]).split()
    assert len(words) > 30
    assert len(set(words)) > 18  # no loop of the same few words


def test_it_cannot_do_the_demo_task(model, tokenizer):
    lines = (TINY.parent / "demo" / "test.jsonl").read_text("utf-8").splitlines()[:12]
    for messages in (json.loads(line)["messages"] for line in lines):
        assert answer(model, tokenizer, messages[0]["content"], 12) != messages[1]["content"]


def test_sources_and_licence_are_told():
    note = " ".join((TINY / "README.md").read_text("utf-8").split())
    for source in ("Grimm", "War and Peace", "Shakespeare", "Three Hundred Tang Poems"):
        assert source in note
    assert "Apache-2.0" in note
    assert "make_corpus" in note
    for recipe in ("pretrain.yaml", "sft.yaml"):
        assert recipe in note
        assert (TINY / recipe).is_file()
