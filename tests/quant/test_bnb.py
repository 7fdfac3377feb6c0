"""Weights in few bits: the formula, the products, no code from a hub, and the memory it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny
from tunesmith.errors import ConfigError, EnvironmentFault, MissingExtra
from tunesmith.models import load, quantised
from tunesmith.quant import bnb
from tunesmith.recipe.sections import ModelConfig, Quantization
from tunesmith.tuners.lora import LoraConfig, LoraTuner

# QLoRA, arXiv:2305.14314, appendix E.
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
])  # fmt: skip


@pytest.fixture
def wide_model(tmp_path):
    """A random Llama whose rows are whole blocks of 64."""
    tiny.llama(vocab_size=96, hidden_size=64, intermediate_size=128).save_pretrained(
        tmp_path / "wide"
    )
    return tmp_path / "wide"


def few_bits(path, kind="bnb4", keep=(), **fields):
    pytest.importorskip("bitsandbytes")
    wanted = ModelConfig(path=str(path), quantize=Quantization(kind, **fields))
    return load.load(wanted, keep=keep).hf.eval()


def rounded(weight_OI: torch.Tensor) -> torch.Tensor:
    """Blocks of 64, each scaled by its largest, to the nearest of the sixteen values."""
    blocks = weight_OI.reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks / scale).unsqueeze(-1).sub(NF4).abs().argmin(-1)
    return (NF4[nearest] * scale).view_as(weight_OI)


def dequantised(path, hf):
    """The same model with plain layers that hold the dequantised weights."""
    plain = load.load(ModelConfig(path=str(path))).hf.eval()
    for name, layer in quantised.layers(hf).items():
        plain.get_submodule(name).weight.data.copy_(layer.weight)
    return plain


IDS = torch.arange(40)[None] * 7 % 96


def test_four_bits_are_the_sixteen_quantiles_of_a_block(wide_model):
    hf = few_bits(wide_model, double_quant=False)
    plain = load.load(ModelConfig(path=str(wide_model))).hf
    for name, layer in quantised.layers(hf).items():
        weight = plain.get_submodule(name).weight.detach()
        assert torch.allclose(layer.weight, rounded(weight), atol=1e-7, rtol=0), name


@pytest.mark.parametrize(("kind", "bound"), [("bnb4", 1e-5), ("bnb8", 2e-2)])
def test_products_are_those_of_the_dequantised_weights(wide_model, kind, bound):
    hf = few_bits(wide_model, kind)
    with torch.no_grad():
        found, wanted = (m(input_ids=IDS).logits for m in (hf, dequantised(wide_model, hf)))
    assert (found - wanted).abs().max() <= bound * wanted.abs().max()


def test_head_embeddings_and_kept_modules_stay_as_they_are(wide_model):
    hf = few_bits(wide_model, keep=("down_proj",))
    names = {name.rsplit(".", 1)[-1] for name in quantised.layers(hf)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}
    assert type(hf.lm_head) is torch.nn.Linear
    assert hf.get_input_embeddings().weight.dtype == torch.float32
    assert not any(p.requires_grad for p in hf.parameters() if p.dtype != torch.float32)


@pytest.mark.parametrize("kind", ["bnb4", "bnb8"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_engine_answers_as_transformers_does(wide_model, kind, rows):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    from tunesmith.generation.torch import TorchGenerator
    from tunesmith.types import Request, Sampling

    settings = bnb.loading(Quantization(kind), ("lm_head",), torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(
        wide_model, dtype=torch.float32, quantization_config=settings, device_map={"": "cpu"}
    ).train()  # evaluated, some CPUs' products are those of bfloat16
    prompts = [list(range(3, 12 + 5 * at)) for at in range(rows)]
    engine = TorchGenerator(few_bits(wide_model, kind))
    plain = Sampling(max_tokens=12)
    found = engine.generate(Request(str(at), tuple(p), plain) for at, p in enumerate(prompts))
    for at, prompt in enumerate(prompts):
        wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        told = [event.token for event in found[str(at)]]
        assert told == wanted[0, len(prompt) :].tolist()


def test_an_adapter_is_served_beside(wide_model, tmp_path):
    """Chosen by a request, it computes what it does when it is part of the model."""
    from tunesmith.generation.torch import TorchGenerator
    from tunesmith.types import Request, Sampling

    hf = few_bits(wide_model)
    tuner = LoraTuner.build(LoraConfig(r=4, lora_alpha=64))
    torch.manual_seed(0)
    tuner.apply(hf)
    for name, parameter in hf.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tuner.save(hf, tmp_path / "adapter")
    beside = TorchGenerator(few_bits(wide_model))
    beside.add_adapter("one", tmp_path / "adapter")
    ids, plain = tuple(range(3, 20)), Sampling(max_tokens=10)
    asked = [Request("a", ids, plain, adapter="one"), Request("b", ids, plain)]
    found = beside.generate(asked)
    own = TorchGenerator(hf).generate([Request("a", ids, plain)])
    told = {id: [event.token for event in events] for id, events in found.items()}
    assert told["a"] == [event.token for event in own["a"]]
    assert told["a"] != told["b"]


def test_what_is_said_of_it(wide_model):
    (said,) = quantised.notes(few_bits(wide_model))
    assert said.startswith("quantised: 14 linear layers in 4 bits, 0.0 MB instead of 0.3;")
    assert len(quantised.notes(few_bits(wide_model, "bnb8"))) == 2
    assert quantised.notes(load.load(ModelConfig(path=str(wide_model))).hf) == []


def test_parameters_are_counted_as_what_they_stand_for(wide_model):
    plain = load.load(ModelConfig(path=str(wide_model)))
    assert quantised.parameters(few_bits(wide_model)) == quantised.parameters(plain.hf)


@pytest.mark.parametrize("kind", ["bnb4", "bnb8"])
def test_a_delta_beside_has_the_gradient_of_a_delta_in_the_weight(wide_model, kind):
    hf = few_bits(wide_model, kind)
    plain = dequantised(wide_model, hf)
    grads = []
    for model in (hf, plain):
        torch.manual_seed(1)
        LoraTuner.build(LoraConfig(r=4)).apply(model)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model(input_ids=IDS, labels=IDS).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert set(grads[0]) == set(grads[1])
    bound = 1e-4 if kind == "bnb4" else 0.1
    for name, grad in grads[0].items():
        assert (grad - grads[1][name]).norm() <= bound * grads[1][name].norm() + 1e-9, name


def test_evaluating_in_between_changes_no_gradient(wide_model):
    """bitsandbytes' own layers compute in bfloat16 without gradients once they were evaluated."""
    hf = few_bits(wide_model)
    LoraTuner.build(LoraConfig(r=4)).apply(hf)
    norms = []
    for _ in range(2):
        hf.train().zero_grad()
        hf(input_ids=IDS, labels=IDS).loss.backward()
        norms.append([p.grad.clone() for p in hf.parameters() if p.requires_grad])
        with torch.no_grad():
            hf.eval()(input_ids=IDS)
    assert all(torch.equal(a, b) for a, b in zip(*norms, strict=True))
    assert any(grad.norm() > 0 for grad in norms[0])


def test_dora_is_refused(wide_model):
    hf = few_bits(wide_model)
    with pytest.raises(ConfigError) as caught:
        LoraTuner.build(LoraConfig(use_dora=True)).apply(hf)
    assert caught.value.code == "E230"


def test_a_model_that_was_stored_quantised(wide_model, tmp_path):
    """What transformers wrote with bitsandbytes computes the same here."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    settings = bnb.loading(Quantization(), ("lm_head",), torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(
        wide_model, dtype=torch.float32, quantization_config=settings, device_map={"": "cpu"}
    )
    theirs.save_pretrained(tmp_path / "stored")
    stored = load.load(ModelConfig(path=str(tmp_path / "stored"))).hf
    with torch.no_grad():
        found, wanted = (m(input_ids=IDS).logits for m in (stored, few_bits(wide_model)))
    assert torch.equal(found, wanted)
    with pytest.raises(ConfigError) as caught:
        few_bits(tmp_path / "stored")
    assert caught.value.code == "E230"


def test_weights_quantised_by_something_else_are_refused(wide_model):
    import json

    path = wide_model / "config.json"
    fields = json.loads(path.read_text())
    fields["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    path.write_text(json.dumps(fields))
    with pytest.raises(EnvironmentFault) as caught:
        load.load(ModelConfig(path=str(wide_model)))
    assert caught.value.code == "E231"
    assert "gptq" in caught.value.what


def test_a_fresh_model_is_refused(wide_model):
    with pytest.raises(ConfigError) as caught:
        load.load(ModelConfig(config={"model_type": "llama"}, quantize=Quantization()))
    assert caught.value.code == "E230"


def test_the_package_is_missed_with_its_pip_command(wide_model, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        bnb.require()
    assert caught.value.code == "E401"
    assert "tunesmith[bnb]" in caught.value.fix


FAKE = """
import pathlib
def get_kernel(*arguments, **words):
    pathlib.Path({marker!r}).write_text("fetched")
    raise ImportError("no kernel")
"""
OURS = "from tunesmith.quant import bnb_impl; bnb_impl.library()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "fetched"), [("import bitsandbytes", True), (OURS, False)], ids=["theirs", "ours"]
)
def test_no_code_is_fetched_from_a_hub(tmp_path, code, fetched):
    """Where bitsandbytes would ask the package `kernels` for compiled code, ours never does."""
    pytest.importorskip("bitsandbytes")
    (tmp_path / "kernels.py").write_text(FAKE.format(marker=str(tmp_path / "marker")))
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}\n"
    script += "from bitsandbytes.functional import has_avx512bf16 as asks\n"
    script += "import kernels\nprint('ASKS', asks(), kernels.__file__ is not None)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    if fetched and "ASKS False" in done.stdout:
        pytest.skip("on this CPU bitsandbytes asks for no kernel")
    assert (tmp_path / "marker").exists() == fetched
    assert "Failed to load" not in done.stderr or fetched


PEAK = """
import sys
from tunesmith.models import load, quantised
from tunesmith.recipe.sections import ModelConfig, Quantization
if sys.argv[2] == "bnb4":
    from tunesmith.quant import bnb_impl
    bnb_impl.library()
def peak():  # not ru_maxrss, which a child inherits
    (line,) = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return int(line.split()[1])
before = peak()
wanted = None if sys.argv[2] == "none" else Quantization(sys.argv[2])
hf = load.load(ModelConfig(path=sys.argv[1], quantize=wanted)).hf
print("GREW", peak() - before)
"""


@pytest.mark.slow
def test_the_whole_weights_are_never_in_memory(tmp_path):
    """A model of 210 MB in float32, 8 MB of it embeddings, quantised as its tensors are read."""
    pytest.importorskip("bitsandbytes")
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    tiny.llama(
        vocab_size=4096, tie_word_embeddings=True, **shape, **heads
    ).bfloat16().save_pretrained(tmp_path / "big")
    grew = {}
    for kind in ("none", "bnb4"):
        command = [sys.executable, "-c", PEAK, str(tmp_path / "big"), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grew[kind] = int(done.stdout.split("GREW")[1]) / 1024
    # what is read is mapped, and counts as long as the page is there: 104 MB in bfloat16
    assert grew["bnb4"] < 104 + 8 + 202 / 8 * 1.05 + 50, grew
    assert grew["none"] > 210, grew
