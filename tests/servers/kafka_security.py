"""Who a broker for tests lets in, and how it is known to be that broker.

`USER` may do everything, as may whoever comes without a name, where that is possible; `GUEST` may
come in and do nothing.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["GUEST", "USER", "Security"]

USER: Final = "eventlog"
GUEST: Final = "guest"
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"
_AUTHORIZER: Final = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


class Security:
    """Passwords and a certificate, new ones for each broker.

    Args:
        directory: where the files are written.

    Attributes:
        passwords: by user.
        certificate: the broker's, of which it is the authority too.
    """

    def __init__(self, directory: Path) -> None:
        self.passwords = {name: f"p@ss/{secrets.token_hex(8)}:%?&#" for name in (USER, GUEST)}
        self.certificate = directory / "certificate.pem"
        self._identity = directory / "identity.pem"
        key, certificate = _make_certificate()
        self.certificate.write_bytes(certificate)
        self._identity.write_bytes(key + certificate)

    def settings(self) -> dict[str, object]:
        """Of the broker."""
        users = "".join(f' user_{name}="{word}"' for name, word in self.passwords.items())
        modules = {"plain": f"{_PLAIN} required{users};", "scram-sha-256": f"{_SCRAM} required;"}
        return {
            "authorizer.class.name": _AUTHORIZER,
            "super.users": f"User:ANONYMOUS;User:{USER}",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._identity,
            **{
                f"listener.name.{listener}.{mechanism}.sasl.jaas.config": module
                for listener in ("sasl_plaintext", "sasl_ssl")
                for mechanism, module in modules.items()
            },
        }

    def scram(self) -> list[str]:
        """How the storage is told of the users, when it is formatted."""
        return [
            f"--add-scram=SCRAM-SHA-256=[name={name},password={word}]"
            for name, word in self.passwords.items()
        ]

    def options(self, listener: str, user: str) -> dict[str, str]:
        """What a client must be told, in librdkafka's words."""
        options = {"security.protocol": listener}
        if listener.startswith("SASL"):
            options |= {"sasl.mechanism": "PLAIN"}
            options |= {"sasl.username": user, "sasl.password": self.passwords[user]}
        if listener.endswith("SSL"):
            options |= {"ssl.ca.location": str(self.certificate)}
        return options


def _make_certificate() -> tuple[bytes, bytes]:
    """A key, and a certificate of 127.0.0.1 and localhost that it has signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a broker for tests")])
    now = dt.datetime.now(dt.UTC)
    places = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(places), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )
