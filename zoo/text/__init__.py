"""Networks for text, CLIP and its pictures included: encoders, decoders with and without a key-value cache."""

from typing import Any

from zoo.row import BACK, Row

WORDS = {"input_ids": (1,), "attention_mask": (1,)}
CACHE = {"input_ids": (1,), "past": (4,)}
TINY_BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 500,
    "max_position_embeddings": 64,
    "num_labels": 3,
}
TINY_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 500, "n_positions": 64}
LLAMA = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 688,
    "vocab_size": 4000,
    "max_position_embeddings": 512,
}
QWEN = {**LLAMA, "head_dim": 32}


def _folder(name: str, about: str, model: str, kind: str, config: dict[str, Any], **row: Any) -> Row:
    args = {"model": model, "kind": kind, **config}
    return Row(name, "text", f"{about}: transformers' {model}", "zoo.text.write:folder", args, **{"free": WORDS, **row})


def _cached(name: str, about: str, kind: str, config: dict[str, Any], *, small: bool = False) -> Row:
    args = {"kind": kind, **config}
    told = f"{about}, key-value cache in and out"
    return Row(name, "text", told, "zoo.text.write:decoder", args, CACHE, small=small)


ROWS = (
    Row(
        "transformer",
        "text",
        "torch.nn.Transformer, six encoder and six decoder layers of 512 as in its paper",
        "zoo.text.write:translator",
        free={"source": (1,), "target": (1,)},
    ),
    _folder(
        "bert", "BERT base, 12 layers of 768", "BertForSequenceClassification", "bert", {"num_labels": 5}, targets=BACK
    ),
    _folder(
        "bert-small",
        "BERT, 2 layers of 64",
        "BertForSequenceClassification",
        "bert",
        TINY_BERT,
        targets=(*BACK, "tensorflow"),
        small=True,
    ),
    _folder("gpt2", "GPT-2, 12 layers of 768", "GPT2LMHeadModel", "gpt2", {}),
    _cached("gpt2-cache", "GPT-2, 12 layers of 768", "gpt2", {}),
    _cached("gpt2-cache-small", "GPT-2, 2 layers of 64", "gpt2", TINY_GPT2),
    _folder("llama", "Llama, 4 layers of 256, grouped queries", "LlamaForCausalLM", "llama", LLAMA),
    _cached("llama-cache", "Llama, 4 layers of 256, grouped queries", "llama", LLAMA),
    _folder("qwen", "Qwen3, 4 layers of 256, grouped queries", "Qwen3ForCausalLM", "qwen3", QWEN),
    _cached("qwen-cache", "Qwen3, 4 layers of 256, grouped queries", "qwen3", QWEN),
    _folder("clip", "CLIP ViT-B/32", "CLIPModel", "clip", {}),
    _folder("vit-folder", "ViT-B/16", "ViTForImageClassification", "vit", {"num_labels": 10}, free={}),
)
