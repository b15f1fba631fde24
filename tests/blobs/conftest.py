"""Failures inside the contract suite show what was compared."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("eventlog.testing")
