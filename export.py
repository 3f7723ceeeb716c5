"""
Export any checkpoint as a stock Hugging Face folder: a Qwen3ForCausalLM that transformers and vLLM load with equal
logits and no code of ours. Reads out/<stage>/ and out/tokenizer/, writes out/huggingface/.

python export.py                            the newest stage in out/
python export.py --stage sft --to my-model
python export.py --dtype bfloat16           half the size; logits then differ in the third digit

Then, with `pip install transformers`:
    model = AutoModelForCausalLM.from_pretrained("out/huggingface")
    tok = AutoTokenizer.from_pretrained("out/huggingface")
    inputs = tok.apply_chat_template([{"role": "user", "content": "Who are you?"}], add_generation_prompt=True,
                                     return_dict=True, return_tensors="pt")
    print(tok.decode(model.generate(**inputs, max_new_tokens=100)[0]))
"""
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from chat import find_checkpoint
from common import finish_replace, load_checkpoint, parse_config, replace_folder, rms_norm, run, write_synced
from tokenizer import hf_tokenizer_json

# Jinja, the same tokens as Tokenizer.render_conversation. Other tools parse special tokens out of the text of messages,
# which ours never does: there, an <|assistant_end|> that a user types ends the turn.
CHAT_TEMPLATE = """\
{{- '<|bos|>' }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
{%- if message.role == 'system' %}
{%- set ns.system = message.content + '\\n\\n' %}
{%- elif message.role == 'user' %}
{{- '<|user_start|>' + ns.system + message.content + '<|user_end|>' }}
{%- set ns.system = '' %}
{%- else %}
{{- '<|assistant_start|>' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == 'python' %}
{{- '<|python_start|>' + part.text + '<|python_end|>' }}
{%- elif part.type == 'python_output' %}
{{- '<|output_start|>' + part.text + '<|output_end|>' }}
{%- else %}
{{- part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|assistant_end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant_start|>' }}
{%- endif %}
"""


@dataclass
class Config:
    out: str = "out"              # folder where the stages find each other
    stage: str = ""               # pretrain, midtrain, sft, dpo, distill or the path of a checkpoint; empty: the last
    to: str = ""                  # folder to write; empty: huggingface in --out
    dtype: str = "float32"        # of the weights: float32 (equal logits), bfloat16 or float16


def stock_weights(model):
    """-> {name in transformers' Qwen3ForCausalLM: tensor}. What training added folds away: the embedding table is
    stored normalised, and the norms, which have no gain here, get gains of ones."""
    c = model.config
    ones, head_ones = torch.ones(c.n_embd), torch.ones(c.n_embd // c.n_head)
    weights = {"model.embed_tokens.weight": rms_norm(model.embed), "model.norm.weight": ones,
               "lm_head.weight": model.head}
    for i, block in enumerate(model.blocks):
        attn, mlp = block.attn, block.mlp
        for name, w in {"input_layernorm": ones, "self_attn.q_proj": attn.wq, "self_attn.k_proj": attn.wk,
                        "self_attn.v_proj": attn.wv, "self_attn.o_proj": attn.wo, "self_attn.q_norm": head_ones,
                        "self_attn.k_norm": head_ones, "post_attention_layernorm": ones, "mlp.gate_proj": mlp.gate,
                        "mlp.up_proj": mlp.up, "mlp.down_proj": mlp.down}.items():
            weights[f"model.layers.{i}.{name}.weight"] = w
    return {name: w.detach() for name, w in weights.items()}


def write_safetensors(path, tensors):
    """The safetensors format: 8 bytes of header length, a JSON header with types, shapes, offsets; the raw numbers."""
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        size = t.numel() * t.element_size()
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)                                          # the numbers start at a multiple of 8

    def write(f):
        f.write(len(head).to_bytes(8, "little") + head)
        for t in tensors.values():
            f.write(t.contiguous().view(torch.uint8).numpy().data)
    write_synced(path, write)


def model_json(c, tok, dtype):
    """config.json, in the words of transformers."""
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": c.vocab_size,
            "hidden_size": c.n_embd, "intermediate_size": c.n_ff, "num_hidden_layers": c.n_layer,
            "num_attention_heads": c.n_head,
            "num_key_value_heads": c.n_kv_head, "head_dim": c.n_embd // c.n_head, "max_position_embeddings": c.seq_len,
            "rope_theta": c.rope_theta, "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False,
            "attention_dropout": 0.0, "use_sliding_window": False, "tie_word_embeddings": False, "use_cache": True,
            "bos_token_id": tok.special("<|bos|>"), "eos_token_id": tok.special("<|assistant_end|>"),
            "pad_token_id": tok.special("<|assistant_end|>"), "torch_dtype": dtype}


def export(model, tok, path, dtype="float32"):
    """Write the folder; it appears at `path` when it is whole."""
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype {dtype}: expected float32, bfloat16 or float16")
    path = Path(path)
    if path.exists() and not (path / "config.json").exists():
        raise ValueError(f"--to {path} exists and is no exported model: choose another folder")
    new = path.with_name(path.name + ".tmp")
    finish_replace(path)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    # generate() without an attention mask takes every pad token of the prompt for padding, unless it is the end token
    specials = {"bos_token": "<|bos|>", "eos_token": "<|assistant_end|>", "pad_token": "<|assistant_end|>"}
    tokens = [tok.enc.decode_single_token_bytes(i) for i in range(tok.vocab_size - len(tok.specials))]
    ids = {key + "_id": tok.special(name) for key, name in specials.items()}
    files = {"config.json": model_json(model.config, tok, dtype), "generation_config.json": ids,
             "tokenizer.json": hf_tokenizer_json(tokens, tok.pattern, list(tok.specials)),
             "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE,
                                       "model_max_length": model.config.seq_len,
                                       "clean_up_tokenization_spaces": False, **specials},
             "special_tokens_map.json": specials}
    for name, content in files.items():
        write_synced(new / name, lambda f: f.write(json.dumps(content, indent=1, ensure_ascii=False).encode()))
    write_synced(new / "chat_template.jinja", lambda f: f.write(CHAT_TEMPLATE.encode()))
    weights = {name: w.to(getattr(torch, dtype)) for name, w in stock_weights(model).items()}
    write_safetensors(new / "model.safetensors", weights)
    replace_folder(new, path)


def main():
    cfg = parse_config(Config, __doc__)
    path = find_checkpoint(cfg.out, cfg.stage)
    to = Path(cfg.to or Path(cfg.out, "huggingface"))
    model, tok, _ = load_checkpoint(path)
    export(model, tok, to, cfg.dtype)
    size = sum(f.stat().st_size for f in to.iterdir()) / 1e6
    print(f"{path} -> {to}: {model.num_params() / 1e6:.1f} million parameters in {cfg.dtype}, {size:.0f} MB")
    print("How to load it: python export.py --help")


if __name__ == "__main__":
    run(main)
