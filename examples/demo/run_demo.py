"""PDF manuals in, a trained and evaluated page retriever out: the commands of polylens, one after another.

    python examples/demo/run_demo.py [--output runs/demo] [--fresh]

Every command is printed as you would type it. A second call repeats only what has changed. The model is ``tiny``: it
starts from random weights and trains on a laptop CPU, to show the whole way; it has never learned to read.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from math import prod
from pathlib import Path

from queries import Queries, divide, pages_of, read_pairs, write_pairs, write_qrels
from safetensors import safe_open
from steps import Steps

from polylens.data.store import open_documents
from polylens.retrieval.chance import chance_level
from polylens.retrieval.report import Curve, Evaluation, Report, points, rankings, read_history, write_report
from polylens.retrieval.trec import read_qrels, read_run

MANUALS = Path("examples/manuals")
SEED = "42"
SLICES = "1"  # the page as a whole is enough to tell 60 pages apart
MEASURES = {"nDCG@10": "nDCG@10", "R@1": "Recall@1", "R@10": "Recall@10"}  # and what the report calls them
TRAINING = {
    "--per-device-train-batch-size": "48",
    "--micro-batch-size": "24",
    "--learning-rate": "1e-3",
    "--warmup-steps": "10",
    "--lr-scheduler-type": "cosine",
    "--adam-beta2": "0.98",
    "--num-train-epochs": "15",
    "--temperature": "0.07",
    "--logging-steps": "5",
    "--eval-strategy": "epoch",
    "--save-total-limit": "1",
    "--max-slice-nums": SLICES,
    "--seed": SEED,
}
SYSTEMS = {"trained": "trained model", "untrained": "untrained model"}
CHANCE = "chance (random order)"


@dataclass(frozen=True)
class Files:
    """Where things lie in the output folder."""

    root: Path

    @property
    def pages(self) -> Path:
        return self.root / "pages"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def query_folder(self) -> Path:
        return self.root / "queries"

    def queries(self, name: str) -> Path:
        return self.query_folder / f"{name}.jsonl"

    def qrels(self, name: str) -> Path:
        return self.query_folder / f"{name}.qrels.tsv"

    def vectors(self, system: str, kind: str) -> Path:
        return self.root / "vectors" / f"{system}-{kind}"

    def run(self, system: str) -> Path:
        return self.root / f"{system}.run"

    def metrics(self, system: str, name: str) -> Path:
        return self.root / "metrics" / f"{system}-{name}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="default: runs/demo")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call has done")
    args = parser.parse_args()
    if args.fresh and args.output.exists():
        shutil.rmtree(args.output)
    files = Files(args.output)
    steps = Steps(files.root, MANUALS.glob("*.*"))
    prepare(steps, files)
    train(steps, files)
    for system in SYSTEMS:
        evaluate(steps, files, system)
    report = make_report(steps, files)
    documents = open_documents([files.pages])
    write_report(files.root / "report.html", report, lambda id: documents.read(id).image or b"")
    print(f"\n{summary(report)}\nThe report is {files.root / 'report.html'}")


def prepare(steps: Steps, files: Files) -> None:
    """Pages, training pairs, and two sets of queries to measure on: ``unseen`` and ``held-out``."""
    steps.polylens("data", "render", MANUALS, "--output", files.pages, "--long-side", "448", output=files.pages)
    queries = divide(read_pairs(MANUALS / "pairs.jsonl"))
    files.query_folder.mkdir(exist_ok=True)
    training = write_pairs(files.queries("training"), queries.training)
    split = files.root / "split"
    steps.polylens(
        *("data", "pairs", "--records", training, MANUALS / "passages.jsonl", "--documents", files.pages),
        *("--validation", "0", "--test", "0.2", "--batch-size", TRAINING["--per-device-train-batch-size"]),
        *("--seed", SEED, "--output", split),
        output=split,
    )
    divide_by_page(queries, pages_of(read_pairs(split / "train.jsonl")), files)


def divide_by_page(queries: Queries, seen: set[str], files: Files) -> None:
    """Queries on pages of the training documents, and all queries on the documents that were held out."""
    every = [*queries.training, *queries.validation, *queries.test]
    sets = {
        "unseen": [pair for pair in queries.test if pages_of([pair]) <= seen],
        "held-out": [pair for pair in every if not pages_of([pair]) & seen],
    }
    for name, pairs in sets.items():
        write_qrels(files.qrels(name), pairs)
    write_pairs(files.queries("test"), [pair for pairs in sets.values() for pair in pairs])
    write_pairs(files.queries("validation"), [pair for pair in queries.validation if pages_of([pair]) <= seen])


def train(steps: Steps, files: Files) -> None:
    steps.polylens(
        *("train", "--model-plugin", "minicpmv", "--model", "tiny", "--objective", "contrastive"),
        *("--train", files.root / "split" / "train.jsonl", "--documents", files.pages),
        *("--validation", files.queries("validation"), "--resume-from-checkpoint", "true"),
        *(word for option in TRAINING.items() for word in option),
        *("--output-dir", files.model),
        output=files.model,
    )


def evaluate(steps: Steps, files: Files, system: str) -> None:
    """Encode pages and queries, rank all pages for every query, and measure both sets."""
    model = {
        "trained": ("--model", str(files.model)),
        "untrained": ("--model", "tiny", "--model-plugin", "minicpmv", "--option", f"max_slice_nums={SLICES}"),
    }[system]
    documents, queries = files.vectors(system, "documents"), files.vectors(system, "queries")
    seed = ("--seed", SEED) if system == "untrained" else ()
    steps.polylens("encode", *model, *seed, "--documents", files.pages, "--output", documents, output=documents)
    steps.polylens("encode", *model, *seed, "--queries", files.queries("test"), "--output", queries, output=queries)
    run = files.run(system)
    steps.polylens("search", "--queries", queries, "--corpus", documents, "--k", "60", "--output", run, output=run)
    for name in ("unseen", "held-out"):
        result = files.metrics(system, name)
        steps.polylens(
            *("evaluate", "retrieval", "--run", run, "--qrels", files.qrels(name)),
            *("--measures", *MEASURES, "--output", result),
            output=result,
        )


def make_report(steps: Steps, files: Files) -> Report:
    return Report(
        title="polylens demo: from PDF manuals to a page retriever",
        introduction=[
            "Ten short manuals in English and Chinese, 60 pages, were rendered to pictures. The smallest preset of "
            "MiniCPM-V 2.0 was trained from random weights to find the page that answers a query, and was then "
            "measured on queries that it had never seen.",
        ],
        facts=facts(files),
        commands=steps.done,
        curves=curves(files),
        evaluations=[evaluation(files, "unseen"), evaluation(files, "held-out")],
        remarks=REMARKS,
        rankings=[*ranked(files, "unseen", 4), *ranked(files, "held-out", 2)],
    )


TITLES = {"unseen": "Unseen queries on seen pages", "held-out": "Whole held-out documents"}
EXPLANATIONS = {
    "unseen": "The pages were trained on, with other queries and with their own sentences. These queries were not, "
    "and the best checkpoint was chosen on yet other queries.",
    "held-out": "Neither these manuals nor any query on them were trained on.",
}
REMARKS = [
    "What this shows: every part works together, and the trained model tells pages apart that it has seen, by words "
    "that it has learned.",
    "What it does not show: reading. A model that starts from random weights and has seen a few hundred short texts "
    "cannot know the words of a manual that it has never met, and its queries are drawn to pages that it knows; on "
    "held-out documents it is expected to stay near the level of chance, or below it. A pretrained checkpoint, given "
    "as --model, starts from vision and language that it already has.",
]


def evaluation(files: Files, name: str) -> Evaluation:
    results = {system: json.loads(files.metrics(system, name).read_text("utf-8")) for system in SYSTEMS}
    qrels, pages = read_qrels(files.qrels(name)), len(open_documents([files.pages]))
    scores = {label: results[system]["mean"] for system, label in SYSTEMS.items()}
    scores[CHANCE] = {measure: chance_level(qrels, pages, measure) for measure in MEASURES}
    named = {
        system: {label: values[measure] for measure, label in MEASURES.items()} for system, values in scores.items()
    }
    return Evaluation(TITLES[name], EXPLANATIONS[name], len(qrels), pages, named)


def curves(files: Files) -> list[Curve]:
    history = read_history(files.model / "metrics.jsonl")
    qrels = {pair["id"]: {pair["positives"][0]: 1} for pair in read_pairs(files.queries("validation"))}
    chance = chance_level(qrels, len(pages_of(read_pairs(files.queries("validation")))), "nDCG@10")
    return [
        Curve("Training loss (InfoNCE)", {"loss": points(history, "loss")}),
        Curve(
            "Validation nDCG@10, unseen queries",
            {"nDCG@10": points(history, "eval_nDCG@10")},
            level=("chance", chance),
        ),
    ]


def ranked(files: Files, name: str, count: int) -> list:
    qrels, texts = read_qrels(files.qrels(name)), read_pairs(files.queries("test"))
    queries = {pair["id"]: pair["query"]["text"] for pair in texts if pair["id"] in qrels}
    return rankings(TITLES[name], queries, read_run(files.run("trained")), qrels, count)


def facts(files: Files) -> dict[str, str]:
    with safe_open(next(files.model.glob("*.safetensors")), "pt") as weights:
        parameters = sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    libraries = ("polylens", "torch", "transformers", "deepspeed", "peft")
    return {
        "Held-out documents": ", ".join(held_out(files)),
        "Model": f"minicpmv, preset tiny, {parameters:,} parameters, random start",
        "Versions": ", ".join(f"{name} {version(name)}" for name in libraries),
        "Machine": f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }


def held_out(files: Files) -> list[str]:
    pages = {page for judged in read_qrels(files.qrels("held-out")).values() for page in judged}
    return sorted({page.rpartition("#")[0] for page in pages})


def summary(report: Report) -> str:
    """The main figure as lines for the terminal."""
    lines = [
        f"  {evaluation.title}: " + ", ".join(f"{system} {values['nDCG@10']:.3f}" for system, values in scores)
        for evaluation in report.evaluations
        for scores in [evaluation.scores.items()]
    ]
    return "\n".join(["nDCG@10", *lines])


if __name__ == "__main__":
    main()
