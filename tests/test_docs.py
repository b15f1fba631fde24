"""The documentation says what the package does: its examples run, and its references resolve.

A page is README.md or a file in docs/. Its fenced blocks are judged by their language:

``python``
    is run. The blocks of a page run from top to bottom, in one namespace and in one working
    directory, which is new and empty for each page.
``console``
    is shell. Each `make` and `eventlog` in it must name a target, or verbs and options, that exist.
    It is run too (with bash, in the page's directory) if its output is shown.
``text``
    right behind one of these is what that block prints, with ``...`` for anything. A ``python``
    block whose output is not shown may print what it likes.

A block is not run if the line before it is ``<!-- not run: REASON -->``. A page may have blocks in
no other language, so that none is passed over because its language is misspelt.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click
import pytest

from eventlog.cli.program import program

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES: Final = frozenset({"python", "console", "text"})
PATIENCE: Final = 60.0  # seconds that a console block may take for what takes it one

FENCE: Final = re.compile(r"(`{3,})(\w*)\s*")
NOT_RUN: Final = re.compile(r"<!-- not run: \S.* -->")
LINK: Final = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
HEADING: Final = re.compile(r"#+ (.*)")
TARGET: Final = re.compile(r"^([a-z]+):", re.MULTILINE)
ASSIGNMENT: Final = re.compile(r"\w+=")
BETWEEN_COMMANDS: Final = frozenset({"|", "||", "&&", ";", "&", "(", ")"})


each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES]
)


class Block(NamedTuple):
    """A fenced block of a page; `line` is the number of its first line, from 1."""

    language: str
    source: str
    line: int
    runs: bool
    shown: str | None
    """What it prints according to the page, if the page says."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, each with the output that follows it."""
    found: list[Block] = []
    lines = enumerate(page.read_text().splitlines(), 1)
    mark = ""  # the last line of prose, unless a block came since
    may_be_output = False
    for number, line in lines:
        fence = FENCE.fullmatch(line)
        if fence is None:
            if line.strip():
                mark, may_be_output = line, False
            continue
        language = fence[2]
        source = "".join(_until(fence[1], lines))
        if may_be_output and language == "text":
            found[-1] = found[-1]._replace(shown=source)
        found.append(Block(language, source, number + 1, not NOT_RUN.fullmatch(mark), None))
        mark, may_be_output = "", language != "text"
    return found


def _until(end: str, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    for _, line in lines:
        if line == end:
            return
        yield f"{line}\n"


def prose(page: Path) -> list[str]:
    """The lines of a page outside its blocks."""
    kept = []
    inside = False
    for line in page.read_text().splitlines():
        if FENCE.fullmatch(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return kept


# ---- Running a page ------------------------------------------------------------------------------


def run_page(page: Path) -> None:
    """Run what can be run of a page in the current directory, and compare what it prints."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.runs and block.language == "python":
            printed = run_python(page, block, namespace)
        elif block.runs and block.language == "console" and block.shown is not None:
            printed = run_console(block)
        else:
            continue
        if block.shown is not None:
            assert agrees(printed, block.shown), (
                f"{page.name}, line {block.line}, prints:\n{printed}and is said to print:\n"
                f"{block.shown}"
            )


def run_python(page: Path, block: Block, namespace: dict[str, object]) -> str:
    """Run Python; what it prints. Tracebacks show the lines of the page."""
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.source, str(page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)  # it is our own documentation
    return printed.getvalue()


def run_console(block: Block) -> str:
    """Run shell, with `eventlog` of this Python; what it prints on both outputs."""
    own = f'eventlog() {{ {shlex.quote(sys.executable)} -m eventlog "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", own + block.source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"line {block.line} ends with {done.returncode}: {done.stdout}"
    return done.stdout


def agrees(printed: str, shown: str) -> bool:
    """Whether a page shows what is printed; space at the ends of lines does not count."""
    pieces = (re.escape(piece) for piece in _trimmed(shown).split("..."))
    return re.fullmatch(".*?".join(pieces), _trimmed(printed), re.DOTALL) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n")


@each_page
def test_the_examples_of_a_page_run_and_print_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page)


@each_page
def test_every_block_of_a_page_is_in_a_language_that_is_judged(page: Path) -> None:
    unknown = [
        (block.line, block.language) for block in blocks(page) if block.language not in LANGUAGES
    ]
    assert not unknown
    assert not [line for line in prose(page) if "```" in line], "a fence that is not seen as one"


# ---- Commands ------------------------------------------------------------------------------------


def commands(source: str) -> Iterator[list[str]]:
    """The commands of some shell, as words, without variables set for them alone."""
    for line in source.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.commenters = "#"
        words: list[str] = []
        for word in lexer:
            if word in BETWEEN_COMMANDS:
                yield words
                words = []
            elif words or not ASSIGNMENT.match(word):
                words.append(word)
        yield words


def require_target(words: Sequence[str]) -> None:
    """Fails unless every target of a call of `make` is one of the Makefile's."""
    targets = TARGET.findall((ROOT / "Makefile").read_text())
    unknown = [word for word in words if "=" not in word and word not in targets]
    assert not unknown, f"the Makefile has no {unknown}, only {targets}"


def require_verb(words: Sequence[str]) -> None:
    """Fails unless the verbs and options of a call of `eventlog` exist."""
    command: click.Command = program
    remaining = iter(words)
    for word in remaining:
        if word in ("<", ">", ">>"):
            next(remaining)
        elif word.startswith("-"):
            name, equals, _ = word.partition("=")
            if _takes_value(command, name) and not equals:
                next(remaining)
        elif isinstance(command, click.Group):
            assert word in command.commands, f"{command.name} has no verb {word}"
            command = command.commands[word]
    assert not isinstance(command, click.Group), f"{command.name} needs a verb: {words}"


def _takes_value(command: click.Command, name: str) -> bool:
    """Whether an option, which must exist, is followed by a value."""
    for parameter in command.get_params(click.Context(command, help_option_names=["-h", "--help"])):
        if isinstance(parameter, click.Option) and name in parameter.opts:
            return not (parameter.is_flag or parameter.count)
    raise AssertionError(f"{command.name} has no option {name}")


@each_page
def test_commands_on_a_page_name_targets_verbs_and_options_that_exist(page: Path) -> None:
    for block in blocks(page):
        if block.language == "console":
            for name, *words in filter(None, commands(block.source)):
                if name == "make":
                    require_target(words)
                elif name == "eventlog":
                    require_verb(words)


# ---- References ----------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may end in, as GitHub and GitLab name them."""
    headings = (HEADING.fullmatch(line) for line in prose(page))
    plain = (re.sub(r"[^\w\- ]", "", heading[1].lower()) for heading in headings if heading)
    return {text.replace(" ", "-") for text in plain}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there; addresses are not looked at."""
    broken = []
    for link in LINK.findall("\n".join(prose(page))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@each_page
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert not broken_links(page)


def test_every_page_and_picture_of_the_documentation_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall("\n".join(prose(page)))
    }
    there = {path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".svg")}
    assert there - linked <= {ROOT / "docs" / "README.md"}


# ---- The judges themselves -----------------------------------------------------------------------


def a_page(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(text)
    return page


def test_blocks_of_a_page_share_a_namespace_and_their_output_is_compared(tmp_path: Path) -> None:
    page = a_page(
        tmp_path, "```python\na = 1\n```\nthen\n```python\nprint(a)\n```\n\n```text\n1\n```"
    )
    run_page(page)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)\n```\n\n```text\n2\n```",
        "```python\nprint(1)\n```\n```text\n```",
        "```python\n1 / 0\n```",
        "```console\necho 1\n```\n```text\n2\n```",
        "```console\necho 1; false\n```\n```text\n1\n```",
    ],
    ids=[
        "other output",
        "output where none is shown",
        "an error",
        "other shell output",
        "a failure",
    ],
)
def test_a_page_that_does_not_do_what_it_says_fails(text: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ZeroDivisionError)):
        run_page(a_page(tmp_path, text))


def test_a_block_that_is_marked_is_not_run_and_neither_is_shell_without_output(
    tmp_path: Path,
) -> None:
    marked = "<!-- not run: it fails on purpose -->\n```python\n1 / 0\n```\n"
    run_page(a_page(tmp_path, marked + "```console\nfalse\n```\n"))


def test_text_that_is_not_right_behind_a_block_is_not_its_output(tmp_path: Path) -> None:
    run_page(a_page(tmp_path, "```python\nprint(1)\n```\nas in\n```text\n2\n```"))


def test_dots_in_what_is_shown_stand_for_anything() -> None:
    assert agrees("id 1234 of 3\nend \n", "id ... of 3\nend\n")
    assert not agrees("id 1234 of 3\n", "id ... of 4\n")


@pytest.mark.parametrize(
    "shell",
    [
        "make nothing",
        "SIZE=1 make nothing",
        "eventlog nothing",
        "eventlog topic nothing",
        "eventlog topic",
        "eventlog read cars --nothing",
        "cat x | eventlog append cars --nothing",
        "eventlog check \\\n  --nothing",
    ],
)
def test_commands_that_do_not_exist_are_found(shell: str, tmp_path: Path) -> None:
    page = a_page(tmp_path, f"```console\n{shell}\n```")
    with pytest.raises(AssertionError):
        test_commands_on_a_page_name_targets_verbs_and_options_that_exist(page)


@pytest.mark.parametrize("link", ["nowhere.md", "page.md#nothing", "#nothing"])
def test_links_that_lead_nowhere_are_found(link: str, tmp_path: Path) -> None:
    page = a_page(tmp_path, f"# Something\n\nas [here]({link}) and [there](page.md#something)")
    assert broken_links(page) == [link]
