"""Reading from a cluster: what runs ahead of readers, what becomes of messages, and one fetch.

librdkafka prefetches for a consumer of its own, which is worth a thread or two and a connection to
each broker. So many readers share few of them: a `Fetcher` is one such consumer and one thread.
What comes is put into *lanes*, one for each partition that some reader reads: by the fetcher's
thread while readers wait, and by a reader itself that follows the flow (`Drain`).
"""
