"""Which proxy leads to a URL, by the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY): to loopback none."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import proxy_bypass

from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping


def proxy_for(url: SplitResult, proxies: Mapping[str, str]) -> SplitResult | None:
    """The proxy to use, if any.

    Args:
        url: where to.
        proxies: as `urllib.request.getproxies` gives them.

    Raises:
        InvalidInput: it isn't spoken to in plain HTTP.
    """
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or is_loopback(url.hostname or "") or proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidInput(f"only http:// proxies are supported, not {parts.scheme}://{parts.hostname}")
    return parts


def proxy_authorization(proxy: SplitResult) -> dict[str, str]:
    """The header field that tells a proxy who asks, where its URL says that (RFC 9110, 11.7.2)."""
    if proxy.username is None:
        return {}
    secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(secret.encode()).decode('ascii')}"}


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
