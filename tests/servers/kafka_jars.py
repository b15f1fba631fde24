"""What Apache Kafka is made of, from Maven Central, in a cache that all checkouts share.

`python -m tests.servers.kafka_jars` fills it, as does the first broker.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["VERSION", "class_path", "java", "missing"]

VERSION: Final = os.environ.get("EVENTLOG_KAFKA_VERSION", "4.1.1")
"""Which Kafka. It becomes part of paths, and of what Maven is asked for."""
_MAVEN_CENTRAL: Final = {
    "org.apache.kafka:kafka_2.13": VERSION,
    "org.slf4j:slf4j-simple": "1.7.36",  # says on stderr when the broker can be used
}
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_OLDEST_JAVA: Final = 17
_PATIENCE: Final = 280.0  # seconds that Maven may take: less than a test may
_PROJECT: Final = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>eventlog</groupId><artifactId>kafka</artifactId><version>1</version>
<packaging>pom</packaging>
<dependencies>{}</dependencies>
</project>
"""
_DEPENDENCY: Final = """
<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>
"""


def missing() -> str | None:
    """None if a broker can be run here, else the reason why not, and what helps."""
    if importlib.util.find_spec("confluent_kafka") is None:
        return "confluent-kafka is not installed: pip install confluent-kafka"
    if not _has_java():
        return (
            f"Java {_OLDEST_JAVA} or later is not installed"
            " (Debian: apt-get install default-jre-headless)"
        )
    if not _place().is_dir() and shutil.which("mvn") is None:
        return "Maven, which brings Apache Kafka, is not installed (Debian: apt-get install maven)"
    return None


def java() -> str:
    """The program that runs Java."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / "java") if home else "java"


def class_path() -> str:
    """Where Java finds Kafka, which is brought here first if it is not here.

    Raises:
        AssertionError: Maven could not bring it; the message says why.
    """
    place = _place()
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{place.name}-") as directory:
            jars = Path(directory) / "jars"
            _bring(jars)
            try:
                jars.rename(place)
            except OSError:
                if not place.is_dir():  # nobody else was faster
                    raise
    return f"{place}/*"


def _place() -> Path:
    """Of all jars, or none: it is renamed to that when it is whole."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "eventlog" / f"kafka-{VERSION}"


def _bring(target: Path) -> None:
    project = target.with_name("pom.xml")
    dependencies = (_DEPENDENCY.format(*name.split(":"), v) for name, v in _MAVEN_CENTRAL.items())
    project.write_text(_PROJECT.format("".join(dependencies)))
    command = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", f"--file={project}", _COPY]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={target}", "-DincludeScope=runtime"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    assert done.returncode == 0, f"Maven could not bring Kafka:\n{done.stdout[-2000:]}"


def _has_java() -> bool:
    """Not every `java` is one: macOS has one that only tells where to get it."""
    try:
        done = subprocess.run(
            [java(), "-version"], capture_output=True, text=True, check=False, timeout=60
        )
    except OSError:
        return False
    version = re.search(r'version "(\d+)', done.stderr)
    return done.returncode == 0 and version is not None and int(version[1]) >= _OLDEST_JAVA


if __name__ == "__main__":
    reason = missing()
    print(f"Apache Kafka is left out: {reason}" if reason else class_path())
    sys.exit(1 if reason and os.environ.get("CI") else 0)
