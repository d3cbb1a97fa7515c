"""Conversations about toy pages, as files."""

from __future__ import annotations

import json
from pathlib import Path

from toy import page


def write_conversations(folder: Path, count: int = 9) -> Path:
    """Records of several lengths, some with a picture, the last one without an answer."""
    for number in range(2):
        (folder / f"{number}.png").write_bytes(page(number))
    lines = []
    for number in range(count):
        turns = [{"role": "user", "content": "what is the colour " * (number % 4 + 1)}]
        if number < count - 1:
            turns.append({"role": "assistant", "content": f"answer {number}"})
        record = {"id": f"r{number}", "conversations": turns}
        lines.append(json.dumps(record | ({"image": f"{number % 2}.png"} if number % 3 == 0 else {})) + "\n")
    path = folder / "records.jsonl"
    path.write_text("".join(lines))
    return path
