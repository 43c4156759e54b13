"""Documents in Markdown, as tests read them: their blocks, their links, and the commands that they name."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

from conftest import ROOT
from lostgan_serve.commands import main

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "checkpoints/README.md", "benchmarks/recipes.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

_FENCE = re.compile(r"^```(\S*) *(.*)$")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1[^\n]*\n.*?^\s*\2$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_PATH = re.compile(
    r"(?:lostgan_serve|train|evaluate|export|tests|deploy|docs|benchmarks|examples|checkpoints)/[\w./-]*"
)
_BETWEEN_COMMANDS = frozenset("();<>|&")


@dataclass(frozen=True)
class Block:
    """A fenced block. language, info: the first word behind its fence, and the rest. line: that of the fence."""

    document: Path
    line: int
    language: str
    info: str
    text: str

    def __str__(self) -> str:
        return f"{os.path.relpath(self.document, ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in their order."""
    fence, inside = None, list[str]()
    for number, line in enumerate(document.read_text("utf-8").splitlines(), 1):
        if fence and line == "```":
            yield Block(document, fence[0], fence[1], fence[2], "\n".join(inside))
            fence, inside = None, []
        elif fence:
            inside.append(line)
        elif found := _FENCE.match(line):
            fence = number, found[1], found[2]
    assert fence is None, f"{document}: the block of line {fence} has no end"


def prose(document: Path) -> str:
    """A document without its fenced blocks and comments."""
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def spans(document: Path) -> list[str]:
    """The code inside the lines of a document's prose, line breaks taken for spaces."""
    return [" ".join(found.split()) for found in _SPAN.findall(prose(document))]


def links(document: Path) -> list[str]:
    """Where the links and pictures of a document point, but for those into the web."""
    return [target for target in _LINK.findall(prose(document)) if "://" not in target]


def anchors(document: Path) -> set[str]:
    """The names under which a document's headings can be linked to."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths(document: Path) -> list[str]:
    """The files and folders of this repository that a document's prose names as code."""
    return [span for span in spans(document) if _PATH.fullmatch(span)]


def calls(shell: str, program: str = "lostgan-serve") -> Iterator[list[str]]:
    """The arguments of each call of a program in a shell's text; of lostgan-serve also of those under torchrun."""
    for words in _commands(shell):
        if words[0] == program:
            yield words[1:]
        elif words[0] == "torchrun" and program == "lostgan-serve":
            own = words[words.index("lostgan_train") + 1 :]
            yield own if own[:1] == ["semi"] else ["train", *own]


def _commands(shell: str) -> Iterator[list[str]]:
    text = _HEREDOC.sub("", shell).replace("\\\n", " ")
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, ";"):
            if not _BETWEEN_COMMANDS.issuperset(word):
                words.append(word)
                continue
            while words and re.match(r"\w+=", words[0]):  # variables of the command's environment
                del words[0]
            if words:
                yield words
            words = []


def check_call(arguments: list[str]) -> None:
    """Raise click.UsageError unless lostgan-serve has such a command with such options. Nothing is run."""
    with suppress(click.exceptions.Exit):  # of --help and --version
        _check_call(main, "lostgan-serve", arguments)


def _check_call(
    command: click.Command, name: str | None, arguments: list[str], above: click.Context | None = None
) -> None:
    context = command.make_context(name, list(arguments), above)
    if isinstance(command, click.Group):
        inner_name, inner, rest = command.resolve_command(context, list(arguments))
        assert inner
        _check_call(inner, inner_name, rest, context)


@cache
def commands() -> dict[str, frozenset[str]]:
    """The options of each command of lostgan-serve."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: _options(command) for name, command in found.items() if command}


def _options(command: click.Command) -> frozenset[str]:
    """The options of a command, and of those in it."""
    own = (option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return frozenset(("--help", *own)).union(*map(_options, inner))
