"""Hugging Face folders: tiny models from configs with random weights, saved as people's are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, ModelkeepError, Unsupported, Untrusted
from modelkeep.model import detect, engines, folder, formats
from modelkeep.model import signature as signatures
from modelkeep.model.formats import torch as torch_format

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402 - after the library that may be missing

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
    "max_position_embeddings": 24,
}
CLASSES = {0: "cat", 1: "dog", 2: "owl"}


def saved(kind: str, config: str, at: Path, **settings: Any) -> Path:
    """A folder as save_pretrained writes it."""
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    model.save_pretrained(at)
    return at


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("bert")
    saved("BertForSequenceClassification", "BertConfig", at, **SMALL, id2label=CLASSES)
    (at / "tokenizer.json").write_text("{}", encoding="utf-8")
    (at / "evil.py").write_text("raise SystemExit", encoding="utf-8")
    (at / "notes.exe").write_bytes(b"MZ")
    return at


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 24}
    return saved("GPT2LMHeadModel", "GPT2Config", tmp_path_factory.mktemp("gpt2"), **settings)


def described(model: Any) -> list[str]:
    return [t.describe() for t in (*model.signature.inputs, *model.signature.outputs)]


class TestEncoder:
    def test_inputs_bounds_classes_and_tokenizer(self, bert: Path, tmp_path: Path) -> None:
        model = formats.adopt(bert, tmp_path / "into")
        assert described(model) == [
            "input_ids int64 [batch, sequence]",
            "attention_mask int64 [batch, sequence]",
            "token_type_ids int64 [batch, sequence]",
            "logits float32 [batch, 3]",
        ]
        assert model.signature.bounds["sequence"] == (1, 24, 1)
        assert model.labels == ("cat", "dog", "owl")
        assert "tokenizer.json" in model.files
        assert not {"evil.py", "notes.exe"} & {p.name for p in model.path.iterdir()}

    def test_it_answers_as_transformers_does(self, bert: Path, tmp_path: Path) -> None:
        model = folder.read(formats.adopt(bert, tmp_path / "into").path)
        given = signatures.example(model.signature, 3, sizes={"sequence": 11})
        theirs = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
        with torch.no_grad():
            want = theirs(**{name: torch.from_numpy(array) for name, array in given.items()}).logits.numpy()
        found = engines.load(model).run(given)
        assert list(found) == ["logits"]
        np.testing.assert_allclose(found["logits"], want, atol=1e-5)

    def test_rows_without_token_types_leave_that_input_out(self, bert: Path, tmp_path: Path) -> None:
        ids = np.tile(np.arange(1, 8), (4, 1))
        rows = Dataset({"input_ids": ids, "attention_mask": np.ones_like(ids)}, None, "rows.npz")
        model = folder.read(formats.adopt(bert, tmp_path / "into", data=rows).path)
        assert [t.name for t in model.signature.inputs] == ["input_ids", "attention_mask"]
        theirs = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
        with torch.no_grad():
            want = theirs(**{name: torch.from_numpy(array) for name, array in rows.inputs.items()}).logits.numpy()
        np.testing.assert_allclose(engines.load(model).run(rows.inputs)["logits"], want, atol=1e-5)
        bare = Dataset({"input_ids": ids}, None, "rows.npz")
        with pytest.raises(BadData, match=r"also takes attention_mask .*: add what is missing under its name"):
            formats.adopt(bert, tmp_path / "no", data=bare)

    def test_a_head_that_the_weights_lack_is_refused(self, bert: Path, tmp_path: Path) -> None:
        with pytest.raises(BadModel, match=r"no weights that fit .* of BertForQuestionAnswering.*drawn by chance"):
            formats.adopt(bert, tmp_path / "into", task="question-answering")
        assert described(formats.adopt(bert, tmp_path / "bare", task="feature-extraction"))[-2:] == [
            "last_hidden_state float32 [batch, sequence, 16]",
            "pooler_output float32 [batch, 16]",
        ]
        with pytest.raises(BadModel, match="there is no task 'magic'; there are: feature-extraction"):
            formats.adopt(bert, tmp_path / "no", task="magic")

    def test_roberta_loses_the_first_positions(self, tmp_path: Path) -> None:
        at = saved("RobertaModel", "RobertaConfig", tmp_path / "r", **{**SMALL, "type_vocab_size": 1})
        model = formats.adopt(at, tmp_path / "into")
        assert model.signature.bounds["sequence"] == (1, 22, 1)
        assert [t.name for t in model.signature.inputs] == ["input_ids", "attention_mask"]
        engines.load(model).run(signatures.example(model.signature, 2, sizes={"sequence": 22}))

    def test_an_updated_one_is_a_folder_again(self, bert: Path, tmp_path: Path) -> None:
        model = formats.adopt(bert, tmp_path / "into")
        module = torch_format.module(model)
        with torch.no_grad():
            module.inner.classifier.bias += 1.0
        (tmp_path / "new").mkdir()
        made = folder.write(torch_format.save(module, model, tmp_path / "new", labels=("a", "b", "c")))
        assert "tokenizer.json" in made.files
        again = transformers.AutoModelForSequenceClassification.from_pretrained(made.path)
        assert again.config.id2label == {0: "a", 1: "b", 2: "c"}
        given = signatures.example(model.signature, 2)
        before, after = engines.load(model).run(given), engines.load(folder.read(made.path)).run(given)
        np.testing.assert_allclose(after["logits"], before["logits"] + 1, atol=1e-6)


class TestDecoder:
    def test_without_a_cache(self, gpt2: Path, tmp_path: Path) -> None:
        model = formats.adopt(gpt2, tmp_path / "into")
        assert described(model) == [
            "input_ids int64 [batch, sequence]",
            "attention_mask int64 [batch, sequence]",
            "logits float32 [batch, sequence, 40]",
        ]

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_with_its_cache_token_by_token_is_as_all_at_once(self, kind: str, gpt2: Path, tmp_path: Path) -> None:
        at = gpt2
        if kind == "llama":  # fewer heads of keys than of queries
            settings = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2}
            at = saved("LlamaForCausalLM", "LlamaConfig", tmp_path / "llama", **settings)
        whole = engines.load(formats.adopt(at, tmp_path / "plain"))
        model = formats.adopt(at, tmp_path / "past", with_past=True)
        names = [t.name for t in model.signature.inputs]
        assert names[2:4] == ["past_key_values.0.key", "past_key_values.0.value"]
        assert model.signature.inputs[1].axes == ("batch", "past+sequence")
        assert model.signature.outputs[-1].name == "present.1.value"
        assert model.signature.outputs[-1].axes[2] == "past+sequence"
        ids = np.random.default_rng(0).integers(0, 40, (2, 6))
        want = whole.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"]
        state = signatures.example(model.signature, 2, sizes={"past": 0, "sequence": 1})
        runner = engines.load(model)
        for at_ in range(6):
            state |= {"input_ids": ids[:, [at_]], "attention_mask": np.ones((2, at_ + 1), np.int64)}
            model.signature.check(state)
            found = runner.run(state)
            np.testing.assert_allclose(found["logits"][:, 0], want[:, at_], atol=1e-5)
            state |= {
                name.replace("present", "past_key_values"): array for name, array in found.items() if "present" in name
            }

    def test_an_encoder_has_no_cache(self, bert: Path, tmp_path: Path) -> None:
        with pytest.raises(BadModel, match="which has no cache that could be an input; leave --with-past"):
            formats.adopt(bert, tmp_path / "into", with_past=True)


def test_encoder_and_decoder(tmp_path: Path) -> None:
    settings = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    at = saved("T5ForConditionalGeneration", "T5Config", tmp_path / "t5", **settings)
    assert described(formats.adopt(at, tmp_path / "into"))[2:] == [
        "decoder_input_ids int64 [batch, decoder_sequence]",
        "logits float32 [batch, decoder_sequence, 40]",
        "encoder_last_hidden_state float32 [batch, sequence, 16]",
    ]


VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}


def test_images(tmp_path: Path) -> None:
    at = saved("ViTForImageClassification", "ViTConfig", tmp_path / "vit", **VISION, image_size=16, id2label=CLASSES)
    model = formats.adopt(at, tmp_path / "into")
    assert described(model) == ["pixel_values float32 [batch, 3, 16, 16]", "logits float32 [batch, 3]"]
    assert model.labels == ("cat", "dog", "owl")


def test_images_and_texts_are_counted_apart(tmp_path: Path) -> None:
    at = saved(
        "CLIPModel",
        "CLIPConfig",
        tmp_path / "clip",
        text_config={**SMALL, "eos_token_id": 39},
        vision_config={**VISION, "image_size": 16},
        projection_dim=8,
    )
    model = formats.adopt(at, tmp_path / "into")
    assert described(model)[3:5] == [
        "logits_per_image float32 [images, texts]",
        "logits_per_text float32 [texts, images]",
    ]
    assert not model.signature.batched
    found = engines.load(model).run(signatures.example(model.signature, sizes={"images": 3, "texts": 2}))
    assert found["logits_per_image"].shape == (3, 2)


class TestWeights:
    def test_in_parts_and_a_part_missing(self, bert: Path, tmp_path: Path) -> None:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(bert)
        model.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
        parts = sorted((tmp_path / "parts").glob("*.safetensors"))
        assert len(parts) > 1
        kept = formats.adopt(tmp_path / "parts", tmp_path / "into")
        assert {p.name for p in parts} <= set(kept.files)
        engines.load(kept).run(signatures.example(kept.signature, 2))
        parts[0].unlink()
        with pytest.raises(BadModel, match=f"lacks {parts[0].name}, which model.safetensors.index.json names"):
            formats.adopt(tmp_path / "parts", tmp_path / "no")

    def test_old_weights_are_read_without_code_and_kept_as_safetensors(self, bert: Path, tmp_path: Path) -> None:
        (at := tmp_path / "old").mkdir()
        (at / "config.json").write_bytes((bert / "config.json").read_bytes())
        model = transformers.AutoModelForSequenceClassification.from_pretrained(bert)
        torch.save(model.state_dict(), at / "pytorch_model.bin")
        kept = formats.adopt(at, tmp_path / "into")
        assert "model.safetensors" in kept.files
        assert "pytorch_model.bin" not in kept.files
        torch.save(model, at / "pytorch_model.bin")
        with pytest.raises(ModelkeepError, match="not a model that can be read"):
            formats.adopt(at, tmp_path / "no")

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ("flax_model.msgpack", "it has flax_model.msgpack only"),
            ("x.txt", "put model.safetensors beside its config"),
        ],
    )
    def test_no_weights_of_pytorch(self, bert: Path, tmp_path: Path, other: str, said: str) -> None:
        (at := tmp_path / "m").mkdir()
        (at / "config.json").write_bytes((bert / "config.json").read_bytes())
        (at / other).write_bytes(b"x")
        with pytest.raises(BadModel, match=said):
            formats.adopt(at, tmp_path / "into")

    def test_cut_weights_are_refused(self, bert: Path, tmp_path: Path) -> None:
        (at := tmp_path / "m").mkdir()
        for name in ("config.json", "model.safetensors"):
            (at / name).write_bytes((bert / name).read_bytes())
        whole = (at / "model.safetensors").read_bytes()
        (at / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadModel, match="are not a model that can be read") as error:
            formats.adopt(at, tmp_path / "into")
        assert "\n" not in str(error.value)


class TestConfig:
    def changed(self, bert: Path, at: Path, **settings: Any) -> Path:
        at.mkdir()
        config = json.loads((bert / "config.json").read_text()) | settings
        (at / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (at / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes())
        return at

    def test_code_in_the_folder_needs_trust(self, bert: Path, tmp_path: Path) -> None:
        at = self.changed(bert, tmp_path / "m", auto_map={"AutoModel": "mine.Mine"})
        (at / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
        with pytest.raises(Untrusted, match=r"brings code of its own \(mine\.Mine\)"):
            formats.adopt(at, tmp_path / "into")
        assert not (tmp_path / "ran").exists()

    def test_an_unknown_architecture_and_none_at_all(self, bert: Path, tmp_path: Path) -> None:
        with pytest.raises(BadModel, match=r"is a TomorrowModel, which transformers .* does not have; a newer one may"):
            formats.adopt(self.changed(bert, tmp_path / "a", architectures=["TomorrowModel"]), tmp_path / "no")
        with pytest.raises(BadModel, match="names no architecture; say with --task"):
            formats.adopt(self.changed(bert, tmp_path / "b", architectures=None), tmp_path / "no")

    def test_folders_of_other_things(self, tmp_path: Path) -> None:
        for name, said in (
            ("adapter_config.json", "is an adapter"),
            ("model_index.json", "is a diffusers pipeline"),
        ):
            (at := tmp_path / name.partition(".")[0]).mkdir()
            (at / name).write_text("{}", encoding="utf-8")
            with pytest.raises(Unsupported, match=said):
                detect.detect(at)

    def test_its_options_are_for_it_alone(self, tmp_path: Path) -> None:
        (tmp_path / "m.txt").write_text("tree\nversion=v4\n", encoding="utf-8")
        with pytest.raises(BadModel, match=r"--with-past is for Hugging Face folders, and .* is of format sklearn"):
            formats.adopt(tmp_path / "m.txt", tmp_path / "into", with_past=True)


def test_it_becomes_onnx(bert: Path, tmp_path: Path) -> None:
    from modelkeep import convert

    model = formats.adopt(bert, tmp_path / "model")
    made, (report, *_) = convert.step("huggingface", "onnx").run(model, tmp_path / "onnx")
    assert report.ok is True
    assert [t.name for t in made.signature.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    for length in (1, 5, 24):
        given = signatures.example(model.signature, 2, sizes={"sequence": length})
        found = engines.load(made).run(given)["logits"]
        np.testing.assert_allclose(found, engines.load(model).run(given)["logits"], atol=1e-5)
