"""The page on growing to a cluster does on a broker what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.servers.kafka import Kafka
from tests.test_docs import ROOT, run_page

FENCED = re.compile(r"^```\w+\n.*?^```$", re.MULTILINE | re.DOTALL)
CLUSTER = re.compile(r"(?<![\w:])cluster(?![\w:])")


def test_the_steps_of_the_page_can_be_taken_on_a_broker(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "growing.md").read_text()
    text = FENCED.sub(lambda block: CLUSTER.sub(kafka.location, block[0]), text)
    assert text.count(kafka.location) > 5
    page = tmp_path / "growing.md"
    page.write_text(text.replace("--quiet\n", "--quiet 2>/dev/null\n"))  # what it warns of
    monkeypatch.chdir(tmp_path)
    run_page(page)
