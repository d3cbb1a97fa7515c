"""``polylens evaluate``: a run, or vectors, against relevance judgements; answers against references."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from polylens.cli.search import add_search_arguments, search_options
from polylens.generation.evaluation import DEFAULTS
from polylens.retrieval.metrics import MEASURES

if TYPE_CHECKING:
    from polylens.generation.evaluation import TextEvaluation
    from polylens.retrieval.metrics import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure a model against what is known to be right."
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    _add_retrieval(tasks.add_parser("retrieval", help="nDCG, MRR, recall, MAP of a run or of vectors"))
    _add_answers(tasks.add_parser("ocr", help="CER, WER, edit distance of answers"), "ocr")
    _add_answers(tasks.add_parser("vqa", help="ANLS, exact match, word match of answers"), "vqa")


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
    parser.add_argument("--references", type=Path, help="file of references by id, instead of those of the answers")
    parser.add_argument("--measures", nargs="+", default=measures, metavar="M", help=f"default: {' '.join(measures)}")
    parser.add_argument(
        "--case",
        choices=("keep", "ignore"),
        default="ignore" if task == "vqa" else "keep",
        help="default: %(default)s",
    )
    parser.add_argument("--punctuation", choices=("keep", "ignore"), default="keep", help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="write scores and counts as JSON")
    parser.add_argument("--per-answer", type=Path, metavar="FILE", help="write values of each answer, tab-separated")


def run(args: argparse.Namespace) -> int:
    return _run_retrieval(args) if args.task == "retrieval" else _run_answers(args)


def _run_answers(args: argparse.Namespace) -> int:
    from polylens.generation.evaluation import evaluate_answers
    from polylens.generation.formats.answer_files import read_answers
    from polylens.generation.text_scores import Normalisation

    normalisation = Normalisation(args.case == "ignore", args.punctuation == "ignore")
    result = evaluate_answers(read_answers(args.answers, args.references), args.measures, normalisation)
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
