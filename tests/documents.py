"""Read examples from documents, to run them exactly as they are printed there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def block(name: str, document: Path) -> str:
    """Return the content of the fenced block below the comment `<!-- block: NAME -->`."""
    marked = rf"^<!-- block: {re.escape(name)} -->\n```\w+\n(.*?)^```$"
    (content,) = re.findall(marked, document.read_text(), re.M | re.S)
    return str(content)
