"""Names of weights on disk that several families share; imports nothing."""

TRANSFORMERS_RENAMES = {
    r"^model\.language_model\.": "language_model.model.",
    r"^lm_head\.": "language_model.lm_head.",
    r"^model\.vision_tower\.": "vision_tower.",
    r"^model\.multi_modal_projector\.": "multi_modal_projector.",
    r"^vision_tower\.(?!vision_model\.)": "vision_tower.vision_model.",
}
"""Names of transformers' modules -> those of its published files."""
