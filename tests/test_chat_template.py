"""talk/chat_template.jinja, in transformers, against what the server and training make of messages.

Any conversation becomes the same ids, or both refuse it.
"""
import keyword
import random
from itertools import pairwise

import pytest

from data.formats import to_conversation
from export import CHAT_TEMPLATE, export, inference_template
from talk.openai_protocol import ApiError, chat_prompt, with_tools
from test_export import trained_tokenizer
from toy_chat import tiny_model

jinja2 = pytest.importorskip("jinja2")
transformers = pytest.importorskip("transformers")
nodes = jinja2.nodes
TEXTS = ["a", "Hello there", " and 2+2? \n", "\n\nTwo\n\nlines", "naïve café 😀", "日本語 é",
         "12345", "x='y'", "{{ 1 }} {% if %} {#", "<b>&amp;</b>", "'", '"', "\\n", "  ", "."]
VALUES = [1, -2.5, 1e30, True, None, "it's", 'say "hi"', "both ' and \"", "line\nbreak\t\\",
          "é\x07", [1, "a", [None]], {"k": {"from": False}}, {}, []]
KEYS = ["a", "b_2", "été", "items", "match", "not a name", "x-y", "", "2", *keyword.kwlist]
TOOL = {"type": "function", "function": {"name": "add", "description": "Add é & <b>.",
                                         "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def hf_and_tok(tmp_path_factory):
    tok = trained_tokenizer()
    path = tmp_path_factory.mktemp("template") / "m"
    export(tiny_model(vocab_size=tok.vocab_size), tok, path)
    return transformers.AutoTokenizer.from_pretrained(path), tok


def theirs(hf, messages, **settings):
    """-> ids, mask of the assistant's tokens."""
    out = hf.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True,
                                 **settings)
    return out["input_ids"], out["assistant_masks"]

# --------------------------------------------------------------------------------------------------
# The same ids

def random_message(rng, role):
    """A message as a client may send it, or a file hold it."""
    text = rng.choice(TEXTS)
    message = {"role": role, "content": text}
    shape = rng.random()
    if shape < 0.1:
        message["content"] = rng.choice([None, ""])
    elif shape < 0.3:
        kinds = ["text"] if role == "assistant" else ["text", "input_text"]
        message["content"] = [{"type": rng.choice(kinds), "text": rng.choice(TEXTS)}
                              for _ in range(rng.randrange(4))]
    elif shape < 0.32:
        message["content"] = [{"type": "input_file", "text": "a"}]
    if role == "assistant" and rng.random() < 0.1:
        message["content"] = [{"type": "text", "text": text}, {"type": "python", "text": "6*7"},
                              {"type": "python_output", "text": "forty-two"},
                              {"type": "text", "text": rng.choice(TEXTS)}]
    return message


def random_calls(rng, n):
    calls = []
    for i in range(rng.randrange(1, 4)):
        arguments = {rng.choice(KEYS): rng.choice(VALUES) for _ in range(rng.randrange(4))}
        name = rng.choice(["add", "get-time", "a.b", "né 2"])
        calls.append({"id": f"call_{n}_{i}", "type": "function",
                      "function": {"name": name, "arguments": arguments}})
    return calls


def random_conversation(rng):
    messages = []
    for n in range(rng.randrange(1, 8)):
        role = rng.choice(["user", "user", "assistant", "assistant", "system", "developer"])
        if rng.random() < 0.02:
            role = rng.choice(["critic", "tool"])
        message = random_message(rng, role)
        messages.append(message)
        if role == "assistant" and rng.random() < 0.4:
            message["tool_calls"] = random_calls(rng, n)
            results = [{"role": "tool", "tool_call_id": call["id"], "content": rng.choice(
                           ["18 C", "", {"a": [1, "é"]}, [{"type": "text", "text": "noon"}], 7])}
                       for call in message["tool_calls"]]
            if rng.random() < 0.3:
                rng.shuffle(results)
            # Some results are missing, or come behind another message.
            if rng.random() < 0.1:
                results = results[:-1]
            if rng.random() < 0.1:
                results[:0] = [random_message(rng, "assistant")]
            messages += results
    return messages


@pytest.mark.parametrize("n", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_any_conversation_has_the_ids_of_our_server(n, hf_and_tok):
    hf, tok = hf_and_tok
    rng = random.Random(n)
    n_refused = 0
    for _ in range(n):
        messages = random_conversation(rng)
        tools = rng.choice([None, None, [TOOL], [TOOL, TOOL]])
        try:
            expected, _ = chat_prompt(with_tools(messages, tools), tok, 10**6)
        except ApiError:
            n_refused += 1
            with pytest.raises(jinja2.TemplateError):
                theirs(hf, messages, tools=tools, add_generation_prompt=True)
            continue
        ids, _ = theirs(hf, messages, tools=tools, add_generation_prompt=True)
        assert ids == expected, messages
    assert n / 15 < n_refused < n / 2


def has_text(message):
    content = message["content"] or ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    return content.strip()


@pytest.mark.parametrize("n", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_any_conversation_has_the_ids_and_the_mask_of_training(n, hf_and_tok):
    hf, tok = hf_and_tok
    rng = random.Random(n)
    n_same = 0
    for _ in range(n):
        messages = random_conversation(rng)
        # Training leaves out a system message without text, and white space beside a call.
        messages = [message for message in messages
                    if message["role"] not in ("system", "developer") or has_text(message)]
        for message in messages:
            if message["role"] == "assistant" and rng.random() < 0.1:
                message.update(rng.choice([{"weight": 0}, {"learn": False}, {"weight": 1}]))
            if message["content"] == "  " and "tool_calls" in message:
                message["content"] = None
        tools = rng.choice([None, None, [TOOL]])
        try:
            _, record = to_conversation({"messages": messages, "tools": tools})
        except ValueError:
            continue
        expected, expected_mask = tok.render_conversation(record)
        # Of a text that is learned in part, training encodes each part by itself.
        if any(part["type"] == next_part["type"] == "text"
               for message in record["messages"] if isinstance(message["content"], list)
               for part, next_part in pairwise(message["content"])):
            continue
        n_same += 1
        assert theirs(hf, messages, tools=tools) == (expected, expected_mask), messages
    assert n_same > n / 5

# --------------------------------------------------------------------------------------------------
# By hand

U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}
START = "<|bos|><|user_start|>Hi<|user_end|><|assistant_start|>"


@pytest.mark.parametrize("messages, text", [
    ([U], START),
    # A last answer goes on, a role that speaks twice is joined.
    ([U, A], START + "Hello"), ([U, A, A], START + "Hello\n\nHello"),
    ([U, A | {"content": None}], START),
    ([{"role": "system", "content": "s"}, {"role": "system", "content": "t"}, U],
     "<|bos|><|user_start|>s\n\nt\n\nHi<|user_end|><|assistant_start|>"),
    ([A, U], "<|bos|><|user_start|><|user_end|><|assistant_start|>Hello<|assistant_end|>"
             "<|user_start|>Hi<|user_end|><|assistant_start|>")])
def test_shapes(messages, text, hf_and_tok):
    hf, _ = hf_and_tok
    assert hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == text
    if messages[-1].get("content") and messages[-1]["role"] == "assistant":
        assert hf.apply_chat_template(messages, tokenize=False, continue_final_message=True) == text
        closed = hf.apply_chat_template(messages, tokenize=False)
        assert closed == text + "<|assistant_end|>"


@pytest.mark.parametrize("message, reason", [
    (U | {"role": "critic"}, "role"), (U | {"content": [{"type": "image_url"}]}, "reads no other"),
    (U | {"role": "tool"}, "follows the tool_calls"), (U | {"content": [7]}, "reads no other"),
    (A | {"tool_calls": [{"function": {"name": "f"}}]}, "result is missing"),
    (A | {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "as an object"),
    (A | {"tool_calls": [{"function": {}}]}, "name of a function")])
def test_what_cannot_be_rendered_is_said(message, reason, hf_and_tok):
    hf, _ = hf_and_tok
    with pytest.raises(jinja2.TemplateError, match=reason):
        hf.apply_chat_template([U, message], add_generation_prompt=True)


def test_a_result_without_content_and_an_answer_without_weight(hf_and_tok):
    hf, tok = hf_and_tok
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    for result in {}, {"content": None}:
        messages = [U, call, {"role": "tool"} | result, A | {"weight": 0}, U, A, U]
        ids, mask = theirs(hf, messages)
        assert tok.decode(ids) == (
            START + "<|python_start|>f()<|python_end|><|output_start|>null<|output_end|>Hello"
            + "<|assistant_end|>" + START.removeprefix("<|bos|>") + "Hello<|assistant_end|>"
            + "<|user_start|>Hi<|user_end|>")
        learned = tok.decode([id for id, learn in zip(ids, mask) if learn])
        assert learned == "<|python_start|>f()<|python_end|>Hello<|assistant_end|>"


def test_the_mask_ends_where_a_letter_of_several_tokens_ends(hf_and_tok):
    hf, tok = hf_and_tok
    ids, mask = theirs(hf, [U, A | {"content": "😀😀"}, U, A | {"content": "é"}])
    learned = tok.decode([id for id, learn in zip(ids, mask) if learn])
    assert learned == "😀😀<|assistant_end|>é<|assistant_end|>"

# --------------------------------------------------------------------------------------------------
# What servers take it for

def content_format(template):
    """What vLLM and SGLang make of a template: "openai" if it seems to loop over contents.

    Theirs follows the names that hold a message or the messages; here any loop over something that
    is called content, in whatever it stands, counts. SGLang also looks for some words.
    """
    tree = jinja2.Environment().parse(template.replace("{%- generation %}", "")
                                      .replace("{%- endgeneration %}", ""))
    for loop in tree.find_all(nodes.For):
        for node in [loop.iter, *loop.iter.find_all(nodes.Expr)]:
            names = [getattr(node, "name", ""), getattr(node, "attr", ""),
                     getattr(node, "value", "")]
            if "content" in names:
                return "openai"
    words = ("image", "audio", "video", "vision")
    return "openai" if any(word in template for word in words) else "string"


def test_servers_take_it_for_a_template_of_strings():
    for name in "message['content']", "message.content", "content", "message.content[1:] | list":
        assert content_format("{% for part in " + name + " %}{% endfor %}") == "openai"
    assert content_format("{% for m in messages %}{{ m.content }}{% endfor %}") == "string"
    assert content_format(CHAT_TEMPLATE) == "string"
    # They follow loops over messages by the name of their item, which is a single one.
    tree = jinja2.Environment().parse(inference_template())
    for node in tree.find_all((nodes.For, nodes.Assign)):
        if any(name.name == "messages" for name in node.find_all(nodes.Name)):
            assert isinstance(node, nodes.For) and isinstance(node.target, nodes.Name)


def test_the_template_of_the_gguf_has_no_tags_of_transformers_and_says_the_same(hf_and_tok):
    hf, _ = hf_and_tok
    plain = inference_template()
    assert "{%- generation" in CHAT_TEMPLATE and "{%- generation" not in plain
    rng = random.Random(3)
    for _ in range(30):
        messages = random_conversation(rng)
        settings = dict(tokenize=False, add_generation_prompt=True)
        try:
            text = hf.apply_chat_template(messages, **settings)
        except jinja2.TemplateError:
            continue
        assert hf.apply_chat_template(messages, chat_template=plain, **settings) == text
