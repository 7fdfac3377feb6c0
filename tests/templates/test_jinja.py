"""The model's own template: text and ids as transformers gives them, cut where inference cuts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates.conftest import transformers_of, with_specials
from tunesmith.errors import DataError
from tunesmith.templates import base
from tunesmith.templates.jinja import JinjaTemplate
from tunesmith.templates.pieces import join
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Conversation, Message, Text, Thinking, ToolCall

REAL = [
    "CohereForAI-c4ai-command-r-plus-tool_use", "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "Qwen-Qwen2.5-7B-Instruct", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "google-gemma-2-2b-it", "llama-cpp-deepseek-r1", "meetkai-functionary-medium-v3.1",
    "meetkai-functionary-medium-v3.2", "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct",
    "microsoft-Phi-3.5-mini-instruct", "mistralai-Mistral-Nemo-Instruct-2407",
]  # fmt: skip
ASK, ANSWER = Message.of("user", "What is 2+2?"), Message.of("assistant", "Four, 四.")
MORE, AGAIN = Message.of("user", "Sure?\n\nReally"), Message.of("assistant", "Yes. <ok> ")
SYSTEM = Message.of("system", "Be brief.")
CHATS = {
    "one": (ASK, ANSWER),
    "two": (ASK, ANSWER, MORE, AGAIN),
    "system": (SYSTEM, ASK, ANSWER),
    "system, two": (SYSTEM, ASK, ANSWER, MORE, AGAIN),
}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen 3: reasoning shown in the last turn only, and an empty thought where there is none.
REASONING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# DeepSeek R1: the generation prompt opens a thought, the history has none.
OPENED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.mark.parametrize("answer", ["<p>Hi</p>", "< b", "<", "plain"])
def test_a_thought_that_the_prompt_opens_is_closed_before_any_answer(trained, answer):
    """What both have in common ends before the answer, also if it begins as `<think>` does."""
    template = make(OPENED, trained["bytes"])
    talk = [Message.of("user", "q"), Message.of("assistant", answer)]
    [[(prompt, completion, _)]] = texts(template, talk)
    assert prompt.endswith("<think>\n")
    assert completion == f"\n</think>\n\n{answer}<|im_end|>"


def as_dicts(messages) -> list[dict]:
    return [{"role": m.role, "content": m.text} for m in messages]


def make(source: str, folder: Path) -> JinjaTemplate:
    return JinjaTemplate("test", source, Tokenizer.load(folder))


def ids_of(turns) -> list[int]:
    return [id for turn in turns for id in turn.prompt_ids + turn.completion_ids]


def texts(template, messages, **options) -> list[list[tuple[str, str, float]]]:
    rendered = template.render(Conversation(tuple(messages)), **options)
    return [[(join(t.prompt), join(t.completion), t.weight) for t in turns] for turns in rendered]


@pytest.fixture(scope="session")
def sources(shared_data) -> dict[str, str]:
    """Source of each real template."""
    folder = shared_data / "tokenizers" / "llama.cpp-models" / "templates"
    return {name: (folder / f"{name}.jinja").read_text(encoding="utf-8") for name in REAL}


# With Llama 3's, tests/templates/test_real.py compares the same templates in the fast suite.
@pytest.fixture(scope="session", params=[pytest.param("llama3", marks=pytest.mark.slow), "llama2"])
def pair(request, sources, tmp_path_factory):
    """A real tokenizer that knows the control tokens of all of them, and transformers' own."""
    folder = tmp_path_factory.mktemp("real")
    with_specials(request.getfixturevalue(request.param), folder, "\n".join(sources.values()))
    return Tokenizer.load(folder), transformers_of(folder)


@pytest.fixture(scope="module", params=REAL)
def real(request, sources, pair):
    """A real template, on ours and in transformers."""
    source = sources[request.param]
    return JinjaTemplate(request.param, source, pair[0]), source, pair[1]


@pytest.mark.parametrize("chat", CHATS)
def test_ids_of_real_templates_equal_transformers(real, chat):
    template, source, theirs = real
    messages = CHATS[chat]
    # Templates for tools only want a list; a date in the text is another matter (see notes).
    options = {"chat_template": source, "tools": template._no_tools, "return_dict": False}
    if "date_string" in source:
        options["date_string"] = "26 Jul 2024"
    prompts = [messages[:i] for i, m in enumerate(messages) if m.role == "assistant"]
    try:
        expected = [
            theirs.apply_chat_template(as_dicts(p), add_generation_prompt=True, **options)
            for p in prompts
        ]
    except Exception:  # jinja2.TemplateError, or what the template's operations raise
        with pytest.raises(DataError) as caught:
            template.render(Conversation(messages))
        assert caught.value.code == "D302"
        return
    assert [template.prompt_ids(Conversation(p)) for p in prompts] == expected
    ours = ids_of(template.encode_batch(template.render(Conversation(messages)))[-1])
    whole = theirs.apply_chat_template(as_dicts(messages), **options)
    text, prompt = theirs.decode(whole), theirs.decode(expected[-1])
    if not text.startswith(prompt):
        return  # inference opens a thought, or moves the system prompt: training follows inference
    assert text.startswith(theirs.decode(ours))
    if whole[: len(expected[-1])] == expected[-1]:
        assert ours == whole[: len(ours)]
        # A line break, EOS or a header may follow the end marker.
        assert len(whole) - len(ours) <= 4
    else:  # tokenised whole, the prompt's last line breaks merge with the answer
        assert ours[: len(expected[-1])] == expected[-1]


def test_a_template_that_transformers_cannot_render_is_refused(shared_data, trained):
    """It needs variables that only its own server passes."""
    folder = shared_data / "tokenizers" / "llama.cpp-models" / "templates"
    source = (folder / "fireworks-ai-llama-3-firefunction-v2.jinja").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="'functions' is undefined"):
        make(source, trained["bytes"])


@pytest.mark.parametrize("chat", CHATS)
def test_prompts_begin_what_was_trained_with_real_templates(real, chat):
    template = real[0]
    messages = CHATS[chat]
    try:
        sequences = template.encode_batch(template.render(Conversation(messages)))
    except DataError:
        return  # compared with transformers above
    trained = [
        (ids_of(turns[:n]) + turn.prompt_ids, turn)
        for turns in sequences
        for n, turn in enumerate(turns)
        if turn.weight
    ]
    answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
    assert len(trained) == len(answers)
    for (before, turn), index in zip(trained, answers, strict=True):
        assert template.prompt_ids(Conversation(messages[:index])) == before
        assert set(template.stop_ids) & set(turn.completion_ids[-turn.end_tokens :])


def test_all_turns_are_one_sequence(trained):
    template = make(CHATML, trained["bytes"])
    assert not template.rewrites_history
    assert texts(template, CHATS["two"]) == [
        [
            ("<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
             "Four, 四.<|im_end|>", 1.0),
            ("\n<|im_start|>user\nSure?\n\nReally<|im_end|>\n<|im_start|>assistant\n",
             "Yes. <ok> <|im_end|>", 1.0),
        ]
    ]  # fmt: skip
    assert template.stop_ids == tuple(
        template.tokenizer.added[token] for token in ("<|im_end|>", "</s>")
    )
    assert template.notes == ()


def test_rewritten_history_gives_a_sequence_a_turn(trained):
    template = make(REASONING, trained["bytes"])
    assert template.rewrites_history
    thinking = Message("assistant", (Thinking("hm"), Text("a1")))
    [[first], [second]] = texts(template, (ASK, thinking, MORE, AGAIN))
    assert first[1] == "<think>\nhm\n</think>\n\na1<|im_end|>"
    assert "hm" not in second[0]
    assert "a1<|im_end|>\n" in second[0]
    assert second[1] == "<think>\n\n</think>\n\nYes. <ok> <|im_end|>"
    # Only what is trained is left of a last turn, and of a first.
    assert len(texts(template, (ASK, thinking, MORE, AGAIN), train_on="last_turn")) == 1
    untrained = Message("assistant", AGAIN.parts, 0.0)
    assert [[t[1] for t in s] for s in texts(template, (ASK, thinking, MORE, untrained))] == [
        [first[1]]
    ]


@pytest.mark.parametrize(
    ("answer", "completion"),
    [
        (Message.of("assistant", "a1"), "\n</think>\n\na1<|im_end|>"),
        (Message("assistant", (Thinking("hm"), Text("a1"))), "hm\n</think>\n\na1<|im_end|>"),
        (Message.of("assistant", "<think>\nhm\n</think>\n\na1"), "hm\n</think>\n\na1<|im_end|>"),
    ],
    ids=["none", "apart", "inside"],
)
def test_a_thought_opened_by_the_prompt_is_closed_by_the_answer(trained, answer, completion):
    template = make(OPENED, trained["bytes"])
    [[turn]] = texts(template, (ASK, answer))
    assert turn[0].endswith("<|im_start|>assistant\n<think>\n")
    assert turn[1] == completion
    assert any("empty thought" in note for note in template.notes)


def test_reasoning_goes_into_the_text_where_the_template_knows_none(trained):
    answer = Message("assistant", (Thinking("hm"), Text("a1")))
    [[turn]] = texts(make(CHATML, trained["bytes"]), (ASK, answer))
    assert turn[1] == "<think>\nhm\n</think>\n\na1<|im_end|>"


def test_a_template_without_end_marker_gets_eos_and_says_so(trained):
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template = make(source, trained["bytes"])
    [[first], [second]] = texts(template, CHATS["two"])
    assert (first[1], second[1]) == ("assistant: Four, 四.</s>", "assistant: Yes. <ok> </s>")
    assert "no end marker" in template.notes[0]
    assert template.stop_ids == (template.tokenizer.eos_id,)


def test_an_end_marker_that_is_no_token_is_a_stop_string(trained):
    template = make(CHATML.replace("<|im_end|>", "[end]"), trained["bytes"])
    [[first, _]] = texts(template, CHATS["two"])
    assert first[1] == "Four, 四.[end]"
    assert template.stop_strings == ("[end]",)
    assert any("no token" in note for note in template.notes)
    [[one, _]] = template.encode_batch(template.render(Conversation(CHATS["two"])))
    assert template.tokenizer.decode(one.completion_ids[-one.end_tokens :]) == "[end]"


def test_the_first_of_several_end_tokens_ends_an_answer(trained):
    template = make(CHATML.replace("<|im_end|>", "<|eot_id|><|im_end|>"), trained["bytes"])
    [[first, second]] = texts(template, CHATS["two"])
    assert first[1] == "Four, 四.<|eot_id|>"
    assert second[0].startswith("<|im_end|>\n<|im_start|>user")
    assert template.stop_ids[0] == template.tokenizer.added["<|eot_id|>"]


def test_words_of_the_end_or_the_header_inside_an_answer_mislead_nobody(trained):
    template = make(CHATML, trained["bytes"])
    for words in ("assistant", "\n", "im_end", "user\nassistant\n", "a", "<|im_start|>a", "|>"):
        [[turn]] = texts(template, (ASK, Message.of("assistant", words)))
        assert turn[1] == words + "<|im_end|>"


def test_white_space_that_a_template_trims_is_not_missed(trained):
    template = make(CHATML.replace("m.content", "m.content|trim"), trained["bytes"])
    [[turn]] = texts(template, (ASK, Message.of("assistant", "  a1 \n")))
    assert turn[1] == "a1<|im_end|>"


def test_an_empty_answer_is_told_from_others(trained):
    template = make(CHATML, trained["bytes"])
    [[turn]] = template.encode_batch(
        template.render(Conversation((ASK, Message.of("assistant", " "))))
    )
    assert not turn.answered
    assert turn.completion_ids[-1] == template.tokenizer.added["<|im_end|>"]


CALLS = CHATML.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls %}[{{ c.function|tojson }}]{% endfor %}",
)


def test_tool_calls_belong_to_the_answer(trained):
    template = make("{% if tools %}{{ tools|tojson }}{% endif %}" + CALLS, trained["bytes"])
    call = Message("assistant", (ToolCall("add", '{"x": 2, "to": "</s>"}', "1"),))
    talk = (ASK, call, Message.of("tool", "4"), ANSWER)
    tools = ({"type": "function", "function": {"name": "add"}},)
    rendered = template.render(Conversation(talk, tools))
    [[first, second]] = [[(join(t.prompt), join(t.completion)) for t in s] for s in rendered]
    assert first[0].startswith('[{"type": "function"')
    assert first[1] == '[{"name": "add", "arguments": {"x": 2, "to": "</s>"}}]<|im_end|>'
    assert second[1] == "Four, 四.<|im_end|>"
    [[one, _]] = template.encode_batch(rendered)
    assert template.tokenizer.eos_id not in one.completion_ids  # an argument spelt it


def test_control_strings_that_the_template_escapes_are_refused(trained):
    template = make(CALLS.replace("tojson", "tojson(ensure_ascii=true)"), trained["bytes"])
    call = Message("assistant", (ToolCall("add", '{"to": "</s>"}'),))
    with pytest.raises(DataError) as caught:
        template.render(Conversation((ASK, call)))
    assert caught.value.code == "D305"


def test_control_strings_that_the_template_cuts_in_two_are_refused(trained):
    template = make(CHATML.replace("m.content", "m.content[:21]"), trained["bytes"])
    with pytest.raises(DataError) as caught:
        template.render(Conversation((Message.of("user", "x" * 20 + "</s>"), ANSWER)))
    assert caught.value.code == "D305"


def test_a_system_prompt_that_moves_to_the_last_turn_is_said(trained):
    source = (
        "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}"
        "{% set rest = messages[1:] %}"
        "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}"
        "{% if m.role == 'user' %}[INST]{{ s if loop.last }}{{ m.content }}[/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    template = make(source, trained["bytes"])
    assert any("system prompt moves" in note for note in template.notes)
    [[first], [second]] = texts(template, CHATS["system, two"])
    assert first[0] == "[INST]Be brief.What is 2+2?[/INST]"
    assert second[0].startswith("[INST]What is 2+2?[/INST]Four, 四.</s>[INST]Be brief.Sure?")


@pytest.mark.parametrize(
    ("source", "system", "begins"),
    [
        (CHATML, "", "<|im_start|>user"),
        (CHATML, "S", "<|im_start|>system\nS"),
        ("{% if messages[0].role != 'system' %}<|im_start|>default{% endif %}" + CHATML, None,
         "<|im_start|>default"),
        ("{% if messages[0].role != 'system' %}<|im_start|>the default{% endif %}" + CHATML, "S",
         "<|im_start|>system\nS"),
    ],
)  # fmt: skip
def test_system_prompt(trained, source, system, begins):
    [[turn]] = texts(make(source, trained["bytes"]), CHATS["one"], system=system)
    assert turn[0].startswith(begins)


def test_an_empty_system_prompt_silences_a_default(trained):
    default = "A default that goes on for quite some time. "
    source = "{% if messages[0].role != 'system' %}" + default + "{% endif %}" + CHATML
    [[turn]] = texts(make(source, trained["bytes"]), CHATS["one"], system="")
    assert default not in turn[0]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% if %}", "no valid template"),
        ("{{ raise_exception('never') }}", "never"),
        ("a" * 70_000, "64 KiB"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "long"),
    ],
)
def test_unusable_templates_are_refused_on_loading(trained, source, why):
    with pytest.raises(DataError, match=why) as caught:
        make(source, trained["bytes"])
    assert caught.value.code == "D301"


def test_a_refusal_names_the_reason(trained):
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% endfor %}" + CHATML
    )
    template = make(source, trained["bytes"])
    with pytest.raises(DataError, match="System role not supported") as caught:
        template.render(Conversation(CHATS["system"]))
    assert caught.value.code == "D302"


def test_an_answer_the_template_leaves_out_is_refused(trained):
    source = (
        "{% for m in messages %}{% if m.content != 'secret' %}"
        "{{ m.role }}:{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    template = make(source, trained["bytes"])
    with pytest.raises(DataError) as caught:
        template.render(Conversation((ASK, Message.of("assistant", "secret"))))
    assert caught.value.code == "D302"


def test_auto_takes_the_models_own(trained, tmp_path):
    Tokenizer.load(trained["bytes"]).save(tmp_path, chat_template=CHATML)
    template = base.load("auto", tmp_path)
    assert template.jinja == CHATML
    assert template.name == "the model's own"
