"""``polylens evaluate``: a run, or vectors, against relevance judgements; answers against references; benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from polylens.cli.search import add_search_arguments, search_options
from polylens.generation.evaluation import ALL_MEASURES, DEFAULTS
from polylens.generation.scoring.quirks import QUIRKS
from polylens.retrieval.metrics import MEASURES

if TYPE_CHECKING:
    from polylens.generation.benchmark_scores import BenchmarkScores
    from polylens.generation.evaluation import TextEvaluation
    from polylens.retrieval.metrics import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure a model against what is known to be right."
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    _add_retrieval(tasks.add_parser("retrieval", help="nDCG, MRR, recall, MAP of a run or of vectors"))
    _add_answers(tasks.add_parser("ocr", help="CER, WER, edit distance of answers"), "ocr")
    _add_answers(tasks.add_parser("vqa", help="ANLS, exact match, word match of answers"), "vqa")
    _add_benchmark(tasks.add_parser("textvqa", help="soft accuracy over ten answers, as LLaVA and M4C"), "textvqa")
    _add_benchmark(tasks.add_parser("mmocr", help="word match of the data sets of MultimodalOCR"), "mmocr")
    _add_benchmark(tasks.add_parser("ocrbench", help="OCRBench, and the VQA metric of OCRBench v2"), "ocrbench")


def _add_retrieval(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure a run, or the search of query vectors in document vectors. All judged queries count."
    judgements = parser.add_mutually_exclusive_group(required=True)
    judgements.add_argument("--qrels", type=Path, help="judgements: TREC (4 columns) or BEIR (3 columns)")
    judgements.add_argument("--beir", type=Path, metavar="DIR", help="BEIR folder that holds the judgements")
    parser.add_argument("--split", default="test", help="split of the BEIR folder (default: test)")
    parser.add_argument("--run", dest="run_file", type=Path, help="run file (TREC)")
    parser.add_argument("--queries", type=Path, help="folder of query vectors, in place of --run")
    parser.add_argument("--corpus", type=Path, help="folder of document vectors, in place of --run")
    parser.add_argument("--k", type=int, default=100, help="documents per query to search, at least (default: 100)")
    parser.add_argument("--measures", nargs="+", default=MEASURES, metavar="M", help=f"default: {' '.join(MEASURES)}")
    parser.add_argument("--output", type=Path, help="write means and counts as JSON")
    parser.add_argument("--per-query", type=Path, metavar="FILE", help="write the values of each query, tab-separated")
    add_search_arguments(parser)


def _add_answers(parser: argparse.ArgumentParser, task: str) -> None:
    measures = DEFAULTS[task]
    parser.description = (
        "Measure answers against references; of several references the nearest counts. Unicode forms and the amount "
        "of white space never count."
    )
    parser.add_argument("--answers", type=Path, required=True, help="file of answers, as polylens predict writes it")
    _add_format(parser)
    parser.add_argument("--references", type=Path, help="file of references by id, instead of those of the answers")
    parser.add_argument(
        "--measures",
        nargs="+",
        default=measures,
        metavar="M",
        help=f"{', '.join(ALL_MEASURES)} (default: {' '.join(measures)})",
    )
    parser.add_argument(
        "--case",
        choices=("keep", "ignore"),
        default="ignore" if task == "vqa" else "keep",
        help="default: %(default)s",
    )
    parser.add_argument("--punctuation", choices=("keep", "ignore"), default="keep", help="default: %(default)s")
    _add_compat(parser)
    parser.add_argument("--output", type=Path, help="write scores and counts as JSON")
    parser.add_argument("--per-answer", type=Path, metavar="FILE", help="write values of each answer, tab-separated")


_BENCHMARKS = {
    "textvqa": "Measure answers to TextVQA by soft accuracy: three of ten annotators who agree make an answer right.",
    "mmocr": "Measure answers to the data sets of MultimodalOCR: whether they hold a reference. The name of a file "
    "says which data set it answers, as in textVQA.json.",
    "ocrbench": "Measure answers to OCRBench by data set and part; of OCRBench v2 those that its VQA metric scores.",
}


def _add_benchmark(parser: argparse.ArgumentParser, task: str) -> None:
    parser.description = _BENCHMARKS[task]
    parser.add_argument("--answers", nargs="+", type=Path, required=True, help="files of answers")
    if task == "textvqa":
        parser.add_argument("--annotations", type=Path, help="TextVQA_0.5.1_val.json, for answers in LLaVA's format")
    if task == "mmocr":
        parser.add_argument("--data-set", help="data set of the file, if its name does not say so")
        parser.add_argument("--result", type=Path, help="write accuracies by data set, as MultimodalOCR does")
    if task != "ocrbench":
        _add_format(parser)
    _add_compat(parser)
    parser.add_argument("--output", type=Path, help="write scores and counts as JSON")
    parser.add_argument("--per-answer", type=Path, metavar="FILE", help="write the value of each answer")


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        help="format of the answers: polylens, llava, mmocr or ocrbench (default: recognised by its fields)",
    )


def _add_compat(parser: argparse.ArgumentParser) -> None:
    quirks = "; ".join(f"{name} ({what})" for name, what in QUIRKS.items())
    parser.add_argument(
        "--compat",
        nargs="*",
        metavar="QUIRK",
        help=f"repeat the mistakes of the original programs, all or some: {quirks}".replace("%", "%%"),
    )


def run(args: argparse.Namespace) -> int:
    if args.task in _BENCHMARKS:
        return _run_benchmark(args)
    return _run_retrieval(args) if args.task == "retrieval" else _run_answers(args)


def _run_benchmark(args: argparse.Namespace) -> int:
    result = _benchmark_scores(args)
    annotations = getattr(args, "annotations", None)
    named = {"annotations_file": str(annotations)} if annotations else {}
    if args.output:
        result.save(args.output, task=args.task, answers_files=[str(path) for path in args.answers], **named)
    if args.per_answer:
        result.save_per_answer(args.per_answer)
    if getattr(args, "result", None):
        result.save_result(args.result)
    _print_benchmark(result)
    return 0


def _benchmark_scores(args: argparse.Namespace) -> BenchmarkScores:
    if args.task == "ocrbench":
        from polylens.generation.ocrbench_evaluation import evaluate_ocrbench

        return evaluate_ocrbench(args.answers, compat=args.compat)
    from polylens.generation.mmocr_evaluation import evaluate_mmocr, evaluate_textvqa

    if args.task == "mmocr":
        return evaluate_mmocr(args.answers, data_set=args.data_set, format=args.format, compat=args.compat)
    return evaluate_textvqa(args.answers, args.annotations, format=args.format, compat=args.compat)


def _print_benchmark(result: BenchmarkScores) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("data set or task", "answers", "score")
    for name, group in result.scores.items():
        table.add_row(name, str(group.answers), f"{group.score:.4f}")
    console.print(table)
    if result.totals:
        table = Table("part", "total")
        for name, value in result.totals.items():
            table.add_row(name, f"{value:g}" if value.is_integer() else f"{value:.4f}")
        console.print(table)
    for task, count in result.not_measured.items():
        console.print(f"answers to {task!r}, which needs other measures: {count}", highlight=False)
    console.print(f"{len(result.per_answer)} answers measured", highlight=False)


def _run_answers(args: argparse.Namespace) -> int:
    from polylens.generation.evaluation import evaluate_answers
    from polylens.generation.formats.answer_files import read_answers
    from polylens.generation.text_scores import Normalisation

    normalisation = Normalisation(args.case == "ignore", args.punctuation == "ignore")
    answers = read_answers(args.answers, args.references, args.format)
    result = evaluate_answers(answers, args.measures, normalisation, args.compat)
    if args.output:
        named = {"references_file": str(args.references)} if args.references else {}
        result.save(args.output, task=args.task, answers_file=str(args.answers), **named)
    if args.per_answer:
        result.save_per_answer(args.per_answer)
    _print_answers(result)
    written = " and ".join(str(path) for path in (args.output, args.per_answer) if path)
    print(f"{result.measured} answers measured" + (f", written to {written}" if written else ""))
    return 0


def _print_answers(result: TextEvaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "value")
    for name, value in result.scores.items():
        table.add_row(name, "no reference has any text" if value is None else f"{value:.4f}")
    console = Console()
    console.print(table)
    counts = {
        "without references, left out": result.answers - result.measured,
        "with empty references": result.empty_references,
        "cut off by the limit of their length": result.unfinished,
    }
    for what, count in counts.items():
        if count:
            console.print(f"answers {what}: {count}", highlight=False)


def _run_retrieval(args: argparse.Namespace) -> int:
    from polylens.retrieval.evaluation import Sources, evaluate_files
    from polylens.retrieval.metrics import save_per_query, save_result

    sources = Sources(args.qrels, args.beir, args.split, args.run_file, args.queries, args.corpus)
    result = evaluate_files(sources, args.measures, search_options(args, args.k))
    if args.output:
        save_result(args.output, result, **sources.named())
    if args.per_query:
        save_per_query(args.per_query, result["per_query"])
    _print(result)
    written = " and ".join(str(path) for path in (args.output, args.per_query) if path)
    print(f"{result['queries']} queries measured" + (f", written to {written}" if written else ""))
    return 0


def _print(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "mean over all judged queries")
    for name, value in result["mean"].items():
        table.add_row(name, f"{value:.4f}")
    console = Console()
    console.print(table)
    for key in ("queries_without_results", "queries_without_relevant", "ignored_queries"):
        if result[key]:
            console.print(f"{key.replace('_', ' ')}: {result[key]}", highlight=False)
