"""librdkafka's errors as ours: one table, and one line that says what to do.

An answer that did not come and a broker that cannot be reached look alike to a program, and it can
do the same about both: try again. So all of that is a `LogBusyError`.
"""

from __future__ import annotations

import enum
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from eventlog.errors import (
    ClosedError,
    EventLogError,
    EventTooLargeError,
    InvalidNameError,
    LogBusyError,
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    ProducerFencedError,
    TopicExistsError,
    TopicNotFoundError,
    UnsupportedOperationError,
)

__all__ = ["Kind", "error_of", "is_transient", "kind_of", "rounded", "translate"]


class Kind(enum.Enum):
    """What went wrong, as far as a caller can act on it."""

    NO_ANSWER = enum.auto()
    LOGIN = enum.auto()
    ENCRYPTION = enum.auto()
    NOT_ALLOWED = enum.auto()
    TOPIC_MISSING = enum.auto()
    PARTITION_MISSING = enum.auto()
    TOPIC_EXISTS = enum.auto()
    BAD_NAME = enum.auto()
    TOO_LARGE = enum.auto()
    OUT_OF_RANGE = enum.auto()
    FENCED = enum.auto()
    REFUSED = enum.auto()
    CLOSED = enum.auto()
    OTHER = enum.auto()


_CODES: Final[dict[Kind, str]] = {
    Kind.NO_ANSWER: "_TIMED_OUT _TRANSPORT _ALL_BROKERS_DOWN _RESOLVE _MSG_TIMED_OUT "
    "_TIMED_OUT_QUEUE _PURGE_QUEUE _PURGE_INFLIGHT _QUEUE_FULL _NODE_UPDATE _WAIT_COORD "
    "_WAIT_CACHE _IN_PROGRESS _PREV_IN_PROGRESS _UNKNOWN_BROKER _DESTROY_BROKER _RETRY "
    "_ISR_INSUFF _NOENT _OUTDATED _INTR "
    "REQUEST_TIMED_OUT NETWORK_EXCEPTION BROKER_NOT_AVAILABLE LEADER_NOT_AVAILABLE "
    "REPLICA_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION PREFERRED_LEADER_NOT_AVAILABLE "
    "ELIGIBLE_LEADERS_NOT_AVAILABLE LISTENER_NOT_FOUND OFFSET_NOT_AVAILABLE "
    "COORDINATOR_NOT_AVAILABLE COORDINATOR_LOAD_IN_PROGRESS NOT_COORDINATOR NOT_CONTROLLER "
    "UNKNOWN_CONTROLLER_ID NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND "
    "KAFKA_STORAGE_ERROR LOG_DIR_NOT_FOUND CONCURRENT_TRANSACTIONS UNSTABLE_OFFSET_COMMIT "
    "THROTTLING_QUOTA_EXCEEDED REBALANCE_IN_PROGRESS FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH "
    "STALE_CTRL_EPOCH STALE_BROKER_EPOCH TRANSACTION_COORDINATOR_FENCED REASSIGNMENT_IN_PROGRESS "
    "FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH TRANSACTION_ABORTABLE "
    "REBOOTSTRAP_REQUIRED",
    Kind.LOGIN: "_AUTHENTICATION SASL_AUTHENTICATION_FAILED UNSUPPORTED_SASL_MECHANISM "
    "ILLEGAL_SASL_STATE UNACCEPTABLE_CREDENTIAL",
    Kind.ENCRYPTION: "_SSL",
    Kind.NOT_ALLOWED: "TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED "
    "CLUSTER_AUTHORIZATION_FAILED TRANSACTIONAL_ID_AUTHORIZATION_FAILED "
    "DELEGATION_TOKEN_AUTHORIZATION_FAILED SECURITY_DISABLED",
    Kind.TOPIC_MISSING: "UNKNOWN_TOPIC_OR_PART _UNKNOWN_TOPIC UNKNOWN_TOPIC_ID "
    "INCONSISTENT_TOPIC_ID",
    Kind.PARTITION_MISSING: "_UNKNOWN_PARTITION",
    Kind.TOPIC_EXISTS: "TOPIC_ALREADY_EXISTS",
    Kind.BAD_NAME: "TOPIC_EXCEPTION",
    Kind.TOO_LARGE: "MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE INVALID_MSG_SIZE",
    Kind.OUT_OF_RANGE: "OFFSET_OUT_OF_RANGE _AUTO_OFFSET_RESET _NO_OFFSET",
    Kind.FENCED: "_FENCED PRODUCER_FENCED INVALID_PRODUCER_EPOCH",
    Kind.REFUSED: "UNSUPPORTED_VERSION _UNSUPPORTED_FEATURE _NOT_IMPLEMENTED "
    "TOPIC_DELETION_DISABLED UNSUPPORTED_COMPRESSION_TYPE UNSUPPORTED_FOR_MESSAGE_FORMAT "
    "UNSUPPORTED_ENDPOINT_TYPE MISMATCHED_ENDPOINT_TYPE POLICY_VIOLATION INVALID_CONFIG "
    "INVALID_PARTITIONS INVALID_REPLICATION_FACTOR INVALID_REPLICA_ASSIGNMENT INVALID_REQUEST "
    "INVALID_TIMESTAMP INVALID_TRANSACTION_TIMEOUT OFFSET_METADATA_TOO_LARGE INVALID_RECORD",
    Kind.CLOSED: "_DESTROY",
}
_KINDS: Final[dict[int, Kind]] = {
    getattr(KafkaError, name): kind
    for kind, names in _CODES.items()
    for name in names.split()
    if hasattr(KafkaError, name)  # an older confluent-kafka knows fewer
}


def error_of(error: KafkaError | KafkaException) -> KafkaError:
    """What a KafkaException carries, or the error itself."""
    if isinstance(error, KafkaError):
        return error
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, KafkaError) else KafkaError(KafkaError._FAIL, str(error))  # noqa: SLF001 - that is its name


def kind_of(error: KafkaError | KafkaException) -> Kind:
    """What kind of error it is."""
    return _KINDS.get(error_of(error).code(), Kind.OTHER)


def is_transient(error: KafkaError | KafkaException) -> bool:
    """Whether another try, a moment later, may go well."""
    return kind_of(error) is Kind.NO_ANSWER


def translate(
    error: KafkaError | KafkaException,
    doing: str,
    *,
    place: str = "the cluster",
    user: str = "",
    within: float | None = None,
    topic: str = "",
    partition: int | None = None,
    maybe: bool = False,
) -> Exception:
    """The error to raise instead, ``from error``.

    Args:
        doing: what was tried: ``"appending to topic 'cars'"``.
        place: the cluster, without secrets.
        user: who logs in.
        within: how many seconds there were.
        topic, partition: what it was about.
        maybe: whether what was to be stored may be stored all the same.
    """
    problem = error_of(error)
    task, doing = doing, f"{doing}, which may be stored all the same" if maybe else doing
    reason = " ".join(problem.str().removeprefix("Broker: ").removeprefix("Local: ").split())
    reason = reason.rstrip(".")
    named = f"topic {topic!r}" if topic else "the topic"
    who = f"user {user!r}" if user else "a client without a user name"
    where = "the partition" if partition is None else f"partition {partition}"
    match kind_of(problem):
        case Kind.NO_ANSWER:
            limit = "" if within is None else f" within {rounded(within):g} s"
            hint = _LOOK_FIRST if maybe else "try again"
            return LogBusyError(f"{doing}: no answer from {place}{limit} ({reason}): {hint}")
        case Kind.LOGIN:
            return EventLogError(f"{doing}: {place} refuses {who}: {_check_of(reason)} ({reason})")
        case Kind.ENCRYPTION:
            return EventLogError(
                f"{doing}: no encrypted connection to {place}: check tls= and ssl.ca.location "
                f"({reason})"
            )
        case Kind.TOPIC_MISSING:
            return TopicNotFoundError(f"{doing}: {place} has no such topic, or none any more")
        case Kind.PARTITION_MISSING:
            return PartitionNotFoundError(f"{doing}: {named} has no {where.removeprefix('the ')}")
        case kind:
            made, hint = _PLAIN[kind]
            right = _right_for(problem, task, named)
            hint = hint.format(place=place, topic=named, user=who, right=right)
            return made(f"{doing}: {reason}{hint}")


def rounded(seconds: float) -> float:
    """Seconds as people are told of them."""
    return round(seconds, 1 if seconds >= 1 else 3)


def _check_of(reason: str) -> str:
    """What to check when a login is refused for this reason."""
    if "SASL state" in reason:
        return "this port takes no login: check the port, or give no user"
    if "Unsupported SASL mechanism" in reason:
        return "check sasl.mechanism, and the port"
    return "check user name and password"


def _right_for(problem: KafkaError, task: str, topic: str) -> str:
    """Which right is missing, as far as it can be told; begins with a colon if it can."""
    if "idempotence PID" in problem.str():
        return f": Write on {topic} (Kafka names the cluster, but that is enough)"
    if problem.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        rights = (right for start, right in _RIGHTS.items() if task.startswith(start))
        return f": {right} on {topic}" if (right := next(rights, "")) else ""
    if problem.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED and task.startswith("making"):
        return f": Create on {topic}"
    if task.startswith("showing"):
        return ": Read on the Kafka group of that name"
    return _RIGHTS_BY_CODE.get(problem.code(), "")


_LOOK_FIRST: Final = (
    "look whether it is there before trying again (a producer with producer_id knows by its "
    "last_sequence)"
)

_RIGHTS: Final = {
    "looking up": "Describe",
    "asking how": "DescribeConfigs",
    "asking for": "Describe",
    "reading": "Read",
    "appending": "Write",
    "storing": "Write",
    "committing": "Write",
    "copying": "Write",
    "writing": "Write",
    "registering": "Write",
    "making": "Create",
    "deleting": "Delete",
    "setting": "AlterConfigs",
    "adding": "Alter",
}
"""By how what is done begins, the right to a topic that it needs."""

_RIGHTS_BY_CODE: Final = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        ": Write on transactional ids that begin with 'eventlog.'"
    ),
    KafkaError.GROUP_AUTHORIZATION_FAILED: ": Read on Kafka groups that begin with 'eventlog.'",
}

_PLAIN: Final[dict[Kind, tuple[type[EventLogError], str]]] = {
    Kind.NOT_ALLOWED: (
        EventLogError,
        ": {place} does not allow {user} that: have the right granted{right}",
    ),
    Kind.TOPIC_EXISTS: (TopicExistsError, ""),
    Kind.BAD_NAME: (InvalidNameError, ""),
    Kind.TOO_LARGE: (EventTooLargeError, ": more than {topic} takes (max.message.bytes)"),
    Kind.OUT_OF_RANGE: (OffsetOutOfRangeError, ""),
    Kind.FENCED: (ProducerFencedError, ": a later one has the same name"),
    Kind.REFUSED: (UnsupportedOperationError, ": {place} refuses that"),
    Kind.CLOSED: (ClosedError, ": it was closed"),
    Kind.OTHER: (EventLogError, " ({place})"),
}
