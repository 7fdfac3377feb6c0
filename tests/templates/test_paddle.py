"""PaddleNLP's chat_template.json: its own test vectors, its rules, mistakes with their place."""

from __future__ import annotations

import json

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from tests.templates.every import PADDLE
from tests.templates.test_strings import TALK, jinja_text
from tunesmith.errors import DataError
from tunesmith.templates import base
from tunesmith.templates.pieces import join
from tunesmith.types import Conversation, Message

NI, HAO, CHI = "你好", "您好，我是个人人工智能助手", "今天吃啥"
QWEN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
# PaddleNLP's tests/transformers/test_chat_template.py: one question; then one after an answer.
RENDERED = {
    "qwen-14b-chat": (
        f"{QWEN}<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n",
        f"{QWEN}<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
        "您好，我是个人人工智能助手<|im_end|>\n<|im_start|>user\n今天吃啥<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "linly-chinese-llama-2-7b": (
        "<s>### Instruction:你好  ### Response:",
        "<s>### Instruction: 你好  ### Response:您好，我是个人人工智能助手 </s>"
        "### Instruction:今天吃啥  ### Response:",
    ),
    "chatglm-6b": (
        "[Round 0]\n问：你好\n答：[gMASK]<sop>",
        "[Round 0]\n问：你好\n答：您好，我是个人人工智能助手\n"
        "[Round 1]\n问：今天吃啥\n答：[gMASK]<sop>",
    ),
    "belle-7b-2m": (
        "Human: 你好\n\nAssistant:",
        "Human: 你好\n\nAssistant:您好，我是个人人工智能助手\n\nHuman: 今天吃啥\n\nAssistant:",
    ),
}
FIXTURE = {
    "system": "你是一个人工智能助手\n",
    "conversation": ["Human: {{user}}<sep> Bot:", "{{bot}}\n"],
    "query": "Human: {{query}}<sep> Bot:",
}
OLDER = {**FIXTURE, "conversation": ["Human: {{user}}<sep>", "Bot: {{bot}}\n"]}
CONTEXT = {**FIXTURE, "system": "你是一个人工智能助手{{system}}-{{instruction}}\n"}


def written(tmp_path, found) -> str:
    path = tmp_path / "chat_template.json"
    path.write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    return str(path)


def prompt_text(template, messages) -> str:
    history, prompt = template._prompt(tuple(messages), ())
    return "".join(map(join, (*(part for exchange in history for part in exchange), prompt)))


def talk(*texts: str) -> tuple[Message, ...]:
    roles = ["user", "assistant"] * len(texts)
    return tuple(Message.of(r, t) for r, t in zip(roles, texts, strict=False))


def test_every_shipped_file_has_a_rendering():
    assert set(RENDERED) == set(PADDLE)


@pytest.mark.parametrize("name", RENDERED)
def test_renderings_of_paddlenlp_byte_for_byte(equipped, name):
    template = base.load(name, equipped["bytes"])
    one, two = RENDERED[name]
    assert prompt_text(template, talk(NI)) == one == jinja_text(template, talk(NI), True)
    asked = talk(NI, HAO, CHI)
    assert jinja_text(template, asked, generate=True) == two
    assert template.tokenizer.decode(template.prompt_ids(Conversation(asked))).replace(
        "</s>", ""
    ) == two.replace("</s>", "")


@pytest.mark.parametrize("found", [FIXTURE, CONTEXT], ids=["fixture", "with context"])
def test_the_fixtures(equipped, tmp_path, found):
    template = base.load(written(tmp_path, found), equipped["bytes"])
    front = "你是一个人工智能助手\n" if found is FIXTURE else "你是一个人工智能助手-\n"
    assert prompt_text(template, talk(NI)) == f"{front}Human: 你好<sep> Bot:"
    said = jinja_text(template, talk(NI, HAO, CHI), generate=True)
    assert said == f"{front}Human: 你好<sep> Bot:{HAO}\nHuman: 今天吃啥<sep> Bot:"
    [[turn]] = template.render(Conversation(talk(NI, HAO)))
    assert join(turn.prompt) == f"{front}Human: 你好<sep> Bot:"
    assert join(turn.completion) == f"{HAO}</s>"


def test_context_variables_are_filled_by_plain_transformers_or_named(equipped, tmp_path):
    template = base.load(written(tmp_path, CONTEXT), equipped["bytes"])
    assert "`instruction` of the template" in template.notes[0]
    own = (Message.of("system", "<<SYSTEM-MESSAGE>>"), *talk(NI))
    assert prompt_text(template, own).startswith("你是一个人工智能助手<<SYSTEM-MESSAGE>>-\n")
    [text], _ = render_jinja_template(
        [[{"role": m.role, "content": m.text} for m in own]], chat_template=template.jinja,
        add_generation_prompt=True, instruction="<<INSTRUCTION-MESSAGE>>",
    )  # fmt: skip
    assert text == (
        "你是一个人工智能助手<<SYSTEM-MESSAGE>>-<<INSTRUCTION-MESSAGE>>\nHuman: 你好<sep> Bot:"
    )


def test_a_query_that_differs_makes_each_turn_an_example_and_is_said(equipped, tmp_path):
    template = base.load(written(tmp_path, OLDER), equipped["bytes"])
    assert any("looks otherwise" in note for note in template.notes)
    first, second = template.render(Conversation(talk(NI, HAO, CHI, "饺子")))
    assert join(first[0].prompt).endswith("Human: 你好<sep> Bot:")
    assert join(second[-1].prompt).endswith(
        "Human: 你好<sep>Bot: 您好，我是个人人工智能助手\nHuman: 今天吃啥<sep> Bot:"
    )
    assert join(second[-1].completion) == "饺子</s>"


def test_a_fixed_system_prompt_has_no_place_for_another(equipped, tmp_path):
    template = base.load(written(tmp_path, FIXTURE), equipped["bytes"])
    with pytest.raises(DataError, match="fixed") as caught:
        template.render(Conversation((Message.of("system", "SYS"), *TALK)))
    assert caught.value.code == "D302"


@pytest.mark.parametrize(
    "messages",
    [talk(NI) * 2, (Message.of("assistant", HAO), *talk(NI)), (*talk(NI), Message.of("tool", "x"))],
    ids=["unanswered round", "answer first", "tool"],
)
def test_rounds_have_a_question_and_an_answer(equipped, tmp_path, messages):
    template = base.load(written(tmp_path, FIXTURE), equipped["bytes"])
    with pytest.raises(DataError) as caught:
        template.prompt_ids(Conversation(messages))
    assert caught.value.code == "D302"
    with pytest.raises(TemplateError):
        jinja_text(template, messages, generate=True)


def test_line_breaks_and_spaces_at_the_edges_stay(equipped, tmp_path):
    found = {"system": "\n S \n", "conversation": ["\n U{{user}} \n", "\n{{bot}}\n\n <|eot_id|>\n"],
             "query": "\n U{{query}} \n"}  # fmt: skip
    template = base.load(written(tmp_path, found), equipped["bytes"])
    assert jinja_text(template, talk("q", "a")) == "\n S \n\n Uq \n\na\n\n <|eot_id|>\n"
    assert jinja_text(template, talk("q"), generate=True) == "\n S \n\n Uq \n"


def test_the_models_own_file_and_a_folder(equipped, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in equipped["bytes"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    written(folder, FIXTURE)
    own = base.load("auto", folder)
    assert own.name == "the model's own chat_template.json"
    assert own.source == base.load(str(folder), equipped["bytes"]).source


def test_transformers_own_file_of_that_name(equipped, tmp_path):
    source = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    template = base.load(written(tmp_path, {"chat_template": source}), equipped["bytes"])
    assert template.source == source


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        ('{\n  "system": "x",\n  "query": "{{query}}",\n}',
         "a comma with nothing after it at line 3, column 23"),
        ('{"conversation": ["a", "{{bot}}",]}',
         "a comma with nothing after it at line 1, column 33"),
        ('{"system": }', "at line 1, column 12"),
        ("[]", "is no JSON object"),
        ("[" * 100_000, "is no JSON object"),
        ({"conversations": []}, "unknown key `conversations`"),
        ({"system": "x"}, "needs `conversation`"),
        ({"conversation": ["a", "b", "c"]}, "needs `conversation`"),
        ({"conversation": ["{{user}}", "{{bot}}"], "system": 3}, "is no text"),
        ({"conversation": ["{{user}}", "x"]}, "needs `{{bot}}`"),
        ({"conversation": ["{{user}}", "{{bot}}"], "query": "x"}, "needs `{{query}}`"),
        ({"conversation": ["{{user}", "{{bot}}"]}, "is no Jinja"),
    ],
)  # fmt: skip
def test_bad_files_are_named_with_a_place(equipped, tmp_path, found, complaint):
    with pytest.raises(DataError) as caught:
        base.load(written(tmp_path, found), equipped["bytes"])
    assert caught.value.code == "D301"
    assert complaint in caught.value.what
