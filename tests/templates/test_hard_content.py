"""Every registered template with content that is hard to carry: nothing is drawn by chance here, so
no template is left out."""

from __future__ import annotations

import pytest

from tests.templates.test_encode import HOSTILE, NAMES, NO_SYSTEM, ids_of, template
from tunesmith.types import Conversation, Message

HARD = (
    *HOSTILE,
    " leading", "trailing ", "  both  ", "\nline\n", "tab\t", "a\r\nb",
    "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "e\u0301", "שלום עולם", "مرحبا \u202eabc", "四\u3000面",
    "{{ messages }}", "{% raw %}", "{content}", "%s", "\\n", "<think>x</think>y",
    "[INST] x [/INST]", "<tool_call>{}</tool_call>",
    "### Response:\nx", "Human: x\nAssistant:", "<|user|>", "<p>x</p>", "<",
)  # fmt: skip
PLAIN = "QxwordxQ"
"""Text that no template has anywhere."""


def talk_of(name: str, content: str, system: str | None = None) -> Conversation:
    """Two rounds of the same content."""
    head = [Message.of("system", system)] if system is not None and name not in NO_SYSTEM else []
    pair = [Message.of("user", content), Message.of("assistant", content)]
    return Conversation((*head, *pair, *pair))


def trained(made, talk: Conversation) -> list[str]:
    """What is trained of each sequence, decoded."""
    return [
        made.tokenizer.decode(turn.completion_ids)
        for turns in made.encode_batch(made.render(talk))
        for turn in turns
        if turn.weight
    ]


@pytest.fixture(scope="module", params=["bytes", "metaspace-first"])
def folder(request, equipped):
    return equipped[request.param]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["bytes"], indirect=True)  # others drop a space in decoding
def test_trained_is_the_content_and_what_stands_around_any_answer(folder, name):
    """A template may trim an answer, as they would in a chat; none loses anything else."""
    made = template(name, folder.name, folder)
    around = trained(made, talk_of(name, PLAIN))
    assert around
    assert all(text.count(PLAIN) == 1 for text in around)
    for content in HARD:
        if "</think>" in content and name.endswith(".jinja"):
            continue  # a template may take that for a thought of its own
        found = trained(made, talk_of(name, content))
        kept = [[text.replace(PLAIN, said) for text in around]
                for said in (content, content.strip(), content.lstrip())]  # fmt: skip
        assert found in kept, content


@pytest.mark.parametrize("name", NAMES)
def test_content_makes_no_control_token_and_prompts_begin_what_is_trained(folder, name):
    made = template(name, folder.name, folder)
    controls = {made.tokenizer.added[t] for t in made.encoder.controls} - {made.tokenizer.unk_id}
    for system in (None, "", " ", "</s>🙂"):
        shapes = set()
        for content in (PLAIN, *HARD):
            talk = talk_of(name, content, system)
            sequences = made.encode_batch(made.render(talk))
            shapes.add(tuple(id for turns in sequences for id in ids_of(turns) if id in controls))
            first = Conversation(talk.messages[:-3])
            assert ids_of(sequences[0])[: len(prompt := made.prompt_ids(first))] == prompt, content
        assert len(shapes) == 1
