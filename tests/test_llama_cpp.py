"""export.py --gguf in llama.cpp itself.

Skipped without it: `pip install llama-cpp-python` compiles it, which takes some minutes.
"""
import base64
from itertools import islice

import pytest
import torch

from common import Tokenizer
from export import GGUF_PATTERNS, export_gguf
from test_export import CONVERSATION, TEXTS, trained_tokenizer
from tokenizer import PATTERNS
from toy_chat import tiny_model

llama_cpp = pytest.importorskip("llama_cpp")
torch.set_num_threads(1)
MORE_TEXTS = TEXTS + ["\n\n \n  x", "a\n\n\n b \r\n\tc  ", "1 12 123 1234567 ½ ١٢٣",
                      "Привет, мир! नमस्ते שלום", "\u00a0\u3000\x00", "I'VE 'tis we'Re'd",
                      "<|bos|> </s>", "x=[{'a':1}]; # !?\n\n"]


def load(path):
    """llama.cpp with keys and values in float32; by default it keeps them in float16."""
    return llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True,
                           verbose=False, type_k=llama_cpp.GGML_TYPE_F32,
                           type_v=llama_cpp.GGML_TYPE_F32)


def logits(llama, ids):
    llama.reset()
    llama.eval(ids)
    return torch.from_numpy(llama.scores[:len(ids)].copy())


@pytest.fixture(scope="module", params=list(GGUF_PATTERNS))
def loaded(request, tmp_path_factory):
    tok = trained_tokenizer(request.param)
    model = tiny_model(seed=1, n_kv_head=1, vocab_size=tok.vocab_size, seq_len=256)
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    export_gguf(model, tok, path)
    return model, tok, load(path)


def test_text_becomes_the_same_ids(loaded):
    _, tok, llama = loaded
    for text in MORE_TEXTS:
        ids = llama.tokenize(text.encode(), add_bos=False)
        assert ids == tok.encode(text) and llama.detokenize(ids) == text.encode()
    assert llama.tokenize(b"x") == [tok.special("<|bos|>"), *tok.encode("x")]
    for name, special_id in tok.specials.items():
        assert llama.tokenize(name.encode(), add_bos=False, special=True) == [special_id]


@pytest.mark.parametrize("pattern", GGUF_PATTERNS)
def test_text_is_cut_in_the_same_places(pattern, tmp_path):
    texts = [text.encode() for text in MORE_TEXTS]
    # Any two neighbouring bytes are a token, so a cut that is missing shows in the ids.
    pairs = {text[i:i + 2] for text in texts for i in range(len(text) - 1)}
    tokens = [bytes([i]) for i in range(256)] + sorted(pairs)
    tok = Tokenizer(b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(tokens)),
                    PATTERNS[pattern])
    export_gguf(tiny_model(vocab_size=tok.vocab_size), tok, tmp_path / "m.gguf")
    llama = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    for text in texts:
        assert llama.tokenize(text, add_bos=False) == tok.encode(text.decode())


def test_logits_are_close(loaded):
    model, tok, llama = loaded
    ids = torch.randint(0, tok.vocab_size, (200,), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = model(ids[None])[0]
    assert (logits(llama, ids.tolist()) - ours).abs().max() < 1e-4 and ours.std() > 0.5


def test_greedy_text_is_the_same_token_for_token(loaded):
    model, tok, llama = loaded
    ids = tok.render_for_completion(CONVERSATION)
    theirs = list(islice(llama.generate(ids, temp=0), 120))
    # Given their text, we would have said each next token of it.
    with torch.inference_mode():
        ours = model(torch.tensor([ids + theirs]))[0].argmax(-1).tolist()
    assert ours[len(ids) - 1:-1] == theirs and len(set(theirs)) > 20


def test_a_chat_has_our_prompt_and_ends_at_assistant_end(loaded, tmp_path):
    model, tok, llama = loaded
    prompt = tok.render_for_completion(CONVERSATION)
    answer = list(islice(llama.generate(prompt, temp=0), 30))
    # A token of the answer that does not occur before.
    n = next(n for n in range(9, 30) if answer[n] not in answer[:n])
    swapped = tiny_model(seed=1, n_kv_head=1, vocab_size=tok.vocab_size, seq_len=256)
    # Swap two rows of the head, so that this model says <|assistant_end|> in place of answer[n].
    with torch.no_grad():
        pair = [answer[n], tok.special("<|assistant_end|>")]
        swapped.head[pair] = swapped.head[pair[::-1]]
    export_gguf(swapped, tok, tmp_path / "m.gguf")
    llama = load(tmp_path / "m.gguf")
    reply = llama.create_chat_completion(CONVERSATION["messages"], temperature=0, max_tokens=60)
    # Among other things: llama.cpp adds no second <|bos|> to that of the template.
    assert llama.input_ids[:reply["usage"]["prompt_tokens"]].tolist() == prompt
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == n


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 0.2), ("float16", 0.02)])
def test_smaller_types(dtype, tolerance, tmp_path):
    tok = trained_tokenizer("qwen2")
    model = tiny_model(seed=1, n_kv_head=2, vocab_size=tok.vocab_size)
    export_gguf(model, tok, tmp_path / "m.gguf", dtype)
    ids = tok.render_for_completion(CONVERSATION)
    with torch.inference_mode():
        ours = model(torch.tensor([ids]))[0]
    difference = (logits(load(tmp_path / "m.gguf"), ids) - ours).abs().max()
    assert 1e-4 < difference < tolerance
