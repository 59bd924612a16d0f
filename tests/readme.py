"""Examples in documents, to be run as they stand there."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def block(name: str, document: Path = README) -> str:
    """The fenced block below the comment `<!-- block: NAME -->`."""
    marked = rf"^<!-- block: {re.escape(name)} -->\n```\w+\n(.*?)^```$"
    (content,) = re.findall(marked, document.read_text(), re.M | re.S)
    return str(content)
