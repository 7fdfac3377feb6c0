"""Prompt and prefix tuning: PEFT's logits and files, and the same gradient in every layout."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tunesmith.data.collate import collate_items
from tunesmith.errors import ConfigError, EnvironmentFault
from tunesmith.models import soft
from tunesmith.models.language_model import LanguageModel
from tunesmith.tuners import base, prompt_impl
from tunesmith.tuners.prefix import PrefixConfig, PrefixTuner
from tunesmith.tuners.prompt import PromptConfig, PromptTuner
from tunesmith.types import Example

TUNERS = {
    "prompt": PromptTuner(PromptConfig(tokens=5)),
    "prefix": PrefixTuner(PrefixConfig(tokens=5)),
    "projected": PrefixTuner(PrefixConfig(tokens=5, projection=True, hidden=16)),
}
IDS = torch.arange(3, 23)[None]


@pytest.fixture(scope="module")
def pristine(tiny_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture(params=sorted(TUNERS))
def tuned(request, pristine):
    """`tuned(dtype)`: (tuner, model) with virtual tokens that matter."""

    def make(dtype=torch.float32):
        hf = copy.deepcopy(pristine).to(dtype)
        tuner = TUNERS[request.param]
        torch.manual_seed(3)
        tuner.apply(hf)
        with torch.no_grad():
            for parameter in hf.get_submodule(soft.NAME).parameters():
                parameter.add_(torch.randn(parameter.shape, dtype=torch.float32) * 0.3)
        return tuner, LanguageModel(hf).eval()

    return make


def logits(model) -> torch.Tensor:
    """Of all tokens, (T, V)."""
    (example,) = examples([IDS[0].tolist()])
    batch = collate_items([(example,)])
    hidden = model.hidden(batch)[0]
    return hidden @ model.hf.get_output_embeddings().weight.t()


def examples(texts):
    weights = [np.r_[0, np.ones(len(t) - 1)].astype(np.float32) for t in texts]
    return [Example(np.array(t, np.int32), w) for t, w in zip(texts, weights, strict=True)]


def test_peft_computes_the_same_of_our_files(tuned, pristine, tmp_path):
    from peft import PeftModel

    tuner, model = tuned()
    tuner.save(model.hf, tmp_path)
    theirs = PeftModel.from_pretrained(copy.deepcopy(pristine), tmp_path).eval()
    with torch.no_grad():
        wanted = theirs(input_ids=IDS).logits[0, -IDS.shape[1] :]
        found = logits(model)
        plain = pristine(input_ids=IDS).logits[0]
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (found - plain).abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.parametrize("kind", ["prompt", "prefix", "projected"])
def test_we_compute_the_same_of_pefts_files(kind, pristine, tmp_path):
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    words = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 7}
    made = {
        "prompt": lambda: PromptTuningConfig(**words),
        "prefix": lambda: PrefixTuningConfig(**words),
        "projected": lambda: PrefixTuningConfig(
            **words, prefix_projection=True, encoder_hidden_size=8
        ),
    }[kind]()
    torch.manual_seed(4)
    theirs = get_peft_model(copy.deepcopy(pristine), made).eval()
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = theirs(input_ids=IDS).logits[0, -IDS.shape[1] :]
    hf = copy.deepcopy(pristine)
    tuner = base.for_adapter(tmp_path)
    tuner.apply(hf)
    tuner.load(hf, tmp_path)
    with torch.no_grad():
        found = logits(LanguageModel(hf).eval())
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def layouts(rows):
    half = len(rows) // 2
    return {
        "together": [collate_items(rows)],
        "one by one": [collate_items([row]) for row in rows],
        "two by two": [collate_items(rows[:half]), collate_items(rows[half:])],
        "reversed": [collate_items(rows[::-1])],
        "padded right": [collate_items(rows, padded=True, padding_side="right")],
        "padded left": [collate_items(rows, padded=True, padding_side="left")],
        "shared prompts": [collate_items(rows, share_prompts=True)],
    }


def gradient(model, batches):
    model.zero_grad()
    for batch in batches:
        told = model(batch)
        (-(told.logprobs_S * told.weights_S).sum()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_layout_does_not_change_the_gradient(tuned, kernels):
    """Packing, padding on either side, accumulation, order, prompts that are shared."""
    _tuner, model = tuned(torch.float64)
    model = LanguageModel(model.hf, kernels=kernels).eval()
    prompt = list(range(40, 52))
    pairs = [[[*prompt, 60 + at, 61], [*prompt, 70, 71 + at, 72]] for at in range(2)]
    alone = [[list(range(5, 9))], [list(range(9, 40))]]
    rows = []
    for texts in [*pairs, *alone]:
        made = examples(texts)
        for one in made:
            one.weights_T[: len(prompt) if len(texts) > 1 else 1] = 0
        rows.append(tuple(made))
    wanted = gradient(model, [collate_items(rows)])
    assert wanted.norm() > 0
    assert len(wanted) == sum(p.numel() for p in model.hf.get_submodule(soft.NAME).parameters())
    for name, batches in layouts(rows).items():
        found = gradient(model, batches)
        assert (found - wanted).norm() <= 1e-10 * wanted.norm(), name


def test_the_reference_is_the_model_without_them(tuned, pristine):
    tuner, model = tuned()
    with torch.no_grad(), tuner.reference(model):
        found = logits(model)
        wanted = pristine(input_ids=IDS).logits[0]
    assert torch.allclose(found, wanted, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(logits(model), wanted, atol=1e-3)


def test_half_precision_keeps_them_in_float32(pristine):
    hf = copy.deepcopy(pristine).to(torch.bfloat16)
    TUNERS["prompt"].apply(hf)
    model = LanguageModel(hf, compute_dtype=torch.bfloat16)
    assert not model.autocast
    assert hf.get_submodule(soft.NAME).embedding.dtype == torch.float32
    assert logits(model).isfinite().all()


def test_a_text_to_begin_with(pristine, tiny_model):
    from tunesmith.templates.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(tiny_model)
    tuner = base.build(PromptConfig(tokens=8, init="text", text="Be kind"), tokenizer)
    hf = copy.deepcopy(pristine)
    tuner.apply(hf)
    said = (tokenizer.encode_text("Be kind") * 2)[:8]
    wanted = hf.get_input_embeddings().weight[said]
    assert torch.equal(hf.get_submodule(soft.NAME).embedding, wanted)


@pytest.mark.parametrize(
    "config",
    [
        PromptConfig(tokens=0),
        PromptConfig(init="text"),
        PromptConfig(text="words"),
        PrefixConfig(tokens=-1),
        PrefixConfig(hidden=8),
    ],
)
def test_configs_that_say_nothing(config):
    with pytest.raises(ConfigError) as caught:
        base.build(config)
    assert caught.value.code == "E232"


def test_twice_is_refused(tuned):
    tuner, model = tuned()
    with pytest.raises(ConfigError) as caught:
        tuner.apply(model.hf)
    assert caught.value.code == "E233"


def test_a_merge_is_refused(tuned):
    tuner, model = tuned()
    with pytest.raises(ConfigError) as caught:
        tuner.merge(model.hf)
    assert caught.value.code == "E234"


def test_files_of_another_model_are_refused(tuned, pristine, tmp_path):
    from safetensors.torch import save_file

    tuner, model = tuned()
    tuner.save(model.hf, tmp_path)
    save_file({prompt_impl.KEY: torch.zeros(5, 3)}, tmp_path / "adapter_model.safetensors")
    hf, plain = copy.deepcopy(pristine), base.for_adapter(tmp_path)
    plain.apply(hf)
    with pytest.raises(EnvironmentFault) as caught:
        plain.load(hf, tmp_path)
    assert caught.value.code == "E210"


def test_a_run_is_talked_to_as_it_was_trained(tiny_model, tmp_path):
    """final/ and a checkpoint answer alike, with the tokens that were trained; PEFT too."""
    import json

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tunesmith import compose, recipe
    from tunesmith.compose import merging, source
    from tunesmith.generation.torch import TorchGenerator
    from tunesmith.types import Request, Sampling

    rows = [{"prompt": "Hi", "completion": "Hello there!"}, {"prompt": "2+2?", "completion": "4"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": {"path": str(tiny_model)},
        "tuner": {"kind": "prefix", "tokens": 4, "projection": True, "hidden": 8},
        "data": {"train": str(tmp_path / "rows.jsonl"), "num_proc": 1},
        "train": {
            "max_steps": 20,
            "per_device_train_batch_size": 2,
            "save_steps": 10,
            "dtype": "float32",
        },
        "optim": {"learning_rate": 3e-2},
        "output": {"dir": str(tmp_path / "runs"), "name": "it"},
    }
    run = compose.train(recipe.from_dict(settings))
    told = []
    for name in (str(run.path), f"{run.path}@step-20"):
        model = compose.load(name, dtype="float32").model
        found = TorchGenerator(model).generate([Request("a", (256, 3, 4), Sampling(max_tokens=9))])
        told.append([event.token for event in found["a"]])
        with torch.no_grad():
            mine = logits(model)
    assert told[0] == told[1]
    base_model = AutoModelForCausalLM.from_pretrained(tiny_model)
    theirs = PeftModel.from_pretrained(base_model, run.path / "final").eval()
    with torch.no_grad():
        wanted = theirs(input_ids=IDS).logits[0, -IDS.shape[1] :]
    assert (mine - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    with pytest.raises(ConfigError) as caught:
        merging.merge(str(run.path), tmp_path / "merged", merging.Choices())
    assert caught.value.code == "E234"
    with pytest.raises(ConfigError) as caught:
        source.check_base(source.locate(str(run.path)))
    assert caught.value.code == "E234"
