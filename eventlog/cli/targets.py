"""``MODULE:PROCESSOR``: what is named on the command line to process events."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

__all__ = ["Target", "load"]


class Target(NamedTuple):
    """One of the two that a host takes."""

    processor: Callable[[], Any] | None = None
    handler: Callable[[Any, Any], Any] | None = None


def load(text: str) -> Target:
    """Import the module, as ``python -m`` finds it, and take what is named in it.

    A class is a factory of processors; so is a function that can be called without arguments. A
    function that takes two is a handler.

    Raises:
        click.UsageError: there is no such module, or no such name in it; or it is none of these.
            If the module raises, its traceback has been printed.
    """
    module_name, colon, path = text.partition(":")
    if not (module_name and colon and path):
        raise click.UsageError(f"{text!r} is not MODULE:PROCESSOR, as in 'shop.fraud:Fraud'")
    _refuse_file(module_name, path)
    found = _import(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise click.UsageError(f"module {module_name!r} has no {path!r}") from None
    return _target(text, found)


def _refuse_file(name: str, path: str) -> None:
    """People name the file, as for ``python``: say what it is to be instead."""
    file = Path(name)
    if len(file.parts) == 1 and not name.startswith(".") and not file.is_file():
        return
    inside = not file.is_absolute() and ".." not in file.parts
    module = ".".join(file.with_suffix("").parts) if inside else file.stem
    where = "" if inside else ", where it is found as 'python -m' finds it"
    raise click.UsageError(f"{name!r} is a path: give the module's name, '{module}:{path}'{where}")


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise click.UsageError(
                f"there is no module {error.name!r}, here or installed"
            ) from error
        raise _failed(name, error) from error
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> click.UsageError:
    """It is there, and wrong: whoever wrote it needs to know where."""
    traceback.print_exception(error)
    return click.UsageError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}")


def _target(text: str, found: Any) -> Target:
    if not callable(found):
        raise click.UsageError(
            f"{text!r} is an object of type {type(found).__name__}: name a class, another factory "
            "without arguments, or a function of (context, events)"
        )
    if _takes(found, 0):
        if inspect.isclass(found):
            _refuse_incomplete(text, found)
        if inspect.iscoroutinefunction(found):
            raise click.UsageError(f"{text!r} is a coroutine function that takes no events")
        return Target(processor=found)
    if _takes(found, 2) and not inspect.isclass(found):
        return Target(handler=found)
    raise click.UsageError(
        f"{text!r} can be called neither without arguments, as a class or another factory of "
        "processors, nor with (context, events), as a handler"
    )


def _refuse_incomplete(text: str, found: type) -> None:
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if not missing and not callable(getattr(found, "process", None)):
        missing = ["process"]
    if missing:
        raise click.UsageError(f"{text!r} is a class without {' and '.join(map(repr, missing))}")


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C, some of it: the call itself will tell
        return count == 0
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
