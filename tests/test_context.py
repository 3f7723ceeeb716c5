"""context.py: which turns of a long conversation are left out."""
import random

import pytest

from talk.context import fit
from toy_chat import byte_tokenizer

TOK = byte_tokenizer()


def render(messages):
    return TOK.render_for_completion({"messages": messages})


def talk(*texts, system=()):
    roles = ["user", "assistant"] * len(texts)
    return ([dict(role="system", content=text) for text in system]
            + [dict(role=role, content=text) for role, text in zip(roles, texts)])


def test_the_oldest_turns_go_and_the_system_message_stays():
    messages = talk("a" * 10, "a" * 10, "b" * 10, "b" * 10, "c" * 10, system=["S"])
    ids, dropped = fit(messages, 10, 60, render)
    assert dropped == 1 and ids == render(messages[:1] + messages[3:])
    ids, dropped = fit(messages, 10, 1000, render)
    assert dropped == 0 and ids == render(messages)


def test_the_answer_gets_a_quarter_or_what_it_asks_for():
    messages = talk("a" * 40, "", "b" * 40)
    whole, last = len(render(messages)), len(render(messages[2:]))
    for max_len in range(last + 1, 2 * whole):
        for max_tokens in (1, 20, 1000):
            ids, dropped = fit(messages, max_tokens, max_len, render)
            leaves_room = whole <= max_len - min(max_tokens, max_len // 4)
            assert dropped == (0 if leaves_room else 1)
            assert len(ids) < max_len


def test_a_last_turn_that_is_too_long_is_an_error():
    messages = talk("a", "b", "c" * 50)
    n = len(render(messages[2:]))
    assert fit(messages, 10, n + 1, render) == (render(messages[2:]), 1)
    with pytest.raises(ValueError, match=f"takes {n} tokens, there is room for {n - 1}"):
        fit(messages, 10, n, render)


def test_no_more_turns_are_left_out_than_needed():
    rng = random.Random(0)
    for _ in range(200):
        texts = ["x" * rng.randrange(30) for _ in range(2 * rng.randrange(8) + 1)]
        messages = talk(*texts, system=["S"] * rng.randrange(2))
        n_system = len(messages) - len(texts)
        max_len = rng.randrange(60, 200)
        room = max_len - min(20, max_len // 4)
        # The definition: try one turn after the other.
        for dropped in range(len(texts) // 2 + 1):
            ids = render(messages[:n_system] + messages[n_system + 2 * dropped:])
            if len(ids) <= room:
                break
        assert fit(messages, 20, max_len, render) == (ids, dropped)


def test_an_answer_that_goes_on_is_part_of_the_last_turn():
    def joined(messages):
        return "".join(message["content"] for message in messages)

    messages = talk("a" * 10, "b" * 10, "c" * 10, "d" * 10)
    assert fit(messages, 10, 40, joined) == ("c" * 10 + "d" * 10, 1)
    # Several questions in a row are turns of their own.
    assert fit(talk("a" * 50) + talk("b"), 10, 40, joined) == ("b", 1)
