"""Each rule of truncation, by hand: a letter is a token, `§` ends an answer, `_` is untrained."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from tests.templates.test_masks import masked
from tunesmith.stages.base import build
from tunesmith.stages.sft import SftConfig
from tunesmith.templates import base
from tunesmith.types import Conversation, Message, Parts

FORMAT = 'description = "x"\nsystem = "[{content}]"\nuser = "({content})"\nassistant = ">"\n'
SYSTEM = Message.of("system", "S")
TALK = (
    SYSTEM,
    Message.of("user", "ab"), Message.of("assistant", "cd"),
    Message.of("user", "ef"), Message.of("assistant", "g"),
)  # fmt: skip
LONG = (SYSTEM, Message.of("user", "abcdefghijklmnop"), Message.of("assistant", "vwxyz"))
RULES = (
    "newest_rounds", "newest_rounds_head", "oldest_rounds", "cut_end", "cut_prompt_start",
    "cut_prompt_end", "cut_prompt_middle",
)  # fmt: skip


@pytest.fixture(scope="module")
def template(letters, tmp_path_factory):
    path = tmp_path_factory.mktemp("format") / "format.toml"
    path.write_text(FORMAT)
    return base.load(str(path), letters)


def cut(template, messages, rule, max_length, prompt=None, answer=None, policy="truncate"):
    parts = Parts(
        template, max_length, policy, max_prompt_length=prompt, max_answer_length=answer,
        truncation=rule,
    )  # fmt: skip
    [found] = build(SftConfig(), parts).encode([Conversation(messages)])
    return found


def test_whole(template):
    [whole] = cut(template, TALK, "newest_rounds", 18).examples
    assert masked(template, whole) == ("[S](ab)>cd§(ef)>g§", "________cd§_____g§")
    [whole] = cut(template, LONG, "newest_rounds", 28).examples
    assert masked(template, whole)[0] == "[S](abcdefghijklmnop)>vwxyz§"


# rule, conversation, max_length, max_prompt_length, max_answer_length → text, trained
GOLDENS = [
    # System prompt, newest rounds, whole markup; the middle of a question; the end marker.
    ("newest_rounds", TALK, 12, None, None, "[S](ef)>g§", "________g§"),
    ("newest_rounds", LONG, 20, None, None, "[S](abcdemnop)>vwxy§", "_______________vwxy§"),
    ("newest_rounds", LONG, 64, 14, None, "[S](abcdmnop)>vwxyz§", "______________vwxyz§"),
    ("newest_rounds", LONG, 64, None, 4,
     "[S](abcdefghijklmnop)>vwx§", "______________________vwx§"),
    ("newest_rounds", LONG, 64, 14, 4, "[S](abcdmnop)>vwx§", "______________vwx§"),
    # PaddleNLP with a template: newest rounds; of the last one the first tokens of each part.
    ("newest_rounds_head", TALK, 12, None, None, "[S](ef)>g§", "________g§"),
    ("newest_rounds_head", LONG, 14, 10, None, "[S](abcdefvwxy", "__________vwxy"),
    ("newest_rounds_head", LONG, 20, 10, None, "[S](abcdefvwxyz§", "__________vwxyz§"),
    # LLaMA-Efficient-Tuning: each part's tail is lost, later rounds are dropped.
    ("oldest_rounds", TALK, 12, 8, 3, "[S](ab)>cd§", "________cd§"),
    ("oldest_rounds", TALK, 12, 6, 2, "[S](abcd", "______cd"),
    ("oldest_rounds", TALK, 15, 6, 2, "[S](abcd(ef)>g§", "______cd_____g§"),
    ("oldest_rounds", LONG, 20, None, None, "[S](abcdefvwxyz§", "__________vwxyz§"),
    # llms_tool and others: the end of the whole.
    ("cut_end", TALK, 12, None, None, "[S](ab)>cd§(", "________cd§_"),
    ("cut_end", LONG, 25, None, None,
     "[S](abcdefghijklmnop)>vwx", "______________________vwx"),
    # LLM-Tuning: prompt and answer each, then the end of the whole.
    ("cut_end", LONG, 12, 10, 3, "[S](abcdefvw", "__________vw"),
    ("cut_end", LONG, 13, 10, 3, "[S](abcdefvw§", "__________vw§"),
    # PaddleNLP without a template: the prompt's start is lost, then the answer's end.
    ("cut_prompt_start", LONG, 14, 10, None, "ijklmnop)>vwxy", "__________vwxy"),
    ("cut_prompt_start", LONG, 20, 10, None, "ijklmnop)>vwxyz§", "__________vwxyz§"),
    ("cut_prompt_start", TALK, 12, None, None, ")>cd§(ef)>g§", "__cd§_____g§"),
    # LLaMA-Efficient-Tuning's evaluation and reward models: the flattened prompt's end is lost.
    ("cut_prompt_end", LONG, 20, 10, None, "[S](abcdefvwxyz§", "__________vwxyz§"),
    ("cut_prompt_end", TALK, 12, None, None, "[S](ab)>cdg§", "________cdg§"),
    ("cut_prompt_end", LONG, 20, 10, 3, "[S](abcdefvwx", "__________vwx"),
    # LongBench: both halves of the prompt.
    ("cut_prompt_middle", LONG, 16, 10, None, "[S](anop)>vwxyz§", "__________vwxyz§"),
    ("cut_prompt_middle", LONG, 14, 10, None, "[S](anop)>vwx§", "__________vwx§"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "messages", "most", "prompt", "answer", "text", "trained"), GOLDENS,
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_goldens(template, rule, messages, most, prompt, answer, text, trained):
    found = cut(template, messages, rule, most, prompt, answer)
    [example] = found.examples
    assert masked(template, example) == (text, trained)
    assert found.truncated > 0


def test_every_rule_has_a_golden():
    assert {golden[0] for golden in GOLDENS} == set(RULES)


@pytest.mark.parametrize(
    ("rule", "most", "prompt"),
    [("cut_end", 20, None), ("newest_rounds_head", 4, 4), ("newest_rounds", 8, None),
     ("newest_rounds", 64, 9), ("oldest_rounds", 4, 4), ("cut_prompt_start", 10, 10)],
)  # fmt: skip
def test_a_row_of_which_nothing_trained_is_left_is_listed(template, rule, most, prompt):
    found = cut(template, LONG, rule, most, prompt)
    assert not found.examples
    assert found.policy == "skip"
    assert f"data.truncation {rule}" in found.problem


@pytest.mark.parametrize("policy", ["skip", "error"])
@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ((20, None, None), "28 tokens, but data.max_length is 20"),
        ((64, 14, None), "22 tokens in a prompt, but data.max_prompt_length is 14"),
        ((64, 22, 5), "6 tokens in an answer, but data.max_answer_length is 5"),
    ],
)
def test_other_policies_name_the_limit(template, policy, limits, problem):
    most, prompt, answer = limits
    found = cut(template, LONG, "newest_rounds", most, prompt, answer, policy)
    assert (found.examples, found.policy, found.problem) == ((), policy, problem)


def test_prompts_of_every_turn_are_kept_to_their_length(template):
    longer = (*TALK[:3], Message.of("user", "abcdefghijklmnop"), Message.of("assistant", "g"))
    [example] = cut(template, longer, "newest_rounds", 64, prompt=12).examples
    assert masked(template, example)[0] == "[S](ab)>cd§(abcdemnop)>g§"


words = st.text("abcxyz ", min_size=1, max_size=40).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(
    rule=st.sampled_from(RULES), texts=st.lists(st.tuples(words, words), min_size=1, max_size=4),
    most=st.integers(6, 90), prompt=st.none() | st.integers(4, 60),
    answer=st.none() | st.integers(2, 40), system=st.booleans(),
)  # fmt: skip
def test_what_is_left_fits_and_has_trained_words(
    template, rule, texts, most, prompt, answer, system
):
    messages = [SYSTEM] if system else []
    for question, said in texts:
        messages += [Message.of("user", question), Message.of("assistant", said)]
    found = cut(template, tuple(messages), rule, most, prompt, answer)
    assert bool(found.examples) != bool(found.problem)
    for example in found.examples:
        text, trained = masked(template, example)
        assert 0 < len(text) <= most
        assert trained.strip("_§")
        if rule == "newest_rounds":  # whole markup and end markers
            assert trained.endswith("§")
            assert text.startswith("[S](" if system else "(")
            assert text.count("(") == text.count(")>") == text.count("§")
            assert all(len(t) <= (answer or most) for t in trained.split("_") if t)
