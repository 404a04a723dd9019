"""The commands and queries that docs/logs.md gives, as they stand there. Runs none of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "logs.md"


def queries(language: str) -> dict[str, str]:
    """By the question that it answers."""
    sections = re.findall(r"^### (.+?)\n(.*?)(?=^##)", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    found = {
        title: re.search(rf"^```{language}\n(.*?)^```", body, re.DOTALL | re.MULTILINE) for title, body in sections
    }
    return {title: block[1].strip() for title, block in found.items() if block is not None}
