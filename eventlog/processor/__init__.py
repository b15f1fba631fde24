"""Processing a topic as a group: hosts share its partitions, each runs a processor on its own.

From the top down; who stands higher uses what stands lower, never the other way::

    subscription                        a host as a loop over batches
    host                                what users hold; `status`
    running                             one run on its event loop: a pump for each owned partition
    pump > work > session               one owned partition, its events, its processor's calls
    context > hold, feed, failures      what a processor may do; reading ahead; after an error
    coordination                        the thread that keeps a host in its group; `lifeline`
    membership > heartbeat, sightings   a member's rounds; that it is alive, and who else is
    group                               the plan, pure functions
    checkpoint                          fenced progress
    processor, options, dead_letters    what users write, set, and find

Whatever decides something is written as steps (`eventlog.groups.steps`) that name their store calls
and make none, or as pure functions: so the whole protocol also runs in a simulation, under virtual
time.
"""
