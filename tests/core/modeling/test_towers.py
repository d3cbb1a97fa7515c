import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from polylens.errors import InputError
from polylens.modeling.connectors import build_connector, interleave
from polylens.modeling.towers import Tower

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
KINDS = {"clip": (CLIPVisionModel, CLIPVisionConfig), "siglip": (SiglipVisionModel, SiglipVisionConfig)}


@pytest.mark.parametrize("layer", [-4, -2, -1, 1])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_are_hidden_states_and_no_name_is_lost(kind, layer):
    model, config = KINDS[kind]
    torch.manual_seed(0)
    whole = model(config(**SIZES)).eval()
    pixels, names = torch.randn(2, 3, 8, 8), set(whole.state_dict())
    expected = whole(pixels, output_hidden_states=True).hidden_states[layer]
    tower = Tower(whole, layer)
    torch.testing.assert_close(tower(pixels), expected, rtol=1e-6, atol=1e-6)
    assert set(whole.state_dict()) == names


def test_what_is_not_used_is_neither_trained_nor_adapted():
    model = SiglipVisionModel(SiglipVisionConfig(**SIZES))
    Tower(model, -2)
    trained = {name for name, _ in model.named_parameters()}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert not any(name.startswith(("head", "post_layernorm", "encoder.layers.2")) for name in trained | linear)
    assert {name for name in trained if name.startswith("encoder.layers.1")}


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="vision_feature_layer is -6, and the vision tower has 3 layers"):
        Tower(SiglipVisionModel(SiglipVisionConfig(**SIZES)), -6)


def test_connectors_by_name():
    names = ("identity", "linear", "mlp1x_gelu", "mlp3x_gelu")
    made = {name: build_connector(name, 4, 4) for name in names}
    sizes = {name: [list(weight.shape) for weight in module.parameters()] for name, module in made.items() if module}
    assert [len(sizes[name]) for name in names] == [0, 2, 2, 6]
    assert build_connector("mlp2x_relu", 4, 4) is None
    with pytest.raises(InputError, match="features are 4 wide, and the language model is 6 wide"):
        build_connector("identity", 4, 6)


def test_tokens_of_two_towers_take_turns():
    first, second = torch.zeros(1, 3, 2), torch.ones(1, 3, 2)
    assert interleave(first, second)[0, :, 0].tolist() == [0, 1, 0, 1, 0, 1]
