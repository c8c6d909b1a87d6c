"""What a file is, by its content rather than its name; nothing is unpickled and no heavy library imported."""

from __future__ import annotations

import mmap
import pickletools
import re
import zipfile
from pathlib import Path

from modelkeep.errors import BadModel, NotFound, Unsupported, Untrusted
from modelkeep.model import protobuf

LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
KNOWN = (
    "an ONNX file, a PyTorch state_dict (.pt, .pth, .safetensors) with its factory, a torch.export file (.pt2), "
    "a TorchScript archive, a Hugging Face folder, a scikit-learn model (.skops), an XGBoost or LightGBM file, "
    "OpenVINO's IR (an .xml with its .bin beside it), a TensorFlow SavedModel (its folder), or a Keras (.keras, .h5) "
    "or LiteRT (.tflite) file"
)
FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", "a GGUF file, which llama.cpp runs; add the Hugging Face folder that it was made from"),
    (0, b"CBM1", "a CatBoost file; write it as ONNX with model.save_model(path, format='onnx')"),
    (0, b"binf", "an XGBoost file of the old binary form; save it again with save_model('model.ubj')"),
)
"""Where, which bytes, and what such a file is, with the way from there to something that modelkeep takes."""
FOREIGN_NAMES = {
    ".msgpack": "a Flax file; save the model with transformers' save_pretrained after loading it with from_flax=True",
    ".mlmodel": "a Core ML file; add the model that it was made from",
}
FOLDERS = {
    "adapter_config.json": "an adapter (PEFT), no whole model; merge it with merge_and_unload and save_pretrained that",
    "model_index.json": "a diffusers pipeline of several models; add each from its PyTorch module, with --factory",
    ".mlpackage": "a Core ML package; add the model that it was made from",
}
"""A file or an ending that tells what a folder is, and the way from there."""
PICKLED = b"\x02\x03\x04\x05"
"""The protocols of pickle that begin with a byte for themselves."""
ZIP = b"PK\x03\x04"
"""How a zip archive begins, as PyTorch's files are; what tells of its members stands at its end."""
SAVED_MODEL = "saved_model.pb"
"""What every TensorFlow SavedModel has in its folder."""
IR = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<net\s[^>]*version=")
"""How OpenVINO's XML begins."""
ONNX_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
"""Field numbers of ModelProto (github.com/onnx/onnx, onnx/onnx.proto)."""
WEIGHTS_ONLY = ("torch ", "torch._utils ", "torch._tensor ", "torch.storage ", "torch.nn.parameter ", "collections ")
"""Where the globals of a pickled state_dict come from; a pickled module names its own class besides."""


def detect(path: Path, *, factory: str | None = None, trust: bool = False) -> str:
    """The format of a model file: a key of formats.FORMATS.

    Raises NotFound; BadModel or Unsupported, which say what the file is and what to do; Untrusted for a pickled
    module unless ``trust``.
    """
    path = Path(path)
    if not path.exists():
        raise NotFound(f"there is no file {path}")
    kind = _folder(path) if path.is_dir() else _kind(path, trust)
    if factory and kind != "torch":
        raise BadModel(f"{path} is of format {kind}, which holds its own code; leave --factory out")
    return kind


def _kind(path: Path, trust: bool) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise BadModel(f"{path} is empty; it should be {KNOWN}")
    if kind := _of_tensorflow(path, head):
        return kind
    if zipfile.is_zipfile(path):
        return _archive(path, trust)
    if head.startswith(LEGACY_TORCH) or _is_safetensors(path, head):
        return "torch"
    if IR.match(head):
        return "openvino"
    if made_by := library(path):
        if made_by == "pickle" and not trust:
            raise Untrusted(
                f"{path} is a pickle, which can run any code when it is opened; save a scikit-learn model with "
                "skops.io.dump, a PyTorch one with torch.save, or pass --trust if you made the file yourself"
            )
        return "sklearn"
    if what := _foreign(path, head):
        raise Unsupported(f"{path} is {what}")
    if _is_onnx(path):
        return "onnx"
    raise BadModel(f"{path} {_unknown(path, head)}")


def _unknown(path: Path, head: bytes) -> str:
    if path.suffix == ".bin" and (xml := path.with_suffix(".xml")).is_file():
        return f"holds the weights of {xml}; add that"
    if path.suffix == ".onnx":
        return "is not an ONNX model: it is damaged, or something else under that name"
    if head.startswith(ZIP) or (head[8:10] == b'{"' and path.suffix == ".safetensors"):
        return "breaks off before its end, as after a copy or a download that did not finish; copy it again"
    what = "a text file" if _is_text(head) else "not a model file that modelkeep knows"
    return f"is {what}; it should be {KNOWN}"


def _foreign(path: Path, head: bytes) -> str | None:
    found = (what for at, magic, what in FOREIGN if head[at:].startswith(magic))
    return next(found, FOREIGN_NAMES.get(path.suffix))


def library(path: Path) -> str | None:
    """What wrote a file of format "sklearn": "skops", "pickle", "xgboost" or "lightgbm"; None for any other file."""
    with path.open("rb") as file:
        head = file.read(4096)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "skops" if "schema.json" in archive.namelist() else None
    if re.match(rb'\s*\{\s*"learner"|\{L\x00{7}\x07learner', head) or (head[:1] == b"{" and b"xgboost" in head):
        return "xgboost"
    if head.startswith(b"tree\nversion="):
        return "lightgbm"
    if head.startswith(LEGACY_TORCH):
        return None
    pickled = head[:1] == b"\x80" and head[1:2] and head[1:2] in PICKLED
    return "pickle" if pickled or path.suffix in (".pkl", ".pickle", ".joblib") else None


def _folder(path: Path) -> str:
    if (path / "config.json").is_file():
        return "huggingface"
    if (path / SAVED_MODEL).is_file():
        return "tensorflow"
    for name, what in FOLDERS.items():
        if (path / name).exists() or path.suffix == name:
            raise Unsupported(f"{path} is {what}")
    raise BadModel(
        f"{path} is a folder, and neither a Hugging Face one (it has no config.json) nor a SavedModel; "
        "name the model's file inside"
    )


def _of_tensorflow(path: Path, head: bytes) -> str | None:
    """TensorFlow's and Keras's files by their first bytes; a .keras file is a zip, told apart in ``_archive``."""
    if path.name == SAVED_MODEL:
        return "tensorflow"
    if head[4:8] == b"TFL3":
        return "litert"
    return "keras" if head.startswith(b"\x89HDF") else None


def _archive(path: Path, trust: bool) -> str:
    """PyTorch's three kinds of zip archive are told apart by the members that only one of them has."""
    if library(path) == "skops":
        return "sklearn"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        members = {name.partition("/")[2]: name for name in names}
        if "models/model.json" in members or "serialized_exported_program.json" in names:
            return "torch-export"
        if "constants.pkl" in members:
            return "torchscript"
        if "data.pkl" in members:
            if not trust and _names_code(archive.read(members["data.pkl"])):
                raise Untrusted(
                    f"{path} holds a whole pickled module, and unpickling can run any code; save its state_dict() "
                    "instead, or pass --trust if you made the file yourself"
                )
            return "torch"
    if any(name.endswith(".npy") for name in names):
        raise BadModel(f"{path} holds arrays, not a model; give rows with --data")
    if "model.weights.h5" in names:
        return "keras"
    raise BadModel(f"{path} is a zip archive of something else; it should be {KNOWN}")


def _names_code(pickled: bytes) -> bool:
    """Whether a pickle names a class outside those that a state_dict is made of. Reads opcodes, runs nothing.

    A first look, so that the answer needs no PyTorch; formats/torch.py reads with weights_only=True all the same.
    """
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "STACK_GLOBAL" or (
                opcode.name in ("GLOBAL", "INST") and not str(argument).startswith(WEIGHTS_ONLY)
            ):
                return True
    except ValueError:
        return False  # damaged; reading it will say so
    return False


def _is_safetensors(path: Path, head: bytes) -> bool:
    """An 8-byte length, then a JSON object of that length (github.com/huggingface/safetensors, README, Format)."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def _is_onnx(path: Path) -> bool:
    """Whether the whole file is the fields of a ModelProto, with its version (1) and its graph (7)."""
    with path.open("rb") as file:
        # left to the garbage collector: closing it by hand fails while a slice of it is alive
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        found = {number for number, _ in protobuf.fields(view)}
    except ValueError:
        return False
    return {1, 7} <= found <= ONNX_FIELDS


def _is_text(head: bytes) -> bool:
    try:
        return head[:-4].decode("utf-8").isprintable() or b"\n" in head
    except UnicodeDecodeError:
        return False
