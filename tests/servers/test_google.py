"""The stand-in for Google Cloud Storage is as strict as that."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.servers import Google

obstore = pytest.importorskip("obstore")


@pytest.fixture
def bucket(google: Google) -> Any:
    return open_bucket(google.store_url())


def open_bucket(url: str, headers: Mapping[str, str] | None = None) -> Any:
    from obstore.store import GCSStore

    parts = urlsplit(url)
    config: Any = dict(parse_qsl(parts.query))
    options: Any = {"allow_http": True, "default_headers": dict(headers or {})}
    return GCSStore(
        parts.netloc, config=config, client_options=options, retry_config={"max_retries": 0}
    )


def delete(url: str, headers: Mapping[str, str] | None = None) -> int:
    request = urllib.request.Request(url, method="DELETE", headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_write_goes_by_the_generation(bucket: Any) -> None:
    first = obstore.put(bucket, "a", b"1", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(bucket, "a", b"1", mode="create")
    second = obstore.put(bucket, "a", b"1", mode={"version": first["version"]})
    assert second["e_tag"] == first["e_tag"]
    assert int(second["version"]) > int(first["version"])
    for name, version in (("a", first["version"]), ("b", "1")):
        with pytest.raises(obstore.exceptions.PreconditionError):
            obstore.put(bucket, name, b"2", mode={"version": version})


def test_a_deletion_goes_by_the_generation(google: Google) -> None:
    url = google.store_url()
    version = obstore.put(open_bucket(url), "a", b"1")["version"]
    with pytest.raises(obstore.exceptions.PreconditionError):
        obstore.delete(open_bucket(url, {"x-goog-if-generation-match": "1"}), "a")
    obstore.delete(open_bucket(url, {"x-goog-if-generation-match": version}), "a")
    with pytest.raises(FileNotFoundError):
        obstore.get(open_bucket(url), "a")


def test_a_signed_url_is_good_for_what_was_signed(bucket: Any) -> None:
    obstore.put(bucket, "a", b"1")
    signed = obstore.sign(bucket, "DELETE", "a", timedelta(minutes=1))
    assert delete(signed, {"x-goog-if-generation-match": "1"}) == 400
    assert delete(signed + "&generation=1") == 403
    assert delete(signed.replace("/a?", "/b?")) == 403
    assert delete(signed.partition("?")[0]) == 401
    assert delete(obstore.sign(bucket, "GET", "a", timedelta(minutes=1))) == 403
    assert (delete(signed), delete(signed)) == (204, 404)


def test_another_key_signs_nothing(google: Google) -> None:
    url = google.store_url()
    account = json.loads(dict(parse_qsl(urlsplit(url).query))["service_account_key"])
    other = Google()
    try:
        theirs = json.loads(
            dict(parse_qsl(urlsplit(other.store_url()).query))["service_account_key"]
        )
    finally:
        other.close()
    assert theirs["private_key"] != account["private_key"]
    bucket = open_bucket(other.store_url().replace(str(other.port), str(google.port)))
    with pytest.raises(obstore.exceptions.UnauthenticatedError):
        obstore.put(bucket, "a", b"1")


def test_a_list_has_pages_and_begins_behind_a_name(bucket: Any) -> None:
    names = [f"m/{number:04}" for number in range(1001)] + ["n"]
    for name in names:
        obstore.put(bucket, name, b"", use_multipart=False)
    assert [found["path"] for found in obstore.list(bucket).collect()] == names
    behind = obstore.list(bucket, "m", offset="m/0999").collect()
    assert [found["path"] for found in behind] == ["m/1000"]
    assert obstore.list_with_delimiter(bucket)["common_prefixes"] == ["m"]
