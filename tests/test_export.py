"""export.py: the folder against transformers, tokenizers and safetensors."""
import base64
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
import torch

from chat import Config as Chat
from common import Tokenizer
from export import export, export_gguf, hf_tokenizer_json
from talk.engine import Engine
from talk.openai_protocol import chat_prompt
from tokenizer import PATTERNS, train_bpe
from toy_chat import byte_tokenizer, tiny_model
from toy_texts import KINDS, fuzz

torch.set_num_threads(1)
TEXTS = ["hello world, 12345 times", "def f(x):\n    return x  # naïve café",
         "  spaces   and\n\n\ttabs ", "日本語 emoji 😀👍🏽 e\u0301", "'s 'LL don't",
         "mixed\r\nlines\r", "a" * 50, ""]
CONVERSATION = {"messages": [
    {"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is 6*7?"},
    {"role": "assistant", "content": [
        {"type": "text", "text": "It is "}, {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"}, {"type": "text", "text": "."}]},
    {"role": "user", "content": " and 2+2? \n"}, {"role": "assistant", "content": "4"},
    {"role": "user", "content": "thanks"}]}


def trained_tokenizer(pattern="default"):
    corpus = [" ".join(TEXTS) * 3, Path(__file__).read_text() * 2]
    tokens = train_bpe(corpus, 600, PATTERNS[pattern])
    return Tokenizer(b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(tokens)),
                     PATTERNS[pattern])


@pytest.fixture(scope="module", params=[1, 2])
def exported(request, tmp_path_factory):
    tok = trained_tokenizer()
    model = tiny_model(seed=1, n_kv_head=request.param, vocab_size=tok.vocab_size, seq_len=256)
    path = tmp_path_factory.mktemp("export") / "model"
    export(model, tok, path)
    return model, tok, path


@pytest.mark.slow
def test_logits_are_equal_in_transformers(exported):
    transformers = pytest.importorskip("transformers")
    model, tok, path = exported
    reference, loading = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True)
    assert type(reference).__name__ == "Qwen3ForCausalLM" and not any(loading.values()), loading
    ids = torch.randint(0, tok.vocab_size, (2, 200), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (reference(ids).logits - model(ids)).abs().max() < 1e-4 and model(ids).std() > 0.5


@pytest.mark.slow
def test_greedy_text_is_the_same_token_for_token(exported):
    transformers = pytest.importorskip("transformers")
    model, tok, path = exported
    reference = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    hf = transformers.AutoTokenizer.from_pretrained(path)
    ids = hf.apply_chat_template(CONVERSATION["messages"], add_generation_prompt=True,
                                 tokenize=True, return_dict=False)
    assert ids == tok.render_for_completion(CONVERSATION)
    # transformers has no tool to run, so neither side may say a special token but the end.
    never = [i for name, i in tok.specials.items() if name != "<|assistant_end|>"]
    engine = Engine(model, tok)
    engine.specials[0, list(tok.specials).index("<|python_start|>")] = -torch.inf
    theirs = reference.generate(torch.tensor([ids]), max_new_tokens=100, do_sample=False,
                                suppress_tokens=never)
    theirs = theirs[0, len(ids):].tolist()
    ours = engine.generate([ids], 100)[0]
    assert ours == theirs and hf.decode(theirs) == tok.decode(ours)


@pytest.mark.slow
def test_chat_template_renders_every_kind_of_message(exported):
    transformers = pytest.importorskip("transformers")
    _, tok, path = exported
    hf = transformers.AutoTokenizer.from_pretrained(path)
    # The first n messages: with the system message, an odd n ends with an answer.
    for n in range(2, 7):
        part = {"messages": CONVERSATION["messages"][:n]}
        ids = hf.apply_chat_template(part["messages"], add_generation_prompt=n % 2 == 0,
                                     tokenize=True, return_dict=False)
        if n % 2:
            assert ids == tok.render_conversation(part)[0]
        else:
            assert ids == tok.render_for_completion(part)


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_the_tokenizer_gives_the_same_ids(pattern, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tok = trained_tokenizer(pattern)
    export(tiny_model(vocab_size=tok.vocab_size), tok, tmp_path / "m")
    hf = tokenizers.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    for text in TEXTS:
        assert hf.encode(text).ids == tok.encode(text) and hf.decode(tok.encode(text)) == text
    assert hf.encode("<|bos|>x<|output_end|>").ids == [tok.special("<|bos|>"), *tok.encode("x"),
                                                       tok.special("<|output_end|>")]


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_the_tokenizer_gives_the_same_ids_for_any_text(pattern):
    hf = pytest.importorskip("tokenizers")
    texts = [Path(os.__file__).read_text(), "".join(fuzz(random.Random(6), "all", length=500))]
    tokens = train_bpe(texts, 600, pattern)
    special = ["<|bos|>", "<|end|>"]
    ours = tiktoken.Encoding("test", pat_str=PATTERNS[pattern],
                             mergeable_ranks={t: i for i, t in enumerate(tokens)},
                             special_tokens={name: 600 + i for i, name in enumerate(special)})
    content = hf_tokenizer_json(tokens, PATTERNS[pattern], special)
    theirs = hf.Tokenizer.from_str(json.dumps(content))
    rng = random.Random(pattern)
    for kind in list(KINDS) * 4:
        for text in fuzz(rng, kind):
            ids = ours.encode_ordinary(text)
            assert theirs.encode(text, add_special_tokens=False).ids == ids, text
            assert theirs.decode(ids, skip_special_tokens=False) == text
    assert theirs.encode("a<|end|>").ids == [97, 601]


def test_safetensors_reads_the_weights(exported):
    safetensors = pytest.importorskip("safetensors.torch")
    model, tok, path = exported
    tensors = safetensors.load_file(path / "model.safetensors")
    assert torch.equal(tensors["lm_head.weight"], model.head)
    assert tensors["model.layers.1.self_attn.q_norm.weight"].eq(1).all()
    rms = tensors["model.embed_tokens.weight"].square().mean(-1).sqrt()
    assert torch.allclose(rms, torch.ones_like(rms), atol=1e-4)


def test_other_types_and_refusals(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    tok = byte_tokenizer()
    model = tiny_model()
    export(model, tok, tmp_path / "m", "bfloat16")
    weights = safetensors.load_file(tmp_path / "m" / "model.safetensors")
    assert weights["lm_head.weight"].dtype == torch.bfloat16
    # An older export is replaced.
    export(model, tok, tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["torch_dtype"] == "float32"
    with pytest.raises(ValueError, match="int8"):
        export(model, tok, tmp_path / "n", "int8")
    # A folder with something else in it is not, nor is a file.
    (tmp_path / "m" / "notes.txt").write_text("x")
    with pytest.raises(ValueError,
                       match=r"m exists and is no exported model \(it holds notes.txt\)"):
        export(model, tok, tmp_path / "m")
    with pytest.raises(ValueError, match="notes.txt exists and is no exported model: "):
        export(model, tok, tmp_path / "m" / "notes.txt")
    assert (tmp_path / "m" / "notes.txt").read_text() == "x"


@pytest.mark.parametrize("pattern", ["llama3", "qwen2", "qwen35", "gpt2"])
def test_gguf_holds_the_model_and_the_tokenizer(pattern, tmp_path):
    gguf = pytest.importorskip("gguf")
    tok = trained_tokenizer(pattern)
    model = tiny_model(n_kv_head=1, vocab_size=tok.vocab_size)
    export_gguf(model, tok, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")

    def value(name):
        return reader.fields[name].contents()

    assert value("general.architecture") == "qwen3" and value("qwen3.block_count") == 2
    assert value("qwen3.attention.head_count_kv") == 1
    pre = {"llama3": "llama-bpe", "qwen2": "qwen2", "qwen35": "qwen35", "gpt2": "gpt-2"}
    assert value("tokenizer.ggml.pre") == pre[pattern]
    assert value("tokenizer.ggml.tokens")[tok.special("<|bos|>")] == "<|bos|>"
    assert value("tokenizer.ggml.bos_token_id") == tok.special("<|bos|>")
    assert len(value("tokenizer.ggml.merges")) == tok.vocab_size - 9 - 256

    tensors = {t.name: t for t in reader.tensors}
    wanted = {"token_embd.weight", "output_norm.weight", "output.weight"}
    for i in range(2):
        for name in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm",
                     "attn_k_norm", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"):
            wanted.add(f"blk.{i}.{name}.weight")
    assert set(tensors) == wanted
    keys = torch.from_numpy(tensors["blk.1.attn_k.weight"].data.copy())
    assert torch.equal(keys, model.blocks[1].attn.wk.detach())
    down = torch.from_numpy(tensors["blk.0.ffn_down.weight"].data.copy())
    assert torch.equal(down, model.blocks[0].mlp.down.detach())


@pytest.mark.slow
def test_gguf_in_transformers_gives_the_same_logits(tmp_path):
    pytest.importorskip("gguf")
    transformers = pytest.importorskip("transformers")
    tok = trained_tokenizer("qwen2")
    model = tiny_model(n_kv_head=1, vocab_size=tok.vocab_size)
    export_gguf(model, tok, tmp_path / "m.gguf")
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, head_dim=32)
    ids = torch.randint(0, tok.vocab_size, (2, 100), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (reference(ids).logits - model(ids)).abs().max() < 1e-4


def test_gguf_refuses_a_pattern_that_llama_cpp_lacks(tmp_path):
    for tok in byte_tokenizer(), trained_tokenizer("default"):
        with pytest.raises(ValueError, match=r"--pattern qwen35 \(or qwen2, llama3, gpt2\)"):
            export_gguf(tiny_model(vocab_size=tok.vocab_size), tok, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_gguf_is_a_file_and_leaves_a_folder_alone(tmp_path):
    tok = trained_tokenizer("qwen2")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is a folder: with --gguf name a file"):
        export_gguf(tiny_model(vocab_size=tok.vocab_size), tok, tmp_path / "folder")
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


# --------------------------------------------------------------------------------------------------
# The Modelfile

def run_go_template(text, messages):
    """What Go's text/template makes of as much of its language as the Modelfile needs.

    As in Ollama, messages of one role in a row are one before it sees them.
    """
    joined = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1]["content"] += "\n\n" + message["content"]
        else:
            joined.append(dict(message))
    pieces = re.split(r"(\{\{.*?\}\})", text)
    # {{- cuts the white space before it.
    for i, piece in enumerate(pieces):
        if piece.startswith("{{- "):
            pieces[i - 1] = pieces[i - 1].rstrip()
            pieces[i] = "{{ " + piece[4:]
    variables = {}
    out = []

    def value(word, message):
        if word in (".Role", ".Content"):
            return message[word[1:].lower()]
        if word == ".Messages":
            return joined
        return variables[word] if word.startswith("$") else json.loads(word)

    def evaluate(words, message):
        if words[0] in ("eq", "ne"):
            return (value(words[1], message) == value(words[2], message)) == (words[0] == "eq")
        return value(words[0], message)

    def end_of(i):
        depth = 1
        while depth:
            i += 1
            word = (pieces[i][2:].split() or [""])[0] if pieces[i].startswith("{{") else ""
            depth += (word in ("if", "range")) - (word == "end")
        return i

    def execute(i, end, message=None):
        while i < end:
            piece = pieces[i]
            words = piece[2:-2].split() if piece.startswith("{{") else []
            if not words:
                out.append(piece)
            elif words[0] == "range":
                for item in value(words[1], message):
                    execute(i + 1, end_of(i), item)
                i = end_of(i)
            elif words[0] == "if":
                if evaluate(words[1:], message):
                    execute(i + 1, end_of(i), message)
                i = end_of(i)
            elif words[1:2] in ([":="], ["="]):
                # "=" changes a variable that is there.
                assert words[1] == ":=" or words[0] in variables
                variables[words[0]] = value(words[2], message)
            else:
                out.append(evaluate(words, message))
            i += 1

    execute(0, len(pieces))
    return "".join(out)


def test_the_modelfile_gives_the_prompt_of_our_server(tmp_path):
    tok = trained_tokenizer("qwen2")
    model = tiny_model(vocab_size=tok.vocab_size, seq_len=64)
    export_gguf(model, tok, tmp_path / "my model.gguf")
    text = (tmp_path / "Modelfile").read_text()
    head, template, tail = text.split('"""')
    lines = [line.split(" ", 1) for line in head.splitlines()]
    assert ["FROM", "./my model.gguf"] in lines and tail.strip() == ""
    settings = dict(line[1].split(" ", 1) for line in lines if line[0] == "PARAMETER")
    assert settings["num_ctx"] == "64" and settings["repeat_penalty"] == "1"
    for name in "temperature", "top_k", "top_p", "min_p":
        assert float(settings[name]) == getattr(Chat, name)
    stops = [json.loads(line[1].split(" ", 1)[1]) for line in lines
             if line[0] == "PARAMETER" and line[1].startswith("stop")]
    assert set(stops) <= tok.specials.keys() and "<|assistant_end|>" in stops

    rng = random.Random(1)
    for _ in range(300):
        messages = [{"role": rng.choice(["user", "user", "assistant", "system"]),
                     "content": rng.choice([*TEXTS[:-1], " ", "\n\n"])}
                    for _ in range(rng.randrange(1, 7))]
        prompt = "<|bos|>" + run_go_template(template, messages)
        specials = set(tok.specials)
        ids = tok.enc.encode(prompt, allowed_special=specials, disallowed_special=())
        assert ids == chat_prompt(messages, tok, 10**6)[0], messages


def test_a_modelfile_of_somebody_else_stays(tmp_path):
    tok = trained_tokenizer("qwen2")
    model = tiny_model(vocab_size=tok.vocab_size)
    (tmp_path / "Modelfile").write_text("FROM llama3")
    with pytest.raises(ValueError, match="Modelfile exists and is not from export.py"):
        export_gguf(model, tok, tmp_path / "m.gguf")
    assert [f.name for f in tmp_path.iterdir()] == ["Modelfile"]
    (tmp_path / "Modelfile").unlink()
    for name in "m.gguf", "n.gguf":
        export_gguf(model, tok, tmp_path / name)
    assert "FROM ./n.gguf\n" in (tmp_path / "Modelfile").read_text()


@pytest.mark.slow
def test_the_script(out):
    result = subprocess.run([sys.executable, "export.py", "--out", str(out)], capture_output=True,
                            text=True, cwd=Path(__file__).parent.parent)
    assert result.returncode == 0 and "huggingface" in result.stdout
    assert (out / "huggingface" / "model.safetensors").exists()
    assert not (out / "huggingface.tmp").exists()
