"""Tools in formats of strings: the syntax each model documents; elsewhere a refusal, with why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from tests.templates.every import EVERY
from tests.templates.test_strings import text_of
from tunesmith.errors import DataError
from tunesmith.templates import base
from tunesmith.templates.jinja import JinjaTemplate
from tunesmith.templates.plain import as_dict
from tunesmith.types import Conversation, Message, Text, Thinking, ToolCall

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "天气 <|im_end|>",
        "parameters": {"city": "str"},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
ASK = Message.of("user", "q")
CALL = Message("assistant", (ToolCall("weather", '{"city":"巴黎","n":[1,2]}'),))
SAID = Message("assistant", (Text("Let me see."), ToolCall("clock", "{}")))
BOTH = Message("assistant", (ToolCall("weather", '{"city": "Rome"}'), ToolCall("clock", "{}")))
RESULT, OTHER = Message.of("tool", '{"t": 3}'), Message.of("tool", "noon")
ANSWER = Message.of("assistant", "a")

TOLD = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "clock"}}\n</tools>\n\n'
    "For each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
    "<args-json-object>}\n</tool_call><|im_end|>\n"
)
JSON_CALL = (
    "You have access to the following functions. To call a function, please respond with JSON for "
    'a function call. Respond in the format {"name": function name, "parameters": dictionary of '
    "argument name and its value}. Do not use variables.\n\n"
    '{\n    "type": "function",\n    "function": {\n        "name": "clock"\n    }\n}\n\n'
)
HEAD = "<|start_header_id|>"
END = "<|end_header_id|>\n\n"
GOLDENS = {
    "chatml": (
        (Message.of("system", "SYS"), ASK, BOTH, RESULT, OTHER, ANSWER),
        f"<s><|im_start|>system\nSYS{TOLD}<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call><|im_end|>\n'
        '<|im_start|>user\n<tool_response>\n{"t": 3}\n</tool_response>\n'
        "<tool_response>\nnoon\n</tool_response><|im_end|>\n<|im_start|>assistant\na<|im_end|>",
    ),
    "chatml@hermes": (
        (Message.of("system", "SYS"), ASK, SAID, RESULT, ANSWER),
        f"<s><|im_start|>system\nSYS{TOLD}<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
        'Let me see.\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call><|im_end|>\n'
        '<|im_start|>tool\n<tool_response>\n{"t": 3}\n</tool_response>\n<|im_end|>\n'
        "<|im_start|>assistant\na<|im_end|>",
    ),
    "llama3": (
        (Message.of("system", "SYS"), ASK, CALL, RESULT, ANSWER),
        f"<s>{HEAD}system{END}{JSON_CALL}SYS<|eot_id|>{HEAD}user{END}q<|eot_id|>"
        f'{HEAD}assistant{END}{{"name": "weather", "parameters": {{"city": "巴黎", "n": [1, 2]}}}}'
        f'<|eot_id|>{HEAD}ipython{END}{{"t": 3}}<|eot_id|>{HEAD}assistant{END}a<|eot_id|>',
    ),
    "llama3@ipython": (
        (Message.of("system", "SYS"), ASK, CALL, RESULT, ANSWER),
        f"<s>{HEAD}system{END}Environment: ipython\n\n{JSON_CALL}SYS<|eot_id|>{HEAD}user{END}q"
        f'<|eot_id|>{HEAD}assistant{END}<|python_tag|>{{"name": "weather", "parameters": '
        f'{{"city": "巴黎", "n": [1, 2]}}}}<|eom_id|>{HEAD}ipython{END}{{"t": 3}}<|eot_id|>'
        f"{HEAD}assistant{END}a<|eot_id|>",
    ),
}  # fmt: skip
WITH_TOOLS = (*GOLDENS, "chatml@original", "yi", "yi@original")


def as_text(template, messages, tools=(), source=None, generate=False) -> str:
    [text], _ = render_jinja_template(
        [[as_dict(m) for m in messages]], tools=list(tools) or None,
        chat_template=source or template.jinja, add_generation_prompt=generate,
        **template.tokenizer.named,
    )  # fmt: skip
    return text


@pytest.mark.parametrize("name", GOLDENS)
def test_text_byte_for_byte(equipped, name):
    template = base.load(name, equipped["prepend"])
    messages, text = GOLDENS[name]
    assert text_of(template, messages, tools=(CLOCK,)) == text
    assert as_text(template, messages, (CLOCK,)) == text


def test_a_template_that_drops_tools_or_calls_is_refused(equipped):
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    template = JinjaTemplate("plain", plain, base.load("chatml", equipped["prepend"]).tokenizer)
    said = Message("assistant", (Text("Let me see."), ToolCall("weather", "{}")))
    for talk in (Conversation((ASK, said)), Conversation((ASK, ANSWER), (CLOCK,))):
        with pytest.raises(DataError, match="drops the tool or call") as caught:
            template.render(talk)
        assert caught.value.code == "D302"


def test_results_name_their_call(equipped):
    """Mistral's templates refuse a result without the id of its call."""
    plain = (
        "{% for m in messages %}{% if m.role == 'tool' %}[{{ m.name }} {{ m.tool_call_id }}]"
        "{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "{% endfor %}<|im_end|>\n{% endfor %}"
    )
    template = JinjaTemplate("plain", plain, base.load("chatml", equipped["prepend"]).tokenizer)
    asked = Message("assistant", (ToolCall("weather", "{}", "abcdefghi"),))
    result = Message("tool", (Text("rain"),), name="weather", tool_call_id="abcdefghi")
    text = text_of(template, (ASK, asked, result, ANSWER))
    assert "[weather abcdefghi]rain" in text


@pytest.mark.shared
@pytest.mark.parametrize("number", range(5))
def test_chatml_is_what_qwen_renders(shared_data, equipped, number):
    """Qwen 2.5's own template; it puts a line break after the last end marker."""
    folder = shared_data / "tokenizers" / "llama.cpp-models" / "templates"
    source = (folder / "Qwen-Qwen2.5-7B-Instruct.jinja").read_text(encoding="utf-8")
    messages = [
        (ASK, CALL, RESULT, ANSWER), (ASK, SAID, RESULT, ANSWER, ASK, ANSWER),
        (ASK, BOTH, RESULT, OTHER, ANSWER), (ASK, BOTH, RESULT, ASK, SAID), (ASK, ANSWER),
    ][number]  # fmt: skip
    template = base.load("chatml", equipped["bytes"])
    for tools in ((), (WEATHER, CLOCK)):
        for system in ("", "Be brief."):
            whole = (Message.of("system", system), *messages)
            theirs = as_text(template, whole, tools, source).removesuffix("\n")
            theirs = theirs.replace("<|im_start|>system\n<|im_end|>\n", "")
            assert text_of(template, whole, tools=tools) == theirs


@pytest.mark.shared
def test_llama3_calls_are_what_llama_renders(shared_data, equipped):
    """Llama 3.1's own template writes dates into the system prompt; the turns are the same."""
    folder = shared_data / "tokenizers" / "llama.cpp-models" / "templates"
    source = (folder / "meta-llama-Llama-3.1-8B-Instruct.jinja").read_text(encoding="utf-8")
    template = base.load("llama3", equipped["bytes"])
    ours, theirs = (
        text.partition(f"{HEAD}user{END}")[2]
        for text in (text_of(template, (ASK, CALL)), as_text(template, (ASK, CALL), (), source))
    )
    assert ours == theirs


@pytest.mark.parametrize("name", EVERY)
def test_elsewhere_tools_are_refused_with_the_reason(equipped, name):
    template = base.load(name, equipped["bytes"])
    if name in WITH_TOOLS:
        assert text_of(template, (ASK, CALL, RESULT, ANSWER), tools=(CLOCK,))
        return
    for messages, tools, what in (
        ((ASK, ANSWER), (CLOCK,), "tools"),
        ((ASK, CALL), (), "tool calls"),
        ((ASK, ANSWER, RESULT, ANSWER), (), "messages of tools"),
    ):
        with pytest.raises(DataError) as caught:
            text_of(template, messages, tools=tools)
        assert caught.value.code == "D302"
        assert caught.value.what == f"the template `{name}` has no place for {what}"
        with pytest.raises(TemplateError, match="no place for"):
            as_text(template, messages, tools)


def test_llama_calls_one_tool_at_a_time(equipped):
    template = base.load("llama3", equipped["bytes"])
    with pytest.raises(DataError, match="more than one tool call"):
        text_of(template, (ASK, BOTH))
    with pytest.raises(TemplateError, match="more than one tool call"):
        as_text(template, (ASK, BOTH))


def test_an_answer_that_calls_may_end_otherwise(equipped, trained):
    template = base.load("llama3@ipython", equipped["bytes"])
    added = template.tokenizer.added
    [[first, second]] = template.encode_batch(
        template.render(Conversation((ASK, CALL, RESULT, ANSWER)))
    )
    assert first.completion_ids[-1] == added["<|eom_id|>"]
    assert second.completion_ids[-1] == added["<|eot_id|>"]
    assert {added["<|eom_id|>"], added["<|eot_id|>"]} <= set(template.stop_ids)
    # A tokenizer without that token: the usual end.
    [[turn]] = base.load("llama3@ipython", trained["bytes"]).render(Conversation((ASK, CALL)))
    assert turn.completion[-1].text == "<|eot_id|>"


def test_reasoning_comes_before_words_and_calls(equipped):
    template = base.load("chatml", equipped["bytes"])
    said = Message("assistant", (Thinking("hm"), Text("Look."), ToolCall("clock", "{}")))
    text = text_of(template, (ASK, said))
    assert text.endswith(
        "assistant\n<think>\nhm\n</think>\n\nLook.\n<tool_call>\n"
        '{"name": "clock", "arguments": {}}\n</tool_call><|im_end|>'
    )
    assert as_text(template, (ASK, said)) == text.removeprefix(template.bos)


@pytest.mark.parametrize("value", ["m", "end", "|>", "<|im_end|>", "tool_call"])
def test_an_argument_like_a_part_of_the_end_marker_is_no_end(equipped, value):
    """The model's own template is searched for where a call ends: not inside the end marker."""
    template = base.load("chatml", equipped["bytes"])
    again = JinjaTemplate("exported", template.jinja, template.tokenizer)
    call = Message("assistant", (ToolCall("weather", f'{{"unit": "{value}"}}'),))
    for made in (template, again):
        [[turn]] = made.encode_batch(made.render(Conversation((ASK, call))))
        assert turn.completion_ids[-1] == made.tokenizer.added["<|im_end|>"]
        assert turn.end_tokens == 1


plain = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xDFFF), max_size=6)
spelled = plain | st.sampled_from(["<|im_end|>", "a</s>", "</tool_call>", '"}', "{tools}", "{{x}}"])
arguments = st.dictionaries(plain, spelled | st.integers() | st.lists(spelled, max_size=2))
names = st.text("abc_", min_size=1, max_size=5)


@st.composite
def conversations(draw):
    import json

    messages = [Message.of("system", draw(spelled))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages.append(Message.of("user", draw(spelled)))
        if draw(st.booleans()):
            words = (Text(draw(spelled)),) if draw(st.booleans()) else ()
            text = json.dumps(draw(arguments), ensure_ascii=draw(st.booleans()))
            messages.append(Message("assistant", (*words, ToolCall(draw(names), text))))
            messages += [Message.of("tool", draw(spelled))] * draw(st.integers(1, 2))
        messages.append(Message.of("assistant", draw(spelled)))
    tools = draw(st.lists(st.sampled_from([WEATHER, CLOCK]), max_size=2))
    return Conversation(tuple(messages), tuple(tools))


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(WITH_TOOLS), talk=conversations())
def test_plain_transformers_renders_the_same_text(equipped, name, talk):
    template = base.load(name, equipped["bytes"])
    text = as_text(template, talk.messages, talk.tools)
    assert text == text_of(template, talk.messages, tools=talk.tools)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(WITH_TOOLS), talk=conversations())
def test_prompts_begin_what_was_trained_and_content_is_no_markup(equipped, name, talk):
    template = base.load(name, equipped["bytes"])
    [turns] = template.encode_batch(template.render(talk))
    answers = [i for i, m in enumerate(talk.messages) if m.role == "assistant"]
    before: list[int] = []
    for turn, index in zip(turns, answers, strict=True):
        prompt = template.prompt_ids(Conversation(talk.messages[:index], talk.tools))
        assert prompt == before + turn.prompt_ids
        before = prompt + turn.completion_ids
    controls = {template.tokenizer.added[token] for token in template.encoder.controls}
    markup = [
        p.text for t in template.render(talk)[0] for p in (*t.prompt, *t.completion) if p.markup
    ]
    spelled = sum(len(template.encoder._control.findall(text)) for text in markup)
    assert sum(id in controls for id in before) == spelled


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(WITH_TOOLS), talk=conversations())
def test_exported_jinja_gives_the_same_ids_for_prompts(equipped, name, talk):
    template = base.load(name, equipped["bytes"])
    again = JinjaTemplate("exported", template.jinja, template.tokenizer)
    assert again.prompt_ids(talk) == template.prompt_ids(talk)
    assert set(again.stop_ids) == set(template.stop_ids)
