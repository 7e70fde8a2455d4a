"""What `--model` resolves to, and how what is broken is said without stopping the rest."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.config.errors import ConfigError
from posttrain.evaluation import models
from posttrain.evaluation import weights as weights_on_disk
from posttrain.evaluation.models import Model, resolve


def weights(file: Path, seed: int = 0) -> None:
    """A safetensors file with one tensor of four numbers."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "__metadata__": {"format": "pt"}}
    )
    body = np.random.default_rng(seed).random(4, dtype=np.float32).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + body)


def model(folder: Path, seed: int = 0) -> Path:
    weights(folder / "model.safetensors", seed)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def checkpoint(place: Path, seed: int = 0) -> Path:
    """As posttrain.learner.checkpoint leaves it."""
    model(place / "model", seed)
    (place / "deepspeed").mkdir()
    (place / "deepspeed" / "shard.pt").write_bytes(b"pickle")
    hashes = {
        str(f.relative_to(place)): hashlib.sha256(f.read_bytes()).hexdigest() for f in place.rglob("*") if f.is_file()
    }
    (place / "manifest.json").write_text(json.dumps({"step": 1, "sha256": hashes}))
    return place


def run(folder: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint(folder / "checkpoints" / f"step-{step:05d}", step)
    return folder


def adapter(folder: Path, base: str, **settings: Any) -> Path:
    weights(folder / "adapter_model.safetensors", 9)
    about = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 16, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def one(asked: str | Path) -> Model:
    (found,) = resolve([str(asked)])
    return found


def failure(asked: str | Path) -> str:
    found = one(asked)
    assert found.failed is not None
    assert found.hash == ""
    return found.failed


def test_a_folder_in_hugging_face_format(tmp_path: Path) -> None:
    found = one(model(tmp_path / "Qwen2.5-1.5B"))
    assert (found.key, found.kind, found.path) == ("Qwen2.5-1.5B", "model", tmp_path / "Qwen2.5-1.5B")
    assert (found.base, found.failed, len(found.hash)) == (None, None, 64)
    assert json.loads(json.dumps(found.as_json()))["path"] == str(tmp_path / "Qwen2.5-1.5B")


def test_the_hash_is_of_the_weights_alone(tmp_path: Path) -> None:
    first = one(model(tmp_path / "a"))
    again = model(tmp_path / "b")
    (again / "README.md").write_text("hello")
    assert one(again).hash == first.hash
    assert one(model(tmp_path / "c", seed=1)).hash != first.hash


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.json"]
)
def test_what_else_decides_a_completion_has_a_hash_of_its_own(tmp_path: Path, name: str) -> None:
    first, again = one(model(tmp_path / "a")), model(tmp_path / "b")
    (again / "README.md").write_text("hello")
    assert one(again).settings == first.settings != ""
    (again / name).write_text('{"other": 1}')
    assert one(again).settings != first.settings
    assert one(again).hash == first.hash


def test_the_settings_of_an_adapter_are_its_own_and_its_bases(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    folder = adapter(tmp_path / "lora", str(base), lora_alpha=16)
    first = one(folder)
    adapter(folder, str(base), lora_alpha=32)
    scaled = one(folder)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert len({first.settings, scaled.settings, one(folder).settings}) == 3
    assert first.hash == scaled.hash == one(folder).hash


def test_a_checkpoint_that_a_run_removes_meanwhile_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path / "x", 1, 2)

    def sha256(file: Path) -> str:
        shutil.rmtree(folder / "checkpoints" / "step-00001", ignore_errors=True)
        return weights_on_disk.sha256(file)

    monkeypatch.setattr(models, "sha256", sha256)
    gone, kept = resolve([f"{folder}/checkpoints/*"])
    assert (gone.key, kept.key, kept.failed) == ("x-step-00001", "x-step-00002", None)
    assert gone.failed is not None
    assert "step-00001" in gone.failed
    assert "No such file or directory. A run that goes on removes its old checkpoints" in gone.failed


def test_checkpoints_of_a_run_in_the_order_of_their_steps(tmp_path: Path) -> None:
    folder = run(tmp_path / "x", 20, 100000, 5)
    names = ["x-step-00005", "x-step-00020", "x-step-100000"]
    for pattern in ("checkpoints/*", "checkpoints", "checkpoints/step-*"):
        found = resolve([f"{folder}/{pattern}"])
        assert [m.key for m in found] == names
        assert [m.path for m in found] == [folder / "checkpoints" / n.removeprefix("x-") / "model" for n in names]
        assert {m.kind for m in found} == {"checkpoint"}


def test_equal_weights_have_one_hash_wherever_they_lie(tmp_path: Path) -> None:
    saved = one(checkpoint(tmp_path / "x" / "checkpoints" / "step-00001", seed=3))
    assert saved.hash == one(model(tmp_path / "exported", seed=3)).hash


def test_a_run_is_its_last_model(tmp_path: Path) -> None:
    folder = run(tmp_path / "x", 5, 20)
    found = one(folder)
    assert (found.key, found.kind, found.path.parent.name) == ("x", "checkpoint", "step-00020")
    model(folder / "model", seed=7)
    found = one(folder)
    assert (found.key, found.kind, found.path) == ("x", "model", folder / "model")


def test_the_checkpoints_that_training_writes(tiny_model: Path, tmp_path: Path) -> None:
    """A real model's folder under a manifest of the learner's own making."""
    place = tmp_path / "x" / "checkpoints" / "step-00003"
    shutil.copytree(tiny_model, place / "model")
    from posttrain.learner import checkpoint as written

    files = [f for f in place.rglob("*") if f.is_file()]
    hashes = {str(f.relative_to(place)): written._sha256(f) for f in files}
    (place / written.MANIFEST).write_text(json.dumps({"step": 3, "sha256": hashes}))
    assert (written.MANIFEST, written.MODEL, written.damage(place)) == (models.MANIFEST, models.MODEL, "")
    assert one(place).failed is None
    assert one(place).hash == one(tiny_model).hash


def test_an_adapter_and_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model(tmp_path / "base")
    found = one(adapter(tmp_path / "lora", str(base)))
    assert (found.key, found.kind, found.path) == ("lora", "adapter", tmp_path / "lora")
    assert (found.base, found.rank) == (base, 16)
    other = one(adapter(tmp_path / "lora2", str(model(tmp_path / "base2", seed=1))))
    assert found.hash != other.hash  # the same adapter on other weights is another model
    monkeypatch.chdir(tmp_path)
    assert one(adapter(tmp_path / "lora3", "base")).hash == found.hash
    model(tmp_path / "lora4" / "inside")
    monkeypatch.chdir("/")
    assert one(adapter(tmp_path / "lora4", "inside")).base == tmp_path / "lora4" / "inside"


def test_an_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched, folder = [], model(tmp_path / "cache" / "0123abc")

    def snapshot(name: str, revision: str | None, setting: str) -> Path:
        fetched.append((name, revision, setting))
        return folder

    monkeypatch.setattr(models.hub, "snapshot", snapshot)
    found = resolve(["Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-7B@v1"])
    assert [m.key for m in found] == ["Qwen2.5-Math-1.5B"]  # both are one folder here: named twice, evaluated once
    assert found[0].path == folder
    assert fetched == [("Qwen/Qwen2.5-Math-1.5B", None, "--model"), ("Qwen/Qwen2.5-7B", "v1", "--model")]


def test_the_hub_out_of_reach_is_a_failure_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    good = model(tmp_path / "good")
    bad, fine = resolve(["nobody/nothing-of-this-name", str(good)])
    assert bad.failed is not None
    assert "could not be fetched from the Hugging Face hub" in bad.failed
    assert fine.failed is None


def test_keys_are_short_unique_and_safe(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a" / "x", 1), run(tmp_path / "b" / "x", 1), model(tmp_path / "my model (2)")]
    found = resolve(
        [f"{folders[0]}/checkpoints/*", f"{folders[1]}/checkpoints/*", str(folders[2]), *map(str, folders[:2])]
    )
    assert [m.key for m in found] == ["a-x-step-00001", "b-x-step-00001", "my-model-2"]
    for folder, seed in (("p/m", 1), ("q/m", 2), ("q/M", 3)):
        model(tmp_path / folder, seed)
    assert [m.key for m in resolve([f"{tmp_path}/p/m", f"{tmp_path}/q/m", f"{tmp_path}/q/M"])] == ["p-m", "q-m", "M"]


def test_named_twice_is_evaluated_once(tmp_path: Path) -> None:
    folder = run(tmp_path / "x", 1, 2)
    assert len(resolve([f"{folder}/checkpoints/*", f"{folder}/checkpoints/step-00001", f"{folder}/checkpoints"])) == 2


def test_shards_behind_an_index(tmp_path: Path) -> None:
    folder = model(tmp_path / "big")
    (folder / "model.safetensors").unlink()
    weights(folder / "model-00001-of-00002.safetensors", 1)
    weights(folder / "model-00002-of-00002.safetensors", 2)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert one(folder).failed is None
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "lacks model-00002-of-00002.safetensors, which model.safetensors.index.json lists" in failure(folder)


def test_what_is_broken_says_why(tmp_path: Path) -> None:
    whole = model(tmp_path / "model")

    def broken(name: str) -> Path:
        return shutil.copytree(whole, tmp_path / name)

    cut = broken("cut")
    (cut / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:-3])
    size = (whole / "model.safetensors").stat().st_size
    assert f"is cut off: {size - 3} of {size} bytes" in failure(cut)
    for name, content in (("short", b"1234"), ("html", b"<html>" * 10), ("junk", (9).to_bytes(8, "little") + b"{" * 9)):
        (broken(name) / "model.safetensors").write_bytes(content)
        assert "no safetensors file" in failure(tmp_path / name)
    (broken("bare") / "tokenizer.json").unlink()
    assert "has no tokenizer (tokenizer.json, tokenizer.model, vocab.json)" in failure(tmp_path / "bare")
    (broken("pickled") / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin), which are not loaded" in failure(tmp_path / "pickled")
    (broken("nothing") / "model.safetensors").unlink()
    assert "has no weights: safetensors are needed" in failure(tmp_path / "nothing")
    (broken("config") / "config.json").write_text("{")
    assert "config.json is not readable" in failure(tmp_path / "config")
    (tmp_path / "empty").mkdir()
    assert "no model, no finished checkpoint, no run that has one, and no adapter" in failure(tmp_path / "empty")
    assert "is a file; a model is a folder" in failure(whole / "config.json")
    assert "there is no such folder" in failure(tmp_path / "none")
    assert failure(f"{tmp_path}/none/*") == "no folder matches"


def test_a_damaged_checkpoint_says_why(tmp_path: Path) -> None:
    for name in ("flipped", "lost", "unreadable", "without"):
        checkpoint(tmp_path / name)
    file = tmp_path / "flipped" / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert "model.safetensors is not what was saved" in failure(tmp_path / "flipped")
    (tmp_path / "lost" / "model" / "tokenizer.json").unlink()
    assert "lacks tokenizer.json, which manifest.json lists" in failure(tmp_path / "lost")
    (tmp_path / "unreadable" / "manifest.json").write_text("{}")
    assert "manifest.json is not readable" in failure(tmp_path / "unreadable")
    (tmp_path / "without" / "manifest.json").write_text('{"sha256": {"state.json": "0"}}')
    assert "holds no model in Hugging Face format" in failure(tmp_path / "without")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "./none"}, "its base './none': there is no such folder"),
        ({"base": ""}, "names no base"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; LORA is what vLLM can serve"),
    ],
)
def test_a_broken_adapter_says_why(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    base = settings.pop("base", str(model(tmp_path / "base")))
    assert message in failure(adapter(tmp_path / "lora", base, **settings))


def test_an_adapter_without_weights(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "lora", str(model(tmp_path / "base")))
    (folder / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in failure(folder)
    weights(folder / "adapter_model.safetensors")
    assert "is an adapter too" in failure(adapter(tmp_path / "second", str(folder)))


def test_the_broken_stand_among_the_others(tmp_path: Path) -> None:
    found = resolve([str(tmp_path / "none"), str(model(tmp_path / "good")), str(tmp_path / "x" / "*")])
    assert [(m.key, m.failed is None) for m in found] == [("none", False), ("good", True), ("x", False)]
    with pytest.raises(ConfigError, match="no model is named"):
        resolve([" "])
