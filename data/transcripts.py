"""
Conversations that were written into one string, as the messages they were made from.

    read_transcript("### Human: Hi### Assistant: Hello")
        -> [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

Known are the transcripts of Anthropic HH (Human: and Assistant: behind blank lines), Guanaco and
Alpaca (### Human:, ### Instruction:), Glaive and Vicuna (USER: and ASSISTANT: at the start of a
line), and the prompts of ChatML, Llama 2 and 3, Zephyr, Gemma, Open Assistant, DeepSeek and
OpenChatKit with their markers.
"""
import re

# The marker that opens a message, in each kind of transcript; its group is the role. None begins
# with white space of any length: to look for that in a million spaces takes the square of it.
HH = re.compile(r"\n\n(Human|Assistant):")
KINDS = [
    HH,
    re.compile(r"###\s*(human|user|instruction|input|assistant|response|system)\s*:", re.I),
    re.compile(r"<\|im_start\|>[ ]?(\w+)\n"),
    re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>"),
    re.compile(r"<start_of_turn>(\w+)\n"),
    re.compile(r"<\|(system|user|prompter|assistant)\|>"),
    re.compile(r"<｜(User|Assistant)｜>"),
    re.compile(r"(?:^|\n)<(human|bot)>:"),
    re.compile(r"\[(/?INST)\]"),
    re.compile(r"(?:^|\n)(USER|ASSISTANT|SYSTEM|FUNCTION RESPONSE)[ ]?:"),
    re.compile(r"(?:^|\n)(Human|User|Assistant|System|AI|Bot)[ ]?:"),
]
ROLES = {"human": "user", "user": "user", "prompter": "user",
         "instruction": "user", "input": "user", "inst": "user",
         "assistant": "assistant", "response": "assistant", "/inst": "assistant",
         "model": "assistant", "ai": "assistant", "bot": "assistant",
         "system": "system",
         "tool": "tool", "ipython": "tool", "function response": "tool"}
# What opens the whole text, and what closes a message.
BEGINS = re.compile(r"\s*(<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>"
                    r"|<｜begin▁of▁sentence｜>)\s*")
ENDS = ("<s>", "</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|end_of_text|>",
        "<|endoftext|>", "<｜end▁of▁sentence｜>")
LLAMA_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>\s*", re.S)


def kind_of(text):
    """The marker of the transcript that a string is, None if it is none.

    A transcript begins with a marker, and both the user and the assistant speak. Before the
    markers ### there may be text, as in Alpaca's prompt.
    """
    opening = BEGINS.match(text)
    body = text[opening.end():] if opening else text
    for marker in KINDS:
        first = marker.search(body)
        if not first or (body[:first.start()].strip() and "###" not in first[0]):
            continue
        roles = {ROLES.get(match[1].lower()) for match in marker.finditer(body)}
        if {"user", "assistant"} <= roles:
            return marker
    return None


def is_transcript(text):
    """Is it a string with the turns of a user and an assistant?

    Of HH's transcripts the beginning is enough: its prompts may have no assistant in them.
    """
    return isinstance(text, str) and (bool(HH.match(text)) or kind_of(text) is not None)


def without_end(text):
    """A text without the markers that close it: "Hello<|im_end|>" -> "Hello"."""
    while end := next(filter(text.rstrip().endswith, ENDS), ""):
        text = text.rstrip().removesuffix(end).rstrip()
    return text


def read_transcript(text):
    """A transcript -> messages; ValueError if it is none.

    A last answer with nothing in it, as at the end of a prompt, is left out.
    """
    marker = HH if HH.match(text) else kind_of(text)
    if marker is None:
        raise ValueError("a string that is no transcript: expected one like '### Human: Hi\\n"
                         "### Assistant: Hello', or a list of messages")
    opening = BEGINS.match(text)
    before, *turns = marker.split(text[opening.end():] if opening else text)
    messages = []
    if before.strip():
        messages.append({"role": "system", "content": before.strip()})
    for who, content in zip(turns[::2], turns[1::2]):
        role = ROLES.get(who.lower())
        if role is None:
            raise ValueError(f"a transcript with the role {who!r}")
        content = without_end(content)
        system = LLAMA_SYSTEM.match(content)
        if system:
            messages.append({"role": "system", "content": system[1].strip()})
            content = content[system.end():]
        messages.append({"role": role, "content": content.strip()})
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return messages
