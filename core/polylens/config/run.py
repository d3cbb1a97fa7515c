"""The configuration of a training run: the source of ``schemas/run.schema.json`` and of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from polylens.config.limits import check_limits
from polylens.errors import InputError


@dataclass
class DataConfig:
    """What is trained on.

    Args:
        train: JSONL file of pairs, or several; for the objective ``lm`` of conversations, as JSONL or as a JSON array.
            The order of batches is as ``batches`` says.
        documents: document stores (folders that ``polylens data render`` or ``data convert`` wrote, or HDF5 files of
            the original layout).
        validation: JSONL file of pairs; retrieval over the documents that it names is measured during training. Or of
            conversations, on which the loss is measured.
        validation_answers: so many conversations of ``validation`` are also answered at every evaluation, always the
            same ones, and the answers measured against the last turns: CER, WER, edit distance, exact match, ANLS,
            word match. 0 is none.
        validation_max_new_tokens: length of such an answer at most.
        ocr: files of OCR lines (``polylens data ocr``), for an objective that compares them with what shows them
            (``multi_granularity``); every picture of ``train`` and ``validation`` must be in one of them.
        image_root: folder that relative picture paths start from; by default the folder of the JSONL file.
        on_bad_record: stop at the first bad record, or write it with its reason to ``quarantine.jsonl`` and go on.
        batches: ``shuffle`` draws records anew each epoch; ``modality`` does too, and gives conversations with
            pictures and those of text alone batches of their own; ``file`` keeps the order of the file, for files
            whose batches ``polylens data pairs`` has put together (their order is then shuffled batch by batch).
        hard_negatives: negatives taken from each record, the first ones.
        query_instruction: text put before every query that has no instruction of its own.
        query_max_length: tokens of a query; text is shortened to fit.
        document_max_length: tokens of a document, its picture included; a picture is never cut.
        max_length: tokens of a conversation, its pictures included: text is shortened to fit, a picture never cut. A
            conversation that does not fit, or of whose answers nothing is left, is a bad record.
    """

    train: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    validation: str | None = None
    validation_answers: int = 0
    validation_max_new_tokens: int = 128
    ocr: list[str] = field(default_factory=list)
    image_root: str | None = None
    on_bad_record: Literal["error", "quarantine"] = "error"
    batches: Literal["shuffle", "modality", "file"] = "shuffle"
    hard_negatives: int = 0
    query_instruction: str = ""
    query_max_length: int = 512
    document_max_length: int = 2048
    max_length: int = 2048


@dataclass
class ObjectiveConfig:
    """What is minimised.

    Args:
        name: ``contrastive`` (on pairs), ``lm`` or ``multi_granularity`` (on conversations), or an objective of any
            installed plugin.
        options: of that objective, such as ``temperature``.
    """

    name: str = "contrastive"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class GradientCacheConfig:
    """How a batch is cut into micro-batches; the gradient does not depend on it.

    Args:
        enable: off, all rows of a role are one micro-batch, and memory must hold all of them.
        micro_batch_size: rows (queries, documents or conversations) of one forward pass; by default 8 queries or
            documents, or the conversations of ``per_device_train_batch_size``.
        micro_batch_tokens: padded tokens of one forward pass (rows x longest row), instead of a number of rows.
        vision_chunk_size: crops (slices of pictures) of one call of the vision tower; by default all of a micro-batch.
            Memory of the tower then does not grow with the micro-batch. A tower that is trained is computed once more
            in the backward pass, chunk by chunk.
        sort_by_cost: put rows of like length together, which saves padding.
        pixel_cache_gb: host memory for pixels kept from the first pass to the second, in GiB a process; what does not
            fit is decoded again.
        frozen_cache_gb: host memory for what frozen parts (a vision tower that is not tuned, say) gave in the first
            pass, in GiB a process; micro-batches that do not fit are computed again.
        keep_graphs_gb: device memory for graphs kept from the first pass, in GiB a process: those micro-batches need
            no second forward. Give what ``memory_gib`` in the log leaves free.
        low_memory: under ZeRO-2 and 3, reduce gradients after every micro-batch and keep them partitioned, rather than
            hold full ones until the step ends.
    """

    enable: bool = True
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    vision_chunk_size: int | None = None
    sort_by_cost: bool = True
    pixel_cache_gb: float = 4.0
    frozen_cache_gb: float = 4.0
    keep_graphs_gb: float = 0.0
    low_memory: bool = False

    def __post_init__(self) -> None:
        if self.vision_chunk_size is not None and self.vision_chunk_size < 1:
            raise InputError(f"vision_chunk_size is {self.vision_chunk_size}; it must be at least 1")
        for name in ("pixel_cache_gb", "frozen_cache_gb", "keep_graphs_gb"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass
class LoraSettings:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), through peft.

    Args:
        enable: train adapters instead of the weights of the components that ``components`` names.
        r: rank.
        alpha: scale; the update is multiplied by ``alpha / r``.
        dropout: on the input of the adapter.
        components: which components get adapters.
        target_modules: names of linear layers, instead of those that the model family gives; "all-linear" is all of
            them but the output head.
        dora: train magnitude and direction of weights apart (DoRA, Liu et al. 2024, arXiv 2402.09353).
        modules_to_save: names of further modules, such as ``lm_head``, that are trained whole and saved in the
            adapter, where peft reads them too; what ``tune`` names is saved beside the adapter.
        layers: numbers of the layers that get adapters, counted from 0 in each stack; by default all.
        quantize: hold the base of the adapters in four bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314); needs
            bitsandbytes and a GPU.
    """

    enable: bool = False
    r: int = 32
    alpha: float = 32
    dropout: float = 0.1
    components: list[str] = field(default_factory=lambda: ["llm"])
    target_modules: list[str] | None = None
    dora: bool = False
    modules_to_save: list[str] | None = None
    layers: list[int] | None = None
    quantize: Literal["nf4", "fp4"] | None = None


@dataclass
class RunConfig:
    """A training run.

    Args:
        model_plugin: installed plugin that knows the model family.
        model: model folder, adapter folder, hub id, or the name of a preset such as ``tiny``.
        base: model under an adapter, where the adapter does not name it or it lies elsewhere by now.
        output_dir: where checkpoints and the trained model go.
        tune: components whose weights are trained (``vision``, ``connector``, ``llm``, ``embed_tokens``); by default
            all of them, or none but the adapters with LoRA.
        tune_from_layer: component -> its first layer that is trained, such as ``{vision: 10}``; on the command line
            ``--tune-from-layer.vision 10``. Layers before it are frozen, and what lies outside the layers.
        learning_rates: component -> learning rate of its weights and adapters, such as ``{vision: 1e-6}``; on the
            command line ``--learning-rates.vision 1e-6``. The others have ``learning_rate``.
        dtype: of the weights; ``bf16: true`` in ``training`` is mixed precision over float32 weights.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``.
        options: of the model family, such as ``max_slice_nums``; see ``polylens plugins list --families``.
        zero: stage of DeepSpeed's ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): 1 partitions the optimizer over
            the ranks, 2 gradients too, 3 weights too. In place of a file for ``deepspeed``.
        offload: what ZeRO keeps in host memory: the ``optimizer`` and its step, and on stage 3 the ``params``.
        training: any field of ``transformers.TrainingArguments``.
        verify_gradient: before training, compare the gradient of a few pairs with a direct one, print the relative
            error, and stop if it is large. The run itself stays the same, bit for bit.
    """

    model_plugin: str
    model: str
    output_dir: str
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    gradient_cache: GradientCacheConfig = field(default_factory=GradientCacheConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    base: str | None = None
    tune: list[str] | None = None
    tune_from_layer: dict[str, Any] = field(default_factory=dict)
    learning_rates: dict[str, Any] = field(default_factory=dict)
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "float32"
    attn_implementation: str = "sdpa"
    options: dict[str, Any] = field(default_factory=dict)
    zero: Literal[1, 2, 3] | None = None
    offload: list[Literal["optimizer", "params"]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    verify_gradient: bool = False

    def __post_init__(self) -> None:
        """Raises ``InputError`` if a value is out of its range."""
        check_limits(self)
