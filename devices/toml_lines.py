"""On which line of a TOML file a key stands. The parser of the standard library does not say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

Path = tuple[str | int, ...]

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\\]*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_LONG_QUOTE = re.compile(r'"""|' + "'''")


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The line, from 1, of the key, or of the nearest table around it that is found.

    Keys within an inline table or array are answered with the line on which that begins. None when nothing of the path is found.
    """
    lines = dict(_keys(text))
    for length in range(len(path), 0, -1):
        if (found := lines.get(tuple(path[:length]))) is not None:
            return found
    return None


def _keys(text: str) -> Iterator[tuple[Path, int]]:
    """(path, line) of each header and of each key that begins a line."""
    table: Path = ()
    counts: dict[Path, int] = {}
    in_string = False
    for number, line in enumerate(text.splitlines(), 1):
        quotes = len(_LONG_QUOTE.findall(line))
        inside, in_string = in_string, in_string != bool(quotes % 2)
        if inside:
            continue
        if header := _HEADER.match(line):
            table = _table(_parts(header[2]), header[1] == "[[", counts)
            yield table, number
        elif key := _ASSIGNMENT.match(line):
            yield (*table, *_parts(key[1])), number


def _table(parts: Path, of_array: bool, counts: dict[Path, int]) -> Path:
    """The header's path, with the number of the element after each name of an array of tables."""
    found: Path = ()
    for index, part in enumerate(parts):
        found = (*found, part)
        last = index == len(parts) - 1
        if of_array and last:
            counts[found] = counts.get(found, -1) + 1
        if found in counts:
            found = (*found, counts[found])
    return found


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))
