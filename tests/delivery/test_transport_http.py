"""OTLP/HTTP against a real socket: the outcome of every answer."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sleeping import slept_s

from spanbus._delivery.endpoints import Endpoint
from spanbus._delivery.outcomes import Delivered, Outcome, Refused, Retry, TooLarge
from spanbus._delivery.transport import HttpTransport
from spanbus.errors import SettingsError
from spanbus.testing import Answer, Receiver, black_hole


def body(count: int = 1) -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number in range(count):
        scope.spans.add(name=f"span {number}", trace_id=bytes(15) + b"\1", span_id=bytes(7) + b"\1")
    return request.SerializeToString()


@contextmanager
def transport_to(
    endpoint: Endpoint | str, env: dict[str, str] | None = None
) -> Generator[HttpTransport]:
    transport = HttpTransport(
        endpoint if isinstance(endpoint, Endpoint) else Endpoint(f"{endpoint}/v1/traces"), env or {}
    )
    try:
        yield transport
    finally:
        transport.close()


def send_once(answer: Answer) -> Outcome:
    with Receiver() as receiver, transport_to(receiver.url) as transport:
        receiver.answer(answer)
        return transport.send(body(), 5.0)


def test_bytes_arrive_unchanged_on_one_connection() -> None:
    with Receiver() as receiver, transport_to(receiver.url) as transport:
        for _ in range(3):
            assert transport.send(body(2), 5.0) == Delivered()
        assert [request.body for request in receiver.requests] == [body(2)] * 3
        assert receiver.connections_seen == 1
        headers = receiver.requests[0].headers
        assert headers["content-type"] == "application/x-protobuf"
        assert headers["user-agent"].startswith("spanbus/")


@pytest.mark.parametrize(
    ("compression", "smaller"), [("gzip", True), ("deflate", True), ("none", False)]
)
def test_compression(compression: str, smaller: bool) -> None:
    with Receiver() as receiver:
        endpoint = Endpoint(f"{receiver.url}/v1/traces")
        if compression == "gzip":
            endpoint = endpoint._replace(compression="gzip")
        elif compression == "deflate":
            endpoint = endpoint._replace(compression="deflate")
        with transport_to(endpoint) as transport:
            assert transport.send(body(200), 5.0) == Delivered()
        (request,) = receiver.requests
        assert request.body == body(200)
        assert (len(request.sent) < len(request.body) / 4) is smaller


def test_headers_are_sent() -> None:
    with (
        Receiver() as receiver,
        transport_to(
            Endpoint(receiver.url, headers=(("x-tenant", "a b"), ("user-agent", "mine")))
        ) as transport,
    ):
        transport.send(body(), 5.0)
        assert receiver.requests[0].headers["x-tenant"] == "a b"
        assert receiver.requests[0].headers["user-agent"] == "mine"


def test_partial_success_says_how_many_were_rejected() -> None:
    assert send_once(Answer(rejected=7, message="too old")) == Delivered(7, "too old")


def test_a_warning_rejects_nothing() -> None:
    assert send_once(Answer(message="use gzip")) == Delivered(0, "use gzip")


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b"ok", "text/plain", Delivered()),
        (b"\xff\xff\xff", "application/x-protobuf", Delivered()),
        (b"{}", "application/json", Delivered()),
        (
            b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"no"}}',
            "application/json",
            Delivered(3, "no"),
        ),
        (b"[" * 5000, "application/json", Delivered()),
    ],
)
def test_a_good_answer_with_any_body_is_a_delivery(
    content: bytes, kind: str, expected: Delivered
) -> None:
    assert send_once(Answer(body=content, headers={"Content-Type": kind})) == expected


def test_an_html_page_is_a_retry_whatever_its_status() -> None:
    outcome = send_once(
        Answer(
            body=b"<!doctype html><title>Log in</title>",
            headers={"Content-Type": "text/html; charset=utf-8"},
        )
    )
    assert isinstance(outcome, Retry)
    assert "no OTLP receiver" in outcome.reason
    assert outcome.attempts is None


def test_an_empty_answer_is_a_delivery_whatever_its_type() -> None:
    assert send_once(Answer(body=b"", headers={"Content-Type": "text/html"})) == Delivered()


@pytest.mark.parametrize("status", [401, 403, 408, 429, 502, 503, 504])
def test_busy_is_retried_without_limit(status: int) -> None:
    assert send_once(Answer(status, "busy")) == Retry(f"HTTP {status}: busy", heard=True)


def test_other_server_errors_are_retried_a_few_times() -> None:
    assert send_once(Answer(500, "bug")) == Retry("HTTP 500: bug", None, 5, body(), heard=True)


@pytest.mark.parametrize("status", [400, 404, 415])
def test_a_refusal_keeps_reason_and_body(status: int) -> None:
    assert send_once(Answer(status, "no")) == Refused(f"HTTP {status}: no", body())


def test_too_large() -> None:
    assert send_once(Answer(largest_bytes=10)) == TooLarge("HTTP 413: too large", body())


def test_retry_after_in_seconds() -> None:
    assert send_once(Answer(429, retry_after_s=7)) == Retry("HTTP 429", 7.0, heard=True)


def test_retry_after_as_a_date() -> None:
    outcome = send_once(
        Answer(
            503,
            retry_after_s=format_datetime(
                dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), usegmt=True
            ),
        )
    )
    assert isinstance(outcome, Retry)
    assert outcome.after_s is not None
    assert 3_540 < outcome.after_s <= 3_600


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "1e999"])
def test_an_invalid_retry_after_is_ignored(value: str) -> None:
    assert send_once(Answer(503, retry_after_s=value)) == Retry("HTTP 503", heard=True)


def test_a_redirect_is_not_followed() -> None:
    with Receiver() as elsewhere:
        outcome = send_once(
            Answer(307, headers={"Location": f"{elsewhere.url}/v1/traces?key=secret"})
        )
        assert isinstance(outcome, Refused)
        assert "not followed" in outcome.reason
        assert "secret" not in outcome.reason
        assert elsewhere.requests == []


def test_a_closed_port_is_a_retry() -> None:
    with Receiver(listening=False) as receiver, transport_to(receiver.url) as transport:
        assert transport.send(body(), 5.0) == Retry("Connection refused")


def test_an_unknown_host_is_a_retry() -> None:
    with transport_to("http://spanbus.invalid:4318") as transport:
        outcome = transport.send(body(), 5.0)
        assert isinstance(outcome, Retry)
        assert "object at" not in outcome.reason


def test_a_reset_is_a_retry() -> None:
    outcome = send_once(Answer.reset())
    assert isinstance(outcome, Retry)


def test_half_an_answer_is_a_retry() -> None:
    assert isinstance(send_once(Answer(rejected=1, message="x" * 5000, how="half")), Retry)


def test_without_an_answer_the_timeout_is_kept() -> None:
    with Receiver() as receiver, transport_to(receiver.url) as transport:
        receiver.answer(Answer.hang())
        start = slept_s()
        assert transport.send(body(), 0.3) == Retry("no answer in time")
        assert slept_s() - start < 1.5


def test_at_a_black_hole_the_timeout_is_kept() -> None:
    with black_hole() as url, transport_to(url) as transport:
        start = slept_s()
        assert transport.send(body(), 0.3) == Retry("no answer in time")
        assert slept_s() - start < 1.5


def test_an_endless_answer_is_cut() -> None:
    with Receiver() as receiver, transport_to(receiver.url) as transport:
        receiver.answer_next(
            Answer(400, body=b"x" * 1_000_000, headers={"Content-Type": "text/plain"})
        )
        outcome = transport.send(body(), 5.0)
        assert isinstance(outcome, Refused)
        assert len(outcome.reason) < 400
        assert transport.send(body(), 5.0) == Delivered()


def test_interrupt_ends_a_hanging_request() -> None:
    with Receiver() as receiver, transport_to(receiver.url) as transport:
        receiver.answer(Answer.hang())
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.append(transport.send(body(), 30.0)))
        thread.start()
        assert receiver.wait_for(requests=1)
        transport.interrupt()
        thread.join(5)
        assert not thread.is_alive()
        assert isinstance(outcomes[0], Retry)


def test_a_restarted_collector_is_reached_again() -> None:
    with Receiver() as receiver, transport_to(receiver.url) as transport:
        assert transport.send(body(), 5.0) == Delivered()
        receiver.down()
        assert isinstance(transport.send(body(), 5.0), Retry)
        receiver.up()
        assert transport.send(body(), 5.0) == Delivered()


# --- proxies ----------------------------------------------------------------------------------------------------------


def test_a_proxy_gets_the_whole_url() -> None:
    with (
        Receiver() as proxy,
        transport_to(
            "http://collector.invalid:4318", {"HTTP_PROXY": proxy.url.replace("//", "//me:pw@")}
        ) as transport,
    ):
        assert transport.send(body(), 5.0) == Delivered()
        assert proxy.requests[0].path == "http://collector.invalid:4318/v1/traces"
        assert proxy.requests[0].headers["proxy-authorization"] == "Basic bWU6cHc="


@pytest.mark.parametrize("no_proxy", ["*", "127.0.0.1", "10.0.0.0/8, 127.0.0.0/8"])
def test_no_proxy_goes_directly(no_proxy: str) -> None:
    with (
        Receiver() as receiver,
        transport_to(
            receiver.url, {"http_proxy": "http://proxy.invalid:1", "NO_PROXY": no_proxy}
        ) as transport,
    ):
        assert transport.send(body(), 5.0) == Delivered()


# --- TLS --------------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority with one certificate for the loopback address, in PEM files."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca = directory / "ca.pem"
        authority = self._certificate(subject, subject, key, key, ca=True)
        self.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        leaf_key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._certificate(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]),
            subject,
            leaf_key,
            key,
            ca=False,
        )
        self.certificate, self.key = directory / "leaf.pem", directory / "leaf.key"
        self.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            leaf_key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    @staticmethod
    def _certificate(
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
        *,
        ca: bool,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=ca,
                    crl_sign=ca,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .sign(signer, hashes.SHA256())
        )

    def server(self, *, client_ca: Path | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "spanbus test authority")


def test_a_configured_certificate_authority_is_trusted(authority: Authority) -> None:
    with (
        Receiver(tls=authority.server()) as receiver,
        transport_to(Endpoint(f"{receiver.url}/v1/traces", ca=authority.ca)) as transport,
    ):
        assert transport.send(body(), 5.0) == Delivered()


def test_an_unknown_certificate_authority_is_not_trusted(authority: Authority) -> None:
    with Receiver(tls=authority.server()) as receiver, transport_to(receiver.url) as transport:
        outcome = transport.send(body(), 5.0)
        assert isinstance(outcome, Retry)
        assert "certificate is not trusted" in outcome.reason
        assert receiver.requests == []


def test_a_client_certificate_is_sent(authority: Authority, tmp_path: Path) -> None:
    client = Authority(tmp_path / "clients", "clients")
    with Receiver(tls=authority.server(client_ca=client.ca)) as receiver:
        endpoint = Endpoint(f"{receiver.url}/v1/traces", ca=authority.ca)
        with transport_to(endpoint) as transport:
            assert isinstance(transport.send(body(), 5.0), Retry)
        with transport_to(
            endpoint._replace(client_certificate=client.certificate, client_key=client.key)
        ) as transport:
            assert transport.send(body(), 5.0) == Delivered()


def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    with (
        transport_to(
            Endpoint("https://127.0.0.1:1/v1/traces", ca=tmp_path / "none.pem")
        ) as transport,
        pytest.raises(SettingsError, match=r"none\.pem"),
    ):
        transport.send(body(), 1.0)


def test_a_client_certificate_without_its_key_is_named(authority: Authority) -> None:
    endpoint = Endpoint(
        "https://127.0.0.1:1/v1/traces", ca=authority.ca, client_certificate=authority.certificate
    )
    with (
        transport_to(endpoint) as transport,
        pytest.raises(SettingsError, match="CLIENT_CERTIFICATE"),
    ):
        transport.send(body(), 1.0)
