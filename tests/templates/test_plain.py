"""The saved template in plain transformers: id for id what was trained and what chat sends.

Each letter is a token, so that no merge crosses from a prompt into its answer: transformers
tokenises a chat as a whole, tunesmith where inference cuts (ADR 0006).
"""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings, strategies as st

from tests.templates.conftest import CONTROLS, transformers_of
from tests.templates.every import EVERY, PADDLE, with_all_tokens
from tests.templates.test_encode import NO_SYSTEM
from tunesmith.templates import base
from tunesmith.types import Conversation, Message


@pytest.fixture(scope="module")
def spelled(letters, tmp_path_factory):
    """A tokenizer of letters and every format's control tokens, ours and transformers' own."""
    from tokenizers import Tokenizer as Rust

    folder = tmp_path_factory.mktemp("spelled")
    with_all_tokens(letters, folder)
    rust = Rust.from_file(str(folder / "tokenizer.json"))
    rust.add_special_tokens([token for token in CONTROLS if token not in ("<s>", "</s>", "<unk>")])
    rust.save(str(folder / "tokenizer.json"))
    return folder, transformers_of(folder)


@functools.cache
def loaded(name, folder):
    return base.load(name, folder)


words = st.text("ab<|>[]{}#%:\"'\\ \n", min_size=1, max_size=12).filter(lambda t: t.strip())


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from([*EVERY, *PADDLE]), system=st.none() | words,
    talk=st.lists(st.tuples(words, words), min_size=1, max_size=3),
)  # fmt: skip
def test_apply_chat_template_gives_the_same_ids(spelled, name, system, talk):
    folder, theirs = spelled
    template = loaded(name, folder)
    messages = [Message.of("system", system)] if system and name not in NO_SYSTEM else []
    for question, answer in talk:
        messages += [Message.of("user", question), Message.of("assistant", answer)]
    plain = [{"role": m.role, "content": m.text} for m in messages]
    options = {"chat_template": template.jinja, "return_dict": False}
    prompt = theirs.apply_chat_template(plain[:-1], add_generation_prompt=True, **options)
    assert template.prompt_ids(Conversation(tuple(messages[:-1]))) == prompt
    if name in PADDLE:
        return  # an answered question may look otherwise there than one to answer
    turns = template.encode_batch(template.render(Conversation(tuple(messages))))[-1]
    ids = [id for turn in turns for id in turn.prompt_ids + turn.completion_ids]
    assert ids == theirs.apply_chat_template(plain, **options)
