"""URLs: what two parsers could read differently is refused, and what is left they read alike."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mcp_server.errors import InvalidInput
from mcp_server.fetch.target import follow, parse

REFUSED = """
file:///etc/passwd
ftp://example.com/
gopher://127.0.0.1:6379/_INFO
javascript:alert(1)
data:text/plain,x
http:example.com
http:/example.com
http:///example.com
http://
http://:80/
//example.com/
example.com
http://user@example.com/
http://user:pass@example.com/
http://@example.com/
http://example.com@127.0.0.1/
http://127.0.0.1#@example.com@x/@y\\
http://example.com\\@127.0.0.1/
http://127.0.0.1\\@example.com/
http:\\\\127.0.0.1/
http://example.com:80:80/
http://example.com:0/
http://example.com:65536/
http://example.com:+80/
http://example.com:８０/
http://example.com:80a/
http://2130706433/
http://0x7f000001/
http://017700000001/
http://0177.0.0.1/
http://0x7f.0.0.1/
http://127.1/
http://127.0.1/
http://0/
http://127.0.0.01/
http://127.0.0.1.5/
http://256.0.0.1/
http://1.2.3/
http://example.1/
http://example.0x1/
http://[::1%25lo]/
http://[fe80::1%eth0]/
http://[::1
http://::1/
http://[127.0.0.1]/
http://[v1.x]/
http://[::1]x/
http://exam ple.com/
http://example.com/a b
http://example.com/a\tb
http://example.com/\rHost: x
http://example.com/\x00
http://exa\u200bmple.com/
http://example.com/\u202e
http://.example.com/
http://example..com/
http://-example.com/
http://example-.com/
http://exam%70le.com/
http://127.0.0.1%2f@example.com/
http://example.com%00.evil.com/
http://ex*mple.com/
http://a,b/
http://ⓛocalhost⁄x/
http://1②7.1/
http://２１３０７０６４３３/
""".strip("\n").split("\n")


@pytest.mark.parametrize("url", [*REFUSED, "http://example.com/\r\nHost: x"])
def test_what_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^invalid_input: url: ") as error:
        parse(url)
    assert error.value.param == "url"


def test_a_url_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput, match="longer than 4096"):
        parse("http://example.com/" + "x" * 5000)


@pytest.mark.parametrize(
    ("url", "means", "host"),
    [
        ("http://example.com", "http://example.com/", "example.com"),
        ("HTTPS://EXAMPLE.com:443/A?b#c", "https://example.com/A?b", "example.com"),
        (
            "http://example.com?q=http://127.0.0.1/",
            "http://example.com/?q=http://127.0.0.1/",
            "example.com",
        ),
        ("http://example.com#@127.0.0.1/", "http://example.com/", "example.com"),
        ("http://example.com./x", "http://example.com/x", "example.com"),
        ("http://example.com:8080/é?中", "http://example.com:8080/%C3%A9?%E4%B8%AD", "example.com"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("http://例え.テスト/", "http://xn--r8jz45g.xn--zckzah/", "xn--r8jz45g.xn--zckzah"),
        ("http://example。com/", "http://example.com/", "example.com"),
        ("http://①②⑦.⓪.⓪.①/", "http://127.0.0.1/", "127.0.0.1"),
        ("http://１２７.0.0.1/", "http://127.0.0.1/", "127.0.0.1"),
        ("http://ⓛocalhost/", "http://localhost/", "localhost"),
        ("http://[::FFFF:127.0.0.1]:81/", "http://[::ffff:7f00:1]:81/", "::ffff:7f00:1"),
        ("http://[::ffff:7f00:1]/", "http://[::ffff:7f00:1]/", "::ffff:7f00:1"),
        ("http://my_host.internal/a/../b", "http://my_host.internal/b", "my_host.internal"),
        ("http://a.example/../../b/.", "http://a.example/b/", "a.example"),
        ("http://a.example/b/%2e%2E?c=/../d", "http://a.example/?c=/../d", "a.example"),
        ("http://a.example//b/./...", "http://a.example//b/...", "a.example"),
    ],
)
def test_a_plain_url_is_kept_in_one_form(url: str, means: str, host: str) -> None:
    target = parse(url)
    assert int(target.address or 0) >= 0
    assert str(target) in {means, means.replace("::ffff:7f00:1", "::ffff:127.0.0.1")}
    assert target.host in {host, "::ffff:127.0.0.1"}


@given(
    st.lists(
        st.sampled_from(
            [
                *"http://",
                "http://",
                "https://",
                "a.b",
                "127.0.0.1",
                "[::1]",
                *"@:\\/?#%[]. \t；。①",
                "2130706433",
                "x",
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_what_is_accepted_means_the_same_to_other_parsers(rest: str) -> None:
    try:
        target = parse(f"http://{rest}")
    except InvalidInput:
        return
    for host, port in (
        (urlsplit(str(target)).hostname, urlsplit(str(target)).port or 80),
        (URL(str(target), encoded=True).host, URL(str(target), encoded=True).port),
    ):
        assert (host, port) == (target.host, target.port)
    assert str(parse(str(target))) == str(target)


@pytest.mark.parametrize(
    ("location", "means"),
    [
        ("/x", "http://a.example:81/x"),
        ("x", "http://a.example:81/dir/x"),
        ("../x", "http://a.example:81/x"),
        ("?q", "http://a.example:81/dir/page?q"),
        ("", "http://a.example:81/dir/page"),
        ("//b.example/x", "http://b.example/x"),
        ("HTTP://b.example", "http://b.example/"),
        ("https://b.example", "https://b.example/"),
        ("@b.example/", "http://a.example:81/dir/@b.example/"),
    ],
)
def test_a_redirect_is_read_by_the_same_parser(location: str, means: str) -> None:
    assert str(follow(parse("http://a.example:81/dir/page?old"), location)) == means


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "http://u@b.example/",
        "\\\\b.example",
        "//b.example\\@c",
        "http://127.1/",
    ],
)
def test_a_redirect_to_what_is_no_plain_url_is_refused(location: str) -> None:
    with pytest.raises(InvalidInput):
        follow(parse("http://a.example/"), location)


def test_a_redirect_does_not_leave_https() -> None:
    base = parse("https://a.example/")
    assert str(follow(base, "/x")) == "https://a.example/x"
    with pytest.raises(InvalidInput, match="from https to http"):
        follow(base, "http://a.example/x")
