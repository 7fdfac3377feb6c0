"""Answers beyond the model's length, against attention sinks written out over unrotated keys."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tiny import SHAPE
from tunesmith.errors import ConfigError
from tunesmith.generation.torch import TorchGenerator
from tunesmith.types import Request, Sampling

SMALL = {
    **SHAPE,
    "vocab_size": 96,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
}


def tiny(kind, config, **fields):
    torch.manual_seed(0)
    return kind(config(**{**SMALL, **fields})).eval()


def qwen(**fields):
    return tiny(Qwen3ForCausalLM, Qwen3Config, head_dim=16, **fields)


def llama3():
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    return tiny(LlamaForCausalLM, LlamaConfig, rope_parameters=rope)


class Written:
    """Llama's and Qwen3's forward pass by one token, with keys kept unrotated (arXiv:2309.17453,
    section 3.2) and turned anew at each step to their places in the cache."""

    def __init__(self, hf, sinks, window):
        self.hf, self.sinks, self.size = hf, sinks, sinks + window
        self.dropped = max(1, window // 8)
        self.cache = [([], []) for _ in hf.model.layers]
        self.evictions = 0

    def step(self, token):
        """Logits after one more token."""
        if len(self.cache[0][0]) == self.size:
            self.evictions += 1
            for keys, values in self.cache:
                del keys[self.sinks : self.sinks + self.dropped]
                del values[self.sinks : self.sinks + self.dropped]
        model = self.hf.model
        x = model.embed_tokens(torch.tensor([token]))
        for layer, (keys, values) in zip(model.layers, self.cache, strict=True):
            mixed = self._attend(layer.self_attn, layer.input_layernorm(x), keys, values)
            x = x + layer.self_attn.o_proj(mixed)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.hf.lm_head(model.norm(x))[0]

    def _attend(self, attention, x, keys, values):
        E = attention.head_dim
        q, k, v = (attention.get_submodule(f"{n}_proj")(x).view(-1, E) for n in "qkv")
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        keys.append(k)
        values.append(v)
        raw, v = torch.stack(keys), torch.stack(values)  # (C, K, E)
        cos, sin = self.hf.model.rotary_emb(x[None], torch.arange(len(raw))[None])
        group = len(q) // len(k)
        k = turned(raw, cos[0][:, None], sin[0][:, None]).repeat_interleave(group, 1)
        q = turned(q, cos[0][-1:], sin[0][-1:])
        scores = torch.einsum("he,che->hc", q, k) * attention.scaling
        return torch.einsum("hc,che->he", scores.softmax(-1), v.repeat_interleave(group, 1)).view(
            1, -1
        )


def turned(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


@torch.no_grad()
def reference(hf, prompt, count, sinks, window):
    """(greedy tokens, the smallest distance of the two best logits, evictions)."""
    written, tokens, gap = Written(hf, sinks, window), [], []
    for token in prompt:
        logits = written.step(token)
    for _ in range(count):
        best = logits.topk(2)
        gap.append(float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
        logits = written.step(tokens[-1])
    return tokens, min(gap), written.evictions


def prompts(*lengths, vocabulary=96):
    draw = torch.Generator().manual_seed(5)
    return [torch.randint(4, vocabulary, (n,), generator=draw).tolist() for n in lengths]


def answers(generator, asked, count, **fields):
    requests = [
        Request(f"{at}", tuple(ids), Sampling(max_tokens=count, **fields))
        for at, ids in enumerate(asked)
    ]
    found = generator.generate(requests)
    assert all(events[-1].finish_reason == "length" for events in found.values())
    return [[event.token for event in events] for events in found.values()]


@pytest.mark.parametrize("model", [qwen, llama3], ids=["qwen3", "llama3"])
@pytest.mark.parametrize(("sinks", "window"), [(4, 24), (0, 20), (3, 5)])
def test_as_written_out(model, sinks, window):
    """Prompts shorter and longer than the cache, answers far beyond the model's positions, alone
    and in company."""
    hf = model()
    asked = prompts(7, sinks + window, 90)
    expected = [reference(hf, ids, 60, sinks, window) for ids in asked]
    assert all(gap > 1e-4 and evictions > 5 for _, gap, evictions in expected)
    make = lambda **more: TorchGenerator(hf, window=(sinks, window), **more)
    together = answers(make(), asked, 60)
    alone = [answers(make(max_rows=1), [ids], 60)[0] for ids in asked]
    assert together == alone == [tokens for tokens, _, _ in expected]
    assert answers(make(deterministic=True), asked, 60) == together


@pytest.mark.shared
def test_stories(shared_data):
    hf = AutoModelForCausalLM.from_pretrained(
        shared_data / "models" / "stories260K" / "hf", dtype=torch.float32
    ).eval()
    prompt = [1, 403, 407, 261, 378]
    expected, gap, evictions = reference(hf, prompt, 560, 4, 252)
    assert evictions >= 10
    assert gap > 1e-5
    generator = TorchGenerator(hf, window=252)
    assert answers(generator, [prompt], 560) == [expected]
    assert hf.config.max_position_embeddings < 565


def test_nothing_is_forgotten_before_the_cache_is_full():
    hf = qwen()
    asked = prompts(7, 20)
    plain = answers(TorchGenerator(hf), asked, 40)
    assert answers(TorchGenerator(hf, window=60), asked, 40) == plain


def test_a_row_that_is_computed_anew_says_the_same():
    """The cache has room for one long row: the other goes back to the queue and loses nothing."""
    hf = qwen(max_position_embeddings=256)
    asked = prompts(7, 30, 150)
    free = answers(TorchGenerator(hf, window=124), asked, 140)
    tight = TorchGenerator(hf, window=124, cache_tokens=200)
    dropped = []
    drop = tight._engine._drop
    tight._engine._drop = lambda row, **more: (dropped.append(row.request.id), drop(row, **more))
    assert answers(tight, asked, 140) == free
    assert len(dropped) > len(asked)  # each is dropped once, when it ends


def test_beginnings_are_shared_until_something_is_forgotten():
    hf = qwen()
    generator = TorchGenerator(hf, window=60, max_rows=1)
    prompt = prompts(100)[0]
    first = answers(generator, [prompt], 50)
    engine = generator._engine
    assert len(engine.prefixes) == 2  # the two blocks that the cache held before
    rows = []
    admit = engine._admit
    engine._admit = lambda: (admit(), rows.extend(engine.rows))
    assert answers(generator, [prompt], 50) == first
    assert rows[0].reused == 64
    assert len(engine.prefixes) == 2


def test_a_seed_gives_the_same_answer_in_company():
    hf = qwen()
    asked = prompts(9, 40, 70)
    words = {"temperature": 1.0, "seed": 7}
    alone = [answers(TorchGenerator(hf, window=28), [ids], 80, **words)[0] for ids in asked]
    assert answers(TorchGenerator(hf, window=28), asked, 80, **words) == alone


@pytest.mark.slow
def test_the_compiled_engine_forgets_too():
    from tunesmith.generation.compiled import CompiledGenerator

    hf = qwen()
    asked = prompts(9)
    compiled = CompiledGenerator(hf, window=28)
    assert answers(compiled, asked, 60) == answers(TorchGenerator(hf, window=28), asked, 60)


@pytest.mark.parametrize(
    "words",
    [
        {"window": 0},
        {"window": (-1, 20)},
        {"window": 61},
        {"window": 40, "cache_tokens": 40},
        {"window": 20, "speculate": 2},
    ],
    ids=str,
)
def test_what_makes_no_cache_is_refused(words):
    with pytest.raises(ConfigError) as caught:
        TorchGenerator(qwen(), **words)
    assert caught.value.code == "G160"


def test_beams_have_no_window():
    with pytest.raises(ConfigError) as caught:
        TorchGenerator(qwen(), window=20).beams(Request("a", (5, 6), Sampling(max_tokens=3)), 2)
    assert caught.value.code == "G160"


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=96, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    )


def neox():
    return AutoModelForCausalLM.from_config(
        GPTNeoXConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=64, max_position_embeddings=64)
    )  # fmt: skip


def mistral():
    return tiny(MistralForCausalLM, MistralConfig, sliding_window=16, head_dim=8)


def dynamic():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    return tiny(LlamaForCausalLM, LlamaConfig, rope_parameters=rope)


@pytest.mark.parametrize("model", [gpt2, neox, mistral, dynamic])
def test_families_without_plain_rotations_are_refused(model):
    hf = model()
    with pytest.raises(ConfigError) as caught:
        TorchGenerator(hf, window=20)
    assert caught.value.code == "G161"
    assert hf.config.model_type in str(caught.value)


def test_bfloat16_goes_on():
    """Keys are turned in float32; nothing grows or fades by it."""
    hf = qwen().to(torch.bfloat16)
    generator = TorchGenerator(hf, window=40)
    answers(generator, prompts(9), 100)
    engine = generator._engine
    assert engine.lanes.held == 0
    keys = torch.randn(2, 40, 16)
    assert (
        F.cosine_similarity(
            engine.sinks._back(keys.bfloat16()).float(), engine.sinks._back(keys), dim=-1
        ).min()
        > 0.999
    )
