"""Tools with real templates: what the server writes, they take back."""

from __future__ import annotations

import pytest

from tests.serving.test_tool_calls import ASK, CALL, TOOL
from tests.templates.conftest import with_specials
from tunesmith.templates.jinja import JinjaTemplate
from tunesmith.templates.tokenizer import Tokenizer

pytestmark = pytest.mark.shared
NEMO = "mistralai-Mistral-Nemo-Instruct-2407"
HERMES = "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"


@pytest.fixture
def served(scripted, tiny_offer, shared_data, tmp_path):
    """A server with a real template, that answers with a text (control tokens are tokens)."""
    folder = shared_data / "tokenizers" / "llama.cpp-models" / "templates"

    def serve(name, text):
        source = (folder / f"{name}.jinja").read_text("utf-8")
        with_specials(tiny_offer.tokenizer.path, tmp_path, source)
        tokenizer = Tokenizer.load(tmp_path)
        ids = [*tokenizer.encode_text(text), tokenizer.eos_id]
        template = JinjaTemplate(name, source, tokenizer)
        return scripted(lambda request: ids, wrap=lambda chat: template)

    return serve


@pytest.mark.parametrize("streams", [False, True])
def test_mistral_takes_the_ids_of_calls_back(served, streams):
    with served(NEMO, f"[TOOL_CALLS][{CALL}, {CALL}]") as (at, generator):
        chat = at.openai.chat.completions
        reply = chat.create(model="tiny", messages=ASK, tools=[TOOL], stream=streams)
        if streams:
            calls = [c for chunk in reply for c in chunk.choices[0].delta.tool_calls or ()]
        else:
            calls = reply.choices[0].message.tool_calls
        ids = [call.id for call in calls]
        assert len(set(ids)) == 2
        assert all(len(id) == 9 and id.isalnum() and id.isascii() for id in ids)
        given = [call.model_dump(exclude={"index"}) for call in calls]
        results = [{"role": "tool", "tool_call_id": id, "content": "17"} for id in ids]
        messages = [*ASK, {"role": "assistant", "tool_calls": given}, *results]
        chat.create(model="tiny", messages=messages, tools=[TOOL])
        prompt = generator.tokenizer.decode(generator.seen[-1].ids)
    for id in ids:
        assert f'"id": "{id}"' in prompt
        assert f'"call_id": "{id}"' in prompt


def test_hermes_takes_tools_that_leave_out_what_openai_lets_them(served):
    with served(HERMES, "No.") as (at, generator):
        for function in (
            {"name": "get_weather"},
            {"name": "get_weather", "parameters": TOOL["function"]["parameters"]},
        ):
            tool = {"type": "function", "function": function}
            at.openai.chat.completions.create(model="tiny", messages=ASK, tools=[tool])
            assert "get_weather(" in generator.tokenizer.decode(generator.seen[-1].ids)
        function["parameters"] = {"type": "object", "properties": 3}
        body = {"messages": ASK, "tools": [{"type": "function", "function": function}]}
        refused = at.post("/v1/chat/completions", body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "tools"
