"""Merged models compute what the live adapter computes, for everything LoRA can be."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.exporting.models import VOCABULARY, logits, make, reload, train
from tunesmith.errors import ConfigError, ExportError, GateFailed
from tunesmith.exporting import merge as merging
from tunesmith.exporting.merge import merge

ATTENTION = ["q_proj", "v_proj"]
CASES = {
    "lora": ("llama", {"target_modules": ATTENTION}),
    "rslora": ("qwen3", {"target_modules": "all-linear", "use_rslora": True, "r": 4}),
    "dora": ("llama", {"target_modules": "all-linear", "use_dora": True}),
    "patterns": (
        "qwen3",
        {
            "target_modules": [*ATTENTION, "down_proj"],
            "alpha_pattern": {"q_proj": 32, r"layers\.1\.mlp\.down_proj": 2},
            "rank_pattern": {"v_proj": 2},
        },
    ),
    "head saved, tied": ("llama", {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]}),
    "embedding saved, tied": (
        "qwen3",
        {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]},
    ),
    "both saved, tied": (
        "llama",
        {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "norm saved": ("llama", {"target_modules": ATTENTION, "modules_to_save": ["norm"]}),
    "embedding targeted, tied": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding targeted, dora": (
        "llama",
        {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    ),
    "head targeted, tied": ("llama", {"target_modules": ["lm_head", "q_proj"]}),
    "bias of the delta": ("qwen3", {"target_modules": ATTENTION, "lora_bias": True}),
    "biases trained": ("qwen3", {"target_modules": ATTENTION, "bias": "all"}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "conv1d square, dora": (
        "gpt2",
        {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "conv1d, embedding saved": (
        "gpt2",
        {"target_modules": ["c_fc"], "modules_to_save": ["wte"], "fan_in_fan_out": True},
    ),
    "vocabulary resized, tied": ("llama", {"target_modules": ATTENTION, "resize": 70}),
    "vocabulary resized, saved": (
        "qwen3",
        {"target_modules": ATTENTION, "resize": 70, "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def adapter(llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "small"
    train(llama, path, target_modules=ATTENTION)
    return path


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_equals_the_live_adapter(case, tmp_path):
    family, fields = CASES[case]
    base = make(family, tmp_path / "base")
    live = train(base, tmp_path / "adapter", **fields)
    report = merge(base, tmp_path / "adapter", tmp_path / "merged")
    found = logits(reload(tmp_path / "merged"))
    bound = 1e-5 * max(1.0, float(live.abs().max()))
    assert float((live - found).abs().max()) <= bound
    plain = logits(reload(base))
    assert float((live[..., :VOCABULARY] - plain).abs().max()) > 0.01, "the adapter does nothing"
    assert report.max_abs_diff is not None
    assert report.max_abs_diff <= bound


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_config_says_what_became_of_the_embeddings(tied, tmp_path):
    base = make("llama", tmp_path / "base", tied=tied)
    saved = ["embed_tokens", "lm_head"]
    train(base, tmp_path / "adapter", target_modules=ATTENTION, resize=70, modules_to_save=saved)
    merge(base, tmp_path / "adapter", tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["vocab_size"] == 70
    assert not config["tie_word_embeddings"]
    names = load_file(tmp_path / "merged" / "model.safetensors")
    assert names["lm_head.weight"].shape == names["model.embed_tokens.weight"].shape == (70, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_deltas_of_a_16_bit_base_are_rounded_once(dtype, tmp_path):
    base = make("llama", tmp_path / "base", dtype=dtype)
    train(base, tmp_path / "adapter", target_modules="all-linear")
    report = merge(base, tmp_path / "adapter", tmp_path / "merged")
    assert 0 < report.kl <= 1e-3
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    name = "model.layers.1.mlp.down_proj"
    delta = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    parts = (delta[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "BA")
    was = load_file(base / "model.safetensors")[f"{name}.weight"].double()
    up, down = parts
    exact = was + up @ down
    got = stored[f"{name}.weight"].double()
    ulp = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).tiny)
    assert bool(((got - exact).abs() <= 0.5001 * ulp).all())


def test_float32_on_demand_is_exact_for_a_16_bit_base(tmp_path):
    base = make("qwen3", tmp_path / "base", dtype=torch.bfloat16)
    live = train(base, tmp_path / "adapter", target_modules="all-linear")
    report = merge(base, tmp_path / "adapter", tmp_path / "merged", dtype="float32")
    assert report.dtype == "float32"
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"
    found = logits(reload(tmp_path / "merged"))
    assert float((live - found).abs().max()) <= 1e-5 * max(1.0, float(live.abs().max()))


def test_adapters_on_adapters(llama, adapter, tmp_path):
    between = AutoModelForCausalLM.from_pretrained(llama)
    between = PeftModel.from_pretrained(between, adapter).merge_and_unload()
    between.save_pretrained(tmp_path / "between")
    live = train(tmp_path / "between", tmp_path / "second", target_modules=["q_proj", "up_proj"])
    merge(llama, [adapter, tmp_path / "second"], tmp_path / "merged")
    assert torch.allclose(logits(reload(tmp_path / "merged")), live, atol=2e-5)


def test_our_own_adapters(tiny_model, tmp_path):
    from tunesmith.tuners.lora import LoraConfig, LoraTuner

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tuner = LoraTuner(LoraConfig(r=4, use_dora=True, modules_to_save=("lm_head",)))
    tuner.apply(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    tuner.save(model, tmp_path / "adapter")
    live = logits(model)
    merge(tiny_model, tmp_path / "adapter", tmp_path / "merged")
    assert torch.allclose(logits(reload(tmp_path / "merged")), live, atol=1e-5)


def test_a_bare_backbone_without_prefix(tmp_path):
    """gpt2 on the hub is stored so: `h.0…`, not `transformer.h.0…`."""
    base = make("gpt2", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    live = train(base, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)
    merge(base, tmp_path / "adapter", tmp_path / "merged")
    assert torch.allclose(logits(reload(tmp_path / "merged")), live, atol=1e-5)


@pytest.mark.slow
def test_a_real_adapter_of_trl_on_gpt2(shared_data, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(tmp_path / "base")
    real = shared_data / "adapters" / "trl-kto-anthropic-hh"
    report = merge(tmp_path / "base", real, tmp_path / "merged", max_shard_size="200MB")
    assert report.changed == 12
    assert len(report.files) == 3
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("hello")["input_ids"] == [31373]


# ---------------------------------------------------------------- what is written


def test_shards_hold_what_one_file_holds(llama, adapter, tmp_path):
    whole = merge(llama, adapter, tmp_path / "whole", verify=False)
    parts = merge(llama, adapter, tmp_path / "parts", max_shard_size="20KB")
    assert whole.files == ["model.safetensors"]
    assert len(parts.files) > 2
    sizes = [(tmp_path / "parts" / name).stat().st_size for name in parts.files]
    assert max(sizes) < 20_000 + 2_000
    one = load_file(tmp_path / "whole" / "model.safetensors")
    many = {k: v for name in parts.files for k, v in load_file(tmp_path / "parts" / name).items()}
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == one.keys()


def test_a_sharded_base(llama, adapter, tmp_path):
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(
        tmp_path / "base", max_shard_size="20KB"
    )
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    merge(llama, adapter, tmp_path / "one", verify=False)
    merge(tmp_path / "base", adapter, tmp_path / "two", verify=False)
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_beside_the_weights(tiny_model, tmp_path):
    """Tokenizer, template as Jinja, every stop id, a card; the system prompt of the run."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "generation_config.json").write_text('{"eos_token_id": 256, "temperature": 0.6}')
    train_on_tiny(base, tmp_path / "adapter")
    (tmp_path / "adapter" / "tunesmith.json").write_text(
        json.dumps({"system": "Be brief.", "run": "r1", "base": {"path": "x"}})
    )
    merge(base, tmp_path / "adapter", tmp_path / "merged")
    out = tmp_path / "merged"
    tokenizer = AutoTokenizer.from_pretrained(out)
    chat = [{"role": "user", "content": "a"}]
    assert "<|im_start|>user\na<|im_end|>" in tokenizer.apply_chat_template(chat, tokenize=False)
    assert "<|im_start|>" in (out / "chat_template.jinja").read_text()
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [256, 259]  # the base's, and <|im_end|> of the template
    assert generation["temperature"] == 0.6
    card = json.loads((out / "tunesmith.json").read_text())
    assert card["system"] == "Be brief."
    assert "base" not in card
    assert "| adapters | r1 |" in (out / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "merged"]


def train_on_tiny(base, path):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(target_modules=ATTENTION)).save_pretrained(path)


# ---------------------------------------------------------------- what is refused


def refused(code, kind, base, adapter, out, **options):
    with pytest.raises(kind) as caught:
        merge(base, adapter, out, **options)
    assert caught.value.code == code
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return str(caught.value)


def edited(adapter, path, **fields):
    shutil.copytree(adapter, path)
    config = json.loads((path / "adapter_config.json").read_text()) | fields
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
    ],
)
def test_other_kinds_are_refused_by_name(fields, named, llama, adapter, tmp_path):
    odd = edited(adapter, tmp_path / "odd", **fields)
    assert named in refused("X102", ExportError, llama, odd, tmp_path / "out")


def test_virtual_tokens_are_no_change_of_weights(llama, adapter, tmp_path):
    odd = edited(adapter, tmp_path / "odd", peft_type="PREFIX_TUNING")
    assert "PREFIX_TUNING" in refused("E234", ConfigError, llama, odd, tmp_path / "out")


def test_a_quantised_base(llama, adapter, tmp_path):
    base = shutil.copytree(llama, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(config))
    assert "quantised" in refused("X102", ExportError, base, adapter, tmp_path / "out")


def test_no_adapter(llama, adapter, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("X101", ExportError, llama, tmp_path / "empty", tmp_path / "out")
    refused("X101", ExportError, llama, [], tmp_path / "out")
    pickled = shutil.copytree(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    assert "pickle" in refused("X101", ExportError, llama, pickled, tmp_path / "out")


def test_broken_files(llama, adapter, tmp_path):
    torn = shutil.copytree(adapter, tmp_path / "torn")
    data = (torn / "adapter_model.safetensors").read_bytes()
    (torn / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])
    refused("X103", ExportError, llama, torn, tmp_path / "out")
    (torn / "adapter_config.json").write_text("[]")
    refused("X103", ExportError, llama, torn, tmp_path / "out")
    half = shutil.copytree(adapter, tmp_path / "half")
    tensors = load_file(half / "adapter_model.safetensors")
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, half / "adapter_model.safetensors")
    assert "lora_B" in refused("X103", ExportError, llama, half, tmp_path / "out")
    bad = edited(adapter, tmp_path / "bad", alpha_pattern={"(": 1})
    refused("X103", ExportError, llama, bad, tmp_path / "out")


def test_an_adapter_of_another_model(llama, adapter, tmp_path):
    other = make("gpt2", tmp_path / "gpt2")
    assert "q_proj" in refused("X104", ExportError, other, adapter, tmp_path / "out")
    wide = shutil.copytree(adapter, tmp_path / "wide")
    tensors = load_file(wide / "adapter_model.safetensors")
    tensors = {n: torch.zeros(t.shape[0], 40) if "_A" in n else t for n, t in tensors.items()}
    save_file(tensors, wide / "adapter_model.safetensors")
    refused("X104", ExportError, llama, wide, tmp_path / "out")


def test_values_too_large_for_the_type(llama, adapter, tmp_path):
    loud = shutil.copytree(adapter, tmp_path / "loud")
    tensors = load_file(loud / "adapter_model.safetensors")
    save_file({n: t * 1e4 for n, t in tensors.items()}, loud / "adapter_model.safetensors")
    message = refused("X105", ExportError, llama, loud, tmp_path / "out", dtype="float16")
    assert "too large" in message


def test_nothing_is_overwritten_unasked(llama, adapter, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    refused("C212", ConfigError, llama, adapter, out)
    assert (out / "mine.txt").read_text() == "precious"
    merge(llama, adapter, out, replace=True, verify=False)
    assert not (out / "mine.txt").exists()
    assert (out / "model.safetensors").is_file()
    for folder in (llama, adapter, llama.parent):
        refused("C212", ConfigError, llama, adapter, folder, replace=True)


@pytest.mark.parametrize("size", ["", "5", "GB", "0GB", "-1GB", "nanGB"])
def test_sizes_that_are_none(size, llama, adapter, tmp_path):
    refused("C211", ConfigError, llama, adapter, tmp_path / "out", max_shard_size=size)


def test_types_that_are_none(llama, adapter, tmp_path):
    refused("C211", ConfigError, llama, adapter, tmp_path / "out", dtype="int8")


def test_a_wrong_merge_is_caught_and_leaves_nothing(llama, adapter, tmp_path, monkeypatch):
    """The proof itself: with the deltas left out, merging must fail."""
    from tunesmith.exporting.adapter_impl import Delta

    monkeypatch.setattr(Delta, "merged", lambda self, weight, place: weight.float())
    with pytest.raises(GateFailed, match="G201") as caught:
        merge(llama, adapter, tmp_path / "out")
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_bounds():
    merging.check(0.9e-5, 0.5, 1.0, exact=True)
    merging.check(0.9e-4, 10.0, 1.0, exact=True)
    merging.check(1.0, 1.0, 0.9e-3, exact=False)
    for found in ((1.1e-5, 0.5, 0.0, True), (1.0, 1.0, 1.1e-3, False), (float("nan"), 1, 0, True)):
        with pytest.raises(GateFailed, match="G201"):
            merging.check(*found[:3], exact=found[3])


def test_without_memory_to_compare_it_says_so(llama, adapter, tmp_path, monkeypatch):
    from tunesmith.exporting import verify_impl

    monkeypatch.setattr(verify_impl, "fits", lambda parameters: False)
    report = merge(llama, adapter, tmp_path / "out")
    assert report.kl is None
    assert "not compared" in report.notes[-1]
