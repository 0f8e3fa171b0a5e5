"""A report's text as Markdown and as one HTML page with its pictures inside."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.tables import Table

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 0.5rem; margin: 1rem 0; }
img { width: 33rem; max-width: 100%; height: auto; background: white; border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; }
table { font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
td.long { white-space: normal; text-align: left; min-width: 18rem; }
tr.subject td { font-weight: 600; }
li { margin: 0.3rem 0; }
@media (max-width: 40rem) { body { padding: 0.6rem; font-size: 15px; } table { font-size: 0.78rem; } }
"""
LONG_CELL = 40


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: heading.
        paragraphs: of text.
        items: of a list below them.
        tables: below that.
        pictures: names of files below those.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[str, ...] = ()


def markdown(title: str, sections: Sequence[Section], folder: str) -> str:
    """Return a report as Markdown.

    Args:
        title: of the report.
        sections: its parts.
        folder: of the pictures, relative to the file.

    Returns:
        The text.
    """
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *section.paragraphs]
        if section.items:
            parts.append("\n".join(f"- {item}" for item in section.items))
        for table in section.tables:
            parts += [f"**{table.title}**", _markdown_table(table)]
        parts += [f"![{name}]({folder}/{name})" for name in section.pictures]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def page(title: str, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """Return a report as one HTML page that needs no other file.

    Args:
        title: of the report.
        sections: its parts.
        pictures: name ↦ PNG.

    Returns:
        The page.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
        if section.items:
            items = "".join(f"<li>{html.escape(item)}</li>" for item in section.items)
            body.append(f"<ul>{items}</ul>")
        body += [_html_table(table) for table in section.tables]
        if section.pictures:
            shown = "".join(_picture(name, pictures[name]) for name in section.pictures)
            body.append(f'<div class="pictures">{shown}</div>')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        f"<tr{_class('subject' if index in table.emphasised else '')}>"
        + "".join(
            f"<td{_class('long' if len(cell) > LONG_CELL else '')}>{html.escape(cell)}</td>"
            for cell in row
        )
        + "</tr>"
        for index, row in enumerate(table.rows)
    )
    return (
        f'<h3>{html.escape(table.title)}</h3>\n<div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _picture(name: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'
