"""The folder of a public encoder for texts: whether it holds what `encoder_networks` can load. Standard library only.

What is understood is BERT (Devlin et al., 2019) as the `transformers` package saves it without a head: config.json, the
weights as safetensors, the tokenizer of the `tokenizers` library. Beginnings tell that, so that a Lambda can refuse a
folder before any job starts, and the job one that was written since.
Format of the weights: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebb_jobs.rejection import Rejection

SHEET, WEIGHTS, TOKENIZER = FILES = ("config.json", "model.safetensors", "tokenizer.json")
FIELD = "train.pretrained"
HEAD_BYTES = 8
"""Before the header: its length, little endian."""
MOST_HEADER_BYTES = 1024 * 1024
"""What BERT's names take is a twentieth of it."""
MOST_FILE_BYTES = 16 * 1024 * 1024
"""Of config.json and tokenizer.json: a vocabulary of a quarter million tokens takes 9 MB."""
LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "joined": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}
"""Name of a part of a layer in `encoder_networks` -> its name in the public file."""
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers",
    "max_position_embeddings",
)  # fmt: skip
_UNDERSTOOD = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
_FLOATS = ("F32", "F16", "BF16")


def header_bytes(first: bytes, size_bytes: int) -> int | None:
    """Return how long the header is that follows the first bytes of the weights; None where they are no safetensors."""
    length = int.from_bytes(first[:HEAD_BYTES], "little")
    return length if len(first) >= HEAD_BYTES and 0 < length <= min(MOST_HEADER_BYTES, size_bytes) else None


def check(sheet: bytes, header: bytes | None, tokenizer: bytes) -> Rejection | None:
    """Return why these files are no encoder that can be trained on, None when they are one.

    `header` is the JSON of the weights' names and shapes, None where they have none.
    """
    read, vocabulary = _object(sheet), _object(tokenizer)
    if read is None:
        return _unknown(SHEET, "it is no JSON object")
    if why := _misfit(read):
        return _unknown(SHEET, why)
    stored = None if header is None else _object(header)
    if stored is None:
        return _unknown(WEIGHTS, "it is no safetensors file")
    for name, shape in _tensors(read).items():
        found = stored.get(name)
        if not isinstance(found, dict):
            return _unknown(WEIGHTS, f"it has no {name}")
        if found.get("shape") != shape or found.get("dtype") not in _FLOATS:
            told = f"{name} is {found.get('dtype')} {found.get('shape')}, and {SHEET} lets expect floats {shape}"
            return _unknown(WEIGHTS, told)
    largest = _largest_token(vocabulary or {})
    if largest is None:
        return _unknown(TOKENIZER, "it has no vocabulary")
    if largest >= read["vocab_size"]:
        return _unknown(TOKENIZER, f"it knows a token {largest}, and {SHEET} only {read['vocab_size']} tokens")
    return None


def check_folder(folder: Path, digests: Mapping[str, str]) -> Rejection | None:
    """Return why a job cannot use the folder that it was given; `digests` are the SHA-256 that the run noted."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        return incomplete(missing, "the channel")
    for name, digest in digests.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return Rejection(
                    "pretrained-changed",
                    f"{FIELD}: {name} was written again since the run began",
                    file=name,
                    column=FIELD,
                    remedy="Drop the data again; to change an encoder, give it a folder of its own.",
                )
    with (folder / WEIGHTS).open("rb") as file:
        length = header_bytes(file.read(HEAD_BYTES), (folder / WEIGHTS).stat().st_size)
        header = None if length is None else file.read(length)
    return check((folder / SHEET).read_bytes(), header, (folder / TOKENIZER).read_bytes())


def incomplete(missing: list[str], where: str) -> Rejection:
    """Return the rejection for a folder that lacks files."""
    return Rejection(
        "pretrained-incomplete",
        f"{FIELD}: there is no {' and no '.join(missing)} in {where}",
        file=missing[0],
        column=FIELD,
        remedy=f"Copy {', '.join(FILES)} of the encoder side by side into that folder, and name the folder.",
    )


def too_large(file: str) -> Rejection:
    """Return the rejection for a file that is read whole and is no such file by its size."""
    return _unknown(file, f"it has more than {MOST_FILE_BYTES} bytes")


def _unknown(file: str, why: str) -> Rejection:
    return Rejection(
        "pretrained-unknown",
        f"{FIELD}: {file} is not understood: {why}",
        file=file,
        column=FIELD,
        remedy="Name the folder of a BERT encoder without a head, for example all-MiniLM-L6-v2, or remove the field.",
    )


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _misfit(sheet: Mapping[str, Any]) -> str | None:
    for name, wanted in _UNDERSTOOD.items():
        if sheet.get(name, wanted) != wanted:
            return f"its {name} is {str(sheet[name])[:40]!r}, and only {wanted!r} is known"
    for name in _SIZES:
        if type(sheet.get(name)) is not int or sheet[name] < 1:
            return f"its {name} is no whole number"
    if not isinstance(sheet.get("layer_norm_eps"), float):
        return "its layer_norm_eps is no number"
    if sheet["hidden_size"] % sheet["num_attention_heads"]:
        return "its hidden_size does not divide among its num_attention_heads"
    return None


def _tensors(sheet: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the shape of each tensor that is read."""
    width, inner = sheet["hidden_size"], sheet["intermediate_size"]
    found = {
        "embeddings.word_embeddings.weight": [sheet["vocab_size"], width],
        "embeddings.position_embeddings.weight": [sheet["max_position_embeddings"], width],
        "embeddings.token_type_embeddings.weight": [sheet.get("type_vocab_size", 2), width],
        "embeddings.LayerNorm.weight": [width],
        "embeddings.LayerNorm.bias": [width],
    }
    matrices = {"wide": [inner, width], "narrow": [width, inner], "norm": [width], "attention_norm": [width]}
    for number in range(sheet["num_hidden_layers"]):
        for name, public in LAYER.items():
            shape = matrices.get(name, [width, width])
            found[f"encoder.layer.{number}.{public}.weight"] = shape
            found[f"encoder.layer.{number}.{public}.bias"] = shape[:1]
    return found


def _largest_token(tokenizer: Mapping[str, Any]) -> int | None:
    """Return the highest number of a token; None where the file lists none."""
    model = tokenizer.get("model")
    listed = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(listed, dict):
        numbers = [each for each in listed.values() if type(each) is int]
    else:
        numbers = list(range(len(listed))) if isinstance(listed, list) else []  # Unigram: (token, score) in order
    added = tokenizer.get("added_tokens")
    for each in added if isinstance(added, list) else ():
        if isinstance(each, dict) and type(each.get("id")) is int:
            numbers.append(each["id"])
    return max(numbers, default=None)
