"""Prompt- and prefix-tuned adapters beside LoRA over HTTP, and several over weights of few bits."""

from __future__ import annotations

import concurrent.futures

import pytest

import tunesmith
from tests.serving.conftest import running
from tunesmith.compose import serving

ASK = [{"role": "user", "content": "What does the miller sell?"}]
TUNERS = {
    "words": "{kind: prompt, tokens: 5}",
    "prefix": "{kind: prefix, tokens: 7}",
    "lora": "{kind: lora, r: 4, lora_alpha: 8, target_modules: all-linear}",
    "other": "{kind: lora, r: 2, lora_alpha: 4, target_modules: all-linear}",
}


def trained(folder, tuner):
    rate = 0.005 if "lora" in tuner else 0.05
    recipe = folder / "sft.yaml"
    recipe.write_text(
        f"model: builtin:tiny\nstage: sft\ntuner: {tuner}\ndata: {{max_length: 256}}\n"
    )
    words = [
        f"output.dir={folder / 'runs'}", "data.train=builtin:demo/train.jsonl",
        "train.max_steps=6", f"optim.learning_rate={rate}",
    ]  # fmt: skip
    return tunesmith.train(tunesmith.Recipe.load(str(recipe), words)).path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {name: trained(tmp_path_factory.mktemp(name), tuner) for name, tuner in TUNERS.items()}


def ask(served, model, **fields):
    body = {"model": model, "messages": ASK, "max_tokens": 12, "logprobs": True, **fields}
    reply = served.openai.chat.completions.create(**body)
    (choice,) = reply.choices
    told = [entry.logprob for entry in choice.logprobs.content]
    return choice.message.content, told, reply.usage.prompt_tokens


def test_all_kinds_in_one_engine_say_what_each_says_alone(runs):
    """By their names, at once, in one batch; each as a server of its own has it."""
    given = {name: str(path) for name, path in runs.items()}
    offers = serving.offers("builtin:tiny", "tiny", given, slots=16, dtype="float32")
    assert len({id(offer.generator) for offer in offers}) == 1
    names = [offer.name for offer in offers]
    wanted = {}
    for name in names:
        spec = "builtin:tiny" if name == "tiny" else given[name]
        with running(serving.offers(spec, name, {}, slots=2, dtype="float32")) as alone:
            wanted[name] = ask(alone, name)
    assert len({tuple(told) for _, told, _ in wanted.values()}) == len(names)  # they do differ
    with running(offers) as served, concurrent.futures.ThreadPoolExecutor(15) as pool:
        listed = [model.id for model in served.openai.models.list()]
        jobs = [(name, pool.submit(ask, served, name)) for name in names * 3]
        found = [(name, job.result()) for name, job in jobs]
    assert listed == names == ["tiny", *TUNERS]
    for name, (said, told, prompt) in found:
        assert said == wanted[name][0]
        # alone, a LoRA is merged and rounded as its base is stored
        near = 0.1 if name in ("lora", "other") else 1e-4
        assert told == pytest.approx(wanted[name][1], abs=near)
        assert prompt == wanted[name][2]


def test_virtual_tokens_take_their_part_of_the_context(runs):
    given = {"words": str(runs["words"]), "prefix": str(runs["prefix"])}
    offers = serving.offers("builtin:tiny", "tiny", given, slots=2)
    with running(offers) as served:
        context = {
            m["id"]: m["max_model_len"] for m in served.http.get("/v1/models").json()["data"]
        }
        body = {"model": "prefix", "prompt": [5] * (context["tiny"] - 7), "max_tokens": 1}
        refused = served.post("/v1/completions", body)
        body["prompt"] = body["prompt"][1:]
        taken = served.post("/v1/completions", body)
        for path, more in (("/v1/embeddings", {"input": "x"}),):
            told = served.post(path, {"model": "words", **more}).json()["error"]
    assert context["tiny"] - context["words"] == 5
    assert context["tiny"] - context["prefix"] == 7
    assert refused.json()["error"]["tunesmith"] == "S123"
    assert taken.status_code == 200
    assert told["param"] == "model"


@pytest.mark.parametrize("name", ["words", "prefix", "lora"])
def test_beams_behind_an_adapter(runs, name):
    offers = serving.offers(
        "builtin:tiny", "tiny", {name: str(runs[name])}, slots=2, dtype="float32"
    )
    alone = serving.offers(str(runs[name]), name, {}, slots=2, dtype="float32")
    body = {
        "model": name, "messages": ASK, "max_tokens": 12, "n": 3, "use_beam_search": True,
    }  # fmt: skip
    found = []
    for those in (offers, alone):
        with running(those) as served:
            choices = served.post("/v1/chat/completions", body).json()["choices"]
            found.append([choice["message"]["content"] for choice in choices])
            if not found[1:]:
                base = served.post("/v1/chat/completions", {**body, "model": "tiny"}).json()
    assert found[0] == found[1]
    assert found[0] != [choice["message"]["content"] for choice in base["choices"]]


# ---------------------------------------------------------------- few bits


@pytest.mark.parametrize("kind", ["bnb4", pytest.param("bnb8", marks=pytest.mark.slow)])
def test_several_adapters_stand_beside_quantised_weights(runs, kind):
    """Each says what it says alone over the same few bits, and they share these."""
    pytest.importorskip("bitsandbytes")
    given = {name: str(path) for name, path in runs.items()}
    how = {"slots": 8, "dtype": "float32", "quantize": kind}
    offers = serving.offers("builtin:tiny", "tiny", given, **how)
    assert len({id(offer.generator) for offer in offers}) == 1
    found, wanted = {}, {}
    with running(offers) as served:
        for name in ("tiny", *given):
            found[name] = ask(served, name)
    for name, spec in (("tiny", "builtin:tiny"), *given.items()):
        with running(serving.offers(spec, name, {}, **how)) as alone:
            wanted[name] = ask(alone, name)
    for name in found:
        assert found[name][1] == pytest.approx(wanted[name][1], abs=0.02), name
    assert len({tuple(told) for _, told, _ in found.values()}) == len(found)
