"""TLS of the server: its certificate and key, checked before anything starts."""

import contextlib
import ssl
from pathlib import Path

from service.errors import BadRequest


def server_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the context of a certificate chain and its key; None without a certificate.

    Raises BadRequest where they cannot be used.
    """
    if certificate is None:
        if key is not None:
            raise BadRequest("CAROUSEL_TLS_KEY is set and CAROUSEL_TLS_CERT is not; set both")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Read the files again: connections made from now on have them. Raises BadRequest."""
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (OSError, ssl.SSLError, ValueError) as error:  # an SSLError is an OSError
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise BadRequest(
            f"CAROUSEL_TLS_CERT {certificate} and CAROUSEL_TLS_KEY {key or certificate} cannot be"
            f" used ({reason}); both are PEM files, the certificate first and then its chain"
        ) from error


def check_certificate(certificate: Path, key: Path | None) -> str:
    """Return the day on which a certificate ends, as it is shown. Raises BadRequest.

    It is tried in a handshake in memory, so that one that has ended is a fault here and not at the
    first client. Whether clients trust who signed it is not tried.
    """
    server = server_context(certificate, key)
    assert server is not None
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for _ in range(4):  # TLS 1.3 needs three turns
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise BadRequest(
            f"CAROUSEL_TLS_CERT {certificate} is refused by clients: {error.verify_message}; "
            "have it renewed"
        ) from error
    found = ends[0].getpeercert() or {}
    return str(found.get("notAfter", "an unknown day"))


def _refuse_password() -> str:
    raise ValueError("the key is encrypted; decrypt it with `openssl pkey`")
