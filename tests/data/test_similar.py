"""Equal texts have equal keys; estimates of similarity are near the truth."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from tunesmith.data import similar
from tunesmith.types import Conversation, Document, Feedback, Message, Preference


def jaccard(a: str, b: str) -> float:
    sets = []
    for text in (a, b):
        level = " ".join(text.casefold().split())
        size = min(similar.SHINGLE, len(level))
        sets.append({level[i : i + size] for i in range(len(level) - size + 1)})
    return len(sets[0] & sets[1]) / max(len(sets[0] | sets[1]), 1)


@given(st.lists(st.sampled_from("abcdefgh 中文字"), min_size=30, max_size=400), st.data())
def test_estimates_are_near_the_truth(letters, data):
    changed = list(letters)
    for place in data.draw(st.lists(st.integers(0, len(letters) - 1), max_size=5)):
        changed[place] = "x"
    a, b = "".join(letters), "".join(changed)
    found = similar.similarity(similar.signature(a), similar.signature(b))
    assert abs(found - jaccard(a, b)) < 0.2  # more than four standard errors


def test_case_and_space_do_not_count_and_nothing_is_similar_to_itself_alone():
    one, two = similar.signature("Hello  World\nagain"), similar.signature("hello world again")
    assert np.array_equal(one, two)
    assert similar.similarity(one, similar.signature("quite another text")) < 0.1
    assert similar.signature("").shape == similar.signature("ab").shape == (similar.HASHES,)


def test_bands_find_pairs_at_the_threshold():
    for threshold in (0.3, 0.5, 0.8, 0.95, 1.0):
        count, rows = similar.bands(threshold)
        assert count * rows <= similar.HASHES
        assert 1 - (1 - threshold**rows) ** count >= 0.95


def test_the_index_names_the_text_it_is_near_to():
    index = similar.NearIndex(0.7)
    first = "The miller grinds flour from grain and tells stories to whoever comes by the river."
    assert index.find_or_add(first) is None
    assert index.find_or_add("A smith makes nails, tunes old instruments and shoes horses.") is None
    number, score = index.find_or_add(first.replace("stories", "a story"))
    assert (number, score > 0.7) == (0, True)
    assert index.find_or_add("Whoever passes the bridge pays a toll to the keeper.") is None


def test_what_is_said_tells_samples_apart():
    talk = Conversation((Message.of("user", "a"), Message.of("assistant", "b")))
    other = Conversation((Message.of("user", "ab"), Message.of("assistant", "")))
    pair = Preference(talk, (Message.of("assistant", "x"),), (Message.of("assistant", "y"),))
    swapped = Preference(pair.prompt, pair.rejected, pair.chosen)
    samples = [talk, other, pair, swapped, Feedback(talk, True), Feedback(talk, False)]
    samples.append(Document("a"))
    assert len({similar.key(similar.spoken(sample)) for sample in samples}) == len(samples)
    assert similar.asked(pair) == similar.spoken(talk)
    assert similar.asked(talk) == similar.asked(Feedback(talk, True))
