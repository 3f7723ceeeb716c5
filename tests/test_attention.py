"""talk/attention.py and POST /v1/attention: what a layer's heads look at."""
import math
import threading

import pytest
import torch

import common
from talk.attention import MOST_TOKENS, attention, attention_picture
from toy import random_ids, tiny_model
from toy_server import Client

T = 13


def by_definition(model, ids, layer, monkeypatch):
    """The weights by loops, from the queries and keys that GPT.forward computes."""
    seen = []
    attend = common.attend

    def spy(q, k, v, mask):
        seen.append((q, k))
        return attend(q, k, v, mask)

    monkeypatch.setattr(common, "attend", spy)
    model(ids)
    q, k = (tensor[0].tolist() for tensor in seen[layer])
    weights = torch.zeros(len(q), ids.size(1), ids.size(1))
    for h, (queries, keys) in enumerate(zip(q, k)):
        for t, query in enumerate(queries):
            scores = [math.exp(sum(a * b for a, b in zip(query, key)) / math.sqrt(len(query)))
                      for key in keys[:t + 1]]
            for s, score in enumerate(scores):
                weights[h, t, s] = score / sum(scores)
    return weights


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("n_kv_head", [4, 2])
def test_the_weights_are_those_of_the_forward_pass(layer, n_kv_head, monkeypatch):
    model = tiny_model(n_kv_head=n_kv_head)
    ids = random_ids(1, T)
    expected = by_definition(model, ids, layer, monkeypatch)
    found = attention(model, ids[0].tolist(), layer)
    assert found.shape == (4, T, T)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_long_text_is_shown_by_its_end():
    model = tiny_model(seq_len=256)
    ids = random_ids(1, MOST_TOKENS + 20)[0].tolist()
    picture = attention_picture(model, ids, 1)
    assert picture["start"] == 20 and picture["n_layer"] == 2 and picture["n_head"] == 4
    weights = attention(model, ids, 1)
    for head, rows in enumerate(picture["weights"]):
        assert [len(row) for row in rows] == list(range(1, MOST_TOKENS + 1))
        for t in 0, MOST_TOKENS - 1:
            expected = 1000 * weights[head, 20 + t, 20:20 + t + 1]
            torch.testing.assert_close(torch.tensor(rows[t]).float(), expected, atol=0.51, rtol=0)
    # Nothing is missing where all is shown.
    rows = attention_picture(model, ids[:5], 0)["weights"][0]
    assert all(abs(sum(row) - 1000) <= 3 for row in rows)


@pytest.fixture(scope="module")
def client():
    client = Client()
    client.model = tiny_model(seq_len=64)
    client.server.load_model = lambda path: client.model
    yield client
    client.close()


def test_the_server_answers_with_the_picture(client):
    status, found = client.ask("/v1/attention", dict(model="tiny", ids=[1, 2, 3], layer=1))
    assert status == 200 and found == attention_picture(client.model, [1, 2, 3], 1)
    status, found = client.ask("/v1/attention", dict(ids=[7]))
    assert status == 200 and found["layer"] == 0 and found["weights"][0] == [[1000]]


@pytest.mark.parametrize("body, status, word", [
    (dict(ids=[]), 400, "ids"), (dict(), 400, "ids"), (dict(ids="abc"), 400, "ids"),
    (dict(ids=[1.0]), 400, "ids"), (dict(ids=[True]), 400, "ids"), (dict(ids=[-1]), 400, "ids"),
    (dict(ids=[265]), 400, "below 265"), (dict(ids=[1] * 65), 400, "1 to 64"),
    (dict(ids=[1], layer=2), 400, "layer"), (dict(ids=[1], layer="0"), 400, "layer"),
    (dict(ids=[1], layer=-1), 400, "layer"), (dict(ids=[1], layer=None), 400, "layer"),
    (dict(ids=[1], model="other"), 404, "other"), (dict(ids=[1], model=["tiny"]), 404, "tiny"),
    ([], 400, "")])
def test_bad_requests_are_refused(client, body, status, word):
    found, answer = client.ask("/v1/attention", body)
    assert found == status and word in answer["error"]["message"]


def test_a_checkpoint_that_cannot_be_read_is_an_error_and_the_next_request_works(client,
                                                                                 monkeypatch,
                                                                                 capsys):
    def fail(path):
        raise FileNotFoundError(2, "No such file", "model.pt")

    with monkeypatch.context() as m:
        m.setattr(client.server, "load_model", fail)
        assert client.ask("/v1/attention", dict(ids=[1]))[0] == 503
    assert client.ask("/v1/attention", dict(ids=[1]))[0] == 200


def test_one_looks_at_a_time_and_answers_do_not_wait(client, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()
    most = [0, 0]

    def load(path):
        most[0] += 1
        most[1] = max(most)
        inside.set()
        go_on.wait(30)
        most[0] -= 1
        return client.model

    monkeypatch.setattr(client.server, "load_model", load)
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(
        client.ask("/v1/attention", dict(ids=[1]))[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    status, _ = client.ask("/v1/completions", dict(prompt="a", max_tokens=2))
    assert status == 200 and not statuses
    go_on.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 3 and most[1] == 1
