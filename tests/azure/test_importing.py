"""`eventlog.azure` is beside the SDK's `azure`, not in its way; and says what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import azure.eventhub
import azure.eventhub.aio
import pytest

import eventlog.azure.aio

WITHOUT = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name == MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
try:
    import eventlog.azure.aio
except ModuleNotFoundError as error:
    print(error, error.name)
"""


@pytest.mark.parametrize("missing", ["azure", "azure.eventhub"])
def test_who_has_not_installed_the_extra_is_told_its_name(missing: str) -> None:
    assert printed(f"MISSING = {missing!r}{WITHOUT}") == (
        f'eventlog.azure needs azure-eventhub: pip install "embedded-eventlog[azure]" {missing}\n'
    )


def test_what_the_sdk_itself_misses_is_told_as_it_is() -> None:
    assert (
        printed(f"MISSING = 'azure.core'{WITHOUT}") == "No module named 'azure.core' azure.core\n"
    )


def printed(source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_are_what_the_sdk_takes() -> None:
    assert issubclass(eventlog.azure.CheckpointStore, azure.eventhub.CheckpointStore)
    assert issubclass(eventlog.azure.aio.CheckpointStore, azure.eventhub.aio.CheckpointStore)


def test_importing_the_package_loads_nothing_of_azure() -> None:
    source = "import sys, eventlog.blobs; print([m for m in sys.modules if 'azure' in m])"
    assert printed(source) == "[]\n"
