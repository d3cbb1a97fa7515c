import copy
import dataclasses
from collections import Counter

import pytest
import torch

from polylens.contracts import Batch

ALL = frozenset({"hidden", "logits", "vision", "connector"})
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def model(tiny):
    return tiny.model()


@pytest.fixture(scope="module")
def batch(tiny, examples) -> Batch:
    return tiny.batch(examples)


def objective(out, mask):
    """Something that every hidden state and every logit moves."""
    weights = torch.linspace(-1, 1, out.hidden.shape[-1], dtype=out.hidden.dtype)
    return (out.hidden.sin() @ weights)[mask].sum() + out.logits.logsumexp(-1).sum() / 10


def gradients(model, batch, **change):
    model = copy.deepcopy(model)
    for name, value in change.items():
        setattr(model, name, value)
    return backward(model, batch)


def backward(model, batch):
    out = model(batch, outputs=ALL, logit_positions=batch.attention_mask)
    objective(out, batch.attention_mask).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def assert_same_gradients(left, right, tolerance=1e-10):
    difference = sum((left[name] - right[name]).square().sum() for name in left)
    total = sum(gradient.square().sum() for gradient in left.values())
    assert difference.sqrt() / total.sqrt() < tolerance


def test_a_batch_of_one_equals_a_batch_of_many(tiny, model, batch, examples):
    with torch.no_grad():
        many = model(batch, outputs=ALL)
        logits = many.logits.unflatten(0, batch.input_ids.shape)
        crops = 0
        for row, example in enumerate(examples):
            one = model(tiny.batch([example]), outputs=ALL)
            length = len(example.input_ids)
            torch.testing.assert_close(one.hidden[0], many.hidden[row, :length], **EXACT)
            torch.testing.assert_close(one.logits, logits[row, :length], **EXACT)
            for own in one.vision:
                torch.testing.assert_close(own, many.vision[crops], **EXACT)
                crops += 1
        assert crops == len(many.vision) == 11
        assert len(many.connector) == int(batch.crop_tokens.sum())


def test_left_padding_equals_right_padding(tiny, model, batch, examples):
    left = tiny.batch(examples, padding_side="left")
    with torch.no_grad():
        ours, theirs = (model(b).hidden[b.attention_mask] for b in (batch, left))
    torch.testing.assert_close(ours, theirs, **EXACT)
    assert_same_gradients(gradients(model, batch), gradients(model, left))


def test_rows_do_not_see_each_other(model, batch):
    with torch.no_grad():
        whole = model(batch).hidden
        part = batch.take([3, 0])
        torch.testing.assert_close(
            model(part).hidden[part.attention_mask],
            torch.cat([whole[3][batch.attention_mask[3]], whole[0][batch.attention_mask[0]]]),
            **EXACT,
        )


def test_features_stand_in_for_pixels(model, batch):
    with torch.no_grad():
        seen = model(batch, outputs=ALL)
        features = dataclasses.replace(batch, pixels=[], features=seen.vision)
        for rows in ([0, 1, 2, 3, 4], [2, 1], [4, 3]):
            part = features.take(rows)
            again = model(part, outputs={"hidden"}).hidden[part.attention_mask]
            expected = torch.cat([seen.hidden[row][batch.attention_mask[row]] for row in rows])
            torch.testing.assert_close(again, expected, **EXACT)


def test_features_without_the_sizes_of_the_crops_are_refused(model, batch):
    features = dataclasses.replace(batch, pixels=[], features=[torch.zeros(4, 64)] * 11, crop_sizes=None)
    with pytest.raises(ValueError, match="needs crop_sizes"):
        model(features)


def test_logits_only_where_they_are_wanted(model, batch):
    wanted = torch.zeros_like(batch.attention_mask)
    wanted[0, 3], wanted[2, 40], wanted[2, 90] = True, True, True
    with torch.no_grad():
        everywhere = model(batch, outputs={"logits"}).logits.unflatten(0, batch.input_ids.shape)
        some = model(batch, outputs={"logits"}, logit_positions=wanted)
        none = model(batch, outputs={"logits"}, logit_positions=torch.zeros_like(wanted))
    torch.testing.assert_close(some.logits, everywhere[wanted], **EXACT)
    assert some.hidden is None
    assert none.logits.shape == (0, 2048)


def test_embeddings_are_scaled_and_visual_tokens_are_not(model, batch):
    ids = torch.tensor([[5, 300], [17, 2]])
    with torch.no_grad():
        out = model(batch, outputs={"embeddings", "connector"}, embed_ids=ids)
        torch.testing.assert_close(out.embeddings, model.llm.model.embed_tokens.weight[ids] * 12)
        states = {}
        handle = model.llm.model.layers[0].register_forward_pre_hook(lambda _, args: states.update(first=args[0]))
        model(batch)
        handle.remove()
    torch.testing.assert_close(states["first"][batch.visual_mask], out.connector, rtol=0, atol=0)
    text = batch.attention_mask & ~batch.visual_mask
    expected = model.llm.model.embed_tokens.weight[batch.input_ids[text]] * 12
    torch.testing.assert_close(states["first"][text], expected, rtol=0, atol=0)


def decoder(llm, config, embeddings):
    """MiniCPM's decoder for one sequence, from its paper (arXiv 2404.06395) and the LLaMA papers; float64."""
    length, heads = len(embeddings), config.num_attention_heads
    dim = config.hidden_size // heads
    angle = torch.outer(torch.arange(length), 1 / config.rope_theta ** (torch.arange(0, dim, 2) / dim)).double()
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    future = torch.ones(length, length).triu(1).bool()
    residual = config.scale_depth / config.num_hidden_layers**0.5

    def norm(weight, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

    def rotate(x):
        return x * cos + torch.cat([-x[..., dim // 2 :], x[..., : dim // 2]], -1) * sin

    x = embeddings
    for layer in llm.model.layers:
        y = norm(layer.input_layernorm.weight, x)
        attn = layer.self_attn
        projections = (attn.q_proj, attn.k_proj, attn.v_proj)
        q, k, v = ((y @ p.weight.T).view(length, heads, dim).transpose(0, 1) for p in projections)
        scores = (rotate(q) @ rotate(k).transpose(1, 2) / dim**0.5).masked_fill(future, float("-inf"))
        x = x + residual * (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1) @ attn.o_proj.weight.T
        y = norm(layer.post_attention_layernorm.weight, x)
        gate = torch.nn.functional.silu(y @ layer.mlp.gate_proj.weight.T)
        x = x + residual * (gate * (y @ layer.mlp.up_proj.weight.T)) @ layer.mlp.down_proj.weight.T
    hidden = norm(llm.model.norm.weight, x)
    return hidden, hidden / (config.hidden_size / config.dim_model_base) @ llm.lm_head.weight.T


def test_the_language_model_is_minicpm(tiny, model, examples):
    one = tiny.batch(examples[:1])
    with torch.no_grad():
        out = model(one, outputs={"hidden", "logits"})
        embeddings = model.llm.model.embed_tokens.weight[one.input_ids[0]] * 12
        hidden, logits = decoder(model.llm, model.config, embeddings)
    # transformers computes norms and rotations in float32
    torch.testing.assert_close(out.hidden[0], hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.logits, logits, rtol=1e-5, atol=1e-5)


def test_eager_equals_sdpa(tiny, model, batch):
    eager = tiny.model("eager")
    mask = batch.attention_mask
    with torch.no_grad():
        torch.testing.assert_close(eager(batch).hidden[mask], model(batch).hidden[mask], rtol=1e-5, atol=1e-5)
    model = tiny.model()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(model(batch).hidden, eager(batch).hidden, rtol=0, atol=0)


def test_gradient_checkpointing_changes_no_gradient(tiny, batch):
    plain, saving = tiny.model().train(), tiny.model().train()
    saving.gradient_checkpointing_enable()
    assert sum(getattr(module, "gradient_checkpointing", False) for module in saving.vpm.modules()) == 2
    assert sum(getattr(module, "gradient_checkpointing", False) for module in saving.llm.model.layers) == 2
    assert_same_gradients(backward(plain, batch), backward(saving, batch))


def test_mixed_precision_stays_near_full_precision(tiny, batch):
    model, mask = tiny.model().float(), batch.attention_mask
    with torch.no_grad():
        full = model(batch).hidden[mask]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(batch).hidden[mask].float()
    assert torch.cosine_similarity(full, mixed, dim=-1).mean() > 0.999


def test_attention_dropout_is_honoured(tiny, batch):
    model = dropping(tiny).train()
    torch.manual_seed(1)
    first = model(batch).hidden
    torch.manual_seed(1)
    same = model(batch).hidden
    other = model(batch).hidden
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert (first - other)[batch.attention_mask].abs().max() > 1e-3


def dropping(tiny):
    torch.manual_seed(0)
    return tiny.hooks.build_model(family=tiny.family, config={**tiny.config, "attention_dropout": 0.1})


def calls(model, batch):
    counted: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, name=name: counted.update([name]))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    model(batch, outputs=ALL)
    for handle in handles:
        handle.remove()
    return counted


def test_every_batch_calls_the_same_modules_once(model, batch):
    with_pictures = calls(model, batch)
    assert with_pictures == calls(model, batch.take([0, 4])), "text only"
    assert with_pictures == calls(model, batch.take([1]))
    assert with_pictures["vpm.patch_embed.proj"] == with_pictures["resampler.kv_proj"] == 1


def test_a_batch_without_pictures_gives_the_tower_zero_gradients(tiny, model, batch):
    text = batch.take([0, 4])
    found = gradients(model, text)
    towers = {name: gradient for name, gradient in found.items() if name.startswith(("vpm", "resampler"))}
    assert towers
    assert all(gradient is not None and not gradient.any() for gradient in towers.values())
    assert found["llm.lm_head.weight"].any()


def test_every_trained_weight_gets_a_gradient(model, batch):
    found = gradients(model, batch)
    assert all(gradient is not None and gradient.any() for gradient in found.values())
    assert "resampler.pos_embed" not in found


def test_a_frozen_tower_is_left_alone_by_text(tiny, batch):
    model = tiny.model()
    for module in (model.vpm, model.resampler):
        module.requires_grad_(False)
    counted = calls(model, batch.take([0, 4]))
    assert not any(name.startswith(("vpm", "resampler")) for name in counted)
    assert counted["llm.model.embed_tokens"] == 1


def test_gradients_reach_through_frozen_embeddings(tiny, batch):
    model = tiny.model()
    model.llm.model.embed_tokens.requires_grad_(False)
    model.enable_input_require_grads()
    model(batch).hidden.sum().backward()
    assert model.vpm.pos_embed.grad.any()


def test_greedy_generation_is_the_argmax_of_the_forward_pass(tiny, model, examples):
    batch = tiny.batch(examples[:3], padding_side="left")
    with torch.no_grad():
        made = model.generate(batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=None)
        for row, example in enumerate(examples[:3]):
            for expected in made[row].tolist():
                token = int(model(tiny.batch([example]), outputs={"logits"}).logits[-1].argmax())
                assert token == expected
                example = extended(example, token)


def extended(example, token):
    ids = torch.cat([example.input_ids, torch.tensor([token])])
    visual = torch.cat([example.visual_mask, torch.tensor([False])])
    return dataclasses.replace(example, input_ids=ids, visual_mask=visual, labels=torch.full_like(ids, -100))


def test_generation_refuses_right_padding(model, batch):
    with pytest.raises(ValueError, match="padded on the left"):
        model.generate(batch)
