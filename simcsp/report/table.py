"""Tables as text: Markdown, and aligned columns for a terminal."""

from __future__ import annotations

import html
import re


def plain(name: str) -> str:
    """An external name, such as a folder's, escaped for Markdown."""
    return re.sub(r"([\\`\[\]|])", r"\\\1", html.escape(" ".join(name.split()), quote=False))


def prose(sentence: str) -> str:
    """A sentence that names runs and arms, none of it a link, code or tag in Markdown; intervals stay legible."""
    return re.sub(r"\](?=[(\[:])|[\\`]", r"\\\g<0>", html.escape(" ".join(sentence.split()), quote=False))


def code(name: object) -> str:
    """A name or value as code, or plain where it holds what would end that."""
    return f"`{name}`" if re.fullmatch(r"[^`|<>\n]+", str(name)) else plain(str(name))


def markdown_table(rows: list[list[str]]) -> str:
    """A Markdown table, its header first; columns of numbers are aligned to the right."""
    head, *body = rows
    numeric = [all(re.match(r"[+-]?[\d.]|$", row[i]) for row in body) for i in range(len(head))]
    rules = ["---:" if right else "---" for right in numeric]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rules, *body))


def aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def score_table(rows: dict[str, dict[str, float]]) -> str:
    """{row: {column: score}} in aligned columns; missing scores are blank."""
    columns = list(dict.fromkeys(key for scores in rows.values() for key in scores))
    width = max(map(len, rows))
    lines = [" ".join([" " * width, *(f"{column:>12}" for column in columns)])]
    for name, scores in rows.items():
        cells = [f"{value:12,d}" if isinstance(value, int) else f"{value:12.4f}" for value in scores.values()]
        cells = dict(zip(scores, cells))
        lines.append(" ".join([f"{name:<{width}}", *(cells.get(column, " " * 12) for column in columns)]))
    return "\n".join(lines)
