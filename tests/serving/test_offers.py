"""What is served: reward models by scores, adapters as models; and what can't be."""

from __future__ import annotations

import pytest

from tests.serving.conftest import running
from tunesmith.compose import serving
from tunesmith.errors import ServeError
from tunesmith.types import Conversation, Message

PAIRS = "builtin:demo/pairs.jsonl"
ASK = [{"role": "user", "content": "What does the miller sell?"}]
ANSWERS = ("Flour, and stories.", "I don't know.")


def trained(folder, stage, kind, data):
    """The final/ of a short run on the embedded model."""
    import tunesmith

    words = [f"output.dir={folder}", f"data.train={data}", "train.max_steps=3"]
    tuner = "full" if kind == "full" else "{kind: lora, r: 4, target_modules: all-linear}"
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
        expected.append(float(offer.reader.weight_1D[0] @ hidden.to(offer.reader.weight_1D.dtype)))
    assert scores == pytest.approx(expected, abs=1e-3)


def test_a_reward_model_takes_no_adapters(reward):
    with pytest.raises(ServeError, match="S104"):
        serving.offers(str(reward), "judge", {"x": str(reward)}, slots=2)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("sft"), "sft", "lora", "builtin:demo/train.jsonl")


def test_an_adapter_is_a_model_of_its_own(adapter, tiny):
    offers = serving.offers("builtin:tiny", "tiny", {"miller": str(adapter)}, slots=2)
    alone = serving.offers(str(adapter), "alone", {}, slots=2)
    body = {"messages": ASK, "max_tokens": 12, "logprobs": True}
    told = {}
    with running([*offers, *alone]) as served:
        names = [model["id"] for model in served.http.get("/v1/models").json()["data"]]
        for name in names:
            choice = served.post("/v1/chat/completions", {**body, "model": name}).json()["choices"]
            told[name] = [entry["logprob"] for entry in choice[0]["logprobs"]["content"]]
    base = tiny.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
    assert names == ["tiny", "miller", "alone"]
    assert told["miller"] == pytest.approx(told["alone"], abs=1e-4)
    assert told["miller"] != pytest.approx(told["tiny"], abs=1e-4)
    assert told["tiny"] == pytest.approx([entry["logprob"] for entry in base], abs=1e-4)


def test_an_adapter_of_another_model_is_refused(adapter, tiny_model):
    with pytest.raises(ServeError, match="S104") as caught:
        serving.offers(str(tiny_model), "x", {"miller": str(adapter)}, slots=2)
    assert "miller" in caught.value.where


def test_a_full_model_is_no_adapter():
    with pytest.raises(ServeError, match="S104"):
        serving.offers("builtin:tiny", "x", {"y": "builtin:tiny"}, slots=2)
