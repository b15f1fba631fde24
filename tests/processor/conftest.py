"""Fixtures of the tests of hosts."""

from __future__ import annotations

import pytest

from tests.processor.hosting import Notes


@pytest.fixture
def notes() -> Notes:
    """What processors note; see `Notes.factory`."""
    return Notes()
