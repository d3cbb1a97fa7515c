"""Answers do not depend on their neighbours, and hold what the model said."""

from __future__ import annotations

import pytest
import torch
from toy import page

from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.errors import InputError
from polylens.generation.generator import Answer, Generator
from polylens.generation.options import GenerationOptions
from polylens.generation.predictor import Predictor

CPU = torch.device("cpu")


def _record(number):
    shown = (ImageRef("bytes", page(number)), "\n") if number % 3 == 1 else ()
    return Record(str(number), (Message("user", (*shown, "words " * (number + 1))),))


RECORDS = [_record(number) for number in range(8)]


def predictor(tiny, batch_size=8, **options):
    return Predictor(tiny, GenerationOptions(max_new_tokens=12, **options), ImageOpener(), CPU, batch_size)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 2}, {"repetition_penalty": 1.3}], ids=["greedy", "beams", "penalty"]
)
def test_a_batch_of_one_is_a_batch_of_eight(tiny, options):
    together = predictor(tiny, **options).answers(RECORDS)
    assert together == predictor(tiny, 1, **options).answers(RECORDS)
    assert len({answer.text for answer in together}) > 4


def test_greedy_answers_are_the_likeliest_tokens(tiny):
    """Beside a loop without cache, padding or transformers' generation."""
    for record in RECORDS[1:3]:
        maker = predictor(tiny)
        example = maker.preparer.example(record)
        for _ in range(12):
            with torch.no_grad():
                logits = tiny.model(tiny.collator()([example]), outputs={"logits"}).logits
            token = logits[-1].argmax().view(1)
            example.input_ids = torch.cat([example.input_ids, token])
            example.labels = torch.cat([example.labels, token])
            example.visual_mask = torch.cat([example.visual_mask, torch.zeros(1, dtype=torch.bool)])
        said = tiny.tokenizer.decode(example.input_ids[-12:], skip_special_tokens=True)
        assert maker.answers([record]) == [Answer(said.strip(), 12, False)]


def test_a_penalty_makes_repetition_rarer(tiny):
    """Of what the answer holds: the prompt repeats itself."""
    with torch.no_grad():
        penalised = predictor(tiny, repetition_penalty=50.0)
        ids = [penalised.generator()._generate(one) for one in _batches(penalised)]
    assert all(len(set(row)) == len(row) for batch in ids for row in batch.tolist())


def _batches(predictor):
    collate = predictor.checkpoint.collator("left")
    return [collate([predictor.preparer.example(record) for record in RECORDS])]


def test_what_is_drawn_follows_from_the_seed(tiny):
    drawn = [predictor(tiny, temperature=1.5, top_k=50, seed=seed).answers(RECORDS[:3]) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    before = torch.random.get_rng_state()
    predictor(tiny, temperature=1.0).answers(RECORDS[:1])
    assert torch.equal(torch.random.get_rng_state(), before), "the random numbers of the caller were used"
    likeliest = predictor(tiny, temperature=1.0, top_p=1e-6).answers(RECORDS)
    assert likeliest == predictor(tiny).answers(RECORDS)


def test_an_answer_ends_at_a_stop_token_and_keeps_token_zero(tiny):
    generator = predictor(tiny).generator()
    words = tiny.tokenizer.encode("red bar", add_special_tokens=False)
    (stop,) = tiny.template.stop_ids
    assert generator._answer([*words, stop, 0, 0, words[0]]) == Answer("red bar", len(words), True)
    assert generator._answer(words) == Answer("red bar", len(words), False)
    kept = Generator(tiny, GenerationOptions(), CPU, keep_special_tokens=True)
    assert tiny.tokenizer.convert_ids_to_tokens(0) == "<unk>"
    assert kept._answer([0, *words, 0, stop]).text.replace(" ", "") == "<unk>redbar<unk>"


def test_a_stream_is_the_answer_in_pieces(tiny):
    maker = predictor(tiny)
    batch = tiny.collator("left")([maker.preparer.example(RECORDS[1])])
    pieces = list(maker.generator().stream(batch))
    assert len(pieces) > 3
    assert "".join(pieces).strip() == maker.answers(RECORDS[1:2])[0].text
    stream = maker.generator().stream(batch)
    next(stream)
    stream.close()  # ends the thread, or this would wait for ever


def test_errors_of_the_model_reach_the_reader_of_a_stream(tiny):
    batch = tiny.collator("right")([predictor(tiny).preparer.example(record) for record in RECORDS[:2]])
    with pytest.raises(ValueError, match="padded on the left"):
        list(predictor(tiny).generator().stream(batch))
    with pytest.raises(InputError, match="stream with num_beams 1"):
        list(predictor(tiny, num_beams=2).generator().stream(batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0, "temperature": 1.0}, "above 0 and at most 1"),
        ({"top_p": 0.9}, "give a temperature above 0"),
        ({"top_k": 3}, "give a temperature above 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GenerationOptions(**options)
