"""The ``eventlog`` command: a file per verb, over the public contract of the package.

Nothing here is imported by the rest of the package, and nothing outside `main` imports click or
rich: they come with the extra ``cli``.
"""

from __future__ import annotations

import sys
from typing import Final, NoReturn

__all__ = ["main"]

_EXTRA: Final = frozenset({"click", "rich"})


def main() -> NoReturn:
    """Run the command with the arguments of the process, and exit."""
    try:
        from eventlog.cli.program import program

        program.main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        sys.exit(
            f'eventlog: the command line needs {package}: pip install "embedded-eventlog[cli]"'
        )
    except KeyboardInterrupt:
        sys.exit(130)
