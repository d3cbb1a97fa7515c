"""How the original writes conversations, as data."""

from __future__ import annotations

from polylens.modeling.slot_templates import Style

_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
_LLAVA = _VICUNA.replace("user", "human")
_SEES = (
    "The assistant is able to understand the visual content that the user provides, and assist the user with a "
    "variety of tasks using natural language."
)
_TAGGED = (
    f"A chat between a curious user and an artificial intelligence assistant. {_SEES}The visual content will be "
    "provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make "
    "any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information."
)
_LLAVA_LLAMA_2 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."


def _two(system: str, picture: tuple[str, str] = ("", "")) -> Style:
    return Style(system, ("", " "), ("USER: ", " ASSISTANT:"), (" ", ""), "</s>", picture=picture)


def _llama_2(system: str, next_round: str) -> Style:
    around = ("<<SYS>>\n", "\n<</SYS>>\n\n")
    return Style(system, around, ("[INST] ", " [/INST]"), (" ", " "), "</s>", next_round, system_inside=True)


def _chatml(system: str) -> Style:
    question = ("<|im_start|>user\n", "<|im_end|><|im_start|>assistant\n")
    return Style(system, ("<|im_start|>system\n", "<|im_end|>"), question, ("", ""), "<|im_end|>")


STYLES: dict[str, Style] = {
    "v1": _two(_VICUNA),
    "vicuna_v1": _two(_VICUNA),
    "llava_v1": _two(_LLAVA),
    "v1_mmtag": _two(_TAGGED, ("<Image>", "</Image>")),
    "llama_2": _llama_2(_LLAMA_2, "<s>"),
    "llava_llama_2": _llama_2(_LLAVA_LLAMA_2, "<s>"),
    "mistral_instruct": _llama_2("", ""),
    "mpt": _chatml(_MPT),
    "chatml": _chatml("Answer the questions."),
}
"""By the original's names; ``chatml`` is its ``chatml_direct`` and ``mistral_direct``."""
