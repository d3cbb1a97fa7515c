"""The kinds of input, by name: where each is defined, and how many of 100 inputs are of it."""

KINDS = {
    "pairs": "fuzz.kinds.lines:PairsFile",
    "inline pairs": "fuzz.kinds.lines:InlinePairsFile",
    "queries": "fuzz.kinds.lines:QueriesFile",
    "documents": "fuzz.kinds.lines:DocumentsFile",
    "conversations": "fuzz.kinds.talks:ConversationsFile",
    "answers": "fuzz.kinds.talks:AnswersFile",
    "run files": "fuzz.kinds.run_files:RunFile",
    "document store": "fuzz.kinds.stores:Store",
    "original HDF5": "fuzz.kinds.stores:OriginalStore",
    "pictures": "fuzz.kinds.pictures:Picture",
    "PDF files": "fuzz.kinds.pdf_files:PdfFolder",
    "judgements": "fuzz.kinds.trec:Judgements",
    "runs": "fuzz.kinds.trec:Runs",
    "model folders": "fuzz.kinds.models:ModelFolder",
    "adapter folders": "fuzz.kinds.models:AdapterFolder",
}

SHARES = {
    "pairs": 10,
    "inline pairs": 8,
    "queries": 6,
    "documents": 8,
    "conversations": 8,
    "answers": 6,
    "run files": 6,
    "document store": 10,
    "original HDF5": 7,
    "pictures": 12,
    "PDF files": 1,
    "judgements": 7,
    "runs": 7,
    "model folders": 3,
    "adapter folders": 1,
}
