"""The documents: what they tell to type is run, and what cannot be run here has at least options that exist.

A block ```sh is run in a shell, and ```python in Python; not-run: WHY behind either keeps it from being run. A block
```sh server runs until the document ends, ```sh exit-2 is to fail in one line, and the lines of ```text output are
printed by the block before it.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from conftest import ROOT
from documents import DOCUMENTS, Block, anchors, blocks, calls, check_call, commands, links, paths, prose, spans
from terminal import Terminal

README = ROOT / "README.md"
README_BYTES = 9000

TYPED = re.compile(r"^ *(\$|lostgan-serve|make|pip|docker|kubectl|torchrun|tritonserver|curl|jq) ", re.MULTILINE)
"""A command line, in a block for something else."""

TRAINED = ("docs/experiments.md", "docs/usefulness.md")
"""Documents whose commands train many networks; tests of those commands train smaller ones."""

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """A clone in which somebody has done what the README says."""
    terminal = Terminal.fresh(tmp_path_factory.mktemp("clone") / "lostgan-serve")
    terminal.run(README)
    return terminal


def test_readme_runs(clone: Terminal) -> None:
    assert (clone.folder / "out" / "layout.png").is_file()


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, id=named(path), marks=[pytest.mark.long] if named(path) in TRAINED else [])
        for path in DOCUMENTS
        if path != README
    ],
)
def test_document_runs(document: Path, clone: Terminal, tmp_path: Path) -> None:
    """Every page may take for done what the README says."""
    clone.copied(tmp_path / "lostgan-serve").run(document)


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nlostgan-serve labels --vocabulary cocoa\n```",
        "```sh exit-2\nlostgan-serve labels\n```",
        "```sh\nlostgan-serve labels\n```\n```text output\nskies\n```",
        "```python\nimport lostgan\n```",
    ],
)
def test_a_document_that_is_not_true_fails(text: str, tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(text)
    with pytest.raises(AssertionError):
        Terminal.fresh(tmp_path / "clone").run(document)


def test_readme_is_one_page() -> None:
    assert README.stat().st_size <= README_BYTES


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_says_what_it_is(block: Block) -> None:
    """Commands stand in blocks that are run, or that say why not."""
    known = {
        "sh": r"|server|exit-2|not-run: .+",
        "python": r"|not-run: .+",
        "text": r"|output",
        "json": "",
    }
    assert block.language in known, f"{block}: {block.language!r} is not one of {', '.join(known)}"
    assert re.fullmatch(known[block.language], block.info), f"{block}: {block.info!r}"
    if block.language in ("text", "json"):
        assert not TYPED.search(block.text), f"{block}: holds a command; put it into a block ```sh"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_no_block_is_indented(document: Path) -> None:
    assert not re.search(r"(?:^|\n\n)(?:    |\t)(.*)", prose(document))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_commands_and_options_exist(block: Block) -> None:
    for arguments in calls(block.text):
        check_call(arguments)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {target for arguments in calls(block.text, "make") for target in arguments if "=" not in target} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_prose_names_commands_and_options_that_exist(document: Path) -> None:
    """Code such as `export --res 512` or `--res`; other programs' options stand behind the program's name."""
    any_command = frozenset[str]().union(*commands().values())
    for span in spans(document):
        first, *rest = span.removeprefix("lostgan-serve ").split(" ")
        assert first in commands() or first.startswith("--") or not span.startswith("lostgan-serve "), span
        if first in commands() or first.startswith("--"):
            options = {word.partition("=")[0] for word in (first, *rest) if word.startswith("--")}
            assert options <= commands().get(first, any_command), span


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for path in paths(document):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "arguments", [["generat", "a.json"], ["generate", "a.json", "--mask"], ["export", "--res", "100"], ["client"]]
)
def test_the_check_of_calls_finds_faults(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        check_call(arguments)


def test_calls_are_found_in_a_shells_text() -> None:
    text = (
        "cat > a.json <<'EOF'\nlostgan-serve nonsense\nEOF\n"
        "A=1 lostgan-serve labels # lostgan-serve more\n"
        "cat a.json | lostgan-serve generate - \\\n  --seed 3 > log && lostgan-serve --version\n"
        "torchrun --nproc-per-node 2 -m lostgan_train --out runs\n"
    )
    expected = [["labels"], ["generate", "-", "--seed", "3"], ["--version"], ["train", "--out", "runs"]]
    assert list(calls(text)) == expected
