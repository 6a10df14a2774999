"""TLS of the public plane: one context that new connections use, whose certificate a reload replaces."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from aibrother_node.errors import ConfigurationError

if TYPE_CHECKING:
    from aibrother_node.config import PublicSection


def make_context(public: PublicSection) -> ssl.SSLContext | None:
    """The server's context, or None where TLS is not configured.

    Raises:
        ConfigurationError: certificate and key can't be read or don't belong together.
    """
    if public.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, public)
    return context


def renew_certificate(context: ssl.SSLContext, public: PublicSection) -> None:
    """Have new connections use the certificate that the files hold now.

    Raises:
        ConfigurationError: they can't be used; the context keeps what it had.
    """
    make_context(public)  # a failed load leaves a context half changed, so it is tried on another one
    _load(context, public)


def _load(context: ssl.SSLContext, public: PublicSection) -> None:
    assert public.tls_certificate is not None
    try:
        context.load_cert_chain(public.tls_certificate, public.tls_key, password=_no_passphrase)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            [f"public.tls_certificate: {public.tls_certificate} can't be used: {error}"]
        ) from error


def _no_passphrase() -> str:
    # without this, OpenSSL asks on the terminal
    raise ValueError("the key has a passphrase: give one without")
