"""context.py: which turns of a long conversation are left out."""
import random

from talk.context import fit
from toy_chat import byte_tokenizer

TOK = byte_tokenizer()


def count(messages):
    return len(TOK.render_for_completion({"messages": messages}))


def talk(*texts, system=()):
    roles = ["user", "assistant"] * len(texts)
    return ([dict(role="system", content=text) for text in system]
            + [dict(role=role, content=text) for role, text in zip(roles, texts)])


def test_the_oldest_turns_go_and_the_system_message_stays():
    messages = talk("a" * 10, "a" * 10, "b" * 10, "b" * 10, "c" * 10, system=["S"])
    assert fit(messages, 10, 60, count) == (messages[:1] + messages[3:], 1)
    assert fit(messages, 10, 1000, count) == (messages, 0)


def test_the_answer_gets_a_quarter_or_what_it_asks_for():
    messages = talk("a" * 40, "", "b" * 40)
    for max_len in range(60, 250):
        for max_tokens in (1, 20, 1000):
            _, dropped = fit(messages, max_tokens, max_len, count)
            leaves_room = count(messages) <= max_len - min(max_tokens, max_len // 4)
            assert dropped == (0 if leaves_room else 1)


def test_no_more_turns_are_left_out_than_needed():
    rng = random.Random(0)
    for _ in range(200):
        texts = ["x" * rng.randrange(30) for _ in range(2 * rng.randrange(8) + 1)]
        messages = talk(*texts, system=["S"] * rng.randrange(2))
        n_system = len(messages) - len(texts)
        max_len = rng.randrange(60, 200)
        room = max_len - min(20, max_len // 4)
        # The definition: try one turn after the other, and keep the last one in any case.
        for dropped in range(len(texts) // 2 + 1):
            rest = messages[:n_system] + messages[n_system + 2 * dropped:]
            if count(rest) <= room:
                break
        assert fit(messages, 20, max_len, count) == (rest, dropped)


def test_a_few_of_many_turns_are_counted():
    counted = []

    def watched(messages):
        counted.append(messages)
        return count(messages)

    rest, dropped = fit(talk(*["x"] * 2001), 20, 200, watched)
    assert dropped > 900 and rest and len(counted) < 12


def test_turns_of_other_shapes():
    def characters(messages):
        return sum(len(message["content"]) for message in messages)

    # An answer that goes on is part of the last turn, and it stays however long it is.
    messages = talk("a" * 10, "b" * 10, "c" * 10, "d" * 90)
    assert fit(messages, 10, 40, characters) == (messages[2:], 1)
    # Several questions in a row are turns of their own.
    assert fit(talk("a" * 50) + talk("b"), 10, 40, characters) == (talk("b"), 1)
    # An answer before the first question belongs to its turn.
    opening = [dict(role="assistant", content="x" * 50)]
    assert fit(opening + talk("a", "b", "c"), 10, 40, characters) == (talk("c"), 1)
    only_system = talk(system=["S"])
    assert fit(only_system, 10, 40, characters) == (only_system, 0)
