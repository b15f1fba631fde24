"""``python -m eventlog``: the same as the command ``eventlog``."""

from eventlog.cli import main

if __name__ == "__main__":
    main()
