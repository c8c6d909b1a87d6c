"""Hugging Face folders (config.json and safetensors): the architecture comes from transformers, never from the folder.

Nothing is fetched. Weights are held in 32 bits, and attention is the plain ("eager") kind, which every exporter can
follow: the fused kind bakes a length into T5.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelkeep import extras
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, Untrusted, first_line
from modelkeep.model.copying import copied
from modelkeep.model.formats import huggingface_signature as signatures
from modelkeep.types import Model, Signature

CONFIG = "config.json"
KEPT = re.compile(r"[\w.-]+\.(json|safetensors|model|txt|jinja|tiktoken)|LICENSE[\w.-]*|README\.md")
"""What belongs to a model: its settings, weights, tokenizer and preprocessor, licence. Code only with --trust."""
TASKS = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "token-classification": "AutoModelForTokenClassification",
}
"""transformers' names of tasks, and the class that gives the head."""


def adopt(
    source: Path,
    into: Path,
    *,
    factory: str | None,
    factory_args: Mapping[str, Any],
    data: Dataset | None,
    trust: bool,
    task: str | None = None,
    with_past: bool = False,
) -> Model:
    """See formats.adopt. ``task`` picks another head than the config's; ``with_past`` makes the cache of a decoder
    inputs and outputs.

    Raises Untrusted where the folder brings its own code; BadModel where weights are missing or do not fit.
    """
    extras.need("transformers", extra="huggingface")
    config = read_config(source)
    if config.get("auto_map") and not trust:
        brought = ", ".join(map(str, config["auto_map"].values()))
        raise Untrusted(f"{source} brings code of its own ({brought}), to be run; pass --trust if you have read it")
    weights = _weights(source)
    own_code = bool(config.get("auto_map"))
    built = _load(source, _class(config, task, source), own_code=own_code)
    if weights == "bin":
        _saved(built, into)
    else:
        _copy(source, into, code=own_code)
    _copy_rest(source, into)
    options: dict[str, Any] = {"class": type(built).__name__, **({"own_code": True} if own_code else {})}
    if with_past:
        options["past"] = signatures.layers_of(built, source)
    module_ = Named(built, signatures.inputs(built, given=data.inputs if data else None), options.get("past", 0))
    signature = signatures.read(module_, source)
    return Model(into, "huggingface", signature, _files(into), _labels(built), options)


def module(model: Model) -> nn.Module:
    """The module in eval mode on the CPU, called with its inputs by position, answering with its tensors by name."""
    built = _load(model.path, model.options["class"], own_code=bool(model.options.get("own_code")))
    taken = [spec.name for spec in model.signature.inputs]
    return Named(built, signatures.inputs(built, given=taken), model.options.get("past", 0)).eval()


def save(
    module: nn.Module, like: Model, into: Path, labels: tuple[str, ...], signature: Signature | None = None
) -> Model:
    """The module as a Hugging Face folder again, its tokenizer and the like being those of ``like``."""
    assert isinstance(module, Named)
    names = labels or like.labels
    if names:
        module.inner.config.id2label = dict(enumerate(names))
        module.inner.config.label2id = {name: number for number, name in enumerate(names)}
    _saved(module.inner, into)
    _copy_rest(like.path, into)
    return Model(into, "huggingface", signature or like.signature, _files(into), names, like.options)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises BadModel where it cannot be read, or is none of transformers'."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadModel(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise BadModel(f"{folder / CONFIG} has no model_type, so transformers cannot tell what the model is")
    return found


class Named(nn.Module):
    """``inner`` called with tensors by position. A cache of ``past`` layers comes in after the other inputs, as key and
    value of each, and goes out as ``present.N.key`` and ``present.N.value``.
    """

    def __init__(self, inner: Any, names: tuple[str, ...], past: int = 0) -> None:
        super().__init__()
        self.inner, self.names, self.past = inner, names, past
        caches = hasattr(inner.config, "use_cache") or getattr(inner.config, "is_encoder_decoder", False)
        self.fixed: dict[str, Any] = (
            {"use_cache": bool(past)} if caches and signatures.takes(inner, "use_cache") else {}
        )

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        given: dict[str, Any] = dict(zip(self.names, inputs, strict=False))
        if self.past:
            from transformers import DynamicCache

            rest = inputs[len(self.names) :]
            given["past_key_values"] = DynamicCache([(rest[2 * i], rest[2 * i + 1]) for i in range(self.past)])
        answer = self.inner(**given, **self.fixed, return_dict=True)
        found = {name: value for name, value in answer.items() if isinstance(value, torch.Tensor)}
        if self.past:
            for number, layer in enumerate(answer.past_key_values.layers):
                found[f"present.{number}.key"], found[f"present.{number}.value"] = layer.keys, layer.values
        return found


def transformers() -> Any:
    """The library, kept from the network and from writing to the terminal."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = extras.need("transformers", extra="huggingface")
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return found


def _class(config: Mapping[str, Any], task: str | None, source: Path) -> str:
    if task is not None:
        if task not in TASKS:
            raise BadModel(f"there is no task '{task}'; there are: {', '.join(TASKS)}")
        return TASKS[task]
    named = config.get("architectures") or []
    if not named:
        raise BadModel(f"{source / CONFIG} names no architecture; say with --task what the model is for")
    return str(named[0])


def _load(folder: Path, name: str, *, own_code: bool) -> Any:
    library = transformers()
    if own_code and not hasattr(library, name):
        name = "AutoModel"
    kind = getattr(library, name, None)
    if kind is None:
        raise BadModel(f"{folder} is a {name}, which transformers {library.__version__} does not have; a newer one may")
    options: dict[str, Any] = {"trust_remote_code": True} if own_code else {}
    try:
        built, told = kind.from_pretrained(
            folder,
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # transformers has no error of its own
        raise BadModel(
            f"{folder / CONFIG} and its weights are not a model that can be read: {first_line(error)}"
        ) from error
    lacking = sorted(told["missing_keys"]) + [str(each[0]) for each in told.get("mismatched_keys", ())]
    if lacking:
        more = f" (and {len(lacking) - 3} more)" if len(lacking) > 3 else ""
        raise BadModel(
            f"{folder} has no weights that fit {', '.join(lacking[:3])}{more} of {type(built).__name__}; they would be "
            "drawn by chance. Train that head first, or pick one that the weights have with --task"
        )
    return built.eval()


def _weights(source: Path) -> str:
    """ "safetensors" or "bin". Raises BadModel where there are none, or a part of them is missing."""
    for kind, single in (("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")):
        if (source / single).is_file():
            return kind
        index = source / f"{single}.index.json"
        if index.is_file():
            try:
                parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError, AttributeError) as error:
                raise BadModel(f"{index} is damaged: {error!r}") from error
            if missing := sorted(str(part) for part in parts if not (source / str(part)).is_file()):
                raise BadModel(
                    f"{source} lacks {', '.join(missing[:3])}, which {index.name} names; fetch the whole folder"
                )
            return kind
    other = next((name for name in ("flax_model.msgpack", "tf_model.h5") if (source / name).is_file()), None)
    mend = "put model.safetensors beside its config.json"
    if other:
        mend = f"it has {other} only; load that with transformers 4 (from_flax or from_tf) and save_pretrained it"
    raise BadModel(f"{source} has no weights of PyTorch; {mend}")


def _saved(built: Any, into: Path) -> None:
    try:
        built.save_pretrained(into)
    except (RuntimeError, ValueError) as error:
        raise BadModel(f"transformers cannot write this model: {first_line(error)}") from error


def _copy(source: Path, into: Path, *, code: bool) -> None:
    for file in sorted(source.iterdir()):
        if file.is_file() and (KEPT.fullmatch(file.name) or (code and file.suffix == ".py")):
            copied(file, into / file.name)


def _copy_rest(source: Path, into: Path) -> None:
    """What is not there yet, but no weights: those of ``into`` are its own."""
    for file in sorted(source.iterdir()):
        weights = ".safetensors" in file.name or file.name in ("model.json", CONFIG) or ".bin.index" in file.name
        if file.is_file() and KEPT.fullmatch(file.name) and not weights and not (into / file.name).exists():
            copied(file, into / file.name)


def _files(into: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in into.iterdir() if p.is_file() and p.name not in (CONFIG, "model.json"))
    return (CONFIG, *names)


def _labels(built: Any) -> tuple[str, ...]:
    """Names of the classes, where the config has more than the names that transformers makes up."""
    if "Classification" not in type(built).__name__:
        return ()
    named = getattr(built.config, "id2label", None) or {}
    names = tuple(str(named[number]) for number in sorted(named))
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names
