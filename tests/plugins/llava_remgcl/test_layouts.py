"""Checkpoints as they are published: without a tower, as a projector, an adapter or a difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import torchrun
from toy import write_conversations

import polylens
from polylens import cli
from polylens.contracts import ImageRef, Message
from polylens.engine.composing import compose
from polylens.engine.loading import load_checkpoint
from polylens.engine.merge import convert_model, merge_delta
from polylens.engine.saving import save_model_folder
from polylens.errors import InputError
from polylens.modeling.tokenizers import load_tokenizer
from polylens_llava_remgcl.family import PRESETS
from polylens_llava_remgcl.model import build
from polylens_llava_remgcl.recognition import is_original, is_transformers

TOWER = "model.vision_tower."
PROJECTOR = "model.mm_projector."
ADAPTED = "model.layers.{}.self_attn.{}_proj"
RANK = 4


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Three folders that hang together: ``llava`` (all of a model), ``clip`` (its tower) and ``llm``."""
    root = tmp_path_factory.mktemp("parts")
    made = load_checkpoint("llava_remgcl", "tiny", seed=3)
    save_model_folder(made, root / "llava", made.card)
    weights, config = load_file(root / "llava" / "model.safetensors"), made.model.config.to_dict()
    vision = {"architectures": ["CLIPVisionModel"], **config.pop("vision_config")}
    text = {name: value for name, value in config.items() if not name.startswith("mm_")}
    write(root / "llm", {**text, "model_type": "llama"}, {n: w for n, w in weights.items() if own(n)})
    tower = {n.removeprefix("model.vision_tower.vision_tower."): w for n, w in weights.items() if n.startswith(TOWER)}
    write(root / "clip", vision, tower)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(root / "llava" / name, root / "llm" / name)
    return root


def own(name: str) -> bool:
    return not name.startswith((TOWER, PROJECTOR))


def write(folder: Path, config: dict, weights: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def released(parts: Path, folder: Path, tower: str, keep=lambda name: not name.startswith(TOWER)) -> Path:
    """The model as it is published: its file names a tower, and holds neither its sizes nor its weights."""
    shutil.copytree(parts / "llava", folder)
    (folder / "polylens.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config.pop("vision_config")
    config |= {"mm_vision_tower": tower, "_name_or_path": str(parts / "llm")}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {n: w for n, w in load_file(folder / "model.safetensors").items() if keep(n)}
    (folder / "model.safetensors").unlink()
    if weights:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def state(source: str | Path, **options) -> dict[str, torch.Tensor]:
    return load_checkpoint("llava_remgcl", str(source), **options).model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_tower_is_found_where_the_file_says_beside_the_model_or_by_an_option(parts, tmp_path):
    expected = state(parts / "llava")
    assert same(state(released(parts, tmp_path / "a", str(parts / "clip"))), expected)
    shutil.copytree(parts / "clip", tmp_path / "beside" / "clip")
    assert same(state(released(parts, tmp_path / "beside" / "model", "openai/clip")), expected)
    lost = released(parts, tmp_path / "lost", "nobody/no-such-tower")
    assert same(state(lost, options={"vision_tower": str(parts / "clip")}), expected)
    with pytest.raises(InputError, match=r"its vision is that of 'nobody/no-such-tower', .* option vision_tower"):
        state(lost)


def test_weights_of_the_checkpoint_are_preferred_to_those_of_the_tower(parts, tmp_path):
    """The original loads the published tower over what was trained."""
    folder = released(parts, tmp_path / "trained", str(tmp_path / "clip"), keep=lambda name: True)
    config = json.loads((parts / "clip" / "config.json").read_text())
    weights = load_file(parts / "clip" / "model.safetensors")
    write(tmp_path / "clip", config, {name: weight + 1 for name, weight in weights.items()})
    assert same(state(folder), state(parts / "llava"))


def test_what_is_saved_is_complete(parts, tmp_path):
    found = load_checkpoint("llava_remgcl", str(released(parts, tmp_path / "a", str(parts / "clip"))))
    save_model_folder(found, tmp_path / "saved", found.card)
    assert "vision_config" in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert same(state(tmp_path / "saved"), state(parts / "llava"))


def without_tokenizer(folder: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


def projector_of(parts: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    weights = load_file(parts / "llava" / "model.safetensors")
    return {prefix + name: weight for name, weight in weights.items() if name.startswith(PROJECTOR)}


@pytest.fixture
def projector(parts, tmp_path) -> Path:
    """What the first stage leaves: ``config.json`` and ``mm_projector.bin``, and no tokenizer."""
    folder = without_tokenizer(released(parts, tmp_path / "projector", str(parts / "clip"), keep=lambda name: False))
    torch.save(projector_of(parts), folder / "mm_projector.bin")
    return folder


def test_a_folder_of_a_projector_is_a_model_over_its_language_model(parts, projector, tmp_path):
    assert same(state(projector), state(parts / "llava"))
    config = json.loads((projector / "config.json").read_text())
    (projector / "config.json").write_text(json.dumps({**config, "_name_or_path": "gone/vicuna"}))
    assert same(state(projector, base=str(parts / "llm")), state(parts / "llava"))
    with pytest.raises(InputError, match=r"language model 'gone/vicuna' cannot be found.*--base"):
        state(projector)
    found = load_checkpoint("llava_remgcl", str(projector), base=str(parts / "llm"))
    save_model_folder(found, tmp_path / "saved", found.card)
    assert same(state(tmp_path / "saved"), state(parts / "llava"))
    (projector / "mm_projector.bin").unlink()
    with pytest.raises(InputError, match="takes no base"):
        state(projector, base=str(parts / "llm"))


@pytest.fixture
def adapter(parts, tmp_path) -> Path:
    """What the original leaves of training an adapter over the language model."""
    folder = without_tokenizer(released(parts, tmp_path / "adapter", str(parts / "clip"), keep=lambda name: False))
    names = [ADAPTED.format(layer, part) for layer in range(2) for part in "qv"]
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none"}
    said |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": str(parts / "llm")}
    (folder / "adapter_config.json").write_text(json.dumps({**said, "task_type": "CAUSAL_LM"}))
    torch.manual_seed(1)
    low = {f"base_model.model.{name}.lora_A.weight": torch.randn(RANK, 64) for name in names}
    low |= {f"base_model.model.{name}.lora_B.weight": torch.randn(64, RANK) for name in names}
    torch.save(low, folder / "adapter_model.bin")
    torch.save(projector_of(parts, "base_model.model."), folder / "non_lora_trainables.bin")
    return folder


def expected_of(parts: Path, adapter: Path) -> dict[str, torch.Tensor]:
    low, whole = torch.load(adapter / "adapter_model.bin", weights_only=True), state(parts / "llava")
    for name in {key.partition(".lora_")[0] for key in low}:
        inside = name.replace("base_model.model.model", "language_model.model") + ".weight"
        whole[inside] = whole[inside] + 2 * low[f"{name}.lora_B.weight"] @ low[f"{name}.lora_A.weight"]
    return whole


def test_an_adapter_of_the_original_loads_and_merges(parts, adapter, tmp_path):
    found = load_checkpoint("llava_remgcl", str(adapter))
    assert torch.equal(found.model.mm_projector[0].weight, projector_of(parts)[f"{PROJECTOR}0.weight"])
    adapted = {name for name, _ in found.model.named_modules() if name.endswith(".lora_A.default")}
    assert len(adapted) == 4
    assert all(name.startswith("language_model.") for name in adapted)  # and none in the tower, whose names agree
    polylens.merge(adapter, tmp_path / "merged", plugin="llava_remgcl")
    merged, expected = state(tmp_path / "merged"), expected_of(parts, adapter)
    assert merged.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-5)


def test_merging_is_told_where_the_tower_is(parts, adapter, tmp_path, capsys):
    config = json.loads((adapter / "config.json").read_text())
    (adapter / "config.json").write_text(json.dumps({**config, "mm_vision_tower": "nobody/no-such-tower"}))
    argv = ["merge", str(adapter), "--model-plugin", "llava_remgcl", "--output-dir", str(tmp_path / "merged")]
    assert cli.main(argv) == 2
    assert "option vision_tower" in capsys.readouterr().err
    assert cli.main([*argv, "--option", f"vision_tower={parts / 'clip'}"]) == 0
    assert "vision_config" in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_an_adapter_remembers_where_the_tower_of_its_base_was(parts, tmp_path):
    folder, talk = released(parts, tmp_path / "model", "nobody/no-such-tower"), write_conversations(tmp_path, 4)
    argv = ["train", "--model-plugin", "llava_remgcl", "--model", str(folder), "--objective", "lm", "--max-steps", "1"]
    argv += ["--train", str(talk), "--output-dir", str(tmp_path / "out"), "--dataloader-num-workers", "0"]
    argv += ["--on-bad-record", "quarantine", "--use-lora", "true", "--vision-tower", str(parts / "clip")]
    assert cli.main(argv) == 0
    loaded = load_checkpoint(None, str(tmp_path / "out")).model.state_dict()
    tower = {name: value for name, value in state(parts / "llava").items() if name.startswith("vision_tower.")}
    assert all(torch.equal(loaded[name], value) for name, value in tower.items())


def test_its_base_may_lie_elsewhere_and_be_a_whole_model(parts, adapter, tmp_path):
    said = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**said, "base_model_name_or_path": "gone/vicuna"}))
    with pytest.raises(InputError, match=r"'gone/vicuna' cannot be found.*--base"):
        state(adapter)
    over_llm, over_llava = (state(adapter, base=str(parts / name)) for name in ("llm", "llava"))
    assert same(over_llm, over_llava)


def test_a_difference_is_added_to_its_base(parts, tmp_path):
    """Its vocabulary has rows that the base does not have; its projector is whole."""
    weights, rows = load_file(parts / "llava" / "model.safetensors"), 600
    base = {name: torch.randn_like(w) for name, w in weights.items() if own(name)}
    base |= {name: base[name][:rows].clone() for name in ("model.embed_tokens.weight", "lm_head.weight")}
    text = json.loads((parts / "llm" / "config.json").read_text())
    write(tmp_path / "base", {**text, "vocab_size": rows}, base)
    delta = {name: w.clone() for name, w in weights.items()}
    for name, weight in base.items():
        delta[name][: len(weight)] -= weight
    released(parts, tmp_path / "delta", str(parts / "clip"))
    save_file(delta, tmp_path / "delta" / "model.safetensors", metadata={"format": "pt"})
    argv = ["merge", "--delta", tmp_path / "delta", "--base", tmp_path / "base", "--model-plugin", "llava_remgcl"]
    assert cli.main([str(word) for word in [*argv, "--output-dir", tmp_path / "sum"]]) == 0
    for name, weight in load_file(tmp_path / "sum" / "model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-5, atol=1e-5)
    assert load_checkpoint("llava_remgcl", str(tmp_path / "sum")).model.config.vocab_size == 640
    write(tmp_path / "wider", text, {"model.embed_tokens.weight": torch.zeros(700, 64)})
    with pytest.raises(InputError, match=r"no difference from .*: model.embed_tokens.weight is \[640, 64\] and"):
        merge_delta(tmp_path / "delta", str(tmp_path / "wider"), tmp_path / "x", plugin="llava_remgcl")


@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu"])
def test_a_new_model_of_parts(parts, tmp_path, connector):
    given = {"llm": str(parts / "llm"), "vision": str(parts / "clip")}
    compose("llava_remgcl", given, connector, tmp_path / "new", seed=5)
    made, expected = state(tmp_path / "new"), state(parts / "llava")
    assert all(torch.equal(made[name], value) for name, value in expected.items() if "mm_projector" not in name)
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["model_type"], config["mm_projector_type"], config["mm_hidden_size"]) == (
        "llava_llama",
        connector,
        48,
    )


def test_transformers_layout_gets_the_tower_too(parts, tmp_path):
    folder = released(parts, tmp_path / "model", str(parts / "clip"))
    convert_model(folder, "llava-hf", tmp_path / "a", plugin="llava_remgcl")
    convert_model(parts / "llava", "llava-hf", tmp_path / "b")
    assert same(state(tmp_path / "a"), state(tmp_path / "b"))


@pytest.mark.long
def test_a_borrowed_tower_under_zero_3(parts, tmp_path):
    """Partitioned weights are filled in on every rank: the first loss is that of one process with the whole model."""
    folder, talk = released(parts, tmp_path / "model", str(parts / "clip")), write_conversations(tmp_path, 8)
    losses = {}
    for name, model, more in (("one", parts / "llava", ()), ("two", folder, ("--zero", "3"))):
        argv = [
            "train",
            "--model-plugin",
            "llava_remgcl",
            "--model",
            str(model),
            "--objective",
            "lm",
            "--max-steps",
            "1",
        ]
        argv += ["--train", str(talk), "--output-dir", str(tmp_path / name), "--dataloader-num-workers", "0", *more]
        argv += ["--on-bad-record", "quarantine", "--per-device-train-batch-size", "2" if more else "4"]
        torchrun("-m", "polylens", *argv, "--logging-steps", "1", nproc=2 if more else 1, timeout=300)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = next(entry["loss"] for entry in map(json.loads, lines) if "loss" in entry)
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-5)
    assert (tmp_path / "two" / "config.json").read_text().count('"vision_config"') == 1


def test_a_new_model_with_a_connector_that_was_trained_before(parts, projector, tmp_path, capsys):
    argv = ["compose", "--model-plugin", "llava_remgcl", "--llm", parts / "llm", "--vision", parts / "clip"]
    argv += ["--connector", "mlp2x_gelu", "--connector-weights", projector / "mm_projector.bin"]
    assert cli.main([str(word) for word in [*argv, "--output-dir", tmp_path / "new"]]) == 0
    assert " 0 of them new" in capsys.readouterr().out
    assert same(state(tmp_path / "new"), state(parts / "llava"))
    given = {"llm": str(parts / "llm"), "vision": str(parts / "clip")}
    with pytest.raises(InputError, match=r"no file of this connector: it lacks mm_projector\.bias"):
        compose("llava_remgcl", given, "linear", tmp_path / "x", connector_weights=projector / "mm_projector.bin")


def test_llavar_has_one_layer_and_tokens_around_its_pictures(parts, tmp_path):
    """Its file, older than ``mm_projector_type``, says neither what the projector is nor its class's later name."""
    config = json.loads((PRESETS / "tiny" / "config.json").read_text())
    config.pop("mm_projector_type")
    config |= {"model_type": "llava", "mm_use_im_start_end": True, "mm_use_im_patch_token": False, "vocab_size": 642}
    build(config).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(PRESETS / "tiny")
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    found = load_checkpoint("llava_remgcl", str(tmp_path))
    save_model_folder(found, tmp_path / "saved", found.card)
    names = {name for name in load_file(tmp_path / "saved" / "model.safetensors") if name.startswith(PROJECTOR)}
    assert names == {f"{PROJECTOR}weight", f"{PROJECTOR}bias"}
    picture = ImageRef("bytes", b"")
    made = found.template.encode([Message("user", (picture, "Hi"))], [found.slicer.slice((90, 60))])
    around = [made.visual_mask.index(True) - 1, len(made.visual_mask) - made.visual_mask[::-1].index(True)]
    assert [made.input_ids[place] for place in around] == [640, 641]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"mm_projector_type": "resampler"}, "/mm_projector_type is 'resampler'; it may be identity, linear"),
        ({"mm_projector_type": "identity"}, "features are 48 wide, and the language model is 64 wide"),
        ({"s2": True}, "/s2 is True: the tower would look at several scales"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "is of type 'siglip_vision_model'"),
    ],
)
def test_models_that_cannot_be_are_refused(said, problem):
    config = json.loads((PRESETS / "tiny" / "config.json").read_text())
    with pytest.raises(InputError, match=problem):
        build({**config, **said})


def test_files_are_told_apart_by_their_fields():
    """transformers reads the original's file as its own, with the sizes of LLaVA 7B."""
    original, hf = (json.loads((PRESETS / name / "config.json").read_text()) for name in ("tiny", "tiny-hf"))
    for kind in ("llava", "llava_llama", "llava_mistral"):
        assert is_original({**original, "model_type": kind})
        assert not is_transformers({**original, "model_type": kind})
    assert is_transformers(hf)
    assert not is_original(hf)
    assert not is_original({"model_type": "llava", "hidden_size": 4096})
    assert build({**original, "model_type": "llava"}).language_model.config.hidden_size == 64


def test_the_originals_parts_make_its_model(original, tmp_path):
    """Vicuna, CLIP and ``mm_projector.bin`` as its stages leave them; names are those of its own files."""
    folder = original.folder
    given = {"llm": str(folder / "tiny-vicuna"), "vision": str(folder / "tiny-clip")}
    compose("llava_remgcl", given, "mlp2x_gelu", tmp_path / "new", connector_weights=folder / "mm_projector.bin")
    named = json.loads((folder / "state_dict_keys_tf4.31.json").read_text(encoding="utf-8"))
    made = load_file(tmp_path / "new" / "model.safetensors")
    buffers = {name for name in named if name.endswith(("inv_freq", "position_ids"))}
    assert made.keys() == named.keys() - buffers
    assert all(list(made[name].shape) == named[name] for name in made)
    projector = torch.load(folder / "mm_projector.bin", weights_only=True)
    assert all(torch.equal(made[name], weight) for name, weight in projector.items())


def test_the_published_sizes():
    """LLaVA 1.5 7B: Vicuna, CLIP-L at 336 pixels of which ``config.json`` holds the name alone, and two layers."""
    llama = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    llama |= {"num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False, "rope_scaling": None}
    said = {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu"}
    with torch.device("meta"):
        model = build({"model_type": "llava_llama", **llama, **said})
    vicuna, clip, projector = 6_738_415_616, 303_507_456, 20_979_712
    assert sum(weight.numel() for weight in model.state_dict().values()) == vicuna + clip + projector
