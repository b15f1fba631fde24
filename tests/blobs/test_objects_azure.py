"""What is particular about Azure: who signs a request to delete, and from when on that is good."""

from __future__ import annotations

import base64
import re
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from eventlog import PreconditionFailedError, StoreUnavailableError
from eventlog.blobs.objects import clouds
from eventlog.blobs.objects.failures import Failure
from tests.blobs.objects import (
    SECRET,
    answer,
    answering,
    assert_secret,
    impatient,
    open_objects,
    shared_access,
    store_url,
)
from tests.servers import Azurite
from tests.servers.web import Answer, Request


def test_a_shared_access_signature_is_all_it_takes(azurite: Azurite) -> None:
    """It cannot sign, but is a signature itself."""
    with open_objects(shared_access(azurite)) as store:
        etag = store.put("a/b", b"1", if_absent=True)
        changed = store.put("a/b", b"2", if_match=etag)
        assert store.list("a/") == [("a/b", changed)]
        with pytest.raises(PreconditionFailedError):
            store.delete("a/b", if_match=etag)
        store.delete("a/b", if_match=changed)
        store.put("a/b", b"3")
        store.delete("a/b")
        assert store.get("a/b") is None


@pytest.mark.parametrize("variable", ["AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN"])
def test_a_shared_access_signature_may_be_in_the_environment(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    url, _, key = shared_access(azurite).partition("&sas_key=")
    monkeypatch.setenv(variable, unquote(key))
    with open_objects(url) as store:
        store.put("a", b"1")
        store.delete("a")
        assert store.list("") == []


@pytest.mark.parametrize(
    "given",
    ["sp=rw&sig=a%2Bb%2F%3D", "?sp=rw&sig=a%2Bb%2F%3D", "sp=rw&sig=a+b/=", "&sp=rw&sig=a+b/="],
)
def test_a_shared_access_signature_is_taken_as_it_is_copied(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in ("sas_key", "sas_token", "azure_storage_sas_key"):
        assert clouds._shared_access_signature({option: given}) == "sp=rw&sig=a%2Bb%2F%3D"
    assert clouds._shared_access_signature({}) == ""


def test_a_shared_access_signature_may_be_to_read(azurite: Azurite) -> None:
    """Nothing of it is shown when it is not enough."""
    url = shared_access(azurite, "rl")
    with open_objects(url) as store:
        assert store.get("a") is None
        with pytest.raises(StoreUnavailableError, match=r"access denied \(403") as raised:
            store.put("a", b"1")
    code = parse_qs(unquote(parse_qs(urlsplit(url).query)["sas_key"][0]))["sig"][0]
    assert_secret(raised.value, code, "sig=")


class Late:
    """Azure, whose clock is behind: what was just signed it does not take the first `times`.

    Attributes:
        sent: the URLs of requests to delete.
    """

    def __init__(self, times: int) -> None:
        self.times = times
        self.sent: list[str] = []
        self._is_there = True

    def respond(self, request: Request) -> Answer:
        if request.method == "DELETE" and ".eventlog-probe" not in request.target:
            self.sent.append(request.target)
            if len(self.sent) <= self.times:
                return answer(403, "AuthenticationFailed")
        if request.headers.get("if-match", '"0"') != '"0"' or "if-none-match" in request.headers:
            return answer(412, "ConditionNotMet")
        if request.method != "GET":
            self._is_there = request.method == "PUT"
        elif not self._is_there:
            return answer(404, "BlobNotFound")
        modified = "Sun, 22 Nov 2026 14:04:04 GMT"
        return answer(200, headers={"ETag": '"0"', "Last-Modified": modified})


def test_what_was_signed_too_early_is_sent_again() -> None:
    """The same URL, which becomes valid; another would be too early again."""
    azure = Late(2)
    with answering(azure.respond) as port, open_objects(store_url("az", port)) as store:
        store.delete("a", if_match="0")
        assert len(azure.sent) == 3
        assert len(set(azure.sent)) == 1
        store.delete("a")
        assert isinstance(store, clouds.AzureBlobs)
        assert store._early == {}


def test_what_is_never_taken_is_not_sent_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures expire, and the next call has another. The clock may be the reason, or the key."""
    azure, signed = Late(1000), []
    sign = clouds.S3Blobs._sign

    def counted(self: clouds.S3Blobs, name: str) -> str | Failure:
        signed.append(name)
        return sign(self, name)

    monkeypatch.setattr(clouds.S3Blobs, "_sign", counted)
    with (
        answering(azure.respond) as port,
        impatient(store_url("az", port), 0.3) as store,
    ):
        for lasting, name in ((60.0, "a"), (0.0, "b")):
            monkeypatch.setattr(clouds, "_SENT_AGAIN_FOR", lasting)
            with pytest.raises(
                StoreUnavailableError, match="the clock of this machine r"
            ) as raised:
                store.delete(name, if_match="0")
            assert_secret(raised.value, "sig=")
    assert len(azure.sent) > 4
    assert signed.count("a") == 1
    assert signed.count("b") == sum("/b?" in target for target in azure.sent)


def test_what_was_signed_is_not_kept_for_longer_than_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many blobs there are."""
    monkeypatch.setattr(clouds, "_SENT_AGAIN_FOR", 0.0)
    azure = Late(1000)
    with answering(azure.respond) as port, impatient(store_url("az", port), 0.1) as store:
        for number in range(5):
            with pytest.raises(StoreUnavailableError):
                store.delete(f"{number}")
        assert isinstance(store, clouds.AzureBlobs)
        assert len(store._early) <= 1


def test_the_emulator_of_a_developer_may_be_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is where obstore looks for it, and has a key that everybody knows."""
    azure = Late(0)
    with answering(azure.respond) as port:
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{port}")
        with open_objects("az://bucket?use_emulator=true") as store:
            store.delete("a", if_match="0")
    assert azure.sent[0].startswith("/devstoreaccount1/bucket/a?")


def test_a_token_has_azure_give_a_key_to_sign_with() -> None:
    """So a request to delete is two. The key is for a person's eyes as little as the token."""
    key = base64.b64encode(b"given" * 6).decode()
    given = re.sub(
        r"\s+",
        "",
        f"""<UserDelegationKey><SignedOid>o</SignedOid><SignedTid>t</SignedTid>
        <SignedStart>2026-01-01T00:00:00Z</SignedStart>
        <SignedExpiry>2036-01-01T00:00:00Z</SignedExpiry><SignedService>b</SignedService>
        <SignedVersion>2023-11-03</SignedVersion><Value>{key}</Value></UserDelegationKey>""",
    )
    azure, asked = Late(0), []

    def respond(request: Request) -> Answer:
        asked.append(request.method)
        if "userdelegationkey" in request.target:
            return Answer(200, [], given.encode())
        return azure.respond(request)

    with answering(respond) as port:
        url = store_url("az", port).replace(f"account_key={SECRET}", f"token={SECRET}")
        with open_objects(url) as store:
            asked.clear()
            store.delete("a", if_match="0")
            assert asked in (["POST", "DELETE", "GET"], ["DELETE", "GET"])
    assert "skoid=o" in azure.sent[0]
