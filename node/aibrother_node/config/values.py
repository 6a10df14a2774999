"""Values of the configuration that have a shape of their own: hosts, URLs, networks, names.

Each function takes what TOML or the loader gives and returns the value in its one normal form, or raises ValueError
with a reason for people. None of them repeats user information or a query string, which may hold a secret.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

IPNetwork = IPv4Network | IPv6Network

_MAX_ITEMS: Final = 1000
_HOSTNAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UPSTREAM: Final = re.compile(r"(?=.{1,32}\Z)[a-z0-9]+(-[a-z0-9]+)*")
_WANT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}(:[a-z0-9][a-z0-9._-]{0,63})?")


def read_list(read: Callable[[object], object] | None) -> Callable[[object], object]:
    """Make a reader of lists: a single string counts as a list of one; `read` is applied to each item.

    TOML has lists, the models have tuples, so that a configuration can't be changed in place.
    """

    def reader(value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a list")  # noqa: TRY004  # pydantic makes faults of ValueError only
        if len(value) > _MAX_ITEMS:
            raise ValueError(f"has more than {_MAX_ITEMS} items")
        return tuple(value) if read is None else tuple(read(item) for item in value)

    return reader


def read_path(value: object) -> Path | None:
    """Read a path; "" is None. Whether it exists is for whoever opens it to say."""
    if value is None or isinstance(value, Path):
        return value
    text = _text(value)
    if not text:
        return None
    if "\0" in text:
        raise ValueError("a path can't hold a zero byte")
    if text.startswith("~"):
        raise ValueError('"~" is not expanded; write the path in full')
    return Path(text)


def read_folder(value: object) -> Path:
    """Read a path that can't be left out."""
    path = read_path(value)
    if path is None:
        raise ValueError("must name a folder")
    return path


def read_optional_number(value: object) -> object:
    """Read a number that may be left out: "" is None."""
    return None if value == "" else value


def read_network(value: object) -> IPNetwork:
    """Read an address or a network in CIDR notation."""
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    text = _text(value)
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'{text!r} is not an address or network such as "10.0.0.0/8"') from None
    raise ValueError(f"{text!r} has bits set after its prefix; did you mean {str(loose)!r}?")


def check_hosts(value: object) -> tuple[str, ...]:
    """Read the addresses or host names to listen on: at least one, none twice."""
    hosts = read_list(_host)(value)
    assert isinstance(hosts, tuple)
    if not hosts:
        raise ValueError("must name at least one address")
    for host in hosts:
        if hosts.count(host) > 1:
            raise ValueError(f"{host!r} is named twice")
    return hosts


def hosts_overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether sockets on these hosts would collide on the same port; names are only compared as names."""
    return any(_collide(a, b) for a in one for b in other)


def check_listen(value: object) -> str:
    """Read "host:port" (IPv6 in brackets); "" is none."""
    text = _text(value)
    if not text:
        return ""
    reason = f'{text[:80]!r} is not "host:port"; an IPv6 address stands in brackets'
    parts = _split_url(f"//{text}", reason)
    if parts.netloc != text or parts.port is None or not parts.hostname or "@" in text:
        raise ValueError(reason)
    _host(parts.hostname)
    return text


def check_url(value: object) -> str:
    """Read an http or https URL without user, query or fragment; a trailing slash is dropped; "" is none."""
    text = _text(value)
    if not text:
        return ""
    parts = _http_url(text)
    if "?" in text or "#" in text:
        raise ValueError("must have no query and no fragment")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def check_webhook(value: object) -> str:
    """Read an http or https URL; a query is allowed, since many receivers put their token there."""
    text = _text(value)
    _http_url(text)
    return text


def check_ship_to(value: object) -> str:
    """Read where logs are sent: an http, https, tcp or udp URL; "" is nowhere."""
    text = _text(value)
    if not text:
        return ""
    parts = _split_url(text)
    if parts.scheme not in {"http", "https", "tcp", "udp"} or not parts.hostname:
        raise ValueError("must be an http, https, tcp or udp URL")
    if parts.scheme in {"tcp", "udp"} and parts.port is None:
        raise ValueError(f"a {parts.scheme} URL needs a port")
    return text


def check_cors_origins(value: object) -> tuple[str, ...]:
    """Read "*" alone, or origins: scheme, host and port, no path."""
    origins = read_list(_origin)(value)
    assert isinstance(origins, tuple)
    if "*" in origins and len(origins) > 1:
        raise ValueError('"*" allows every origin; name no others beside it')
    return tuple(dict.fromkeys(origins))


def check_label(value: object) -> str:
    """Read a short name such as a region: letters, digits, ".", "_", "-"; "" is none."""
    text = _text(value)
    if text and not _LABEL.fullmatch(text):
        raise ValueError(f'{text[:80]!r} is not a name of at most 64 letters, digits, ".", "_" and "-"')
    return text


def check_upstream_name(value: object) -> str:
    """Read an upstream's name; it also appears in variables and metrics, hence the narrow alphabet."""
    text = _text(value)
    if not _UPSTREAM.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not at most 32 small letters and digits, with single dashes between them")
    return text


def check_bucket(value: object) -> str:
    """Read a bucket's name or "owner/repository"."""
    text = _text(value)
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9._-]{1,100})?", text):
        raise ValueError(f"{text[:80]!r} is not a bucket's name")
    return text


def check_prefix(value: object) -> str:
    """Read a folder inside a bucket: segments between slashes, neither first nor last; "" is the top."""
    text = _text(value)
    if text and not all(re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", part) and part.strip(".") for part in text.split("/")):
        raise ValueError(f'{text[:80]!r} is not a folder such as "models/eu": no slash first or last, no dots alone')
    return text


def check_congestion_control(value: object) -> str:
    """Read the name of a congestion control algorithm, at most 15 bytes as the kernel has it; "" is its default."""
    text = _text(value)
    if text and not re.fullmatch(r"[a-z0-9_]{1,15}", text):
        raise ValueError(f'{text[:80]!r} is not an algorithm\'s name such as "bbr"')
    return text


def check_wants(value: object) -> object:
    """Read "all", "pinned", or a list of NAME, NAME:VARIANT and tags."""
    if isinstance(value, str):
        if value in {"all", "pinned"}:
            return value
        raise ValueError(f'{value[:80]!r} is neither "all" nor "pinned"; models and tags go into a list')
    wants = read_list(_text)(value)
    assert isinstance(wants, tuple)
    for want in wants:
        if not _WANT.fullmatch(want):
            raise ValueError(f"{want[:80]!r} is not a model, a MODEL:VARIANT or a tag")
    return wants


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004  # pydantic makes faults of ValueError only
    return value


def _host(value: object) -> str:
    text = _text(value)
    if text.startswith("["):
        raise ValueError(f"{text!r}: write an IPv6 address without brackets")
    try:
        return str(ip_address(text))
    except ValueError:
        pass
    # A name whose last label is a number is a misspelt address to every resolver.
    if _HOSTNAME.fullmatch(text.lower()) and not text.rpartition(".")[2].isdigit():
        return text.lower()
    raise ValueError(f"{text[:80]!r} is not an address or a host name")


def _collide(one: str, other: str) -> bool:
    a, b = _address(one), _address(other)
    if a is None or b is None:
        return one == other
    if a.version != b.version:
        # Sockets on "::" are made IPv6-only, so that the two families never meet.
        return False
    return a == b or a.is_unspecified or b.is_unspecified


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None


def _split_url(text: str, reason: str = "is not a URL: its host or port can't be read") -> SplitResult:
    # urlsplit drops tabs and line ends silently, so they have to be refused before.
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("must not hold spaces, control characters or backslashes")
    try:
        parts = urlsplit(text)
        _ = parts.port  # parsed only when asked for
    except ValueError:
        raise ValueError(reason) from None
    return parts


def _http_url(text: str) -> SplitResult:
    parts = _split_url(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError('must be a URL that begins with "http://" or "https://"')
    if "@" in parts.netloc:
        raise ValueError("must hold no user name and no password")
    _host(parts.hostname)
    return parts


def _origin(value: object) -> str:
    text = _text(value)
    if text == "*":
        return text
    parts = _http_url(text)
    if parts.path or "?" in text or "#" in text:
        raise ValueError(f"{text[:80]!r} is not an origin: scheme, host and port only, no slash at the end")
    return f"{parts.scheme}://{parts.netloc.lower()}"
