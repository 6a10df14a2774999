"""URLs that something is put after: whose they are decides where requests and clients go."""

import pytest

from aibrother_node.catalog.values import base_url
from aibrother_node.errors import InvalidInput


@pytest.mark.parametrize(
    "url",
    ["http://a", "https://node.example:8080/", "http://a/b/c.d", "https://[2001:db8::1]:8082/x", "http://192.0.2.1:1"],
)
def test_urls_that_can_be_connected_to(url: str) -> None:
    assert base_url(url, "url") == url


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "http://[zz]",
        "http://a:65536",
        "http://a:0",
        "http://a:b",
        "http:///x",
        "http://:80",
        "http://user@a",
        "http://user:secret@a",
        "http://a?x=",
        "http://a/#",
        "http://a>; rel=duplicate, <http://b",
        "http://a>;rel=duplicate,<http://b",
        'http://a/"',
        "http://a/\r\nX: y",
        "http://a\\b",
        "http://ä",
        "ftp://a",
        "file:///etc/passwd",
        "//a",
        "",
        None,
        7,
    ],
)
def test_what_is_no_such_url(url: object) -> None:
    with pytest.raises(InvalidInput):
        base_url(url, "url")
