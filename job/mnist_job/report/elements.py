"""The elements of the page: figures, tables, and details that can be folded. Texts are escaped, contents are not."""

import html
from collections.abc import Iterable, Sequence


def figure(title: str, plot: str, caption: str = "", more: str = "") -> str:
    """Return a plot with its title and caption, and `more` below it."""
    caption = caption and f"<figcaption>{html.escape(caption)}</figcaption>"
    return f"<div><h3>{html.escape(title)}</h3><figure>{plot}{caption}</figure>{more}</div>"


def details(summary: str, content: str, *, is_open: bool = False) -> str:
    """Return content that is folded, unless it `is_open`, under its summary."""
    return f"<details{' open' * is_open}><summary>{html.escape(summary)}</summary>{content}</details>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> str:
    """Return a table. The first cell of each row is its heading."""
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
