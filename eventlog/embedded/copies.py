"""Copies of a log's environment: a backup beside it, and a compacted one that takes its place."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from pathlib import Path

import lmdb

from eventlog.embedded import directory as files
from eventlog.embedded.storage import Environment

__all__ = ["backup", "compact"]


def backup(environment: Environment, target: Path) -> None:
    """Copy the log into the new directory `target`; it appears there whole or not at all.

    Raises:
        FileExistsError: something is at `target`.
        LogFullError: there is no room for it.
    """
    if target.resolve().is_relative_to(environment.directory.resolve()):
        raise ValueError(f"{target} is inside the log that is to be backed up")
    if target.exists():
        raise FileExistsError(f"{target} exists; a backup makes a new directory")
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    try:
        _copy(environment, unfinished / files.environment_name(1))
        control = files.Control(environment.durability, 1, environment.log_id)
        files.create_control(unfinished, control)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    files.sync_with_ancestors(target)


def compact(environment: Environment) -> None:
    """Copy the log into the next generation. Only while no process can write.

    Until the control file names the new generation, the old one is the log; after that, the new
    one is. Other processes notice before their next transaction; what they read meanwhile is the
    old file, which is the same.
    """
    directory = environment.directory
    control = environment.control()
    following = control._replace(generation=control.generation + 1)
    unfinished = directory / f"{files.environment_name(following.generation)}-copy"
    unfinished.unlink(missing_ok=True)
    try:
        _copy(environment, unfinished)
        unfinished.rename(directory / files.environment_name(following.generation))
        files.sync_directory(directory)  # the name is there before the control file says it
        files.replace_control(directory, following)
    finally:
        unfinished.unlink(missing_ok=True)
    environment.reopen()
    files.remove_leftovers(directory, following.generation)


def _copy(environment: Environment, path: Path) -> None:
    """A durable copy of the environment without its free pages."""
    try:
        environment.gate.enter()
        environment.lmdb.copy(os.fspath(path), compact=True)
    except lmdb.Error as error:
        raise environment.translated(error, "a copy") from error
    finally:
        environment.gate.leave(threading.get_ident())
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
