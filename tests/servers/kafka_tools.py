"""Kafka's own command line, for looking at what its users would see."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.servers import kafka_jars

__all__ = ["consumer_groups", "missing"]

_TOOLS: Final = f"org.apache.kafka:kafka-tools:{kafka_jars.VERSION}"
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
_PROGRAM: Final = (
    "kafka.admin.ConsumerGroupCommand"
    if kafka_jars.VERSION.startswith(("3.5.", "3.6.", "3.7."))
    else "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
)
_PATIENCE: Final = 120.0  # seconds


def missing() -> str | None:
    """None if it can be run here, else the reason why not."""
    if not _jar().is_file() and shutil.which("mvn") is None:
        return "Maven, which brings Kafka's tools, is not installed (Debian: apt-get install maven)"
    return kafka_jars.missing()


def consumer_groups(bootstrap: str, *arguments: str) -> str:
    """What `kafka-consumer-groups.sh` prints."""
    class_path = f"{kafka_jars.class_path()}:{_brought()}"
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=off"
    command = [kafka_jars.java(), "-Xmx64m", "-XX:TieredStopAtLevel=1", quiet, "-cp", class_path]
    done = subprocess.run(
        [*command, _PROGRAM, "--bootstrap-server", bootstrap, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _jar() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "eventlog" / f"kafka-tools-{kafka_jars.VERSION}.jar"


def _brought() -> Path:
    """Where it is, in a cache that all checkouts share."""
    jar = _jar()
    if not jar.is_file():
        with tempfile.TemporaryDirectory(dir=jar.parent) as directory:
            command = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", _COPY]
            done = subprocess.run(
                [*command, f"-Dartifact={_TOOLS}", f"-DoutputDirectory={directory}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE,
            )
            assert done.returncode == 0, f"Maven could not bring {_TOOLS}:\n{done.stdout[-2000:]}"
            (Path(directory) / jar.name).rename(jar)
    return jar
