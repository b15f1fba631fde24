"""Failures inside the contract suites show what was compared; and the fixture that users have."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("eventlog.testing")

from eventlog.testing.plugin import processor_driver  # noqa: E402 - not before it is registered

__all__ = ["processor_driver"]
