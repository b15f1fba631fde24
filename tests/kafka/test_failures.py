"""librdkafka's errors as ours: none is missed, and each says in one line what to do."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from eventlog import errors
from eventlog.kafka.failures import Kind, is_transient, kind_of, translate
from eventlog.kafka.intake import KafkaInlet

CODES = {
    name: code
    for name in dir(KafkaError)
    if name.lstrip("_").isupper() and isinstance(code := getattr(KafkaError, name), int)
}

OURS = {
    "_TIMED_OUT": errors.LogBusyError,
    "_MSG_TIMED_OUT": errors.LogBusyError,
    "_ALL_BROKERS_DOWN": errors.LogBusyError,
    "NOT_ENOUGH_REPLICAS": errors.LogBusyError,
    "_AUTHENTICATION": errors.EventLogError,
    "SASL_AUTHENTICATION_FAILED": errors.EventLogError,
    "_SSL": errors.EventLogError,
    "TOPIC_AUTHORIZATION_FAILED": errors.EventLogError,
    "UNKNOWN_TOPIC_OR_PART": errors.TopicNotFoundError,
    "_UNKNOWN_TOPIC": errors.TopicNotFoundError,
    "_UNKNOWN_PARTITION": errors.PartitionNotFoundError,
    "TOPIC_ALREADY_EXISTS": errors.TopicExistsError,
    "TOPIC_EXCEPTION": errors.InvalidNameError,
    "MSG_SIZE_TOO_LARGE": errors.EventTooLargeError,
    "OFFSET_OUT_OF_RANGE": errors.OffsetOutOfRangeError,
    "_FENCED": errors.ProducerFencedError,
    "PRODUCER_FENCED": errors.ProducerFencedError,
    "POLICY_VIOLATION": errors.UnsupportedOperationError,
    "UNSUPPORTED_VERSION": errors.UnsupportedOperationError,
    "_DESTROY": errors.ClosedError,
    "_FAIL": errors.EventLogError,
}


def test_every_error_becomes_one_of_ours_in_one_line() -> None:
    """Whatever librdkafka knows."""
    assert len(CODES) > 150
    for name, code in CODES.items():
        raised = translate(
            KafkaError(code, "one\nand two"),
            "reading topic 'cars'",
            place="kafka://broker:9092",
            within=10.0,
        )
        assert isinstance(raised, errors.EventLogError), name
        assert "\n" not in str(raised)
        assert str(raised).startswith("reading topic 'cars': "), name
        assert repr(pickle.loads(pickle.dumps(raised))) == repr(raised)


def test_the_kinds_name_only_codes_that_there_are() -> None:
    """A slip in a name would go unnoticed otherwise."""
    from eventlog.kafka import failures

    named = " ".join(failures._CODES.values()).split()
    assert sorted(set(named)) == sorted(named)
    assert set(named) <= set(CODES)


@pytest.mark.parametrize("name", OURS)
def test_what_a_caller_can_act_on_has_a_class_of_its_own(name: str) -> None:
    assert type(translate(KafkaError(CODES[name]), "doing")) is OURS[name]
    assert type(translate(KafkaException(KafkaError(CODES[name])), "doing")) is OURS[name]


def test_an_answer_that_did_not_come_says_what_was_waited_for_and_how_long() -> None:
    error = translate(
        KafkaError(KafkaError._TIMED_OUT, "Timed out"),
        "appending to topic 'cars'",
        place="kafka://broker:9092",
        within=2.5,
    )
    assert str(error) == (
        "appending to topic 'cars': no answer from kafka://broker:9092 within 2.5 s (Timed out): "
        "try again"
    )


def test_a_refused_login_names_the_user_and_not_the_password() -> None:
    error = translate(
        KafkaError(KafkaError._AUTHENTICATION, "nope"), "opening", place="kafka://b", user="me"
    )
    assert "kafka://b refuses user 'me': check user name and password" in str(error)


def test_only_what_may_go_well_a_moment_later_is_tried_again() -> None:
    passing = {name for name, code in CODES.items() if is_transient(KafkaError(code))}
    assert {"NOT_LEADER_FOR_PARTITION", "_TRANSPORT", "COORDINATOR_LOAD_IN_PROGRESS"} <= passing
    assert not passing & {"_FENCED", "_AUTHENTICATION", "UNKNOWN_TOPIC_OR_PART", "_FATAL"}


def test_an_exception_without_an_error_inside_is_an_error_all_the_same() -> None:
    assert kind_of(KafkaException("strange")) is Kind.OTHER
    assert "strange" in str(translate(KafkaException("strange"), "doing"))


def refused(name: str, doing: str, reason: str = "no") -> str:
    error = KafkaError(CODES[name], reason)
    return str(translate(error, doing, place="kafka://b", user="me", topic="cars"))


@pytest.mark.parametrize(
    ("name", "doing", "right"),
    [
        ("TOPIC_AUTHORIZATION_FAILED", "appending to topic 'cars'", "Write on topic 'cars'"),
        ("TOPIC_AUTHORIZATION_FAILED", "reading partition 0", "Read on topic 'cars'"),
        ("TOPIC_AUTHORIZATION_FAILED", "setting topic 'cars'", "AlterConfigs on topic 'cars'"),
        ("TOPIC_AUTHORIZATION_FAILED", "doing this", ""),
        ("CLUSTER_AUTHORIZATION_FAILED", "making topic 'cars'", "Create on topic 'cars'"),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "beginning", "Write on transactional ids"),
        ("GROUP_AUTHORIZATION_FAILED", "committing", "Read on Kafka groups"),
        ("GROUP_AUTHORIZATION_FAILED", "showing it", "Read on the Kafka group of that name"),
    ],
)
def test_a_right_that_is_missing_is_named(name: str, doing: str, right: str) -> None:
    said = refused(name, doing)
    assert said.startswith(f"{doing}: no: kafka://b does not allow user 'me' that: have the right")
    assert said.partition("have the right granted")[2].removeprefix(": ").startswith(right)
    assert bool(right) is not said.endswith("granted")


def test_who_may_not_append_needs_no_right_to_the_cluster() -> None:
    """Though that is what Kafka says."""
    reason = "Failed to acquire idempotence PID from broker: Cluster authorization failed"
    said = refused("CLUSTER_AUTHORIZATION_FAILED", "appending to topic 'cars'", reason)
    assert "have the right granted: Write on topic 'cars'" in said


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("SASL PLAIN: invalid credentials", "check user name and password"),
        ("Unsupported SASL mechanism: supported: SCRAM-SHA-256", "check sasl.mechanism, and the"),
        ("Request not valid in current SASL state: ", "this port takes no login"),
    ],
)
def test_a_refused_login_says_what_to_check(reason: str, hint: str) -> None:
    assert f"refuses user 'me': {hint}" in refused("_AUTHENTICATION", "opening", reason)


def test_what_may_be_stored_is_to_be_looked_for_before_another_try() -> None:
    error = KafkaError(KafkaError._TIMED_OUT, "Timed out")
    said = str(translate(error, "appending", within=9.99471, maybe=True))
    assert said.startswith("appending, which may be stored all the same: no answer from")
    assert "within 10 s (Timed out): look whether it is there before trying again" in said


@pytest.mark.parametrize(("seconds", "said"), [(9.99471, "10"), (10 / 3, "3.3"), (1 / 3, "0.333")])
def test_a_copy_that_is_stamped_over_says_for_how_long_as_others_do(
    seconds: float, said: str
) -> None:
    inlet: Any = SimpleNamespace(_stamping=object())
    errand: Any = SimpleNamespace(
        doing="copying", deadline=SimpleNamespace(passed=True, seconds=seconds)
    )
    with pytest.raises(errors.LogBusyError, match=f"copying: within {said} s the brokers"):
        KafkaInlet._ask_again(inlet, errand)
