"""The generators of the corpus and the demo's task: repeatable, clean, and held out for real."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from tunesmith.assets import chinese, make_corpus, make_demo, stories, talk, texts
from tunesmith.assets.spin import article, spin

DEMO = Path(make_demo.__file__).parent / "demo"


def rows(name: str) -> list[list[dict]]:
    lines = (DEMO / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def test_shipped_task_is_what_the_script_makes(tmp_path):
    make_demo.main(tmp_path)
    for name in ("train", "eval", "test", "pairs", "chat", "stories"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (DEMO / f"{name}.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["eval", "test"])
def test_no_evaluated_command_is_in_another_file_but_all_its_words_are_trained(name):
    other = "test" if name == "eval" else "eval"
    trained = {messages[-1]["content"] for messages in rows("train")}
    held_out = {messages[-1]["content"] for messages in rows(name)}
    assert not held_out & (trained | {messages[-1]["content"] for messages in rows(other)})
    words = lambda commands: set(re.findall(r"\w+", " ".join(commands)))
    assert words(held_out) <= words(trained)
    assert len(rows(name)) >= 60


def test_every_row_asks_in_english_or_chinese_and_answers_one_command():
    for question, answer in (*rows("train"), *rows("eval"), *rows("test")):
        assert question["role"] == "user"
        assert answer["role"] == "assistant"
        assert re.fullmatch(r"\w+\.\w+ = \w+", answer["content"])


@pytest.mark.parametrize("make", [stories.story, chinese.story])
def test_stories_repeat_by_seed_and_have_no_markup_left(make):
    told = [make(random.Random(seed)) for seed in range(200)]
    assert told == [make(random.Random(seed)) for seed in range(200)]
    assert not [text for text in told if re.search(r"[\[\]{}|]", text)]
    assert len(set(told)) > 190


@pytest.mark.parametrize("exchange", [talk.exchange, chinese.exchange])
def test_exchanges_are_never_empty_and_have_no_markup_left(exchange):
    rng = random.Random(0)
    for _ in range(2000):
        question, answer = exchange(rng)
        assert question.strip()
        assert answer.strip()
        assert not re.search(r"[\[\]{}|]", question + answer)


def test_sums_are_right():
    rng = random.Random(1)
    checked = 0
    for _ in range(500):
        question, answer = talk._sum(rng)
        if found := re.fullmatch(r"(\d+) \+ (\d+) =", question):
            assert int(answer) == int(found[1]) + int(found[2])
            checked += 1
        if found := re.fullmatch(r"What is (\d+) times (\d+)\?", question):
            assert answer == f"{found[1]} times {found[2]} is {int(found[1]) * int(found[2])}."
            checked += 1
    assert checked > 100


def test_a_story_shows_what_it_was_asked_for():
    rng = random.Random(2)
    for _ in range(50):
        assert "turtle" in stories.story(rng, animal="turtle", short=True)
        assert "umbrella" in stories.story(rng, thing="umbrella", short=True)
        assert "Rosa" in stories.story(rng, name="Rosa", short=True)
        assert "松鼠" in chinese.story(rng, "松鼠")


def test_spin_nests_and_fills_slots_with_any_character():
    rng = random.Random(0)
    found = {spin("a [b|c [d|e]] {x}", rng, {"x": "[|]{}"}) for _ in range(50)}
    assert found == {"a b [|]{}", "a c d [|]{}", "a c e [|]{}"}
    assert [article("apple"), article("pear")] == ["an apple", "a pear"]


def test_conversations_alternate_and_end_with_an_answer():
    rng = random.Random(3)
    for at in range(300):
        messages = make_corpus.conversation(rng, zh=at % 2 == 0)["messages"]
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert roles


@pytest.mark.shared
def test_books_become_documents_of_bounded_length(shared_data):
    english = list(texts.english(shared_data / "text"))
    poems = list(texts.chinese(shared_data / "text"))
    assert len(english) > 500
    assert len(poems) > 1000
    assert max(map(len, poems)) <= 700
    assert any("春眠不覺曉" in poem for poem in poems)
    assert not [text for text in english if "“" in text or "_" in text]
