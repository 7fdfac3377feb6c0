"""All 45 real templates at hand, on plain, system, multi-turn and tool conversations.

What inference sends has the ids that `apply_chat_template` gives, and what is trained its text, or
it is refused for the reason that stands here. docs/templates.md has the same as a table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates.conftest import transformers_of, with_specials
from tunesmith.errors import DataError
from tunesmith.templates.jinja import JinjaTemplate
from tunesmith.templates.pieces import join
from tunesmith.templates.plain import as_dict
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Conversation, Message, Text, ToolCall

pytestmark = pytest.mark.shared
MISTRAL = [
    "v1", "v1_spm", "v2", "v2_spm", "v3", "v3_image", "v3_image_spm", "v3_spm", "v7", "v7_audio",
    "v7_image", "v7_image_spm", "v7_spm", "v11", "v11_audio", "v11_image", "v11_image_think",
    "v11_think", "v13", "v13_audio", "v13_image", "v13_image_think", "v13_think", "v15",
    "v15_audio", "v15_image", "v15_image_think", "v15_think",
]  # fmt: skip
# One of each way to write a chat; the rest differ from them in what is read here by little.
ALWAYS = ("v1", "v2_spm", "v3", "v7_image", "v11_think", "v13", "v15_audio")
OTHERS = [
    "CohereForAI-c4ai-command-r-plus-tool_use", "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "Qwen-Qwen2.5-7B-Instruct", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "google-gemma-2-2b-it", "llama-cpp-deepseek-r1",
    "meetkai-functionary-medium-v3.1", "meetkai-functionary-medium-v3.2",
    "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct", "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
]  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "First."},
                "b": {"type": "integer", "description": "Second."},
            },
            "required": ["a", "b"],
        },
    },
}
ASK, ANSWER = Message.of("user", "What is 2+2?"), Message.of("assistant", "Four.")
CALL = Message("assistant", (ToolCall("add", '{"a": 2, "b": 2}', "abc123def"),))
RESULT = Message("tool", (Text("4"),), name="add", tool_call_id="abc123def")
MORE = (Message.of("user", "Sure?"), Message.of("assistant", "Yes."))
CHATS = {
    "plain": Conversation((ASK, ANSWER)),
    "system": Conversation((Message.of("system", "Be brief."), ASK, ANSWER)),
    "turns": Conversation((ASK, ANSWER, *MORE)),
    "tools": Conversation((ASK, CALL, RESULT, ANSWER), (TOOL,)),
}
R1 = ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B")
NO_TOOLS = (*R1, "microsoft-Phi-3.5-mini-instruct", "google-gemma-2-2b-it")
NO_CALLS = "Assistant message content must be non-empty"
REFUSED = {
    ("google-gemma-2-2b-it", "system"): "System role not supported",
    ("llama-cpp-deepseek-r1", "tools"): "not JSON serializable",
    ("v1", "tools"): NO_CALLS,
    ("v1_spm", "tools"): NO_CALLS,
    **{(name, "tools"): "drops the tool or call `add`" for name in NO_TOOLS},
}
"""What is refused, and why: by the template itself, but for the last, where transformers
renders a chat that never mentions the tool."""
FOLLOWS_INFERENCE = {
    **{(name, chat): "<think>" for name in (*R1, "llama-cpp-deepseek-r1") for chat in CHATS},
    **{("CohereForAI-c4ai-command-r-plus-tool_use", chat): "Write 'Action:'" for chat in CHATS},
    ("mistralai-Mistral-Nemo-Instruct-2407", "system"): "[INST]Be brief.",
    **{(name, "tools"): "4\n</tool_response><|im_end|>" for name in OTHERS if "Hermes" in name},
}
"""Where the whole chat of transformers does not begin with the prompt that transformers itself
makes for its last answer: training follows the prompt, and has this text, which the chat has not.
"""


@pytest.fixture(scope="module")
def folder(shared_data):
    return [
        shared_data / "tokenizers" / "llama.cpp-models" / "templates",
        shared_data / "templates" / "mistral-common",
    ]


@pytest.fixture(scope="module")
def pair(folder, llama3, tmp_path_factory):
    """A real tokenizer that knows every control token of these templates; transformers' own."""
    text = "\n".join(file.read_text("utf-8") for top in folder for file in top.glob("*.jinja"))
    target = tmp_path_factory.mktemp("every")
    with_specials(llama3, target, text)
    return Tokenizer.load(target), transformers_of(target)


RARE = [pytest.param(name, marks=pytest.mark.slow) for name in MISTRAL if name not in ALWAYS]


@pytest.fixture(scope="module", params=[*OTHERS, *ALWAYS, *RARE])
def real(request, folder, pair):
    top: Path = folder[request.param in MISTRAL]
    source = (top / f"{request.param}.jinja").read_text("utf-8")
    return JinjaTemplate(request.param, source, pair[0]), pair[1]


@pytest.mark.parametrize("chat", CHATS)
def test_a_real_template_is_what_transformers_makes_of_it(real, chat):
    template, theirs = real
    talk, key = CHATS[chat], (template.name, chat)
    if key in REFUSED:
        with pytest.raises(DataError, match="D302") as caught:
            template.encode_batch(template.render(talk))
        assert REFUSED[key] in caught.value.what
        return
    plain = [as_dict(m, text_arguments=template.text_arguments) for m in talk.messages]
    options = {"chat_template": template.source, "tools": list(talk.tools) or template._no_tools}
    if "date_string" in template.source:
        options["date_string"] = "26 Jul 2024"
    answers = [i for i, m in enumerate(plain) if m["role"] == "assistant"]
    sent = [
        theirs.apply_chat_template(
            plain[:i], add_generation_prompt=True, return_dict=False, **options
        )
        for i in answers
    ]
    ours = [template.prompt_ids(Conversation(talk.messages[:i], talk.tools)) for i in answers]
    assert ours == sent
    trained = "".join(
        join(turn.prompt) + join(turn.completion) for turn in template.render(talk)[-1]
    )
    whole = theirs.apply_chat_template(plain, tokenize=False, **options)
    if key in FOLLOWS_INFERENCE:
        assert FOLLOWS_INFERENCE[key] in trained
        assert not whole.startswith(theirs.decode(sent[-1]))
    else:
        assert whole.startswith(trained)
        assert "<" in whole[len(trained) :] or not whole[len(trained) :].strip()


def test_a_template_for_a_server_of_its_own_is_refused_with_that_reason(folder, pair):
    name = "fireworks-ai-llama-3-firefunction-v2"
    source = (folder[0] / f"{name}.jinja").read_text("utf-8")
    with pytest.raises(DataError, match="'functions' is undefined") as caught:
        JinjaTemplate(name, source, pair[0])
    assert "passes more than a chat" in caught.value.fix
