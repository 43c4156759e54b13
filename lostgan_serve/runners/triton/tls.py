"""Certificates for encrypted connections, and the reasons why such a connection fails."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.errors import InputError
from lostgan_serve.files import reading

_OTHER_NAME = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_OUT_OF_TIME = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "UNEXPECTED_MESSAGE")


@dataclass(frozen=True)
class Certificates:
    """PEM files for TLS.

    ca: certificates of the authorities to trust, in place of the system's. cert: this client's own certificate, with
    those that lead to its authority. key: its private key, not encrypted; by default in the same file as `cert`.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self, alpn: str) -> ssl.SSLContext:
        """Settings of a client that checks the server's certificate and host name. alpn: the protocol to agree on,
        "h2" or "http/1.1". Raises InputError for a file that cannot be read or that holds something else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols([alpn])
        if self.ca:
            try:
                _pem(self.ca, b"CERTIFICATE-----", "certificate")
                context.load_verify_locations(cafile=self.ca)
            except ssl.SSLError as error:
                raise InputError(f"{self.ca}: its certificates cannot be used ({_reason(error)})") from error
        else:
            context.load_default_certs()
        if self.cert:
            self._load_own(context, self.cert, self.key or self.cert)
        elif self.key:
            raise InputError(f"{self.key}: a key without its certificate; give that, too, with --tls-cert")
        return context

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The authorities' certificates, this client's key and its certificate, in gRPC's order. Where no authorities
        are named, the system's; None where it has no such file. Raises InputError."""
        system = ssl.get_default_verify_paths().cafile  # also that of SSL_CERT_FILE
        files = (self.ca or (Path(system) if system else None), self.cert and (self.key or self.cert), self.cert)
        ca, key, cert = (_content(path) if path else None for path in files)
        return ca, key, cert

    @staticmethod
    def _load_own(context: ssl.SSLContext, cert: Path, key: Path) -> None:
        _pem(cert, b"CERTIFICATE-----", "certificate")
        if b"ENCRYPTED" in _pem(key, b"PRIVATE KEY-----", "private key"):
            raise InputError(f"{key}: the key is encrypted; decrypt it with: openssl pkey -in FILE -out NEW_FILE")
        try:
            context.load_cert_chain(cert, key)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise InputError(f"{key}: this is not the key of the certificate {cert}") from error
            raise InputError(f"{cert} with {key}: they cannot be used ({_reason(error)})") from error


def failed_handshake(error: ssl.SSLError, host: str, has_certificate: bool) -> str:
    """Why TLS fails, and what to do. has_certificate: whether the client has a certificate of its own."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_NAME:
            return f"its certificate is not for {host}; ask it by a name that stands in the certificate"
        if error.verify_code in _OUT_OF_TIME:
            return f"its certificate is out of date ({error.verify_message}); renew it, or set this machine's clock"
        return (
            f"its certificate is not trusted ({error.verify_message}); give the authority that signed it with --tls-ca"
        )
    if not reason or reason in _NOT_TLS or isinstance(error, ssl.SSLEOFError):
        return NOT_TLS
    if "ALERT" in reason and has_certificate:
        return f"it does not accept this client's certificate ({_reason(error)}); give another with --tls-cert"
    if "CERTIFICATE_REQUIRED" in reason or "ALERT_HANDSHAKE_FAILURE" in reason or "BAD_CERTIFICATE" in reason:
        return "it asks for a client certificate; give one with --tls-cert and --tls-key"
    return f"TLS fails ({_reason(error)})"


NOT_TLS = "what answers there does not speak TLS"


def _pem(path: Path, marker: bytes, what: str) -> bytes:
    data = _content(path)
    if marker not in data:
        raise InputError(f"{path}: it holds no {what} in PEM form; give a file with a line -----BEGIN {what.upper()}")
    return data


def _content(path: Path) -> bytes:
    with reading(path):
        return path.read_bytes()


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
