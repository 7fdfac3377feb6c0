"""Virtual tokens served: chosen by a request, beside others, with the answers PEFT gives."""

from __future__ import annotations

import copy

import pytest
import torch

from tests import tiny
from tunesmith.errors import ConfigError, DataError
from tunesmith.generation.torch import TorchGenerator
from tunesmith.models import soft
from tunesmith.models.language_model import LanguageModel
from tunesmith.tuners.lora import LoraConfig, LoraTuner
from tunesmith.tuners.prefix import PrefixConfig, PrefixTuner
from tunesmith.tuners.prompt import PromptConfig, PromptTuner
from tunesmith.types import Request, Sampling

TUNERS = {
    "prompt": PromptTuner(PromptConfig(tokens=6)),
    "prefix": PrefixTuner(PrefixConfig(tokens=9)),
    "lora": LoraTuner(LoraConfig(r=4, lora_alpha=64)),
}
PLAIN = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def pristine():
    """A random model that does not merely repeat itself."""
    return tiny.llama(initializer_range=0.3)


@pytest.fixture(scope="module")
def adapted(pristine, tmp_path_factory):
    """Name → (model with that adapter, its folder)."""
    found = {}
    for name, tuner in TUNERS.items():
        hf = copy.deepcopy(pristine)
        torch.manual_seed(5)
        tuner.apply(hf)
        with torch.no_grad():
            for parameter in hf.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape) * 0.4)
        folder = tmp_path_factory.mktemp(name)
        tuner.save(hf, folder)
        found[name] = hf, folder
    return found


def answer(generator, requests):
    found = generator.generate(requests)
    return {id: [event.token for event in events] for id, events in found.items()}


def of_peft(pristine, folder, ids):
    """What PEFT's forward pass makes of it, token by token and without a cache."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(copy.deepcopy(pristine), folder).eval()
    told = list(ids)
    with torch.no_grad():
        for _ in range(PLAIN.max_tokens):
            told.append(int(model(input_ids=torch.tensor([told])).logits[0, -1].argmax()))
    return told[len(ids) :]


PROMPTS = [tuple(range(10, 10 + size)) for size in (4, 65, 7)]


@pytest.mark.parametrize("options", [{}, {"deterministic": True}, {"speculate": 3}])
def test_several_adapters_in_one_batch(pristine, adapted, options):
    engine = TorchGenerator(copy.deepcopy(pristine), **options)
    for name, (_, folder) in adapted.items():
        engine.add_adapter(name, folder)
    names = [*adapted, None]
    requests = [
        Request(f"{name}-{at}", ids, PLAIN, adapter=name)
        for at, ids in enumerate(PROMPTS)
        for name in names
    ]
    wanted = {
        f"{name}-{at}": of_peft(pristine, adapted[name][1], ids)
        for at, ids in enumerate(PROMPTS)
        for name in adapted
    }
    for _ in range(2):  # the second time what was kept of the first could be taken for another's
        found = answer(engine, requests)
        assert {id: found[id] for id in wanted} == wanted
    assert found["prompt-0"] != found["None-0"]
    assert found["prefix-0"] != found["None-0"]


@pytest.mark.parametrize("name", ["prompt", "prefix"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_models_own_virtual_tokens(pristine, adapted, name, wrapped):
    hf, folder = adapted[name]
    engine = TorchGenerator(LanguageModel(hf) if wrapped else hf)
    found = answer(engine, [Request(str(at), ids, PLAIN) for at, ids in enumerate(PROMPTS)])
    alone = answer(engine, [Request("alone", PROMPTS[1], PLAIN)])["alone"]
    for at, ids in enumerate(PROMPTS):
        assert found[str(at)] == of_peft(pristine, folder, ids)
    assert alone == found["1"]


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_they_are_taken_as_they_are_now(pristine, adapted, name):
    hf = copy.deepcopy(adapted[name][0])
    engine = TorchGenerator(hf)
    before = answer(engine, [Request("a", PROMPTS[0], PLAIN)])
    with torch.no_grad():
        hf.get_submodule(soft.NAME).embedding.mul_(-1.5)
    changed = answer(engine, [Request("a", PROMPTS[0], PLAIN)])
    fresh = answer(TorchGenerator(copy.deepcopy(hf)), [Request("a", PROMPTS[0], PLAIN)])
    assert changed == fresh != before
    with TUNERS[name].reference(hf):
        without = answer(engine, [Request("a", PROMPTS[0], PLAIN)])
    base = TorchGenerator(copy.deepcopy(pristine))
    assert without == answer(base, [Request("a", PROMPTS[0], PLAIN)])


def test_a_row_that_was_sent_back_begins_anew(pristine, adapted):
    """A cache too small for all: rows are dropped, and computed again behind their own tokens."""
    engine = TorchGenerator(copy.deepcopy(pristine), cache_tokens=256)
    engine.add_adapter("prompt", adapted["prompt"][1])
    long = Sampling(max_tokens=30)
    requests = [Request(str(at), PROMPTS[1], long, adapter="prompt") for at in range(5)]
    found = answer(engine, requests)
    assert len({tuple(tokens) for tokens in found.values()}) == 1
    assert found["0"][:8] == of_peft(pristine, adapted["prompt"][1], PROMPTS[1])


def test_they_count_in_the_context(pristine, adapted):
    engine = TorchGenerator(copy.deepcopy(pristine))
    engine.add_adapter("prefix", adapted["prefix"][1])
    long = Sampling(max_tokens=2000)
    found = answer(engine, [Request("a", PROMPTS[0], long, adapter="prefix")])
    assert len(found["a"]) + len(PROMPTS[0]) + 9 == engine.context
    most = engine.context - 9
    with pytest.raises(DataError) as caught:
        engine.check(Request("b", (5,) * most, PLAIN, adapter="prefix"))
    assert caught.value.code == "D401"
    engine.check(Request("b", (5,) * most, PLAIN))


def test_what_does_not_go_together(pristine, adapted, tmp_path):
    from safetensors.torch import save_file

    hf, folder = adapted["prompt"]
    engine = TorchGenerator(copy.deepcopy(pristine), window=64)
    engine.add_adapter("prompt", folder)
    request = Request("a", PROMPTS[0], PLAIN, adapter="prompt")
    with pytest.raises(ConfigError, match="window") as caught:
        engine.check(request)
    assert caught.value.code == "G160"
    engine = TorchGenerator(copy.deepcopy(pristine))
    engine.add_adapter("prompt", folder)
    with pytest.raises(ConfigError) as caught:
        TorchGenerator(hf).add_adapter("lora", adapted["lora"][1])
    assert caught.value.code == "G123"
    (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    save_file({"prompt_embeddings": torch.zeros(2, 3)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError) as caught:
        engine.add_adapter("odd", tmp_path)
    assert caught.value.code == "G123"
