"""A folder like that of a public encoder, tiny and with weights of chance: two layers, sixteen wide."""

import json
import random
import string
import struct
from collections.abc import Iterable
from typing import Any

from ebb_jobs import pretrained

WIDTH, INNER, LAYERS = 16, 32, 2


def files(words: Iterable[str] = (), *, seed: int = 7, **changed: Any) -> dict[str, bytes]:
    """Return config.json, model.safetensors and tokenizer.json; `changed` are fields of the first."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    tokens = dict.fromkeys(["[PAD]", "[UNK]", *letters, *(f"##{each}" for each in letters), *sorted(set(words))])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    sheet = {
        "model_type": "bert", "hidden_act": "gelu", "vocab_size": len(vocabulary), "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_attention_heads": 2, "num_hidden_layers": LAYERS,
        "max_position_embeddings": 48, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None, "decoder": None,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    }  # fmt: skip
    return {
        pretrained.SHEET: json.dumps(sheet | changed).encode(),
        pretrained.WEIGHTS: weights(sheet, seed),
        pretrained.TOKENIZER: json.dumps(tokenizer).encode(),
    }


def weights(sheet: dict[str, Any], seed: int) -> bytes:
    """Return a safetensors file with every tensor of the sheet's sizes, by its names in the public file."""
    chance = random.Random(seed)
    shapes = {
        "embeddings.word_embeddings.weight": [sheet["vocab_size"], WIDTH],
        "embeddings.position_embeddings.weight": [sheet["max_position_embeddings"], WIDTH],
        "embeddings.token_type_embeddings.weight": [2, WIDTH],
        "embeddings.LayerNorm.weight": [WIDTH],
        "embeddings.LayerNorm.bias": [WIDTH],
    }
    for number in range(LAYERS):
        for name, shape in {
            "attention.self.query": [WIDTH, WIDTH], "attention.self.key": [WIDTH, WIDTH],
            "attention.self.value": [WIDTH, WIDTH], "attention.output.dense": [WIDTH, WIDTH],
            "attention.output.LayerNorm": [WIDTH], "intermediate.dense": [INNER, WIDTH],
            "output.dense": [WIDTH, INNER], "output.LayerNorm": [WIDTH],
        }.items():  # fmt: skip
            shapes[f"encoder.layer.{number}.{name}.weight"] = shape
            shapes[f"encoder.layer.{number}.{name}.bias"] = shape[:1]
    header, body = {}, b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        values = [1.0] * count if name.endswith("LayerNorm.weight") else [chance.gauss(0, 0.3) for _ in range(count)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + 4 * count]}
        body += struct.pack(f"<{count}f", *values)
    told = json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told + body
