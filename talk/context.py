"""
Which turns of a long conversation the model sees: one rule for the terminal and the page.
"""
from bisect import bisect_left


def fit(messages, max_tokens, max_len, count):
    """Leave out the oldest turns, so that the context has room for an answer.

    The answer gets a quarter of the context, or max_tokens where that is less. A turn is a question
    and what follows it. System messages at the beginning stay. So does the last turn, which may
    take the answer's room as well: whether it fits at all is for the caller to see.

    max_len: the context in tokens. count(messages) -> how many tokens they take. Returns the
    messages that are left, and the number of turns left out.
    """
    roles = [message["role"] for message in messages]
    n_system = 0
    while n_system < len(roles) and roles[n_system] in ("system", "developer"):
        n_system += 1
    questions = [i for i, role in enumerate(roles) if role == "user"]
    # What stands before the first question belongs to its turn.
    starts = [n_system, *questions[1:]]
    room = max_len - min(max_tokens, max_len // 4)

    def rest(start):
        return messages[:n_system] + messages[start:]

    # The more turns are left out, the less room the rest takes, so a few of them are tried only.
    dropped = bisect_left(starts[:-1], True, key=lambda start: count(rest(start)) <= room)
    return rest(starts[dropped]), dropped
