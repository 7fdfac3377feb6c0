"""Rewards: the named ones, a user's own functions and services, and what is refused."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tunesmith.errors import ConfigError, RunError
from tunesmith.rewards import exact_match, length, math_answer, regex, token_count
from tunesmith.rewards.base import Answer, Reward, Rewards, check, is_model


def answer(text: str, reference: str = "", *, tokens: int = 4, finished: bool = True) -> Answer:
    return Answer("Q: ", text, reference, (1, 2), tokens, finished)


def build(*rewards: Reward, said: list | None = None) -> Rewards:
    check(rewards)
    return Rewards.build(rewards, None, (said if said is not None else []).append)


def test_exact_match_forgives_white_space_alone():
    answers = [answer(" 7\n", "7"), answer("7.", "7"), answer("", "7")]
    assert exact_match.score(answers, None) == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("so it is 42", "42"),
        ("3 + 4 = 7", "#### 7"),
        ("\\boxed{1{,}200}", "\\boxed{1{,}200}"),
        ("We get \\boxed{\\frac{1}{2}}.", "0.5"),
        ("The answer is 1,200.", "1200"),
        ("#### 3/4", "0.75"),
        ("答案是 50%", "1/2"),
        ("it is $-3$", "-3.0"),
        ("the answer is Paris", "#### Paris"),
        ("The answer is 12. Check: 7 apples", "12"),
        ("The answer is 12 apples.", "12"),
        ("The answer is **12**, because 5 + 7 = 12.", "12"),
        ("The answer is x = 3 + 4 = 7", "7"),
        ("The answer is Paris. It has 2 million people.", "#### Paris"),
        ("The answer is 50%.", "50%"),
        ("0.5", "50%"),
        ("50%", "0.5"),
        ("50 %", "1/2"),
        ("\\boxed{\\frac{1}{2}}", "50%"),
        ("\\boxed{50\\%}", "1/2"),
        ("\\boxed{12 \\text{ apples}}", "12"),
        ("so $\\frac{1}{2}$", "50%"),
        ("\\boxed{1{,}200}", "1200"),
        ("x = 5-3", "3"),
        ("It is 2-4", "4"),
        ("x=-3", "-3"),
        ("x = −3", "-3"),
        ("(5)-3", "3"),
        ("2*-3", "-3"),
        ("Answer: 12", "#### 12"),
        ("**Answer:** 12 apples\nCheck: 7", "12"),
        ("**Answer**: 12", "12"),
        ("Answer:\n12", "12"),
        ("**Final Answer: 12**", "12"),
        ("答案：12。还有 7", "12"),
        ("Answer: 13, no.\nAnswer: 12", "12"),
        ("\\boxed{12}, not Answer: 13", "12"),
        ("She has **12** apples, as 3 and 9 are 12, and 2 pears", "12"),
        ("So **12.**", "12"),
        ("**1.** Add 3 and 9: that is 12", "12"),
        ("**Step 2** gives 12", "12"),
        ("3 + 9\n= 12", "12"),
    ],
)  # fmt: skip
def test_math_answers_that_are_the_same(text, reference):
    assert math_answer.score([answer(text, reference)], None) == [1]


@pytest.mark.parametrize(
    ("text", "reference"),
    [("41", "42"), ("", "42"), ("no idea", "42"), ("42 or 43", "42"), ("\\boxed{42", "\\boxed{}"),
     ("1/0", "1"), ("5", "no number"), ("50", "50%"), ("x = 5-3", "-3"), ("x = -3", "3"),
     ("The answer is 12 or 13", "12"), ("The answer is not 12", "12"), ("\\boxed{x^2}", "2"),
     ("\\boxed{2x}", "2"), ("The answer is 12, 13", "12"), ("The answer is 2 - x", "2"),
     ("answer is St. Louis", "#### St. Petersburg"), ("\\boxed{1e999999999}", "1"),
     ("#### 12.5", "12"), ("Answer: 12 or 13", "12"), ("**12**, or rather **13**", "12"),
     ("**12**\nthen 13", "12"), ("Answer: none, but 12", "12")],
)  # fmt: skip
def test_math_answers_that_are_not(text, reference):
    assert math_answer.score([answer(text, reference)], None) == [0]


def test_regex_length_and_count():
    assert regex.score([answer("12"), answer("a12")], "^\\d+$") == [1, 0]
    assert length.score([answer("", tokens=4), answer("", tokens=8)], "4") == [0, -1]
    assert token_count.score([answer("the cat, the dog"), answer("")], "the") == [2, 0]


def test_sources_are_added_up_by_weight_and_told_apart():
    rewards = build(Reward("regex", 2.0, "a"), Reward("regex", -1.0, "b"), Reward("exact_match"))
    scores = rewards.score([answer("ab", "ab"), answer("b", "x")])
    assert scores.total_N.tolist() == [2, -1]
    assert {name: values.tolist() for name, values in scores.each.items()} == {
        "regex": [1, 0], "regex_2": [1, 1], "exact_match": [1, 0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "argument"),
    [("regex", None), ("regex", "("), ("length", "x"), ("length", "0"), ("token_count", ""),
     ("exact_match", "x"), ("math_answer", "x")],
)  # fmt: skip
def test_wrong_arguments_are_refused(path, argument):
    with pytest.raises(ConfigError) as caught:
        check([Reward(path, 1.0, argument)])
    assert caught.value.code == "C224"


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="exact_match") as caught:
        check([Reward("exact_mach")])
    assert caught.value.code == "C110"


def test_no_rewards_at_all_are_refused():
    with pytest.raises(ConfigError) as caught:
        check([])
    assert caught.value.code == "C226"
    with pytest.raises(ConfigError) as caught:
        check([Reward("exact_match", float("nan"))])
    assert caught.value.code == "C224"


def test_what_is_a_model():
    assert [is_model(path) for path in ("run:last", "runs/rm", "./rm")] == [True] * 3
    assert not any(is_model(path) for path in ("regex", "r.py:f", "http://x/y"))


# ---------------------------------------------------------------- a user's own


@pytest.fixture
def module(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text(
        "import helper\n"
        "def brief(completions): return [-len(text) for text in completions]\n"
        "def told(completions, references, **more):\n"
        "    return [c == r and more['finished'][i] and len(more['prompts'][i]) == 3\n"
        "            for i, (c, r) in enumerate(zip(completions, references))]\n"
        "def breaks(completions): return 1 / 0\n"
        "def short(completions): return [1.0]\n"
        "def nothing(completions): return [float('nan')] * len(completions)\n"
        "def words(completions): return ['good'] * len(completions)\n"
        "def digits(completions): return ['1'] * len(completions)\n"
        "def raw(completions): return [b'1'] * len(completions)\n"
        "def string(completions): return '1' * len(completions)\n"
        "def empty(completions): return [None] * len(completions)\n"
        "def array(completions):\n"
        "    import numpy\n"
        "    return numpy.ones(len(completions), numpy.float32)\n"
        "def tensor(completions):\n"
        "    import torch\n"
        "    return torch.ones(len(completions))\n"
        "def strange(answers): return answers\n"
    )
    (tmp_path / "helper.py").write_text("")
    return file


def test_a_function_is_run_and_it_is_said(module):
    said: list[str] = []
    rewards = build(Reward(f"{module}:brief"), Reward(f"{module}:told"), said=said)
    scores = rewards.score([answer("one", "one"), answer("three", "x")])
    assert scores.each["brief"].tolist() == [-3, -5]
    assert scores.each["told"].tolist() == [1, 0]
    assert "running your code" in said[0]


@pytest.mark.parametrize(
    ("name", "code"),
    [("breaks", "R240"), ("short", "R241"), ("nothing", "R241"), ("words", "R241"),
     ("digits", "R241"), ("raw", "R241"), ("string", "R241"), ("empty", "R241")],
)  # fmt: skip
def test_a_function_that_fails_stops_the_run(module, name, code):
    rewards = build(Reward(f"{module}:{name}"))
    with pytest.raises(RunError) as caught:
        rewards.score([answer("a"), answer("b")])
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["array", "tensor"])
def test_numbers_of_other_libraries_are_numbers(module, name):
    assert build(Reward(f"{module}:{name}")).score([answer("a")] * 2).total_N.tolist() == [1, 1]


def test_functions_that_are_not_there_are_refused(module):
    for path in ("nowhere.py:f", f"{module}:missing", f"{module}:strange"):
        with pytest.raises(ConfigError) as caught:
            build(Reward(path))
        assert caught.value.code == "C225"


# ---------------------------------------------------------------- a service


@pytest.fixture
def service():
    """A service that scores by length; its path says how it misbehaves."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            scores = {"scores": [len(text) for text in body["completions"]]}
            reply = {"/score": json.dumps(scores), "/odd": '{"score": 1}', "/text": "no"}[self.path]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *arguments):
            """Silence."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_service_scores(service):
    said: list[str] = []
    scores = build(Reward(f"{service}/score"), said=said).score([answer("abc"), answer("")])
    assert scores.total_N.tolist() == [3, 0]
    assert "sent there" in said[0]


@pytest.mark.parametrize("path", ["/odd", "/text", None])
def test_a_service_that_gives_no_scores_stops_the_run(service, path):
    url = "http://127.0.0.1:9/none" if path is None else service + path
    with pytest.raises(RunError) as caught:
        build(Reward(url)).score([answer("a")])
    assert caught.value.code == "R242"
