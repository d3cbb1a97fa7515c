"""Versions 2.5 and 2.6 where they differ from what the conformance kit looks at."""

import copy
import dataclasses
import json

import pytest
import torch

from polylens import plugins
from polylens.errors import InputError


@pytest.fixture(scope="module")
def model(later):
    return later.model()


@pytest.fixture(scope="module")
def examples(later):
    return [
        later.example("how often should the filter be cleaned?"),
        later.example("", later.picture(60, 90)),
        later.example("a page", later.picture(400, 560, seed=1)),
    ]


def test_greedy_generation_is_the_argmax_of_the_forward_pass(later, model, examples):
    batch = later.batch(examples, padding_side="left")
    with torch.no_grad():
        made = model.generate(batch, max_new_tokens=3, min_new_tokens=3, do_sample=False, eos_token_id=None)
        for row, example in enumerate(examples):
            for expected in made[row].tolist():
                token = int(model(later.batch([example]), outputs={"logits"}).logits[-1].argmax())
                assert token == expected
                example = extended(example, token)


def extended(example, token):
    ids = torch.cat([example.input_ids, torch.tensor([token])])
    visual = torch.cat([example.visual_mask, torch.tensor([False])])
    return dataclasses.replace(example, input_ids=ids, visual_mask=visual, labels=torch.full_like(ids, -100))


def test_eager_equals_sdpa(later, model, examples):
    batch, eager = later.batch(examples), later.model("eager")
    assert eager.vpm.config._attn_implementation == eager.llm.config._attn_implementation == "eager"
    mask = batch.attention_mask
    with torch.no_grad():
        torch.testing.assert_close(eager(batch).hidden[mask], model(batch).hidden[mask], rtol=1e-5, atol=1e-5)
    switched = later.model()
    switched.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(switched(batch).hidden, eager(batch).hidden, rtol=0, atol=0)


def test_bfloat16_stays_near_full_precision(later, model, examples):
    batch, half = later.batch(examples), copy.deepcopy(model).bfloat16()
    mask = batch.attention_mask
    with torch.no_grad():
        similarity = torch.cosine_similarity(half(batch).hidden[mask].double(), model(batch).hidden[mask], dim=-1)
    assert similarity.mean() > 0.999


def test_queries_have_no_positions(model):
    assert model.resampler.pos_embed is None
    assert "resampler.pos_embed" not in model.state_dict()


def test_random_weights_start_as_those_of_their_parts_did(later):
    model = later.model()
    assert 0.015 < model.vpm.encoder.layers[0].mlp.fc1.weight.std() < 0.025
    assert 0.015 < model.vpm.embeddings.position_embedding.weight.std() < 0.025
    assert 0.015 < model.resampler.query.std() < 0.025


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 200}, "hidden_size is 200; it must be a multiple of 128"),
        ({"vision_config": {"hidden_size": 100}}, "100 dimensions, which do not divide into 16 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(later, change, message):
    with pytest.raises(InputError, match=message):
        later.hooks.build_model(family=later.family, config={**later.config, **change})


def test_slicing_follows_slice_config(later):
    hooks, family = plugins.load("minicpmv"), later.family
    config = json.loads(json.dumps(later.config))
    config["slice_config"] = {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"}
    slicer = hooks.image_slicer(family=family, config=config, options=family.options())
    assert len(slicer.slice((1654, 2339)).crops) == 10
    assert slicer.slice((448, 448)).crops[0].size == (448, 448), "scale_resolution is 448 where the file says nothing"
    limited = hooks.image_slicer(family=family, config=config, options=family.options(max_slice_nums=4))
    assert len(limited.slice((1654, 2339)).crops) == 5
