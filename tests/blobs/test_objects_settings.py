"""URLs and options of object stores; no error shows what they say."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import eventlog.blobs
from eventlog import InvalidNameError
from eventlog.blobs.objects import settings as module
from eventlog.blobs.objects.settings import Settings, read_settings
from tests.blobs.objects import SECRET, answer, answering, assert_secret


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what a test puts there."""
    for cloud in module.CLOUDS.values():
        for variable in cloud.variables:
            monkeypatch.delenv(variable, raising=False)


def _client(settings: Settings) -> dict[str, Any]:
    return dict(settings.connect().client_options or {})


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("//bucket", "bucket", ""),
        ("//bucket/", "bucket", ""),
        ("//b.u-c_k3t/a", "b.u-c_k3t", "a"),
        ("//bucket/a/b/", "bucket", "a/b"),
    ],
)
def test_a_url_names_a_bucket_and_a_prefix(url: str, bucket: str, prefix: str) -> None:
    for scheme in ("s3", "gs"):
        settings = read_settings(scheme, url, {})
        assert (settings.bucket, settings.prefix) == (bucket, prefix)
        assert settings.place == f"{scheme}:{url.removesuffix('/')}"


@pytest.mark.parametrize(
    "url",
    [
        *("bucket", "/bucket", "//", "///a", "//?region=x", "//.b/a", "//b c", "//b%41", "//b#a"),
        *(f"//key:{SECRET}@bucket", f"//{SECRET}", "//b:1/a", f"//b/a?#{SECRET}"),
    ],
)
def test_what_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"is s3://BUCKET/PREFIX\?OPTION=VALUE") as raised:
        eventlog.blobs.open(f"s3:{url}")
    assert_secret(raised.value)


@pytest.mark.parametrize("prefix", ["a//b", "/a", ".a", "a b", "a/../b", "a%41", "x" * 256, "//"])
def test_a_prefix_is_one_that_a_blob_could_have(prefix: str) -> None:
    with pytest.raises(InvalidNameError, match="cannot name a blob"):
        eventlog.blobs.open(f"s3://bucket/{prefix}")


def test_options_are_those_of_obstore_in_any_spelling() -> None:
    """Those of a call come before those of the URL."""
    settings = read_settings(
        "s3",
        "//b?Region=here&AWS_ACCESS_KEY_ID=a%2Bb+c&secret_access_key=s",
        {"region": "there", "virtual_hosted_style_request": True},
    )
    assert settings.connect().config == {
        "bucket": "b",
        "region": "there",
        "access_key_id": "a+b+c",
        "secret_access_key": "s",
        "virtual_hosted_style_request": "true",
    }


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        (f"//b?sekret={SECRET}", {}, "there is no option 'sekret'"),
        ("//b", {"sekret": SECRET}, "there is no option 'sekret'"),
        (f"//b?{SECRET}=1", {}, "the name of an option has"),
        (f"//b?region=x&{SECRET}", {}, "the name of an option has"),
        ("//b?region", {}, "the option 'region' in the URL has no value"),
        (f"//b?region=x&REGION={SECRET}", {}, "the option 'region' is twice"),
        (f"//b?region={SECRET}", {"aws_region": SECRET}, "cannot be opened with these options"),
        (f"//b?s3_express={SECRET}", {}, "cannot be opened with these options"),
        ("//b", {"region": [SECRET]}, "cannot be opened with these options"),
        ("//b", {"root_certificate": SECRET}, "cannot be opened with these options"),
        (f"//b?endpoint={SECRET}", {}, "is no http: or https: URL"),
        (f"//b?aws_endpoint_url_s3=http:/{SECRET}", {}, "is no http: or https: URL"),
        (f"//b?timeout={SECRET}", {}, "timeout is a number of seconds"),
        ("//b?timeout=0", {}, "timeout is 0.1 to 600 seconds"),
    ],
)
def test_a_wrong_option_is_refused_without_its_value(
    url: str, options: dict[str, object], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        eventlog.blobs.open(f"s3:{url}", **options)
    assert_secret(raised.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"az://b?account_name=a&account_key={SECRET}x", "Invalid Access Key"),
        (f"gs://b?service_account_key=%22{SECRET}%22", "Unable to decode service account file"),
        (f"gs://b?service_account=/no/{SECRET}%3A//file", "service account"),
    ],
)
def test_credentials_that_cannot_be_are_refused_without_them(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        eventlog.blobs.open(url)
    assert_secret(raised.value)


def test_a_timeout_is_of_a_call_and_a_request_has_half_of_it() -> None:
    """Obstore repeats nothing."""
    settings = read_settings("s3", "//b?timeout=4", {})
    assert settings.timeout == 4
    assert _client(settings)["timeout"] == "2s"
    assert _client(settings)["connect_timeout"] == "2s"
    assert (settings.connect().retry_config or {})["max_retries"] == 0
    with pytest.raises(TypeError, match="timeout is a number"):
        read_settings("s3", "//b", {"timeout": True})


def test_an_endpoint_without_encryption_is_taken_as_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it stands."""
    assert "allow_http" not in _client(read_settings("s3", "//b", {}))
    assert "allow_http" not in _client(read_settings("s3", "//b?endpoint=https://x", {}))
    for url in ("//b?endpoint=http://x", "//b?aws_endpoint_url_s3=http://x"):
        assert _client(read_settings("s3", url, {}))["allow_http"] == "true"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://x")
    assert _client(read_settings("s3", "//b", {}))["allow_http"] == "true"
    assert "allow_http" not in _client(read_settings("s3", "//b?endpoint=https://x", {}))
    monkeypatch.setenv("AWS_ENDPOINT_URL", SECRET)
    with pytest.raises(ValueError, match="is no http: or https: URL"):
        read_settings("s3", "//b", {})


def test_the_environment_has_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """As obstore reads it."""
    seen: list[str] = []

    def respond(request: Any) -> Any:
        seen.append(request.headers.get("authorization", ""))
        return answer(403, "AccessDenied")

    with answering(respond) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with pytest.raises(eventlog.StoreUnavailableError) as raised:
            eventlog.blobs.open("s3://bucket")
    assert "of-the-environment" in seen[0]
    assert_secret(raised.value)


def test_credentials_may_come_from_a_function() -> None:
    """boto3 finds more of them than obstore does."""
    seen: list[str] = []

    def respond(request: Any) -> Any:
        seen.append(request.headers.get("authorization", ""))
        return answer(403, "AccessDenied")

    def provide() -> dict[str, object]:
        return {"access_key_id": "provided", "secret_access_key": SECRET, "expires_at": None}

    with answering(respond) as port, pytest.raises(eventlog.StoreUnavailableError):
        eventlog.blobs.open(
            f"s3://bucket?endpoint=http://127.0.0.1:{port}", credential_provider=provide
        )
    assert "provided" in seen[0]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r's3: stores need obstore: .*"embedded-eventlog\[obj'):
        eventlog.blobs.open("s3://bucket")
