"""Formats written as strings: their text byte for byte, and the same from their Jinja."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from tunesmith.errors import DataError
from tunesmith.templates import base
from tunesmith.templates.pieces import join
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Conversation, Message, Text, Thinking, ToolCall

CURIOUS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HONEST = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\nIf a question does not make any sense, or is not factually coherent, "
    "explain why instead of answering something not correct. If you don't know the answer to a "
    "question, please don't share false information."
)
# Two turns without a system prompt of their own; <s> and </s> are BOS and EOS.
REFERENCE = {
    "chatml": "<s><|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
    "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\n"
    "You are a helpful assistant. 你是一个乐于助人的助手。<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nq1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nq2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\na2<|eot_id|>",
    "llama2": f"<s>[INST] <<SYS>>\n{HONEST}\n<</SYS>>\n\nq1 [/INST] a1</s>"
    "<s>[INST] q2 [/INST] a2</s>",
    "alpaca": "<s>Below is an instruction that describes a task. Write a response that "
    "appropriately completes the request.\n\n"
    "### Instruction:\nq1\n\n### Response:\na1</s>\n\n"
    "### Instruction:\nq2\n\n### Response:\na2</s>",
    "vicuna": f"<s>{CURIOUS} USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT: a2</s>",
    "default": f"<s>{CURIOUS}\nHuman: q1\nAssistant: a1</s>\nHuman: q2\nAssistant: a2</s>",
}
TALK = (
    Message.of("user", "q1"), Message.of("assistant", "a1"),
    Message.of("user", "q2"), Message.of("assistant", "a2"),
)  # fmt: skip


def text_of(template, messages, **options) -> str:
    [turns] = template.render(Conversation(tuple(messages)), **options)
    return "".join(join(turn.prompt) + join(turn.completion) for turn in turns)


def jinja_text(template, messages, generate=False) -> str:
    """The exported Jinja as plain transformers renders it."""
    plain = []
    for message in messages:
        thought = "".join(p.text for p in message.parts if isinstance(p, Thinking))
        more = {"reasoning_content": thought} if thought else {}
        plain.append({"role": message.role, "content": message.text, **more})
    [text], _ = render_jinja_template(
        [plain], chat_template=template.jinja, add_generation_prompt=generate,
        **template.tokenizer.named,
    )  # fmt: skip
    return text


def test_every_shipped_format_has_a_reference():
    assert set(REFERENCE) == set(base.names())


@pytest.mark.parametrize("name", REFERENCE)
def test_text_byte_for_byte(trained, name):
    template = base.load(name, trained["prepend"])
    assert text_of(template, TALK) == REFERENCE[name]
    assert jinja_text(template, TALK) == REFERENCE[name]


@pytest.mark.parametrize("name", REFERENCE)
def test_own_system_prompt_replaces_the_default(trained, name):
    template = base.load(name, trained["prepend"])
    own = (Message.of("system", "SYS"), *TALK)
    text = text_of(template, own)
    assert text == text_of(template, TALK, system="SYS") == jinja_text(template, own)
    assert "SYS" in text
    assert template.format.default_system not in text
    # What a conversation says itself goes before what the recipe says.
    assert text_of(template, own, system="other") == text


@pytest.mark.parametrize("name", REFERENCE)
def test_an_empty_system_prompt_means_none(trained, name):
    template = base.load(name, trained["prepend"])
    text = text_of(template, TALK, system="")
    assert template.format.default_system not in text
    assert text == text_of(template, (Message.of("system", ""), *TALK))
    assert text == jinja_text(template, (Message.of("system", ""), *TALK))


@pytest.mark.parametrize("name", REFERENCE)
def test_a_default_can_be_written_into_the_jinja(trained, name):
    template = base.load(name, trained["prepend"])
    template.jinja = template.jinja_for('Say "hi"\\ {{ now }}\n')
    assert jinja_text(template, TALK) == text_of(template, TALK, system='Say "hi"\\ {{ now }}\n')


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
rounds = st.lists(st.tuples(words, words), min_size=1, max_size=3)


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(sorted(REFERENCE)), talk=rounds, system=st.none() | words)
def test_jinja_renders_the_same_text(trained, name, talk, system):
    template = base.load(name, trained["bytes"])
    messages = [Message.of("system", system)] if system else []
    for question, answer in talk:
        messages += [Message.of("user", question), Message.of("assistant", answer)]
    assert jinja_text(template, messages) == text_of(template, messages)
    prompt = jinja_text(template, messages[:-1], generate=True)
    assert text_of(template, messages).startswith(prompt)


def test_reasoning_precedes_the_answer(trained):
    template = base.load("chatml", trained["prepend"])
    answer = Message("assistant", (Thinking("hm"), Text("a1")))
    text = text_of(template, (TALK[0], answer))
    assert text.endswith("assistant\n<think>\nhm\n</think>\n\na1<|im_end|>")
    assert jinja_text(template, (TALK[0], answer)) == text


@pytest.mark.parametrize("name", REFERENCE)
def test_every_answer_ends_with_one_end_marker_and_bos_comes_once(trained, name):
    """A BOS before an answer, or an answer without its end: the model would never learn to stop."""
    template = base.load(name, trained["prepend"])
    tokenizer = template.tokenizer
    [turns] = template.encode_batch(template.render(Conversation(TALK)))
    ends = {tokenizer.added[template.end]}
    ids = [id for turn in turns for id in turn.prompt_ids + turn.completion_ids]
    begins = 2 if name == "llama2" else 1
    assert ids.count(tokenizer.bos_id) == begins
    for turn in turns:
        assert turn.end_tokens == 1
        assert turn.completion_ids[-1] in ends
        assert tokenizer.bos_id not in turn.completion_ids
        assert not ends.intersection(turn.completion_ids[:-1])
    assert ends <= set(template.stop_ids)


def test_a_missing_end_marker_falls_back_to_eos_and_says_so(shared_data):
    folder = shared_data / "models" / "stories260K" / "hf"
    template = base.load("chatml", folder)
    assert template.end == "</s>"
    assert "answers end with </s>" in template.notes[0]
    assert any("`<|im_start|>` is no token" in note for note in template.notes)
    assert text_of(template, TALK[:2]).endswith("assistant\na1</s>")
    assert template.stop_ids == (template.tokenizer.eos_id,)


def test_nothing_is_said_where_nothing_is_odd(trained):
    assert base.load("chatml", trained["bytes"]).notes == ()


def test_no_end_token_at_all_is_refused(trained, tmp_path):
    Tokenizer.load(trained["bytes"]).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert base.load("chatml", tmp_path).end == "<|im_end|>"
    with pytest.raises(DataError) as caught:
        base.load("alpaca", tmp_path)
    assert caught.value.code == "D304"


@pytest.mark.parametrize(
    "messages",
    [
        (TALK[0], Message.of("system", "late"), TALK[1]),
        (TALK[0], Message("assistant", (ToolCall("f", "{}"),))),
        (TALK[0], Message.of("tool", "result"), TALK[1]),
        (Message.of("system", "lost"), TALK[1]),
    ],
    ids=["late system", "tool call", "tool result", "system without question"],
)
def test_what_a_format_has_no_place_for_is_refused(trained, messages):
    with pytest.raises(DataError) as caught:
        text_of(base.load("llama2", trained["bytes"]), messages)
    assert caught.value.code == "D302"
    assert "llama2" in caught.value.what


GOOD = 'description = "mine"\nuser = "Q{content}"\nassistant = "A"\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("user = ", "is no TOML"),
        ('description = "x"', "lacks the key `user`"),
        (GOOD + 'sistem = "{content}"', "did you mean `system`?"),
        (GOOD + "system = 3", "has a int for `system`"),
        (GOOD + 'system = "no place"', "needs `{content}` once in `system`"),
        (GOOD + 'bos = "maybe"', "known: tokenizer, always, each_turn"),
    ],
)
def test_bad_files_are_named(trained, tmp_path, text, complaint):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mine\.toml") as caught:
        base.load(str(path), trained["bytes"])
    assert caught.value.code == "D301"
    assert complaint in caught.value.what


def test_a_file_of_ones_own(trained, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    template = base.load(str(path), trained["bytes"])
    assert template.name == "mine.toml"
    assert text_of(template, TALK) == "Qq1Aa1</s>Qq2Aa2</s>"
