"""The kinds of input, by name: where each is defined, and how many of 100 inputs are of it."""

KINDS = {
    "pairs": "fuzz.kinds.lines:PairsFile",
    "inline pairs": "fuzz.kinds.lines:InlinePairsFile",
    "queries": "fuzz.kinds.lines:QueriesFile",
    "documents": "fuzz.kinds.lines:DocumentsFile",
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
    "pairs": 14,
    "inline pairs": 10,
    "queries": 8,
    "documents": 10,
    "run files": 6,
    "document store": 10,
    "original HDF5": 8,
    "pictures": 15,
    "PDF files": 1,
    "judgements": 7,
    "runs": 7,
    "model folders": 3,
    "adapter folders": 1,
}
