"""openai_logprobs.py: log-probabilities over HTTP, to the openai client, beside GPT.forward."""
import json

import pytest
import torch

from talk.engine import Engine
from talk.openai_logprobs import complete_answer, spoken
from talk.openai_protocol import ApiError, read_request
from toy_chat import Scripted, byte_tokenizer, prompt, tiny_model
from toy_server import SETTINGS, USER, Client, official_client, tool_caller, watch_submit

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def client():
    client = Client()
    yield client
    client.close()


def plain_logps(ids, raw=False):
    """GPT.forward's log-probabilities (V,) of what follows ids, after the mask of special tokens.

    Text may open Python or end the answer, and raw text may end.
    """
    tok = byte_tokenizer()
    allowed = ["<|bos|>"] if raw else ["<|python_start|>", "<|assistant_end|>"]
    with torch.no_grad():
        logits = tiny_model(seq_len=512)(torch.tensor([ids]))[0, -1]
    for name, id in tok.specials.items():
        if name not in allowed:
            logits[id] = -torch.inf
    return logits.log_softmax(-1)


def check(entries, ids, n_top):
    """OpenAI's objects of one answer, against GPT.forward behind the prompt `ids`."""
    tok = byte_tokenizer()
    ids = list(ids)
    for entry in entries:
        logps = plain_logps(ids)
        [id] = entry.bytes
        assert entry.logprob == pytest.approx(logps[id].item(), abs=1e-4)
        likeliest = logps.topk(n_top) if n_top else None
        assert len(entry.top_logprobs) == n_top
        for i, top in enumerate(entry.top_logprobs):
            like = likeliest.indices[i].item()
            assert top.logprob == pytest.approx(likeliest.values[i].item(), abs=1e-4)
            if like < 256:
                assert top.bytes == [like] and top.token == tok.decode([like])
            else:
                assert top.bytes is None and tok.special(top.token) == like
        ids.append(id)


@pytest.mark.parametrize("settings", [
    dict(temperature=0), dict(temperature=1.5, top_p=0.6, presence_penalty=1.0, seed=4)])
def test_chat_to_the_openai_client(client, settings):
    openai, api = official_client(client)
    ids = prompt(client.tok, "hi")
    asked = dict(model="tiny", messages=USER, max_tokens=12, logprobs=True, **settings)
    whole = api.chat.completions.create(**asked, top_logprobs=20).choices[0]
    content = whole.logprobs.content
    # The end of the answer has no entry.
    assert 10 <= len(content) <= 12
    assert bytes(b for entry in content for b in entry.bytes).decode(errors="replace") \
        == whole.message.content
    check(content, ids, 20)
    check(api.chat.completions.create(**asked).choices[0].logprobs.content, ids, 0)

    streamed = []
    for chunk in api.chat.completions.create(**asked, top_logprobs=20, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert streamed == content
    # Whoever does not ask gets none, and the same answer.
    asked.pop("logprobs")
    without = api.chat.completions.create(**asked).choices[0]
    assert without.logprobs is None and without.message.content == whole.message.content


def test_completions_to_the_openai_client(client):
    openai, api = official_client(client)
    ids = [client.tok.special("<|bos|>"), *client.tok.encode("ab")]
    asked = dict(model="tiny", prompt="ab", max_tokens=10, temperature=0.8, seed=1)
    whole = api.completions.create(**asked, logprobs=5).choices[0]
    told = whole.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) >= 9
    for name, logp, top in zip(told.tokens, told.token_logprobs, told.top_logprobs):
        logps = plain_logps(ids, raw=True)
        data = bytes.fromhex(name.removeprefix("bytes:\\x")) if len(name) > 1 else name.encode()
        [id] = data
        assert logp == pytest.approx(logps[id].item(), abs=1e-4)
        assert list(top.values())[:5] == pytest.approx(logps.topk(5).values.tolist(), abs=1e-4)
        assert top[name] == logp and 5 <= len(top) <= 6
        ids.append(id)
    for i, offset in enumerate(told.text_offset):
        if told.tokens[i].isascii() and len(told.tokens[i]) == 1:
            assert whole.text[offset] == told.tokens[i]
    streamed = [chunk.choices[0].logprobs
                for chunk in api.completions.create(**asked, logprobs=5, stream=True)]
    assert [name for piece in streamed if piece for name in piece.tokens] == told.tokens
    assert [n for piece in streamed if piece for n in piece.text_offset] == told.text_offset
    none = api.completions.create(**asked, logprobs=0).choices[0].logprobs
    assert none.top_logprobs is None and none.token_logprobs == told.token_logprobs
    with pytest.raises(openai.BadRequestError, match="echo"):
        api.completions.create(**asked, logprobs=2, echo=True)


def scripted(script):
    tok = byte_tokenizer()
    engine = Engine(tiny_model(seq_len=512), tok)
    engine.decoder = Scripted(engine, [*script, tok.special("<|assistant_end|>")], None)
    return Client(engine, tok)


@pytest.mark.parametrize("stream", [False, True])
def test_bytes_of_a_character_in_pieces_and_a_stop_string(stream):
    client = scripted(list("é😀 abSTOPxyz".encode()))
    body = dict(logprobs=True, top_logprobs=2, stop=["STOP"])
    if stream:
        choices = [event["choices"][0] for event in client.events(**body)]
        content = [entry for choice in choices if choice["logprobs"]
                   for entry in choice["logprobs"]["content"]]
    else:
        [choice] = client.chat(**body)[1]["choices"]
        content = choice["logprobs"]["content"]
    client.close()
    # What the stop string cuts off goes with it.
    assert bytes(b for entry in content for b in entry["bytes"]) == "é😀 ab".encode()
    assert [entry["token"] for entry in content] == ["\ufffd"] * 6 + [" ", "a", "b"]
    # The script is certain, and no infinity stands in the JSON.
    assert all(entry["logprob"] == 0 and entry["top_logprobs"][0]["logprob"] == 0
               for entry in content)
    json.dumps(content, allow_nan=False)


def test_a_tool_call_is_in_the_tokens_and_not_in_the_logprobs():
    client = tool_caller()
    [choice] = client.chat(logprobs=True, include_tokens=True)[1]["choices"]
    events = client.events(logprobs=True, include_tokens=True)
    client.close()
    assert choice["message"]["content"] == "is 42!"
    assert "".join(e["token"] for e in choice["logprobs"]["content"]) == "is !"
    names = [token["token"] for token in choice["tokens"]]
    assert names == [*"is ", "<|python_start|>", *"6*7", "<|python_end|>", "<|output_start|>",
                     *"42", "<|output_end|>", "!", "<|assistant_end|>"]
    # What Python said was not sampled.
    assert [token["token"] for token in choice["tokens"] if token["logprob"] is None] == [
        "<|output_start|>", *"42", "<|output_end|>"]
    streamed = [token for event in events for c in event["choices"]
                for token in c.get("tokens", [])]
    assert streamed == choice["tokens"]
    first = events[0]["choices"][0]
    assert first["prompt"] == choice["prompt"] and first["answer"] == choice["answer"] == []
    assert [token["id"] for token in first["prompt"]] == prompt(client.tok, "hi")
    assert {token["mask"] for token in first["prompt"]} == {0}


def test_the_mask_of_a_prompt_is_that_of_training():
    tok = byte_tokenizer()
    parts = [dict(type="text", text="is "), dict(type="python", text="6*7"),
             dict(type="python_output", text="42"), dict(type="text", text="!")]
    messages = [dict(role="user", content="6*7?"), dict(role="assistant", content=parts),
                dict(role="user", content="<|assistant_start|>"),
                dict(role="assistant", content="no")]
    ids, mask = tok.render_conversation({"messages": messages})
    assert spoken(tok, ids) == mask


def test_an_answer_goes_on_behind_its_own_ids(client, monkeypatch):
    tok = client.tok
    body = dict(temperature=0, max_tokens=12, include_tokens=True)
    [whole] = client.chat(**body)[1]["choices"]
    ids = [token["id"] for token in whole["tokens"]]
    calls = watch_submit(client.engine, monkeypatch)
    # Whatever the cut, the same tokens follow; a text cut within a character could not do that.
    for n in (1, 5, 9):
        [rest] = client.chat(**body | dict(max_tokens=12 - n), answer_ids=ids[:n])[1]["choices"]
        assert [token["id"] for token in rest["tokens"]] == ids[n:]
        assert [token["id"] for token in rest["answer"]] == ids[:n]
        assert calls[-1][0] == prompt(tok, "hi") + ids[:n]
    raw = dict(prompt="ab", max_tokens=6, temperature=0, include_tokens=True)
    [whole] = client.ask("/v1/completions", raw)[1]["choices"]
    ids = [token["id"] for token in whole["tokens"]]
    raw |= dict(max_tokens=4, answer_ids=ids[:2])
    [rest] = client.ask("/v1/completions", raw)[1]["choices"]
    assert [token["id"] for token in rest["tokens"]] == ids[2:]


def test_a_character_that_stands_half_in_the_answer_so_far():
    client = scripted([*"é".encode()[1:], *b"a"])
    [choice] = client.chat(answer_ids=list("é".encode()[:1]))[1]["choices"]
    client.close()
    assert choice["message"]["content"] == "éa"


def test_answers_so_far():
    tok = byte_tokenizer()
    start, end, opening, closing = [tok.special(f"<|{name}|>") for name in (
        "python_start", "python_end", "output_start", "output_end")]
    code, output = [start, *b"6*7", end], [opening, *b"42", closing]
    for ids, whole, part_type in [
            ([], [], "text"), ([1, 2], [1, 2], "text"), (code[:3], code[:3], "python"),
            # A tool's whole output follows its call, as in the engine.
            (code, code + output, "text"), (code + output[:2], code + output, "text"),
            (code + output, code + output, "text"),
            ([9, *code, *output, 7, *code], [9, *code, *output, 7, *code, *output], "text")]:
        assert complete_answer(tok, ids) == (whole, part_type)
    for bad in ([end], [opening], [closing], [tok.special("<|bos|>")], [*code, 7],
                [start, start], [*code, *output, closing], [tok.special("<|assistant_end|>")]):
        with pytest.raises(ValueError, match="place"):
            complete_answer(tok, bad)
    with pytest.raises(ValueError, match="result is missing"):
        complete_answer(tok, code, lambda text: text == "6*7")
    # A request says it in OpenAI's shape.
    with pytest.raises(ApiError, match="answer_ids"):
        read_request(dict(messages=USER, answer_ids=[end]), True, tok, 512, 9, SETTINGS)
