"""Which weights are trained, as components and as adapters."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from polylens.config.run import LoraSettings
from polylens.contracts import Objective
from polylens.engine.trainable import choose_trained, component_of, lora_targets
from polylens.errors import InputError
from polylens.objectives.contrastive import Contrastive

LORA = LoraSettings(enable=True, r=2)


@pytest.fixture
def model(tiny):
    """A model of the test's own."""
    return copy.deepcopy(tiny.model)


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def components(model: nn.Module, family) -> set[str | None]:
    return {component_of(name, family) for name in trained(model)}


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("llm.model.embed_tokens.weight", "embed_tokens"),
        ("llm.model.layers.0.mlp.up_proj.weight", "llm"),
        ("llm", "llm"),
        ("llm.model.embed_tokens_of_another", "llm"),
        ("vpm.blocks.0.attn.qkv.weight", "vision"),
        ("vpm2.weight", None),
        ("objective.log_scale", None),
    ],
)
def test_the_longest_path_that_leads_to_a_weight(tiny, name, component):
    assert component_of(name, tiny.family) == component


def test_everything_is_trained_but_what_is_fixed_or_never_reached(tiny, model):
    model.resampler.proj.requires_grad_(False)  # as a model may declare a table
    choose_trained(model, tiny.family, Contrastive(), None, LoraSettings())
    every = {name for name, _ in model.named_parameters()}
    assert every - trained(model) == {"resampler.proj", "llm.lm_head.weight"}


def test_a_head_that_the_objective_reads_is_trained(tiny, model):
    class Language(Objective):
        inputs_needed = frozenset({"logits"})

    choose_trained(model, tiny.family, Language(), ["llm"], LoraSettings())
    assert model.get_output_embeddings().weight.requires_grad


def test_a_head_that_is_the_embedding_stays_trained(tiny, model):
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    head.weight = embedding.weight
    choose_trained(model, tiny.family, Contrastive(), ["embed_tokens"], LoraSettings())
    assert trained(model) == {"llm.model.embed_tokens.weight"}


@pytest.mark.parametrize("tune", [["vision"], ["connector", "embed_tokens"], ["llm"]])
def test_named_components_alone(tiny, model, tune):
    choose_trained(model, tiny.family, Contrastive(), tune, LoraSettings())
    assert components(model, tiny.family) == set(tune)


def test_the_upper_layers_of_a_component_alone(tiny, model):
    choose_trained(model, tiny.family, Contrastive(), ["vision", "connector"], LoraSettings(), {"vision": 1})
    upper = {name for name in trained(model) if component_of(name, tiny.family) == "vision"}
    assert upper == {name for name, _ in model.named_parameters() if name.startswith("vpm.blocks.1.")}
    assert components(model, tiny.family) == {"vision", "connector"}


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ({"vision": 2}, "/vision is 2; it must be one of its layers, 0 to 1"),
        ({"vision": "1"}, "/vision is '1'; it must be one of its layers, 0 to 1"),
        ({"connector": 0}, "/connector is 0; it has no layers"),
        ({"llm": 1}, "llm is not trained: add it to --tune, or leave it out"),
        ({"visoin": 1}, r"has no component 'visoin' \(did you mean 'vision'\?\)"),
    ],
)
def test_layers_that_are_not_there_or_not_trained_are_refused(tiny, model, first, message):
    with pytest.raises(InputError, match=message):
        choose_trained(model, tiny.family, Contrastive(), ["vision", "connector"], LoraSettings(), first)


def test_adapters_alone(tiny, model):
    choose_trained(model, tiny.family, Contrastive(), None, LORA)
    names = trained(model)
    assert names
    assert all(".lora_" in name for name in names)
    assert components(model, tiny.family) == {"llm"}


def test_adapters_with_a_whole_component_beside_them(tiny, model):
    model.resampler.proj.requires_grad_(False)
    choose_trained(model, tiny.family, Contrastive(), ["connector"], LORA)
    beside = {name for name in trained(model) if ".lora_" not in name}
    assert {component_of(name, tiny.family) for name in beside} == {"connector"}
    assert "resampler.proj" not in beside
    assert any(".lora_" in name for name in trained(model))


def test_adapters_of_a_loaded_model_go_on_being_trained(tiny, model):
    choose_trained(model, tiny.family, Contrastive(), None, LORA)
    names = trained(model)
    model.requires_grad_(False)
    choose_trained(model, tiny.family, Contrastive(), None, LORA)
    assert trained(model) == names


@pytest.mark.parametrize("chosen", [["llm"], ["vision"], ["vision", "connector", "llm"]])
def test_the_family_says_which_layers_get_adapters(tiny, chosen):
    found = lora_targets(tiny.model, tiny.family, replace(LORA, components=chosen))
    modules = dict(tiny.model.named_modules())
    assert {component_of(name, tiny.family) for name in found} == set(chosen)
    for name in found:
        assert isinstance(modules[name], nn.Linear)
        assert name.rpartition(".")[2] in tiny.family.lora_targets[component_of(name, tiny.family)]


def test_other_layers_by_name(tiny):
    found = lora_targets(tiny.model, tiny.family, replace(LORA, target_modules=["q_proj", "mlp.up_proj"]))
    assert found == [
        f"llm.model.layers.{layer}.{name}" for layer in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")
    ]


def test_a_layer_that_is_not_there_is_named(tiny):
    with pytest.raises(InputError, match="no linear layer named query_key_value in llm of model family"):
        lora_targets(tiny.model, tiny.family, replace(LORA, target_modules=["query_key_value"]))


@pytest.mark.parametrize(
    ("tune", "lora"), [(["visoin"], LoraSettings()), (None, replace(LORA, components=["llm", "visoin"]))]
)
def test_an_unknown_component_gets_the_closest_one(tiny, model, tune, lora):
    with pytest.raises(InputError, match=r"no component 'visoin' \(did you mean 'vision'\?\); it has: vision, conn"):
        choose_trained(model, tiny.family, Contrastive(), tune, lora)


def test_components_of_lora_mean_nothing_without_it(tiny, model):
    choose_trained(model, tiny.family, Contrastive(), ["vision"], LoraSettings(components=["visoin"]))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith("vpm.") for name in trained)


def test_layers_by_number(tiny):
    found = lora_targets(tiny.model, tiny.family, replace(LORA, target_modules=["q_proj"], layers=[1]))
    assert found == ["llm.model.layers.1.self_attn.q_proj"]
    with pytest.raises(InputError, match=r"and its layers \[7\]"):
        lora_targets(tiny.model, tiny.family, replace(LORA, layers=[7]))


def test_dora_trains_a_magnitude_of_every_adapted_weight(tiny, model):
    choose_trained(model, tiny.family, Contrastive(), None, replace(LORA, dora=True))
    names = {name for name in trained(model) if "magnitude" in name}
    assert len(names) == len(lora_targets(tiny.model, tiny.family, LORA))
    assert components(model, tiny.family) == {"llm"}
    assert all(".lora_" in name for name in trained(model))


def test_further_modules_are_trained_whole_and_named_to_the_adapter(tiny, model):
    before = set(model.state_dict())
    lora = replace(LORA, components=["vision"], modules_to_save=["ln_q", "llm.model.norm"])
    choose_trained(model, tiny.family, Contrastive(), None, lora)
    whole = {name for name in trained(model) if ".lora_" not in name}
    assert whole == {"resampler.ln_q.weight", "resampler.ln_q.bias", "llm.model.norm.weight"}
    assert before == {n.replace(".base_layer.", ".") for n in model.state_dict() if ".lora_" not in n}
    assert model.peft_config["default"].modules_to_save == ["llm.model.norm", "ln_q"]


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (replace(LORA, modules_to_save=["ln_x"]), "no module of model family .* is named 'ln_x'"),
        (LoraSettings(modules_to_save=["ln_q"]), "lora.modules_to_save is for adapters: switch LoRA on"),
    ],
)
def test_modules_that_cannot_be_saved(tiny, model, lora, said):
    with pytest.raises(InputError, match=said):
        choose_trained(model, tiny.family, Contrastive(), None, lora)


def test_nothing_left_to_train_is_an_error(tiny, model):
    with pytest.raises(InputError, match="nothing is left to train: name components with --tune, or switch LoRA on"):
        choose_trained(model, tiny.family, Contrastive(), [], LoraSettings())


def test_frozen_weights_get_no_gradient(tiny, model):
    """The choice is what backward does, not what a list says."""
    choose_trained(model, tiny.family, Contrastive(), ["embed_tokens"], LoraSettings())
    before = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not before
    model.get_input_embeddings()(torch.tensor([3])).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"llm.model.embed_tokens.weight"}


def test_all_linear_means_every_linear_layer_but_the_head(tiny):
    settings = LoraSettings(enable=True, target_modules=["all-linear"], components=["llm"])
    targets = lora_targets(tiny.model, tiny.family, settings)
    layers = {name.rpartition(".")[2] for name in targets}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    named = LoraSettings(enable=True, target_modules=["lm_head"], components=["llm"])
    assert lora_targets(tiny.model, tiny.family, named) == ["llm.lm_head"]
