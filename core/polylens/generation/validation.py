"""Scores of generated answers while a model trains."""

from __future__ import annotations

import random

from polylens.config.run import DataConfig
from polylens.engine.conversation_training import ConversationValidation
from polylens.engine.tasks import MakeEvaluator
from polylens.engine.trainer import Evaluator
from polylens.engine.training_module import TrainingModule
from polylens.engine.weights import is_partitioned
from polylens.generation.answers import AnsweredQuestion
from polylens.generation.evaluation import evaluate_answers
from polylens.generation.options import GenerationOptions
from polylens.generation.predictor import Predictor
from polylens.generation.prompts import question
from polylens.generation.text_scores import MEASURES, Normalisation


def generation_evaluator(data: DataConfig) -> MakeEvaluator:
    """What answers a sample of the validation records greedily, and measures the answers.

    The sample is the same at every evaluation and in every run.

    Args:
        data: says how many records are answered, with how many tokens at most.
    """

    def make(validation: ConversationValidation) -> Evaluator:
        count = min(data.validation_answers, len(validation.records))
        chosen = sorted(random.Random(0).sample(range(len(validation.records)), count))
        asked = [question(validation.records[number]) for number in chosen]
        predictor = Predictor(
            validation.checkpoint,
            GenerationOptions(max_new_tokens=data.validation_max_new_tokens),
            validation.preparer.images,
            validation.device,
            validation.batch_size,
            data.max_length,
            validation.loader,
            synced_ranks=is_partitioned(validation.checkpoint.model),
        )

        def evaluate(module: TrainingModule) -> dict[str, float]:
            answers = predictor.answers([one.record for one in asked])
            said = zip(asked, answers, strict=True)
            answered = [AnsweredQuestion(one.record.id, answer.text, one.references) for one, answer in said]
            scores = evaluate_answers(answered, MEASURES, Normalisation()).scores
            return {name: value for name, value in scores.items() if value is not None}

        return evaluate

    return make
