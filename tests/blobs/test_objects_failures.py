"""A request that fails is repeated, or the caller is told why; never a secret."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from eventlog import (
    EventLogError,
    InvalidNameError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from eventlog.blobs.objects.failures import Failure, Kind, attempt
from eventlog.blobs.objects.store import ObjectBlobs
from tests.blobs.objects import (
    SECRET,
    answer,
    answering,
    assert_secret,
    impatient,
    open_objects,
    store_url,
)
from tests.servers.listening import Listener
from tests.servers.web import Answer, Request, serve

_ANSWERS = [
    # cloud, status, code; what a get raises, and says
    ("s3", 500, "InternalError", StoreUnavailableError, "within 0.1 s: it answered 500 Internal"),
    ("s3", 503, "SlowDown", StoreUnavailableError, "within 0.1 s: it answered 503 SlowDown"),
    ("s3", 400, "RequestTimeout", StoreUnavailableError, "within 0.1 s: it answered 400 RequestT"),
    ("az", 503, "ServerBusy", StoreUnavailableError, "within 0.1 s: it answered 503 ServerBusy"),
    ("gs", 429, "SlowDown", StoreUnavailableError, "within 0.1 s: it answered 429 SlowDown"),
    ("gs", 408, "", StoreUnavailableError, "within 0.1 s: it answered 408"),
    (
        "s3",
        403,
        "AccessDenied",
        StoreUnavailableError,
        "cannot get a in .*: access denied (403 Acc",
    ),
    (
        "s3",
        403,
        "RequestTimeTooSkewed",
        StoreUnavailableError,
        "the clock of this machine is wrong",
    ),
    ("s3", 400, "ExpiredToken", StoreUnavailableError, "the credentials have expired (400 Exp"),
    ("az", 403, "AuthenticationFailed", StoreUnavailableError, "denied (403 AuthenticationFailed)"),
    ("gs", 401, "AuthenticationRequired", StoreUnavailableError, "denied (401 Authentication"),
    ("s3", 400, "AuthorizationHeaderMalformed", StoreUnavailableError, "the region is wrong (400"),
    ("s3", 301, "PermanentRedirect", StoreUnavailableError, "the region or the endpoint is wrong"),
    ("s3", 404, "NoSuchBucket", StoreUnavailableError, "there is no such bucket (404 NoSuch"),
    ("az", 404, "ContainerNotFound", StoreUnavailableError, "there is no such container (404"),
    (
        "az",
        400,
        "InvalidUri",
        InvalidNameError,
        "cannot get a in .*, which has no such names: it answered 400 Inv",
    ),
    ("s3", 400, "KeyTooLongError", InvalidNameError, "which has no such names"),
    ("s3", 400, "InvalidRequest", StoreUnavailableError, "used: it answered 400 InvalidRequest"),
    ("s3", 501, "NotImplemented", StoreUnavailableError, "within 0.1 s: it answered 501 NotImpl"),
    ("s3", 501, "", StoreUnavailableError, "within 0.1 s: it answered 501"),
    ("s3", 405, "", StoreUnavailableError, "within 0.1 s: it answered 405"),
    ("s3", 404, "", StoreUnavailableError, "within 0.1 s: it answered 404"),
    ("az", 404, "", StoreUnavailableError, "within 0.1 s: it answered 404"),
    ("gs", 404, "", StoreUnavailableError, "within 0.1 s: it answered 404"),
]


def _failing(failure: Answer | None) -> Callable[[Request], Answer]:
    """A server on which a store can be opened, and then nothing be done."""
    etags = {"ETag": '"0"', "x-goog-generation": "10"}
    deleted: set[str] = set()

    def respond(request: Request) -> Answer:
        path = request.target.partition("?")[0]
        if ".eventlog-probe-" not in unquote(request.target) and failure is not None:
            return failure
        conditions = {"if-match", "if-none-match", "x-goog-if-generation-match"} & {
            *request.headers
        }
        if conditions and request.headers[conditions.pop()] not in ('"0"', "10"):
            return answer(412)
        if request.method in ("DELETE", "PUT"):
            (deleted.add if request.method == "DELETE" else deleted.discard)(path)
        elif path in deleted:
            return answer(404, "NoSuchKey")
        return answer(200, headers=etags)

    return respond


@pytest.mark.parametrize(("cloud", "status", "code", "kind", "text"), _ANSWERS)
def test_an_answer_says_what_can_be_done(
    cloud: str, status: int, code: str, kind: type[EventLogError], text: str
) -> None:
    """In our own words, with the status and the code, and nothing else of it."""
    with (
        answering(_failing(answer(status, code))) as port,
        impatient(store_url(cloud, port), 0.1) as store,
        pytest.raises(kind) as raised,
    ):
        store.get("a")
    message = str(raised.value).replace(f"{cloud}://bucket/p", "...")
    assert all(part in message for part in text.split(".*")), message
    assert_secret(raised.value)


@pytest.mark.parametrize("cloud", ["s3", "az", "gs"])
@pytest.mark.parametrize("status", [403, 503])
def test_no_call_shows_a_secret(cloud: str, status: int) -> None:
    """Signatures of URLs are some too."""
    with (
        answering(_failing(answer(status, "SomethingElse"))) as port,
        impatient(store_url(cloud, port), 0.1) as store,
    ):
        calls: list[Callable[[], object]] = [
            lambda: store.get("a"),
            lambda: store.put("a", b"1"),
            lambda: store.put("a", b"1", if_match="0"),
            lambda: store.list("a"),
            lambda: store.delete("a"),
            lambda: store.delete("a", if_match="0"),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailableError) as raised:
                call()
            assert_secret(raised.value, "sig=", "Signature=")
        assert SECRET not in repr(store)


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [
        *((409, "OperationAborted", "PUT GET PUT"), (500, "InternalError", "PUT GET PUT")),
        *((503, "ServiceUnavailable", "PUT GET PUT"), (400, "RequestTimeout", "PUT GET PUT")),
        *((409, "ConditionalRequestConflict", "PUT PUT"), (429, "", "PUT PUT")),
        *((503, "SlowDown", "PUT PUT"), (503, "ServerBusy", "PUT PUT")),
    ],
)
def test_a_put_is_repeated_until_there_is_an_answer(status: int, code: str, asked: str) -> None:
    """First it is looked for, unless the server says that it has not even tried."""
    methods: list[str] = []

    def respond(request: Request) -> Answer:
        if not request.target.endswith("/a"):
            return opened(request)
        methods.append(request.method)
        if len(methods) == 1:
            return answer(status, code)
        put = request.method == "PUT"
        return answer(200, headers={"ETag": '"1"'}) if put else answer(404, "NoSuchKey")

    opened = _failing(None)
    with answering(respond) as port, open_objects(store_url("s3", port)) as store:
        assert store.put("a", b"1", if_absent=True) == "1"
    assert " ".join(methods) == asked


@pytest.mark.parametrize(
    ("cloud", "status", "code"),
    [
        *(("s3", 412, "PreconditionFailed"), ("s3", 404, "NoSuchKey"), ("s3", 412, "")),
        *(("az", 412, "ConditionNotMet"), ("az", 404, "BlobNotFound")),
    ],
)
def test_a_condition_that_fails_is_told(cloud: str, status: int, code: str) -> None:
    """S3 says of what is not there that it is not, rather than that it does not match."""
    with (
        answering(_failing(answer(status, code))) as port,
        open_objects(store_url(cloud, port)) as store,
    ):
        with pytest.raises(PreconditionFailedError):
            store.put("a", b"1", if_match="1")
        with pytest.raises(PreconditionFailedError):
            store.delete("a", if_match="1")


def test_what_is_there_already_is_told() -> None:
    """Azure says 409, as of any conflict."""
    with (
        answering(_failing(answer(409, "BlobAlreadyExists"))) as port,
        open_objects(store_url("az", port)) as store,
        pytest.raises(PreconditionFailedError),
    ):
        store.put("a", b"1", if_absent=True)


def test_a_lease_of_azure_is_no_condition_of_ours() -> None:
    """Who takes one on a blob stops the hosts; they must not take it for a lost race."""
    with (
        answering(_failing(answer(412, "LeaseIdMissing"))) as port,
        open_objects(store_url("az", port)) as store,
        pytest.raises(StoreUnavailableError, match="the blob is leased"),
    ):
        store.put("a", b"1", if_match="1")


# Without an answer


def _open_at(endpoint: str, *, timeout: float = 6.0, **options: object) -> ObjectBlobs:
    url = f"s3://bucket/p?endpoint={endpoint}&access_key_id=A&secret_access_key={SECRET}"
    return open_objects(url, timeout=timeout, **options)


def _refusal(endpoint: str, **options: Any) -> str:
    with pytest.raises(StoreUnavailableError) as raised:
        _open_at(endpoint, **options)
    assert_secret(raised.value)
    return str(raised.value)


def test_a_name_that_nobody_knows_may_be_known_soon() -> None:
    """One that needs no asking: it has too long a part."""
    assert "within 0.2 s: its name cannot be resolved" in _refusal(
        f"http://{'x' * 64}.invalid", timeout=0.2
    )


def test_a_server_that_breaks_off_is_asked_again() -> None:
    for beginning in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nETag: 1\r\nContent-Le"):
        listener = Listener(lambda connection: connection.sendall(beginning))  # noqa: B023
        assert "within 0.2 s: " in _refusal(f"http://127.0.0.1:{listener.port}", timeout=0.2)
        listener.stop()


def test_half_an_answer_is_none() -> None:
    half = Answer(200, [("ETag", '"1"')], b"1", length=9)
    with (
        answering(_failing(half)) as port,
        impatient(store_url("s3", port), 0.2) as store,
        pytest.raises(StoreUnavailableError, match="get a within"),
    ):
        store.get("a")


def test_what_is_no_object_store_is_told() -> None:
    page = Answer(200, [("Content-Type", "text/html")], b"<html>welcome")
    with (
        answering(lambda _: page) as port,
        pytest.raises(UnsupportedOperationError, match="it gives no etags"),
    ):
        _open_at(f"http://127.0.0.1:{port}")
    with answering(_failing(page)) as port, impatient(store_url("s3", port), 0.1) as store:
        with pytest.raises(StoreUnavailableError, match="is none of an object store"):
            store.list("")
        with pytest.raises(StoreUnavailableError, match=r"within 0\.1 s: it gives no etags"):
            store.get("a")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, by itself; with its key."""
    pytest.importorskip("cryptography", reason="it makes certificates: pip install cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        made.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def test_a_certificate_must_be_one_that_is_trusted(certificate: Path) -> None:
    """Also for the requests that delete, which are sent in another way."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    respond = _failing(None)

    def encrypted(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as channel:
            serve(channel, respond)

    listener = Listener(encrypted)
    endpoint = f"https://127.0.0.1:{listener.port}"
    assert "its certificate is not to be trusted" in _refusal(endpoint)
    pem = certificate.read_text().partition("-----BEGIN PRIVATE KEY")[0]
    with _open_at(endpoint, root_certificate=pem) as store:
        store.delete("a", if_match="0")
    listener.stop()


# Credentials


def test_credentials_that_cannot_be_had_are_told_from_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None are given, and the machine is asked, which has none either."""
    with answering(lambda _: answer(404)) as port:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(StoreUnavailableError) as raised:
            open_objects("s3://bucket/p?region=us-east-1")
    assert "no credentials were given" in str(raised.value)
    assert "it answered 404" in str(raised.value)


def test_no_error_is_left_behind() -> None:
    """Not even as the context of another."""

    def fail() -> None:
        raise ValueError(SECRET)

    failure = attempt(fail)
    assert failure == Failure(Kind.FINAL, "obstore could not do it (and does not say why)")


def test_options_that_take_conditions_away_are_refused() -> None:
    with (
        answering(_failing(None)) as port,
        pytest.raises(UnsupportedOperationError, match="cannot be a store: not with these options"),
    ):
        open_objects(store_url("s3", port), conditional_put="disabled")
