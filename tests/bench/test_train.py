"""bench/train.py: what it counts, and one small run of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def material(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import train_material

    return train_material


def test_ids_given_to_peers_are_those_of_the_chats(material, tmp_path):
    from transformers import AutoTokenizer

    material.write_tokenizer(tmp_path)
    counted = material.write_chats(tmp_path, rows=20)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    chats = [json.loads(line) for line in (tmp_path / "chats.jsonl").open()]
    examples = json.loads((tmp_path / "tokens.json").read_text())
    for chat, example in zip(chats, examples, strict=True):
        whole = tokenizer.apply_chat_template(chat["messages"])["input_ids"]
        prompt = tokenizer.apply_chat_template(chat["messages"][:1], add_generation_prompt=True)
        assert whole == example["input_ids"]
        assert example["labels"].count(-100) == len(prompt["input_ids"])
    assert counted["lengths"] == [len(example["input_ids"]) for example in examples]
    assert max(counted["lengths"]) <= material.MAX_LENGTH


def test_full_training_needs_six_operations_per_weight_and_token(material):
    """With the attention and the head's untrained positions taken off: 6·N·T, as in the books."""
    tokens = 1000
    short = material.flops("25m", "full", [1] * tokens, trained=tokens)
    weights = 8 * 1_572_864 + 32_000 * 384
    assert short == pytest.approx(6 * weights * tokens, rel=1e-3)
    assert material.flops("25m", "lora", [1] * tokens, trained=tokens) < short


@pytest.mark.slow
def test_a_round_against_transformers(tmp_path):
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
    command = [sys.executable, str(BENCH / "train.py"), "--cases", "nano-full-float32"]
    options = ["--rounds", "1", "--steps", "4", "--warmup", "1", "--peers", "transformers"]
    done = subprocess.run(command + options, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert set(last) == {"bench", "ratios", "ours", "peers"}
    assert last["ratios"]["nano-full-float32"]["transformers"]["speed"] > 0
