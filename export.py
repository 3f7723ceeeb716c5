"""
Export any checkpoint as a stock Hugging Face folder: a Qwen3ForCausalLM that transformers and vLLM
load without any code of ours, with equal logits. Reads out/<stage>/ and out/tokenizer/, writes
out/huggingface/.

python export.py                      the newest stage in out/
python export.py --stage sft --to my-model
python export.py --dtype bfloat16     half the size; logits then differ in the third digit
python export.py --gguf               out/model.gguf for llama.cpp and, with out/Modelfile, Ollama

Then, with `pip install transformers`:
    model = AutoModelForCausalLM.from_pretrained("out/huggingface")
    tok = AutoTokenizer.from_pretrained("out/huggingface")
    inputs = tok.apply_chat_template([{"role": "user", "content": "Who are you?"}],
                                     add_generation_prompt=True, return_dict=True,
                                     return_tensors="pt")
    print(tok.decode(model.generate(**inputs, max_new_tokens=100)[0]))
"""
import ctrl_c

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

from common import find_checkpoint, load_checkpoint, rms_norm
from machine import check_file, new_folder, parse_config, run, write_synced
from tokenizer import PATTERNS

# In Jinja. From the same messages it renders the tokens of talk/openai_protocol.py. But other tools
# look for special tokens in the text of messages, which ours never does. With them, a user who
# types <|assistant_end|> ends the turn.
CHAT_TEMPLATE = Path(__file__).with_name("talk").joinpath("chat_template.jinja").read_text("utf-8")


@dataclass
class Config:
    out: str = "out"              # folder where the stages find each other
    stage: str = ""               # pretrain, ..., rl or a checkpoint's path; empty: the newest
    to: str = ""                  # what to write; empty: huggingface, or model.gguf, in --out
    gguf: bool = False            # one file for llama.cpp; needs a --pattern that it knows
    dtype: str = "float32"        # of the weights: float32 (equal logits), bfloat16 or float16


def stock_weights(model):
    """-> {name in transformers' Qwen3ForCausalLM: tensor}.

    What our model does differently folds away: the embedding table is stored normalised, and the
    norms, which have no gains here, get gains of one.
    """
    c = model.config
    ones = torch.ones(c.n_embd)
    head_ones = torch.ones(c.n_embd // c.n_head)
    weights = {"model.embed_tokens.weight": rms_norm(model.embed),
               "model.norm.weight": ones, "lm_head.weight": model.head}
    for i, block in enumerate(model.blocks):
        layer = {
            "input_layernorm": ones,
            "self_attn.q_proj": block.attn.wq,
            "self_attn.k_proj": block.attn.wk,
            "self_attn.v_proj": block.attn.wv,
            "self_attn.o_proj": block.attn.wo,
            "self_attn.q_norm": head_ones,
            "self_attn.k_norm": head_ones,
            "post_attention_layernorm": ones,
            "mlp.gate_proj": block.mlp.gate,
            "mlp.up_proj": block.mlp.up,
            "mlp.down_proj": block.mlp.down}
        for name, w in layer.items():
            weights[f"model.layers.{i}.{name}.weight"] = w
    return {name: w.detach() for name, w in weights.items()}


def write_safetensors(path, tensors):
    """Write {name: tensor} in the safetensors format.

    That is: the length of the header in 8 bytes, a JSON header with types, shapes and offsets, and
    the raw numbers.
    """
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    header = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, t in tensors.items():
        size = t.numel() * t.element_size()
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header).encode()
    # The numbers have to start at a multiple of 8.
    head += b" " * (-len(head) % 8)

    def write(f):
        f.write(len(head).to_bytes(8, "little") + head)
        for t in tensors.values():
            f.write(t.contiguous().view(torch.uint8).numpy().data)
    write_synced(path, write)


def token_parts(token, ranks):
    """The two tokens that `token` was merged from. ranks: {token: rank}.

    Merge its bytes in the order of BPE until two parts are left: the last merge would join those.
    """
    parts = [token[i:i + 1] for i in range(len(token))]

    def rank_of_merge(i):
        return ranks.get(parts[i] + parts[i + 1], len(ranks))

    while len(parts) > 2:
        i = min(range(len(parts) - 1), key=rank_of_merge)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts


def byte_letters():
    """GPT-2's spelling of bytes, which Hugging Face kept: {byte: a printable letter}.

    A byte that is printable in Latin-1 is spelled as itself, the others are letters from 256 on.
    """
    letters = {byte: chr(byte) for byte in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    others = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}


def hf_tokenizer_json(tokens, pattern, special_tokens):
    """The same tokenizer as the content of a Hugging Face tokenizer.json -> dict.

    tokens: list of bytes in rank order; special_tokens: names, with the ids that follow.
    """
    letters = byte_letters()
    ranks = {token: rank for rank, token in enumerate(tokens)}

    def spell(token):
        return "".join(letters[byte] for byte in token)

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
             "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "post_processor": None,
        "added_tokens": [{"id": i, "content": name} | flags
                         for i, name in enumerate(special_tokens, len(tokens))],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell(token): rank for token, rank in ranks.items()},
            "merges": [[spell(part) for part in token_parts(token, ranks)]
                       for token in tokens[256:]]}}


def model_json(c, tok, dtype):
    """The content of config.json, in the words of transformers -> dict. c: GPTConfig."""
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
        "vocab_size": c.vocab_size, "hidden_size": c.n_embd, "intermediate_size": c.n_ff,
        "num_hidden_layers": c.n_layer, "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head, "head_dim": c.n_embd // c.n_head,
        "max_position_embeddings": c.seq_len, "rope_theta": c.rope_theta, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
        "use_sliding_window": False, "tie_word_embeddings": False, "use_cache": True,
        "bos_token_id": tok.special("<|bos|>"), "eos_token_id": tok.special("<|assistant_end|>"),
        "pad_token_id": tok.special("<|assistant_end|>"), "torch_dtype": dtype}


def export(model, tok, path, dtype="float32"):
    """Write the folder `path`, which appears there when it is whole.

    ValueError for another dtype, or if something else is at `path`.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype {dtype}: expected float32, bfloat16 or float16")
    path = Path(path)
    # The pad token is the end token: generate() without an attention mask would take any other pad
    # token in the prompt for padding.
    specials = {"bos_token": "<|bos|>", "eos_token": "<|assistant_end|>",
                "pad_token": "<|assistant_end|>"}
    tokens = [tok.enc.decode_single_token_bytes(i)
              for i in range(tok.vocab_size - len(tok.specials))]
    ids = {key + "_id": tok.special(name) for key, name in specials.items()}
    files = {
        "config.json": model_json(model.config, tok, dtype),
        "generation_config.json": ids,
        "tokenizer.json": hf_tokenizer_json(tokens, tok.pattern, list(tok.specials)),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE,
            "model_max_length": model.config.seq_len, "clean_up_tokenization_spaces": False,
            **specials},
        "special_tokens_map.json": specials}

    # Replace an older export, but nothing else.
    if path.is_dir():
        ours = {*files, "chat_template.jinja", "model.safetensors"}
        others = {file.name for file in path.iterdir()} - ours
        if others:
            raise ValueError(f"--to {path} exists and is no exported model (it holds "
                             f"{min(others)}): choose another folder")
    elif path.exists():
        raise ValueError(f"--to {path} exists and is no exported model: choose another folder")

    weights = {name: w.to(getattr(torch, dtype)) for name, w in stock_weights(model).items()}
    with new_folder(path) as new:
        for name, content in files.items():
            data = json.dumps(content, indent=1, ensure_ascii=False).encode()
            write_synced(new / name, lambda f: f.write(data))
        write_synced(new / "chat_template.jinja", lambda f: f.write(CHAT_TEMPLATE.encode()))
        write_safetensors(new / "model.safetensors", weights)

# --------------------------------------------------------------------------------------------------
# GGUF, the file format of llama.cpp (ggml/docs/gguf.md). Its own converter can read the folder
# above. But it recognises a tokenizer by a hash of the ids of one text, so it refuses every new
# tokenizer. To write the file ourselves takes less code than to teach the converter.

# Our names of split patterns -> llama.cpp's.
GGUF_PATTERNS = {"llama3": "llama-bpe", "qwen2": "qwen2", "qwen35": "qwen35", "gpt2": "gpt-2"}
# The names of weights in transformers -> in llama.cpp.
GGUF_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output",
              "input_layernorm": "attn_norm", "q_proj": "attn_q", "k_proj": "attn_k",
              "v_proj": "attn_v", "o_proj": "attn_output", "q_norm": "attn_q_norm",
              "k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm",
              "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
# Tensors begin at multiples of so many bytes.
GGUF_ALIGNMENT = 32


def gguf_name(name):
    """model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight"""
    pieces = name.split(".")
    prefix = f"blk.{pieces[2]}." if "layers" in pieces else ""
    return f"{prefix}{GGUF_NAMES[pieces[-2]]}.weight"


def padded(data):
    """Fill up with zeros, so that what comes next is aligned."""
    return data + b"\0" * (-len(data) % GGUF_ALIGNMENT)


def gguf_string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_value(value):
    """A value as GGUF stores it -> bytes: the number of its type, then the value.

    The types are 4 uint32, 5 int32, 6 float32, 7 bool, 8 string and 9 array.
    A list holds either int, stored as int32 since that is what llama.cpp reads, or str.
    """
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    n = len(value)
    if isinstance(value[0], int):
        return struct.pack(f"<IIQ{n}i", 9, 5, n, *value)
    return struct.pack("<IIQ", 9, 8, n) + b"".join(gguf_string(item) for item in value)


def inference_template():
    """CHAT_TEMPLATE without the tags that mark what is learned, which only transformers knows."""
    tags = ("{%- generation %}", "{%- endgeneration %}")
    return "\n".join(line for line in CHAT_TEMPLATE.split("\n") if line not in tags)


# What Ollama has to know beside the GGUF. Its templates are Go's; it adds <|bos|> by itself. It has
# no Python, so an answer ends behind a tool call. The sampling is that of chat.py.
MODELFILE_HEAD = "# Written by tok2chat's export.py: ollama create tok2chat -f Modelfile\n"
MODELFILE = MODELFILE_HEAD + """\
FROM ./{file}
PARAMETER num_ctx {seq_len}
PARAMETER temperature 0.3
PARAMETER top_k 0
PARAMETER top_p 0.95
PARAMETER min_p 0
PARAMETER repeat_penalty 1
PARAMETER stop "<|assistant_end|>"
PARAMETER stop "<|python_end|>"
PARAMETER stop "<|user_start|>"
PARAMETER stop "<|bos|>"
TEMPLATE \"""{{{{- $turn := "" }}}}
{{{{- $said := false }}}}
{{{{- range .Messages }}}}
{{{{- $role := "user" }}}}
{{{{- if eq .Role "assistant" }}}}
{{{{- $role = "assistant" }}}}
{{{{- if eq $turn "" }}}}<|user_start|><|user_end|>{{{{ end }}}}
{{{{- end }}}}
{{{{- if ne $turn $role }}}}
{{{{- if ne $turn "" }}}}<|{{{{ $turn }}}}_end|>{{{{ end }}}}<|{{{{ $role }}}}_start|>
{{{{- $said = false }}}}
{{{{- end }}}}
{{{{- if .Content }}}}
{{{{- if $said }}}}{{{{ "\\n\\n" }}}}{{{{ end }}}}
{{{{- .Content }}}}
{{{{- $said = true }}}}
{{{{- end }}}}
{{{{- $turn = $role }}}}
{{{{- end }}}}
{{{{- if eq $turn "user" }}}}<|user_end|><|assistant_start|>{{{{ end }}}}\"""
"""


def write_modelfile(gguf, seq_len):
    """Write Modelfile beside the file `gguf`; ValueError if there is one that is not ours."""
    path = check_modelfile(gguf)
    text = MODELFILE.format(file=gguf.name, seq_len=seq_len)
    new = path.with_name("Modelfile.tmp")
    write_synced(new, lambda f: f.write(text.encode()))
    new.replace(path)


def check_modelfile(gguf):
    """-> where the Modelfile goes. ValueError if something that is not ours stands there."""
    path = gguf.with_name("Modelfile")
    ours = MODELFILE_HEAD.encode()
    if path.is_dir() or path.exists() and path.read_bytes()[:len(ours)] != ours:
        raise ValueError(f"{path} exists and is not from export.py, which writes one beside the "
                         f"GGUF: choose another folder with --to")
    return path


def export_gguf(model, tok, path, dtype="float32"):
    """Write one file for llama.cpp, which appears at `path` when it is whole, and its Modelfile.

    ValueError for another dtype, a split pattern that llama.cpp lacks, if `path` is a folder, or if
    a Modelfile of somebody else stands beside it.
    """
    # GGUF's numbers for the dtype of a tensor, and for a file whose matrices have that dtype.
    tensor_types = {"float32": 0, "float16": 1, "bfloat16": 30}
    file_types = {"float32": 0, "float16": 1, "bfloat16": 32}
    if dtype not in tensor_types:
        raise ValueError(f"--dtype {dtype}: expected {', '.join(tensor_types)}")
    patterns = {PATTERNS[name]: theirs for name, theirs in GGUF_PATTERNS.items()}
    if tok.pattern not in patterns:
        raise ValueError("llama.cpp does not know this tokenizer's split pattern and would cut "
                         "text elsewhere: train again from python tokenizer.py --pattern qwen35 "
                         "(or qwen2, llama3, gpt2)")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"--to {path} is a folder: with --gguf name a file, for example "
                         f"{path / 'model.gguf'}")
    check_modelfile(path)

    # ---- what llama.cpp has to know of the model and the tokenizer ----
    c = model.config
    tokens = [tok.enc.decode_single_token_bytes(i) for i in range(tok.special("<|bos|>"))]
    bpe = hf_tokenizer_json(tokens, tok.pattern, [])["model"]
    info = {
        "general.architecture": "qwen3",
        "general.name": "tok2chat",
        "general.alignment": GGUF_ALIGNMENT,
        "general.file_type": file_types[dtype],
        "qwen3.block_count": c.n_layer,
        "qwen3.context_length": c.seq_len,
        "qwen3.embedding_length": c.n_embd,
        "qwen3.feed_forward_length": c.n_ff,
        "qwen3.attention.head_count": c.n_head,
        "qwen3.attention.head_count_kv": c.n_kv_head,
        "qwen3.attention.key_length": c.n_embd // c.n_head,
        "qwen3.attention.value_length": c.n_embd // c.n_head,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen3.rope.freq_base": float(c.rope_theta),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": patterns[tok.pattern],
        "tokenizer.ggml.tokens": list(bpe["vocab"]) + list(tok.specials),
        # 1 is an ordinary token, 3 a control token.
        "tokenizer.ggml.token_type": [1] * len(bpe["vocab"]) + [3] * len(tok.specials),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in bpe["merges"]],
        "tokenizer.ggml.bos_token_id": tok.special("<|bos|>"),
        "tokenizer.ggml.eos_token_id": tok.special("<|assistant_end|>"),
        "tokenizer.ggml.padding_token_id": tok.special("<|assistant_end|>"),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": inference_template()}

    # ---- the weights: the head lists their names, shapes, types and offsets ----
    tensors = []
    tensor_list = b""
    offset = 0
    for name, w in stock_weights(model).items():
        # Vectors, which are the gains of norms, stay float32.
        w_dtype = dtype if w.ndim > 1 else "float32"
        w = w.to(getattr(torch, w_dtype)).contiguous()
        # GGUF counts dimensions from the innermost one.
        tensor_list += gguf_string(gguf_name(name))
        tensor_list += struct.pack(f"<I{w.ndim}Q", w.ndim, *w.shape[::-1])
        tensor_list += struct.pack("<IQ", tensor_types[w_dtype], offset)
        data = padded(w.view(torch.uint8).numpy().tobytes())
        tensors.append(data)
        offset += len(data)

    keys = b"".join(gguf_string(key) + gguf_value(value) for key, value in info.items())
    # The magic number, version 3, and how many tensors and keys follow.
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(info)) + keys + tensor_list
    check_file(path)
    new = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(new, lambda f: f.writelines([padded(head), *tensors]))
    new.replace(path)
    write_modelfile(path, c.seq_len)


def main():
    cfg = parse_config(Config, __doc__)
    path = find_checkpoint(cfg.out, cfg.stage)
    to = Path(cfg.to or Path(cfg.out, "model.gguf" if cfg.gguf else "huggingface"))
    model, tok, _ = load_checkpoint(path)
    if cfg.gguf:
        export_gguf(model, tok, to, cfg.dtype)
        print(f"{path} -> {to}: {to.stat().st_size / 1e6:.0f} MB. "
              f"Talk to it: llama-cli -m {to} --jinja")
        print(f"or with Ollama: cd {to.parent} && ollama create tok2chat -f Modelfile && "
              f"ollama run tok2chat")
    else:
        export(model, tok, to, cfg.dtype)
        size = sum(f.stat().st_size for f in to.iterdir()) / 1e6
        print(f"{path} -> {to}: {model.num_params() / 1e6:.1f} million parameters in {cfg.dtype}, "
              f"{size:.0f} MB")
        print("How to load it: python export.py --help")


if __name__ == "__main__":
    run(main)
