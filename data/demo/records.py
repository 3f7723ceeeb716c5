"""
Conversations and preference pairs, in the form in which the tasks of this folder make them.
"""


def record(question, content, **notes):
    """A conversation of one question and one answer, with notes for grading beside the messages."""
    return {"messages": [{"role": "user", "content": question},
                         {"role": "assistant", "content": content}], **notes}


def preference(chosen, content, kind):
    """A preference pair: a conversation, and the same one with another last answer.

    kind: what is wrong with that answer.
    """
    messages = chosen["messages"][:-1] + [{"role": "assistant", "content": content}]
    return {"chosen": chosen, "rejected": {**chosen, "messages": messages}, "kind": kind}


def run_on(text):
    """A right answer that never stops: the whole text over and over, 300 characters or 4 times."""
    return " ".join([text] * max(4, 300 // len(text)))


def run_on_parts(parts, rng):
    """The same for an answer of parts, which goes on repeating its last text or its first."""
    if rng.random() < 0.7:
        tail = parts[-1]["text"]
    else:
        tail = "\n" + parts[0]["text"].rstrip()
    times = max(6, min(30, 240 // len(tail)))
    return parts[:-1] + [{"type": "text", "text": parts[-1]["text"] + tail * times}]
