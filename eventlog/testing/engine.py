"""The contract of engines: `eventlog.log.EventLog` and `Topic`, test by test."""

from __future__ import annotations

from eventlog.testing.engine_flowing import FlowingContract
from eventlog.testing.engine_storing import StoringContract
from eventlog.testing.engine_topics import TopicsContract

__all__ = ["DataPathContract", "EngineContract"]


class DataPathContract(StoringContract, FlowingContract):
    """What `EngineContract` says of a topic's events: appending, reading, groups, transactions.

    By itself it is for what can be read and written to but not administered. Override `make_topic`
    if topics are made elsewhere; a test of what cannot be had is left out by setting it to None.
    """


class EngineContract(TopicsContract, DataPathContract):
    """What a program may rely on, whichever engine it runs on; test by test.

    Who derives from it supplies the fixture `log`, a new and empty log for each test; and, if the
    engine differs where engines may, says so:

    Attributes:
        gapless: whether offsets have no gaps. If they may, they grow all the same, and lags are
            upper bounds.
        resolution: how exact enqueued times are.
        unsupported: which of `eventlog.testing.engine_base.OPERATIONS` the engine declines to do.
            It must raise UnsupportedOperationError then.

    Override `opener` if the log of the fixture can be opened a second time.
    """
