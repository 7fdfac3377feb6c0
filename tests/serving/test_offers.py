"""What is served: reward models by scores, adapters as models; and what can't be."""

from __future__ import annotations

import pytest

from tests.serving.conftest import running
from tunesmith.compose import serving
from tunesmith.compose.answering import Engine
from tunesmith.errors import ConfigError, ServeError
from tunesmith.types import Conversation, Message

PAIRS = "builtin:demo/pairs.jsonl"
ASK = [{"role": "user", "content": "What does the miller sell?"}]
ANSWERS = ("Flour, and stories.", "I don't know.")


def trained(folder, stage, kind, data):
    """The final/ of a short run on the embedded model."""
    import tunesmith

    words = [f"output.dir={folder}", f"data.train={data}", "train.max_steps=3"]
    dora = str(kind == "dora").lower()
    lora = f"{{kind: lora, r: 4, target_modules: all-linear, use_dora: {dora}}}"
    tuner = "full" if kind == "full" else lora
    recipe = folder / f"{stage}.yaml"
    recipe.write_text(
        f"model: builtin:tiny\nstage: {stage}\ntuner: {tuner}\ndata: {{max_length: 256}}\n"
    )
    run = tunesmith.train(tunesmith.Recipe.load(str(recipe), words))
    return run.path / "final"


@pytest.fixture(scope="module", params=["lora", "full"])
def reward(request, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("reward"), "reward", request.param, PAIRS)


def test_a_reward_model_scores_as_in_training(reward):
    """The head at the end marker of the rendered conversation, as `stages.reward` computes it."""
    import torch

    offer = serving.offers(str(reward), "judge", {}, slots=2)[0]
    assert offer.scores
    with pytest.raises(ConfigError, match="reward model"):
        serving.offers(str(reward), "judge", {}, slots=2, engine=Engine(window=64))
    talks = [[*ASK, {"role": "assistant", "content": answer}] for answer in ANSWERS]
    with running([offer]) as served:
        one = served.post("/v1/score", {"messages": talks[0]}).json()
        both = served.post("/v1/score", {"input": talks}).json()
        refused = served.post("/v1/chat/completions", {"messages": ASK})
        open_end = served.post("/v1/score", {"messages": ASK})
        embedded = served.post("/v1/embeddings", {"input": "x"})
    scores = [entry["score"] for entry in both["data"]]
    assert one["data"][0]["score"] == pytest.approx(scores[0], abs=1e-4)
    assert scores[0] != scores[1]
    assert refused.json()["error"]["tunesmith"] == "S121"
    assert open_end.json()["error"]["param"] == "messages"
    assert embedded.status_code == 200
    expected = []
    for answer in ANSWERS:
        messages = (Message.of("user", ASK[0]["content"]), Message.of("assistant", answer))
        turn = offer.template.encode_batch(offer.template.render(Conversation(messages)))[0][0]
        ids = torch.tensor([[*turn.prompt_ids, *turn.completion_ids]])
        with torch.no_grad():
            hidden = offer.reader.backbone(ids).last_hidden_state[0, -1]
        expected.append(float(offer.reader.head(hidden.to(offer.reader.head.weight.dtype))))
    assert scores == pytest.approx(expected, abs=1e-3)


def test_a_reward_model_takes_no_adapters(reward):
    with pytest.raises(ServeError, match="S104"):
        serving.offers(str(reward), "judge", {"x": str(reward)}, slots=2)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("sft"), "sft", "lora", "builtin:demo/train.jsonl")


def test_adapters_are_models_in_one_engine(adapter, tiny):
    """What an adapter says beside its base is what it says alone, merged."""
    offers = serving.offers("builtin:tiny", "tiny", {"miller": str(adapter)}, slots=4)
    assert offers[0].generator is offers[1].generator
    alone = serving.offers(str(adapter), "alone", {}, slots=2)
    body = {"messages": ASK, "max_tokens": 12, "logprobs": True}
    echo = {"prompt": "The miller sells", "max_tokens": 1, "echo": True, "logprobs": 1}
    told, echoed, vectors = {}, {}, {}
    with running([*offers, *alone]) as served:
        names = [model["id"] for model in served.http.get("/v1/models").json()["data"]]
        for name in names:
            choice = served.post("/v1/chat/completions", {**body, "model": name}).json()["choices"]
            told[name] = [entry["logprob"] for entry in choice[0]["logprobs"]["content"]]
            choice = served.post("/v1/completions", {**echo, "model": name}).json()["choices"]
            echoed[name] = choice[0]["logprobs"]["token_logprobs"][1:-1]
            found = served.post("/v1/embeddings", {"model": name, "input": "iron"}).json()
            vectors[name] = found["data"][0]["embedding"]
    base = tiny.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
    assert names == ["tiny", "miller", "alone"]
    for found, near in ((told, 0.1), (echoed, 0.1), (vectors, 0.02)):
        assert found["miller"] == pytest.approx(found["alone"], abs=near)
        assert found["miller"] != found["tiny"]
    assert told["tiny"] == pytest.approx([entry["logprob"] for entry in base], abs=0.1)


def test_an_adapter_that_is_no_plain_lora_is_merged_and_said(tmp_path):
    made = trained(tmp_path, "sft", "dora", "builtin:demo/train.jsonl")
    offers = serving.offers("builtin:tiny", "tiny", {"miller": str(made)}, slots=2)
    assert offers[1].generator is not offers[0].generator
    assert "merged" in offers[1].notes[-1]


def test_an_adapter_of_another_model_is_refused(adapter, tiny_model):
    with pytest.raises(ServeError, match="S104") as caught:
        serving.offers(str(tiny_model), "x", {"miller": str(adapter)}, slots=2)
    assert "miller" in caught.value.where


def test_a_full_model_is_no_adapter():
    with pytest.raises(ServeError, match="S104"):
        serving.offers("builtin:tiny", "x", {"y": "builtin:tiny"}, slots=2)
