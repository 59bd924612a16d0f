"""The README's examples, to be run as they stand there."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def block(name: str) -> str:
    """The fenced block below the comment `<!-- block: NAME -->`."""
    (content,) = re.findall(rf"^<!-- block: {re.escape(name)} -->\n```\w+\n(.*?)^```$", README.read_text(), re.M | re.S)
    return str(content)
