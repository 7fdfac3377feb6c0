"""The torch engine against transformers.generate, real models and itself in other company."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen3Config,
    RwkvConfig,
)

from tests.conftest import byte_tokenizer
from tunesmith.errors import ConfigError, DataError
from tunesmith.generation import base
from tunesmith.generation.torch import TorchGenerator
from tunesmith.models.language_model import LanguageModel
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Request, Sampling

_SMALL = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_ROPE = {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 128}
FAMILIES = {
    "llama": LlamaConfig(**_SMALL, **_ROPE),
    "qwen3": Qwen3Config(**_SMALL, **_ROPE, head_dim=8),
    "mistral, window": MistralConfig(**_SMALL, **_ROPE, sliding_window=6),
    "gpt2": GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "bloom": BloomConfig(vocab_size=260, hidden_size=32, n_layer=2, n_head=4),
    "mamba": MambaConfig(vocab_size=260, hidden_size=32, num_hidden_layers=2, state_size=4),
    "rwkv": RwkvConfig(vocab_size=260, hidden_size=32, num_hidden_layers=2, context_length=128),
}
PROMPTS = [(5, 6, 7), (9,), (1, 2, 3, 4, 5, 6, 7, 8, 9), (200, 100)]


def build(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes")
    byte_tokenizer(path)
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def llama():
    return build(FAMILIES["llama"])


def requests(prompts=PROMPTS, **sampling):
    chosen = Sampling(**{"max_tokens": 12, **sampling})
    return [Request(str(i), tuple(ids), chosen) for i, ids in enumerate(prompts)]


def tokens(events):
    return {id: [event.token for event in found] for id, found in events.items()}


def reference(model, prompt, count=12):
    """What transformers.generate says, greedily, without stopping."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


# ---------------------------------------------------------------- the right tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_transformers_generate(family):
    model = build(FAMILIES[family])
    found = tokens(TorchGenerator(model).generate(requests()))
    assert found == {str(i): reference(model, ids) for i, ids in enumerate(PROMPTS)}
    assert len({tuple(answer) for answer in found.values()}) > 1


@pytest.mark.slow
def test_sixteen_at_once_of_a_real_model(shared_data):
    folder = shared_data / "models" / "babyllama105" / "hf"
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [tuple((5 * i + 3 * n) % 100 + 3 for i in range(1 + 9 * n)) for n in range(16)]
    found = TorchGenerator(model).generate(requests(prompts, max_tokens=40))
    assert tokens(found) == {str(i): reference(model, ids, 40) for i, ids in enumerate(prompts)}


def test_stories_equal_the_published_text(shared_data):
    folder = shared_data / "models" / "stories260K"
    generator = TorchGenerator(
        AutoModelForCausalLM.from_pretrained(folder / "hf"), Tokenizer.load(folder / "hf")
    )
    events = generator.generate([Request("a", (1,), Sampling(max_tokens=256))])["a"]
    published = (folder / "karpathy-doc-stories260K.md").read_text()
    story = published.split("-t 0.0\n")[1].split("\n```")[0]
    assert base.text(events) == story


def test_logprobs_are_those_of_a_forward_pass(llama):
    [request] = requests(PROMPTS[:1], temperature=1.0, seed=3)
    events = TorchGenerator(llama).generate([request])["0"]
    ids = torch.tensor([[*request.ids, *(event.token for event in events)]])
    with torch.no_grad():
        logprobs = llama(input_ids=ids).logits.log_softmax(-1)[0]
    for at, event in enumerate(events):
        expected = float(logprobs[len(request.ids) - 1 + at, event.token])
        assert event.logprob == pytest.approx(expected, abs=1e-4)


def test_a_seed_gives_the_same_tokens_in_any_company(llama):
    alone = [TorchGenerator(llama).generate([r]) for r in requests(temperature=1.2, seed=5)]
    together = TorchGenerator(llama).generate(requests(temperature=1.2, seed=5))
    assert tokens(together) == {k: v for one in alone for k, v in tokens(one).items()}
    other = TorchGenerator(llama).generate(requests(temperature=1.2, seed=6))
    assert tokens(other) != tokens(together)


def test_an_answer_can_be_continued_from_its_middle(llama):
    [request] = requests(PROMPTS[:1], temperature=1.2, seed=5)
    whole = tokens(TorchGenerator(llama).generate([request]))["0"]
    rest = Request("rest", (*request.ids, *whole[:5]), Sampling(7, 1.2, seed=5))
    assert tokens(TorchGenerator(llama).generate([rest]))["rest"] == whole[5:]


def test_requests_may_come_at_any_time_and_wait_for_room(llama):
    generator = TorchGenerator(llama, max_rows=2)
    found = {str(i): [] for i in range(8)}
    waiting = requests(PROMPTS * 2)
    seen = []
    while waiting or seen != sorted(found):
        if waiting:
            generator.submit(waiting.pop(0))
        for event in generator.step():
            found[event.id].append(event.token)
            if event.finish_reason:
                seen = sorted([*seen, event.id])
    assert found == {str(i): reference(llama, ids) for i, ids in enumerate(PROMPTS * 2)}


def test_live_adapters_in_training(llama):
    """A model in training mode, with dropout and an adapter: as its merged weights would answer."""
    from tunesmith.tuners.lora import LoraConfig, LoraTuner

    hf = build(FAMILIES["llama"])
    tuner = LoraTuner(LoraConfig(r=4, lora_dropout=0.5))
    tuner.apply(hf)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    model = LanguageModel(hf).train()
    hf.lm_head.eval()  # modes are put back one by one
    state = torch.random.get_rng_state()
    found = tokens(TorchGenerator(model).generate(requests()))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert hf.model.layers[0].training
    assert not hf.lm_head.training
    assert not any(parameter.grad_fn for parameter in hf.parameters())
    tuner.merge(hf)
    assert found == {str(i): reference(hf.eval(), ids) for i, ids in enumerate(PROMPTS)}
    assert found != tokens(TorchGenerator(llama).generate(requests()))


# ---------------------------------------------------------------- how an answer ends


def test_a_stop_token_ends_without_text(llama, tokenizer):
    answer = reference(llama, PROMPTS[0])
    stop = answer[4]
    found = TorchGenerator(llama, tokenizer).generate(requests(PROMPTS[:1], stop_ids=(stop, 259)))[
        "0"
    ]
    at = answer.index(stop)
    assert [event.token for event in found] == answer[: at + 1]
    assert found[-1].finish_reason == "stop"
    assert base.text(found) == tokenizer.decode(answer[:at], skip_special=True)


def test_a_stop_string_ends_before_it(llama, tokenizer):
    answer = reference(llama, PROMPTS[0])
    text = tokenizer.decode(answer, skip_special=True)
    stop = text[3:6]
    found = TorchGenerator(llama, tokenizer).generate(requests(PROMPTS[:1], stop=(stop,)))["0"]
    assert base.text(found) == text[: text.index(stop)]
    assert found[-1].finish_reason == "stop"
    assert len(found) < len(answer)


def test_max_tokens_is_length(llama):
    found = TorchGenerator(llama).generate(requests(max_tokens=3))
    assert all(len(events) == 3 for events in found.values())
    assert {events[-1].finish_reason for events in found.values()} == {"length"}
    assert {event.finish_reason for events in found.values() for event in events[:-1]} == {None}


def test_the_context_ends_an_answer(llama):
    prompt = tuple(range(125))
    found = TorchGenerator(llama).generate([Request("a", prompt, Sampling(max_tokens=50))])["a"]
    assert len(found) == 3
    assert found[-1].finish_reason == "length"
    with pytest.raises(DataError, match="D401"):
        TorchGenerator(llama).submit(Request("a", tuple(range(128))))


def test_cancelling(llama):
    generator = TorchGenerator(llama, max_rows=2)
    for request in requests():
        generator.submit(request)
    first = generator.step()
    begun, waiting = first[0].id, ({"0", "1", "2", "3"} - {event.id for event in first}).pop()
    generator.cancel(begun)
    generator.cancel(waiting)
    generator.cancel("unknown")
    second = generator.step()
    ended = {event.id for event in second if event.finish_reason == "cancelled"}
    assert ended == {begun, waiting}
    events = [*first, *second]
    while sum(event.finish_reason == "length" for event in events) < 2:
        events += generator.step()
    for id in {"0", "1", "2", "3"} - ended:
        found = [event.token for event in events if event.id == id]
        assert found == reference(llama, PROMPTS[int(id)])


def test_leaving_a_stream_cancels_it(llama):
    generator = TorchGenerator(llama)
    [request] = requests(PROMPTS[:1])
    for _ in base.stream(generator, request):
        break
    assert [event.finish_reason for event in generator.step()] == ["cancelled"]
    assert [event.token for event in base.stream(generator, request)] == reference(
        llama, PROMPTS[0]
    )


def test_a_model_that_is_not_finite_ends_in_an_error():
    model = build(FAMILIES["llama"])
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    found = TorchGenerator(model).generate(requests(PROMPTS[:1]))["0"]
    assert [event.finish_reason for event in found] == ["error"]


# ---------------------------------------------------------------- what is refused


def test_requests_that_can_not_be_honoured_are_refused(llama):
    generator = TorchGenerator(llama)
    refused = {
        "G120": {"adapter": "x"},
        "G122": {"constraint": {}},
        "C210": {"sampling": Sampling(stop=("a",))},
    }
    for code, field in refused.items():
        with pytest.raises(ConfigError, match=code):
            generator.submit(Request("a", (1,), **field))
    with pytest.raises(ConfigError, match="G121"):
        TorchGenerator(llama, cache_tokens=8).submit(Request("a", (1,) * 9))
    with pytest.raises(ConfigError, match="C210"):
        TorchGenerator(build(FAMILIES["mamba"])).submit(Request("a", (1,), adapter="x"))
    with pytest.raises(DataError, match="D402"):
        generator.submit(Request("a", (260,)))
    generator.submit(Request("a", (1,)))
    with pytest.raises(ConfigError, match="C210"):
        generator.submit(Request("a", (1,)))


def test_context_counts_the_scaling_of_positions():
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    told = {**yarn, "original_max_position_embeddings": 32}
    for rope, context in ((None, 128), (scaled, 512), (yarn, 512), (told, 128)):
        config = LlamaConfig(**_SMALL, **_ROPE, **({"rope_parameters": rope} if rope else {}))
        assert TorchGenerator(build(config)).context == context
    assert TorchGenerator(build(FAMILIES["bloom"])).context is None
    assert TorchGenerator(build(FAMILIES["gpt2"])).context == 128


def test_an_engine_by_name(llama):
    assert isinstance(base.build("torch", llama, None), TorchGenerator)
    with pytest.raises(ConfigError, match="C110"):
        base.build("tourch", llama, None)
