"""
Which turns of a long conversation the model sees: one rule for the terminal and the page.
"""
from bisect import bisect_left


def fit(messages, max_tokens, max_len, render):
    """Leave out the oldest turns, so that the context has room for an answer.

    The answer gets a quarter of the context, or max_tokens where that is less. A turn is a question
    and what follows it. System messages at the beginning stay. So does the last turn, which may
    take the answer's room as well.

    render(messages) -> ids. max_len: the context in tokens. Returns the ids of what is left, and
    the number of turns left out. ValueError if the last turn alone is too long.
    """
    roles = [message["role"] for message in messages]
    n_system = 0
    while roles[n_system:n_system + 1] == ["system"]:
        n_system += 1
    questions = [i for i, role in enumerate(roles) if role == "user"]
    # What stands before the first question belongs to its turn.
    starts = [n_system, *questions[1:]]
    room = max_len - min(max_tokens, max_len // 4)

    def rest(start):
        return render(messages[:n_system] + messages[start:])

    # The more turns are left out, the less room the rest takes, so a few of them are tried only.
    dropped = bisect_left(starts[:-1], True, key=lambda start: len(rest(start)) <= room)
    ids = rest(starts[dropped])
    if len(ids) >= max_len:
        raise ValueError(f"the message takes {len(ids)} tokens, there is room for {max_len - 1}: "
                         f"shorten it")
    return ids, dropped
