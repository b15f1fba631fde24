"""A group of hosts in a simulation: the real protocol, under virtual time, in one thread.

The real `Membership` and the real `PartitionCheckpoint` are generators that name their store calls.
Here (`host`, `pump`) nobody makes these calls for them at once: a `network` brings them to a store
(`blobs`) in virtual time (`timeline`), late, twice or not at all, while other hosts go on. A
`story` says what befalls a `world` besides; `truth` looks at all of it from outside, and knows what
must hold at every step. A seed decides everything, so it tells the whole `history`.
"""

from tests.processor.simulation.story import run
from tests.processor.simulation.truth import BrokenError
from tests.processor.simulation.world import Setting, World, drawn

__all__ = ["BrokenError", "Setting", "World", "drawn", "run"]
