"""The history of a run, and the checker that reads it.

Producers and consumers note what they are about to do and what came of it, each process in a file
of its own (`records`); what the log holds at the end is read from the log (`contents`); `check`
holds the one to the other and names every loss, duplicate, gap and reordering.
"""

from tests.history.check import check
from tests.history.contents import LogContents, PartitionContents, Stored, read_log
from tests.history.evidence import Fault, Finding
from tests.history.records import Kind, Record, Recorder, read_records

__all__ = [
    "Fault",
    "Finding",
    "Kind",
    "LogContents",
    "PartitionContents",
    "Record",
    "Recorder",
    "Stored",
    "check",
    "read_log",
    "read_records",
]
