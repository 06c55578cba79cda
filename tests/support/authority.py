"""A certificate authority with a certificate for 127.0.0.1."""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """The certificates, the key and the tokens that deploy/overlays/auth-tls.yaml needs, in a new folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.ca, self.certificate, self.key, self.tokens = (
            folder / name for name in ("ca.pem", "server.crt", "server.key", "tokens")
        )
        self.token = secrets.token_urlsafe(24)
        self.tokens.write_text(f"{secrets.token_urlsafe(24)} somebody else's\n{self.token} ours\n")
        signer, key = (
            ec.generate_private_key(ec.SECP256R1()),
            ec.generate_private_key(ec.SECP256R1()),
        )
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
        now = dt.datetime.now(dt.UTC)

        def certificate(
            subject: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
        ) -> bytes:
            made = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(name)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - dt.timedelta(hours=1))
                .not_valid_after(now + dt.timedelta(days=1))
                .add_extension(extension, critical=True)
            )
            if isinstance(extension, x509.BasicConstraints):
                usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
                made = made.add_extension(usage, critical=True).add_extension(
                    x509.SubjectKeyIdentifier.from_public_key(public), critical=False
                )
            else:
                made = made.add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                    critical=False,
                )
            return made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

        self.ca.write_bytes(
            certificate(name, signer.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        )
        host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        self.certificate.write_bytes(
            certificate(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "collector")]),
                key.public_key(),
                host,
            )
        )
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def server(self) -> dict[str, str]:
        return {
            "OTLP_TOKENS_FILE": str(self.tokens),
            "OTLP_TLS_CERT": str(self.certificate),
            "OTLP_TLS_KEY": str(self.key),
        }

    def client(self, token: str | None = None) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(self.ca),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{token or self.token}",
        }
