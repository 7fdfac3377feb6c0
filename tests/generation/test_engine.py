"""Continuous batching against transformers: families, lanes, shared beginnings, tight memory."""

from __future__ import annotations

import math

import pytest
import torch

from tests.generation.test_torch import build, reference, requests, tokens
from tests.models.families import FIELDS, random_model
from tunesmith.errors import ConfigError
from tunesmith.generation import engine_impl
from tunesmith.generation.lanes_impl import Lanes
from tunesmith.generation.prefix_impl import BLOCK
from tunesmith.generation.torch import TorchGenerator
from tunesmith.models.decoding import Delta
from tunesmith.types import Request, Sampling

ROPE = {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 1024}
LONG = [
    tuple((7 * i + n) % 97 + 3 for i in range(length)) for n, length in enumerate((90, 5, 70, 33))
]


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return build(LlamaConfig(vocab_size=260, **shape, **ROPE))


def sharp(name):
    """A model whose next tokens are no ties."""
    model = random_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model


# ---------------------------------------------------------------- the right tokens


@pytest.mark.parametrize("name", FIELDS)
def test_every_family_with_the_attention_interface(name):
    model = sharp(name)
    prompts = [(5, 6, 7), tuple(range(3, 43)), (9, 8), tuple(range(50, 70))]
    wanted = {str(i): reference(model, ids, 16) for i, ids in enumerate(prompts)}
    generator = TorchGenerator(model, max_rows=3)
    assert tokens(generator.generate(requests(prompts, max_tokens=16))) == wanted
    assert isinstance(generator._engine, engine_impl.Engine)


@pytest.mark.parametrize("options", [{}, {"deterministic": True}, {"speculate": 4}], ids=str)
def test_chunks_lanes_and_guesses_do_not_change_an_answer(llama, monkeypatch, options):
    monkeypatch.setattr(engine_impl, "CHUNK", 32)
    wanted = {str(i): reference(llama, ids, 80) for i, ids in enumerate(LONG)}
    found = TorchGenerator(llama, **options).generate(requests(LONG, max_tokens=80))
    assert tokens(found) == wanted


def test_guessing_takes_fewer_steps_and_samples_the_same(llama):
    """A model that repeats itself is guessed right; noise keyed by position makes it exact."""
    for sampling in ({}, {"temperature": 0.2, "seed": 3}):
        asked = requests([LONG[1] * 3], max_tokens=60, **sampling)
        plain = TorchGenerator(llama).generate(asked)
        guessing, steps, found = TorchGenerator(llama, speculate=5), 0, []
        guessing.submit(asked[0])
        while not found or found[-1].finish_reason is None:
            found += guessing.step()
            steps += 1
        assert [event.token for event in found] == tokens(plain)["0"]
        logprobs = [event.logprob for event in plain["0"]]
        assert [event.logprob for event in found] == pytest.approx(logprobs, abs=1e-4)
    plainly = TorchGenerator(llama, speculate=5)
    repeated = (4, 5, 6, 7) * 8
    plainly.submit(Request("a", repeated, Sampling(max_tokens=60)))
    count = 0
    while plainly._engine.rows or plainly._engine.waiting:
        plainly.step()
        count += 1
    assert count < 60


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}], ids=str)
def test_a_draft_model_changes_nothing_but_the_steps(llama, sampling):
    """With the model itself as its draft every guess is right; with another one few are."""
    asked = requests(LONG, max_tokens=30, **sampling)
    wanted = tokens(TorchGenerator(llama).generate(asked))
    other = sharp("llama")
    other.resize_token_embeddings(260)
    for draft in (llama, other):
        generator, steps = TorchGenerator(llama, speculate=4, draft=draft, max_rows=3), 0
        found = {request.id: [] for request in asked}
        for request in asked:
            generator.submit(request)
        while generator._engine.rows or generator._engine.waiting:
            steps += 1
            for event in generator.step():
                found[event.id].append(event.token)
        assert found == wanted
        assert generator._engine.draft.lanes.held == 0
        if draft is llama and not sampling:
            assert steps < 25
    with pytest.raises(ConfigError, match="G127"):
        TorchGenerator(llama, speculate=2, draft=sharp("llama"))


def test_deterministic_is_bit_for_bit(llama):
    """Log-probabilities in company, after shared beginnings, equal those alone in every bit."""
    asked = requests([*LONG, LONG[0]], max_tokens=40, temperature=1.0, seed=1)
    together = TorchGenerator(llama, deterministic=True).generate(asked)
    for request in asked:
        alone = TorchGenerator(llama, deterministic=True).generate([request])[request.id]
        assert together[request.id] == alone


def test_a_long_prompt_does_not_hold_up_who_is_decoding(llama, monkeypatch):
    monkeypatch.setattr(engine_impl, "CHUNK", 32)
    generator = TorchGenerator(llama)
    generator.submit(Request("short", (5, 6), Sampling(max_tokens=30)))
    generator.step()
    generator.submit(Request("long", tuple(range(200)), Sampling(max_tokens=2)))
    for _ in range(200 // 32):
        assert [event.id for event in generator.step()] == ["short"]
    assert {event.id for event in generator.step()} == {"short", "long"}


# ---------------------------------------------------------------- shared beginnings


def test_beginnings_are_computed_once(llama):
    generator = TorchGenerator(llama)
    first = generator.generate(requests([LONG[0]], max_tokens=30))
    again = (*LONG[0], *tokens(first)["0"], 5, 6)
    generator.submit(Request("next", again, Sampling(max_tokens=5)))
    generator.step()
    [row] = generator._engine.rows
    assert row.reused == (len(again) - 3) // BLOCK * BLOCK  # the last token was never an input
    rest: list[int] = []
    while generator._engine.rows:
        rest += [event.token for event in generator.step()]
    assert rest == reference(llama, again, 5)[1:]


def test_requests_with_one_prompt_wait_for_its_first_computation(llama):
    generator = TorchGenerator(llama)
    for i in range(4):
        generator.submit(Request(str(i), LONG[0], Sampling(8, 1.0, seed=i)))
    generator.step()
    assert len(generator._engine.rows) == 1
    generator.step()
    assert [row.reused for row in generator._engine.rows] == [
        0,
        *[len(LONG[0]) // BLOCK * BLOCK] * 3,
    ]


def test_changed_weights_forget_what_was_computed():
    from transformers import LlamaConfig

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = build(LlamaConfig(vocab_size=260, **shape, **ROPE))
    generator = TorchGenerator(model)
    before = generator.generate(requests([LONG[0]]))
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    after = generator.generate(requests([LONG[0]]))
    assert tokens(after)["0"] == reference(model, LONG[0])
    assert tokens(after) != tokens(before)


# ---------------------------------------------------------------- memory


def test_the_budget_is_kept_and_answers_do_not_change(llama):
    """Rows that find no room go back to the queue and are computed anew."""
    generator = TorchGenerator(llama, cache_tokens=512)
    asked = requests(LONG * 3, max_tokens=100)
    for request in asked:
        generator.submit(request)
    found, most = {request.id: [] for request in asked}, 0
    sent_back = False
    while generator._engine.rows or generator._engine.waiting:
        for event in generator.step():
            found[event.id].append(event.token)
        most = max(most, generator._engine.lanes.held)
        sent_back = sent_back or any(len(r.ids) > r.begin for r in generator._engine.waiting)
    assert found == {str(i): reference(llama, ids, 100) for i, ids in enumerate(LONG * 3)}
    assert 0 < most <= 512
    assert sent_back
    assert len(generator._engine.prefixes) * BLOCK <= 128
    assert generator._engine.lanes.held == 0


def test_an_answer_ends_at_the_budget(llama):
    events = TorchGenerator(llama, cache_tokens=100).generate(requests([LONG[0]], max_tokens=50))
    assert len(events["0"]) == 10
    assert events["0"][-1].finish_reason == "length"


def test_key_heads_only_are_held(llama):
    generator = TorchGenerator(llama, max_rows=1)
    generator.submit(Request("a", LONG[0], Sampling(max_tokens=3)))
    generator.step()
    [lane] = generator._engine.lanes.lanes.values()
    held = sum(t.numel() * 4 for table in lane.tables() for t in table.values())
    assert held == lane.rows * lane.capacity * 2 * 2 * 2 * 8 * 4  # 2 sides, layers, key heads of 8
    assert f"of {held // lane.rows // lane.capacity} bytes" in generator._engine.notes[0]


def test_places_move_without_losing_what_they_hold():
    lanes = Lanes(1024)
    places = [lanes.take(10) for _ in range(3)]
    for number, place in enumerate(places):
        keys, values = place.lane.layer(0, torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
        keys[place.row, :, :10], values[place.row, :, :10] = number, -number
        place.length = 10
    lanes.release(places[0])
    assert lanes.ensure(places[1], 200)
    for number in (1, 2):
        place = places[number]
        assert (place.lane.keys[0][place.row, :, :10] == number).all()
        assert (place.lane.values[0][place.row, :, :10] == -number).all()
    assert {place.lane.capacity for place in places[1:]} == {64, 256}
    assert lanes.take(1000) is None
    assert lanes.held <= 1024


# ---------------------------------------------------------------- faults


def test_what_is_not_finite_ends_one_request_alone(llama):
    """A token whose embedding is NaN: its request ends, those beside and after it do not."""
    import copy

    broken = copy.deepcopy(llama)
    with torch.no_grad():
        broken.model.embed_tokens.weight[99] = math.nan
    broken.tie_weights()
    generator = TorchGenerator(broken, max_rows=2)
    asked = [Request("bad", (5, 99, 7)), *requests([LONG[1], (3, 4), LONG[3]], max_tokens=12)]
    events = generator.generate(asked)
    assert [event.finish_reason for event in events.pop("bad")] == ["error"]
    for id, prompt in zip("012", (LONG[1], (3, 4), LONG[3]), strict=True):
        assert [event.token for event in events[id]] == reference(llama, prompt, 12)


# ---------------------------------------------------------------- adapters


def deltas_of(model, names, seed):
    made, draw = {}, torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    for name in names:
        outputs, inputs = modules[name].weight.shape
        A, B = torch.randn(3, inputs, generator=draw), torch.randn(outputs, 3, generator=draw)
        made[name] = Delta(A * 0.1, B * 0.1, 2.0)
    return made


def merged(model, deltas):
    import copy

    other = copy.deepcopy(model)
    for name, delta in deltas.items():
        with torch.no_grad():
            other.get_submodule(name).weight += delta.scale * delta.B_OR @ delta.A_RI
    return other


@pytest.mark.parametrize("family", ["llama", "phi bias"])
def test_several_adapters_in_one_batch(family):
    """Each request is answered as by weights with its adapter merged in; `phi` is not one of the
    families whose forward pass is ours."""
    model = sharp(family)
    linears = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    ]
    adapters = {"a": deltas_of(model, linears, 1), "b": deltas_of(model, linears[:2], 2)}
    others = {name: merged(model, deltas) for name, deltas in adapters.items()}
    prompts = [(5, 6, 7), tuple(range(3, 40)), (9, 8), (5, 6, 7), (5, 6, 7)]
    chosen = ["a", "b", None, "b", None]
    wanted = [
        reference(others.get(name, model), ids) for ids, name in zip(prompts, chosen, strict=True)
    ]
    generator = TorchGenerator(model)
    for name, deltas in adapters.items():
        generator.add_adapter(name, deltas)
    asked = [
        Request(str(i), ids, Sampling(max_tokens=12), adapter=name)
        for i, (ids, name) in enumerate(zip(prompts, chosen, strict=True))
    ]
    assert list(tokens(generator.generate(asked)).values()) == wanted
    assert len({tuple(answer) for answer in (wanted[0], wanted[3], wanted[4])}) == 3


def test_an_adapter_that_does_not_fit_is_refused(llama):
    with pytest.raises(ConfigError, match="G123"):
        TorchGenerator(llama).add_adapter(
            "a", {"model.layers.9.x": Delta(*torch.ones(2, 1, 1), 1.0)}
        )

    from tests.generation.test_torch import FAMILIES

    with pytest.raises(ConfigError, match="G123"):
        TorchGenerator(build(FAMILIES["mamba"])).add_adapter("a", {})


def test_an_adapter_from_peft_files(llama, tmp_path):
    """As the tuner saved it, beside the base; what holds more than deltas is refused."""
    import copy

    from tunesmith.tuners.lora import LoraConfig, LoraTuner

    hf = copy.deepcopy(llama)
    tuner = LoraTuner(LoraConfig(r=4, lora_alpha=16, use_rslora=True))
    tuner.apply(hf)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    tuner.save(hf, tmp_path / "adapter")
    tuner.merge(hf)
    generator = TorchGenerator(llama)
    generator.add_adapter("mine", tmp_path / "adapter")
    asked = [Request("a", LONG[1], Sampling(max_tokens=12), adapter="mine")]
    assert tokens(generator.generate(asked))["a"] == reference(hf.eval(), LONG[1])
    dora = LoraTuner(LoraConfig(r=4, use_dora=True))
    other = copy.deepcopy(llama)
    dora.apply(other)
    dora.save(other, tmp_path / "dora")
    with pytest.raises(ConfigError, match="G123"):
        generator.add_adapter("dora", tmp_path / "dora")


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_of_the_model_itself(llama, dora):
    """In evaluation its deltas are in the copy of the weights; switched off they are out again."""
    import copy

    from tunesmith.tuners.lora import LoraConfig, LoraTuner

    hf = copy.deepcopy(llama)
    tuner = LoraTuner(LoraConfig(r=4, use_dora=dora))
    tuner.apply(hf)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    hf.eval()
    generator = TorchGenerator(hf)
    found = tokens(generator.generate(requests(LONG)))
    with tuner.reference(hf):
        assert tokens(generator.generate(requests(LONG))) == {
            str(i): reference(llama, ids) for i, ids in enumerate(LONG)
        }
    assert tokens(generator.generate(requests(LONG))) == found
    tuner.merge(hf)
    assert found == {str(i): reference(hf, ids) for i, ids in enumerate(LONG)}
