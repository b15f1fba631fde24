"""Processing a topic as a group: hosts share its partitions, each runs a processor on its own.

`host` ties four parts together: `membership` (who is there, who owns what), `pump` (one owned
partition), `checkpoint` (fenced progress), and the pure functions of `group` under them. Whatever
decides something is written as steps (`steps`) that name their store calls and make none, so that
the whole protocol also runs in a simulation, under virtual time.
"""
