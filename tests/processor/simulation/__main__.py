"""Runs one seed, and tells its history: ``python -m tests.processor.simulation SEED``."""

from __future__ import annotations

import logging
import sys

from tests.processor.simulation.story import run

if __name__ == "__main__":
    logging.disable()
    for seed in map(int, sys.argv[1:]):
        world = run(seed)
        print(world.history.told(whole=True))
