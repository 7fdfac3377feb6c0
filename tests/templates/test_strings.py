"""Formats written as strings: their text byte for byte, and the same from their Jinja."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from tests.templates.every import EVERY
from tests.templates.goldens import GOLDENS
from tunesmith.errors import ConfigError, DataError
from tunesmith.generation.base import TextStream
from tunesmith.templates import base
from tunesmith.templates.pieces import join
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Conversation, Message, Text, Thinking, ToolCall

TALK = (
    Message.of("user", "q1"), Message.of("assistant", "a1"),
    Message.of("user", "q2"), Message.of("assistant", "a2"),
)  # fmt: skip


def text_of(template, messages, **options) -> str:
    """All sequences as text, `¦` between them."""
    rendered = template.render(Conversation(tuple(messages)), **options)
    return "¦".join(
        "".join(join(turn.prompt) + join(turn.completion) for turn in turns) for turns in rendered
    )


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


def last(text: str) -> str:
    """What a whole conversation is rendered as where earlier rounds are not shown."""
    return text.rpartition("¦")[2]


def test_every_shipped_format_has_a_golden():
    tools_only = {"chatml@hermes", "llama3@ipython"}
    assert set(GOLDENS) | tools_only == set(EVERY)


@pytest.mark.parametrize("name", GOLDENS)
def test_text_byte_for_byte(equipped, name):
    template = base.load(name, equipped["prepend"])
    one, two, own, none = GOLDENS[name]
    assert text_of(template, TALK[:2]) == one == jinja_text(template, TALK[:2])
    assert text_of(template, TALK) == two
    assert jinja_text(template, TALK) == last(two)
    assert text_of(template, TALK, system="") == none
    assert text_of(template, (Message.of("system", ""), *TALK)) == none
    assert jinja_text(template, (Message.of("system", ""), *TALK)) == last(none)
    with_system = (Message.of("system", "SYS"), *TALK)
    if not own:
        with pytest.raises(DataError, match="no place for a system prompt"):
            text_of(template, with_system)
        with pytest.raises(TemplateError, match="no place for a system prompt"):
            jinja_text(template, with_system)
        return
    assert text_of(template, with_system) == own == text_of(template, TALK, system="SYS")
    assert jinja_text(template, with_system) == last(own)
    # What a conversation says itself goes before what the recipe says.
    assert text_of(template, with_system, system="other") == own


@pytest.mark.parametrize("name", GOLDENS)
def test_prompts_are_the_text_up_to_the_answer(equipped, name):
    template = base.load(name, equipped["bytes"])
    whole = last(text_of(template, TALK))
    prompt = template.tokenizer.decode(template.prompt_ids(Conversation(TALK[:3])))
    assert whole.startswith(prompt)
    assert prompt == jinja_text(template, TALK[:3], generate=True)


@pytest.mark.parametrize("name", GOLDENS)
def test_a_default_can_be_written_into_the_jinja(equipped, name):
    template = base.load(name, equipped["prepend"])
    if not template.format.system:
        return  # refused, see above
    template.jinja = template.jinja_for('Say "hi"\\ {{ now }}\n')
    said = text_of(template, TALK, system='Say "hi"\\ {{ now }}\n')
    assert jinja_text(template, TALK) == said


@pytest.mark.parametrize(
    ("alias", "name"),
    [("intern", "internlm"), ("qwen", "chatml"), ("qwen@original", "chatml@original")],
)
def test_aliases_are_the_same_format(equipped, alias, name):
    folder = equipped["bytes"]
    assert base.load(alias, folder).source_hash == base.load(name, folder).source_hash
    assert base.load(alias, folder).name == alias


def test_an_unknown_variant_is_refused(equipped):
    with pytest.raises(ConfigError) as caught:
        base.load("aquila@orginal", equipped["bytes"])
    assert caught.value.code == "C110"
    assert "did you mean `original`?  known: aquila@original" in caught.value.fix


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
which = st.booleans()
rounds = st.lists(st.tuples(words, words), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(EVERY), talk=rounds, system=st.none() | words, kind=which)
def test_jinja_renders_the_same_text(trained, equipped, name, talk, system, kind):
    """With the control tokens of the format and without them, as plain transformers renders it."""
    template = base.load(name, (equipped if kind else trained)["bytes"])
    messages = [Message.of("system", system)] if system and template.format.system else []
    for question, answer in talk:
        messages += [Message.of("user", question), Message.of("assistant", answer)]
    turns = template.render(Conversation(tuple(messages)))[-1]
    text = "".join(join(turn.prompt) + join(turn.completion) for turn in turns)
    assert jinja_text(template, messages) == text
    assert text.startswith(jinja_text(template, messages[:-1], generate=True))


def test_reasoning_precedes_the_answer(trained):
    template = base.load("chatml", trained["prepend"])
    answer = Message("assistant", (Thinking("hm"), Text("a1")))
    text = text_of(template, (TALK[0], answer))
    assert text.endswith("assistant\n<think>\nhm\n</think>\n\na1<|im_end|>")
    assert jinja_text(template, (TALK[0], answer)) == text


@pytest.mark.parametrize("name", GOLDENS)
def test_every_answer_ends_with_one_end_marker_and_bos_comes_once(equipped, name):
    """A BOS before an answer, or an answer without its end: the model would never learn to stop."""
    template = base.load(name, equipped["prepend"])
    tokenizer = template.tokenizer
    sequences = template.encode_batch(template.render(Conversation(TALK)))
    ends = {tokenizer.added[template.end]}
    ids = [id for turns in sequences for t in turns for id in t.prompt_ids + t.completion_ids]
    # BOS stands in each turn of Llama 2 and where the format itself writes `<s>`; else once.
    assert ids.count(tokenizer.bos_id) == GOLDENS[name][1].count("<s>")
    for turn in (turn for turns in sequences for turn in turns):
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


TOOLS = (
    '[tools]\nsystem = "{system}{tools}"\ntool = "{tool}"\ncall = "{call}"\n'
    'result = "{content}"\nresults = "{results}"\n'
)
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
        (GOOD + "first_round = true", "has a bool for `first_round`, not a int"),
        (GOOD + 'tokens = ["<a>", 3]', "needs strings that are not empty in `tokens`"),
        (GOOD + 'stop_strings = [""]', "needs strings that are not empty in `stop_strings`"),
        (GOOD + 'extends = "nothing"', "extends `nothing`, which is no shipped format"),
        (GOOD + 'extends = "../../etc/passwd"', "which is no shipped format"),
        (GOOD + "variant = 3", "needs a table for each `variant.NAME`"),
        (GOOD + '[tools]\ncall = "{call}"', "lacks the key `tools.system`"),
        (GOOD + TOOLS.replace("{call}", "x"), "needs `{call}` once in `tools.call`"),
        (GOOD + TOOLS.replace("{tools}", "x"), "needs `{tools}` once in `tools.system`"),
        (GOOD + TOOLS + 'resulst = "x"', "unknown key `tools.resulst`; did you mean `result"),
        ('description = "x"\nuser = ""', "needs `{content}` once in `user`"),
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


def test_a_file_that_changes_a_shipped_format_and_has_variants(equipped, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('description = "mine"\nextends = "chatml"\ndefault_system = "Mine."\n')
    template = base.load(str(path), equipped["bytes"])
    chatml = base.load("chatml", equipped["bytes"])
    assert text_of(template, TALK) == text_of(chatml, TALK, system="Mine.")
    assert template.format.tools == chatml.format.tools
    assert template.format.aliases == ()


def test_tokens_that_the_tokenizer_lacks_are_said(trained, equipped):
    notes = base.load("ziya", trained["bytes"]).notes
    said = "is no token of this model: it is written as plain text"
    assert notes == (f"`<human>` {said}", f"`<bot>` {said}")
    assert base.load("ziya", equipped["bytes"]).notes == ()
    notes = base.load("baichuan", trained["bytes"]).notes
    assert notes[0] == "`<reserved_102>` is no token of this model: answers end with </s>"
    # Without that token the next question is written whole.
    text = text_of(base.load("baichuan", trained["prepend"]), TALK)
    assert text.endswith("a1</s><reserved_102>q2<reserved_103>a2</s>")


@pytest.mark.parametrize("name", EVERY)
def test_no_template_changes_the_vocabulary(trained, name):
    """Stop strings that are no tokens are matched as text, however many tokens they take."""
    before = Tokenizer.load(trained["bytes"])
    template = base.load(name, trained["bytes"])
    assert template.tokenizer.hash == before.hash
    assert template.tokenizer.added == before.added
    assert template.tokenizer.vocab_size == before.vocab_size
    known = {t for t in template.format.stop_strings if t in before.added}
    assert set(template.stop_strings) == set(template.format.stop_strings) - known | (
        {"<|eom_id|>"} if name == "llama3@ipython" else set()
    )
    assert {before.added[token] for token in known} <= set(template.stop_ids)


def test_a_stop_string_of_many_tokens_ends_the_text_before_it(trained):
    """As chat does it: nothing of the stop string is shown, however its tokens fall."""
    template = base.load("billa", trained["bytes"])
    assert template.stop_strings == ("\nHuman:",)
    ids = template.tokenizer.encode_text("an answer\nHuman: and more")
    stream = TextStream(template.tokenizer, [], template.stop_strings)
    shown = ""
    for id in ids:
        said, stopped = stream.step(id)
        shown += said
        if stopped:
            break
    assert shown == "an answer"
