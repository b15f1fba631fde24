"""``MODULE:PROCESSOR``: what it may name, and what is said if it does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from eventlog.cli.targets import Target, load

MODULE = """
from functools import partial

from eventlog.processor.processor import EventProcessor

class Fraud(EventProcessor):
    def process(self, context, events): ...

class Needy(EventProcessor):
    def __init__(self, model): ...
    def process(self, context, events): ...

class NoProcess:
    def open(self, context): ...

class Abstract(EventProcessor):
    def open(self, context): ...

class Space:
    Inner = Fraud

def make(threshold=3): return Fraud()

def handle(context, events): ...

async def handle_async(context, events): ...

async def nothing(): ...

def three(context, events, model): ...

ready = partial(three, model=None)
made = Fraud()
number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory from which modules are taken, and forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    (tmp_path / "shop_processors.py").write_text(MODULE)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refused(text: str) -> str:
    with pytest.raises(click.UsageError) as raised:
        load(text)
    return raised.value.message


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["Fraud", "Space.Inner", "make"])
def test_a_class_or_another_factory_makes_processors(name: str) -> None:
    target = load(f"shop_processors:{name}")
    assert target.handler is None
    assert target.processor is not None
    assert type(target.processor()).__name__ == "Fraud"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["handle", "handle_async", "ready"])
def test_a_function_of_context_and_events_is_a_handler(name: str) -> None:
    target = load(f"shop_processors:{name}")
    assert target == Target(handler=getattr(sys.modules["shop_processors"], name))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Needy", "neither without arguments"),
        ("three", "neither without arguments"),
        ("nothing", "takes no events"),
        ("NoProcess", "a class without 'process'"),
        ("Abstract", "a class without 'process'"),
        ("EventProcessor", "a class without 'process'"),
        ("made", "is an object of type Fraud: name a class"),
        ("number", "is an object of type int"),
        ("Fruad", "module 'shop_processors' has no 'Fruad'"),
        ("Space.Outer", "module 'shop_processors' has no 'Space.Outer'"),
    ],
)
def test_what_can_be_neither_is_refused(name: str, words: str) -> None:
    assert words in refused(f"shop_processors:{name}")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("text", ["shop_processors", "shop_processors:", ":Fraud", ""])
def test_what_does_not_name_both_is_refused(text: str) -> None:
    assert "is not MODULE:PROCESSOR" in refused(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("./shop_processors.py:Fraud", "give the module's name, 'shop_processors:Fraud'"),
        ("shop_processors.py:Fraud", "give the module's name, 'shop_processors:Fraud'"),
        ("shop/checks.py:Fraud", "give the module's name, 'shop.checks:Fraud'"),
        ("../shop/checks.py:Fraud", "'checks:Fraud', where it is found"),
        (".shop_processors:Fraud", "is a path"),
        ("/nowhere/shop.py:Fraud", "'shop:Fraud', where it is found"),
    ],
)
def test_a_file_is_refused_and_its_module_named(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    assert words in refused(text)
    assert capsys.readouterr().err == ""


def test_modules_in_packages_of_the_working_directory_are_found(here: Path) -> None:
    (here / "shop").mkdir()
    (here / "shop" / "checks.py").write_text(
        "import shop_processors\nfrom shop_processors import *"
    )
    assert load("shop.checks:Fraud").processor is not None
    assert sys.path[0] == str(here)


@pytest.mark.usefixtures("here")
def test_a_module_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("shop_nothing:Fraud") == "there is no module 'shop_nothing', here or installed"
    assert (
        refused("shop_nothing.at.all:X") == "there is no module 'shop_nothing', here or installed"
    )
    assert "there is no module 'shop_processors.x'" in refused("shop_processors.x:Fraud")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import shop_missing", "ModuleNotFoundError: No module named 'shop_missing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = (", "SyntaxError"),
    ],
)
def test_a_module_that_raises_says_where(
    here: Path, capsys: pytest.CaptureFixture[str], source: str, words: str
) -> None:
    (here / "shop_broken.py").write_text(f"\n{source}\n")
    message = refused("shop_broken:Fraud")
    assert message.startswith("module 'shop_broken' cannot be imported: ")
    assert words in message
    assert 'shop_broken.py", line 2' in capsys.readouterr().err
