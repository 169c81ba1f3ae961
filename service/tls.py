"""TLS of the server: its certificate and key, checked before a start, and read when renewed."""

import asyncio
import contextlib
import logging
import ssl
from pathlib import Path

from service.errors import BadRequest

RELOAD_S = 5.0
"""How often a running server looks whether its certificate has been renewed."""

_log = logging.getLogger(__name__)


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


class Certificate:
    """The certificate of a running server, which is read again when its files have changed.

    For one event loop. The files are tried in a context of their own first: half of a renewal, as
    the new certificate with the old key, changes nothing.
    """

    def __init__(self, context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
        self._context, self._certificate, self._key = context, certificate, key
        self._seen = self._stamps()

    async def watch(self, poll_s: float = RELOAD_S) -> None:
        """Look at the files every `poll_s`, for good."""
        while True:
            await asyncio.sleep(poll_s)
            self.reload_if_changed()

    def reload_if_changed(self) -> None:
        """Use the files for connections from now on if they have changed and can be used."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            server_context(self._certificate, self._key)
            load_certificate(self._context, self._certificate, self._key)
        except BadRequest as error:
            _log.warning("the certificate has changed, and the one before is still used: %s", error)
        else:
            _log.info("the certificate %s has been read again", self._certificate)

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in (self._certificate, self._key or self._certificate)]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()  # of what a link leads to: Kubernetes and certbot change links
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


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
