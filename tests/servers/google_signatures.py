"""How requests to Google Cloud Storage are signed: with a token, or in the URL.

https://cloud.google.com/storage/docs/authentication/canonical-requests tells of the second.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, quote

from tests.servers.google_objects import Failure
from tests.servers.web import Request

__all__ = ["Signatures", "new_key"]

_HOST: Final = "storage.googleapis.com"
"""What signatures cover, wherever the stand-in listens."""


def new_key() -> tuple[str, str]:
    """A private key and the public one, in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = serialization.Encoding.PEM
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


class Signatures:
    """Looks at signatures.

    Args:
        public_key: of the only account, in PEM.
    """

    def __init__(self, public_key: str) -> None:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        key = load_pem_public_key(public_key.encode())
        assert isinstance(key, RSAPublicKey)
        self._key = key
        self._tokens: set[str] = set()

    def check(self, request: Request) -> None:
        """Fails unless the account has signed the request."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind == "Bearer":
            self._check_token(token)
        elif "X-Goog-Signature=" in request.target:
            self._check_url(request)
        else:
            raise Failure(401, "AuthenticationRequired")

    def _check_token(self, token: str) -> None:
        if token not in self._tokens:
            text, _, signature = token.rpartition(".")
            if not self._has_signed(text, base64.urlsafe_b64decode(signature + "==")):
                raise Failure(401, "AuthenticationRequired")
            self._tokens.add(token)

    def _check_url(self, request: Request) -> None:
        path, _, text = request.target.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        signature = bytes.fromhex(query.pop("X-Goog-Signature"))
        signed = query["X-Goog-SignedHeaders"].split(";")
        ours = {name for name in request.headers if name.startswith("x-goog-")}
        if not ours <= set(signed):
            raise Failure(400, "MalformedSecurityHeader")
        when = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if datetime.now(UTC) > when + timedelta(seconds=int(query["X-Goog-Expires"])):
            raise Failure(400, "ExpiredToken")
        headers = {**request.headers, "host": _HOST}
        canonical = [
            request.method,
            path,
            "&".join(sorted(f"{_quoted(key)}={_quoted(value)}" for key, value in query.items())),
            *(f"{name}:{headers.get(name, '').strip()}" for name in signed),
            "",
            ";".join(signed),
            "UNSIGNED-PAYLOAD",
        ]
        digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
        scope = query["X-Goog-Credential"].partition("/")[2]
        text = "\n".join(["GOOG4-RSA-SHA256", query["X-Goog-Date"], scope, digest])
        if not self._has_signed(text, signature):
            raise Failure(403, "SignatureDoesNotMatch")

    def _has_signed(self, text: str, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            self._key.verify(signature, text.encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


def _quoted(text: str) -> str:
    return quote(text, safe="")
