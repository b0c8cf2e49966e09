"""Requests that no honest client sends: forms, queries, methods, paths and raw bytes on the wire, with their answers.

Generated, the same every time. A case's expectation is a set of code words; `STATUS` is DESIGN's table of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.hostile_images import ADDRESS, ADDRESSES, BAD, OK, OTHER
from tests.pictures import digit, encode
from tests.server import form

REQUEST = "invalid_request"
PARAMETER = "invalid_parameter"
UNKNOWN = "unknown_model"
NOWHERE = "not_found"
METHOD = "method_not_allowed"
TOO_BIG = "body_too_large"
HEADERS = "headers_too_large"
STATUS = {
    "ok": 200,
    "invalid_image": 400,
    "invalid_request": 400,
    "unknown_model": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "body_too_large": 413,
    "image_too_large": 413,
    "unsupported_format": 415,
    "invalid_parameter": 422,
    "headers_too_large": 431,
}
MULTIPART = "multipart/form-data; boundary=x"
PICTURE = encode(digit("7"))


@dataclass(frozen=True)
class Case:
    """One request. With `wire`, those bytes are sent as they are, and every answer on the connection must fit; a
    smuggled second request would show as one more answer than `answers`."""

    name: str
    codes: tuple[str, ...]
    method: str = "POST"
    path: str = "/classify"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    wire: bytes | None = None
    answers: int = 1


def requests() -> list[Case]:
    kinds = (_types, _forms, _filenames, _addresses, _queries, _methods, _routes, _versions_of_http, _lengths, _heads)
    return [case for kind in kinds for case in kind()]


def post(name: str, body: bytes, content_type: str, *codes: str, path: str = "/classify") -> Case:
    return Case(name, codes, path=path, headers=(("Content-Type", content_type),), body=body)


# Bodies


def _types() -> Iterator[Case]:
    for kind in (
        "image/jpeg",
        "image/svg+xml",
        "text/html",
        "application/x-www-form-urlencoded",
        "a",
        ";",
        "é",
        "x" * 5000,
    ):
        yield post(f"a picture as {kind[:40]}", PICTURE, kind, OK)
    for kind in ("text/plain", "application/json", "application/x-python-pickle", "multipart/mixed; boundary=x", "é/é"):
        yield post(f"no picture as {kind}", b'{"image": "http://127.0.0.1/"}', kind, OTHER)
    yield post("an address in JSON", b'{"image": "file:///etc/passwd"}', "application/json", OTHER)
    yield post("a form with an address", b"image=http%3A%2F%2F127.0.0.1", "application/x-www-form-urlencoded", OTHER)
    yield post("nothing as JSON", b"", "application/json", BAD)
    yield post("raw picture to the batch", PICTURE, "image/png", OTHER, path="/classify/batch")
    yield post("JSON to the batch", b"[]", "application/json", OTHER, path="/classify/batch")
    yield post("two megabytes and a byte", bytes(2_000_001), "image/png", TOO_BIG)
    encoded = (("Content-Encoding", "gzip"),)
    yield Case("a picture that is said to be compressed", (OK, OTHER), headers=encoded, body=PICTURE)
    yield Case("two content types", (OK,), headers=(("Content-Type", "a/b"), ("Content-Type", "c/d")), body=PICTURE)


def part(head: bytes, data: bytes = PICTURE) -> bytes:
    return b"--x\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


NAMED = b'Content-Disposition: form-data; name="image"'


def _forms() -> Iterator[Case]:
    good, end = part(NAMED), b"--x--\r\n"
    made: dict[str, tuple[bytes, tuple[str, ...]]] = {
        "as it should be": (good + end, (OK,)),
        "empty body": (b"", (REQUEST,)),
        "only the end": (end, (REQUEST,)),
        "no end": (good, (REQUEST,)),
        "half an end": (good + b"--x-", (REQUEST,)),
        "cut in its part's head": (b"--x\r\nContent-Dispo", (REQUEST,)),
        "cut in its data": (good[:200], (REQUEST,)),
        "bare line feeds": ((good + end).replace(b"\r\n", b"\n"), (REQUEST,)),
        "bytes before the first boundary": (b"preamble\r\n" + good + end, (REQUEST, OK)),
        "bytes behind the end": (good + end + b"epilogue" * 100, (OK,)),
        "a second form behind the end": (good + end + good + end, (OK,)),
        "another boundary": (good.replace(b"--x", b"--y") + b"--y--", (REQUEST,)),
        "no name": (part(b"Content-Disposition: form-data") + end, (REQUEST,)),
        "no disposition": (part(b"Content-Type: image/png") + end, (REQUEST,)),
        "no head at all": (part(b"") + end, (REQUEST,)),
        "disposition attachment": (part(b'Content-Disposition: attachment; name="image"') + end, (REQUEST,)),
        "an empty name": (part(b'Content-Disposition: form-data; name=""') + end, (REQUEST,)),
        "a name with NUL": (part(b'Content-Disposition: form-data; name="image\0"') + end, (REQUEST,)),
        "a name with a line end": (part(b'Content-Disposition: form-data; name="im\r\nX: y"') + end, (REQUEST,)),
        "a name of 4000 letters": (
            part(b'Content-Disposition: form-data; name="%s"' % (b"n" * 4000)) + end,
            (REQUEST,),
        ),
        "a name of 100000 letters": (
            part(b'Content-Disposition: form-data; name="%s"' % (b"n" * 10**5)) + end,
            (REQUEST,),
        ),
        "a name that is a template": (part(b'Content-Disposition: form-data; name="${jndi:x}{0}%s"') + end, (REQUEST,)),
        "a name in UTF-16": (part('Content-Disposition: form-data; name="image"'.encode("utf-16")) + end, (REQUEST,)),
        "two names": (part(NAMED + b'; name="other"') + end, (REQUEST, OK)),
        "an extended name": (part(b"Content-Disposition: form-data; name*=utf-8''image") + end, (REQUEST,)),
        "a thousand parameters": (part(NAMED + b"; a=b" * 1000) + end, (REQUEST,)),
        "quotes without end": (
            part(b'Content-Disposition: form-data; name="image; ' + b'a";"' * 900) + end,
            (REQUEST,),
        ),
        "a thousand heads": (part(NAMED + b"\r\nX: y" * 1000) + end, (REQUEST,)),
        "a bad head": (part(b"Bad Header: y\r\n" + NAMED) + end, (REQUEST,)),
        "two images": (good + good + end, (REQUEST,)),
        "81 images": (good * 81 + end, (REQUEST,)),
        "10000 parts": (part(NAMED, b"") * 10_000 + end, (REQUEST,)),
        "images and other fields": (part(b'Content-Disposition: form-data; name="a"', b"b") * 15 + good + end, (OK,)),
        "image in capitals": (part(b'Content-Disposition: form-data; name="IMAGE"') + end, (REQUEST,)),
        "an empty image": (part(NAMED, b"") + end, (BAD,)),
        "a form in the image": (part(NAMED, b"--y\r\n" + NAMED + b"\r\n\r\nz\r\n--y--") + end, (BAD,)),
        "nested mixed": (
            part(NAMED + b"\r\nContent-Type: multipart/mixed; boundary=y", b"--y\r\n\r\nz\r\n--y--") + end,
            (BAD,),
        ),
        "base64": (part(NAMED + b"\r\nContent-Transfer-Encoding: base64", b"aGVsbG8=") + end, (REQUEST,)),
        "a part of another charset": (part(NAMED + b"\r\nContent-Type: text/plain; charset=utf-7") + end, (OK,)),
        "a length that lies": (part(NAMED + b"\r\nContent-Length: 1") + end, (OK,)),
        "a field _charset_": (part(b'Content-Disposition: form-data; name="_charset_"', b"utf-7") + good + end, (OK,)),
        "almost boundaries": (part(NAMED, b"\r\n--\r\n-" * 50_000) + end, (BAD,)),
    }
    for name, (body, codes) in made.items():
        yield post(f"a form, {name}", body, MULTIPART, *codes)
    kinds: dict[str, tuple[str, ...]] = {
        "": (REQUEST,),
        "; boundary=": (REQUEST,),
        '; boundary=""': (REQUEST,),
        "; boundary=y": (REQUEST,),
        '; boundary="x"': (OK,),
        "; BOUNDARY=x": (OK,),
        "; boundary=y; boundary=x": (OK, REQUEST),
        "; boundary*=utf-8''x": (REQUEST,),
        "; boundary=" + "x" * 5000: (REQUEST,),
        "; boundary=é": (REQUEST,),
        "; boundary=x; charset=utf-16": (OK,),
        ", multipart/form-data; boundary=x": (OK, REQUEST),
        ";" * 3000: (REQUEST,),
    }
    for tail, codes in kinds.items():
        yield post(f"a form of type {tail[:40]!r}", good + end, "multipart/form-data" + tail, *codes)
    empty, kind = form()
    yield post("a batch without parts", empty, kind, REQUEST, path="/classify/batch")
    yield post("a batch of 65", *form(*[("image", "a", b"")] * 65), REQUEST, path="/classify/batch")
    yield post("a batch without an end", good, MULTIPART, REQUEST, path="/classify/batch")


FILENAMES = (
    "../../../../etc/passwd",
    "..\\..\\windows\\system32",
    "C:\\evil.png",
    "/dev/zero",
    "a\0.png",
    "x" * 4000,
    "",
    "<script>alert(1)</script>.png",
    "é\u202egnp.exe",
    "%00%0d%0aX: y",
    "a.png; name=other",
    "$(id).png",
    "http://169.254.169.254/latest/",
    "con.png",
    "-rf",
)


def _filenames() -> Iterator[Case]:
    for name in FILENAMES:
        body, kind = form(("image", name, PICTURE))
        for path in ("/classify", "/classify/batch"):
            yield post(f"file name {name[:40]!a} at {path}", body, kind, OK, path=path)


def _addresses() -> Iterator[Case]:
    for address in ADDRESSES:
        yield post(f"{address} in a field", *form(("image", None, address.encode())), ADDRESS)
        yield post(f"{address} as a field's name", *form((address, None, PICTURE)), REQUEST)
        quoted = address.replace("&", "%26")
        yield Case(f"{address} in the query", (BAD,), path=f"/classify?image={quoted}&url={quoted}", body=b"")
        yield Case(f"{address} as the model", (UNKNOWN,), path=f"/classify?model={quoted}", body=PICTURE)


# Queries, methods, paths


def _queries() -> Iterator[Case]:
    numbers = (
        "",
        "-1",
        "1.5",
        "1e3",
        "0x1",
        "NaN",
        "9" * 10,
        "9" * 5000,
        "%00",
        "+",
        "%D9%A1",
        "1%20",
        "null",
        "[]",
        "'",
    )
    for value in numbers:
        yield Case(f"top_k={value[:20]}", (PARAMETER,), path=f"/classify?top_k={value}", body=PICTURE)
        yield Case(f"version={value[:20]}", (PARAMETER,), path=f"/classify?version={value}", body=PICTURE)
    yield Case("version=999999999", (UNKNOWN,), path="/classify?version=999999999", body=PICTURE)
    yield Case("top_k=999999999", (OK,), path="/classify?top_k=999999999", body=PICTURE)
    for value in ("", "..", "%2e%2e%2f", "dense_resnet-mnist%00", "a" * 3000, "%FF%FE", "%0d%0aX:%20y", "{{7*7}}", "*"):
        yield Case(f"model={value[:20]}", (UNKNOWN,), path=f"/classify?model={value}", body=PICTURE)
    for query in ("", "&&&", "=", "a=b&" * 1000, "top_k", "%", "%zz", "top_k[]=1", "image=x", "?top_k=0"):
        codes = (PARAMETER,) if query == "top_k" else (OK,)
        yield Case(f"query {query[:20]}", codes, path=f"/classify?{query}", body=PICTURE)
    yield Case("top_k twice", (OK, PARAMETER), path="/classify?top_k=1&top_k=0", body=PICTURE)
    yield Case("a query on another route", (OK,), "GET", "/models?callback=alert(1)")


def _methods() -> Iterator[Case]:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        yield Case(f"{method} /classify", (METHOD,), method)
    for path in ("/models", "/models/nope", "/livez", "/metrics", "/docs.json", "/", "/static/page.js"):
        yield Case(f"POST {path}", (METHOD,), path=path, body=PICTURE)
        yield Case(f"DELETE {path}", (METHOD,), "DELETE", path)
    override = (("X-HTTP-Method-Override", "DELETE"), ("X-Original-URL", "/admin"), ("X-Forwarded-Prefix", "/x"))
    yield Case("a method override", (OK,), headers=override, body=PICTURE)
    yield Case("a body with GET", (OK,), "GET", "/livez", body=PICTURE)


PATHS = """
    /nope /classify/ //classify /Classify /classify.php /classify/batch/ /classify;a=b /classify%20 /classify%00 /%ff%fe
    /%63lassify%2f /./classify /models/../classify /models/ /models/a/b /models/%2e%2e%2f%2e%2e%2fetc /static/ /static
    /static/%2e%2e/service.py /static/../service.py /static/..%2fservice.py /static/%2e%2e%2fservice.py /.env
    /static/..%5cservice.py /static/page.js/ /static/%00 /static/index.html /static//etc/passwd /wp-login.php /actuator
    /.git/config /static_content/index.css /v2/models /classify%2fbatch%2f /%F0%9F%92%A9 /%zz /% /docs.json/
    /schema.json/ /metrics/../models/ /%0d%0aX:%20y /cgi-bin/%%32%65%%32%65/etc/passwd
"""


def _routes() -> Iterator[Case]:
    for path in PATHS.split():
        yield Case(f"GET {path}", (NOWHERE, UNKNOWN) if path.startswith("/models/%") else (NOWHERE,), "GET", path)
    yield Case("a path of 8000 letters", (NOWHERE,), "GET", "/" + "a" * 8000)
    yield Case("a path of 2000 steps", (NOWHERE,), "GET", "/.." * 2000)
    yield Case("an encoded but known path", (OK,), path="/%63lassify", body=PICTURE)
    for name in ("..", "%2e%2e", "dense_resnet-mnist%00", "%0d%0a", "a" * 3000, "dense_resnet-mnist.json"):
        yield Case(f"GET /models/{name[:30]}", (UNKNOWN,), "GET", f"/models/{name}")


# On the wire

HOST = b"Host: test\r\nConnection: close\r\n"
POST = b"POST /classify HTTP/1.1\r\nHost: test\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


def wire(name: str, sent: bytes, *codes: str, answers: int = 1) -> Case:
    return Case(f"wire: {name}", codes, wire=sent, answers=answers)


def _versions_of_http() -> Iterator[Case]:
    lines = {
        "HTTP/9.9": b"GET / HTTP/9.9\r\n",
        "no version": b"GET /\r\n",
        "no path": b"GET HTTP/1.1\r\n",
        "two blanks": b"GET  / HTTP/1.1\r\n",
        "a blank in the path": b"GET /a b HTTP/1.1\r\n",
        "a method of its own": b"HACK / HTTP/1.1\r\n",
        "a method in small letters": b"get / HTTP/1.1\r\n",
        "NUL in the path": b"GET /\0 HTTP/1.1\r\n",
        "a leading blank": b" GET / HTTP/1.1\r\n",
        "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "bytes over 127": b"GET /\xff HTTP/1.1\r\n",
    }
    for name, line in lines.items():
        codes = (REQUEST, OK) if name in ("no version", "two blanks") else (REQUEST,)
        yield wire(name, line + HOST + b"\r\n", *codes)
    yield wire("a TLS greeting", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200), REQUEST)
    yield wire("an SSH greeting", b"SSH-2.0-OpenSSH_9.6\r\n", REQUEST)
    yield wire("Redis", b"*1\r\n$4\r\nINFO\r\n", REQUEST)
    yield wire("noise", bytes(range(1, 255)) * 4, REQUEST)
    yield wire("HTTP/1.0 without Host", b"GET /livez HTTP/1.0\r\n\r\n", OK)
    yield wire("an absolute address", b"GET http://169.254.169.254/latest/ HTTP/1.1\r\n" + HOST + b"\r\n", NOWHERE)
    connect = b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n" + HOST + b"\r\n"
    yield wire("CONNECT", connect, REQUEST)
    yield wire("OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", NOWHERE, METHOD)
    yield wire("a fragment", b"GET /livez#/../metrics HTTP/1.1\r\n" + HOST + b"\r\n", OK, NOWHERE)
    yield wire(
        "an upgrade to h2c", b"GET /livez HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n" + HOST + b"\r\n", OK
    )
    yield wire(
        "Expect of something else", b"GET /livez HTTP/1.1\r\nExpect: 200-maybe\r\n" + HOST + b"\r\n", OK, REQUEST
    )


def _lengths() -> Iterator[Case]:
    bad = {
        "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "the same length twice": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "a list of lengths": b"Content-Length: 5, 5\r\n\r\nhello",
        "a negative length": b"Content-Length: -1\r\n\r\n",
        "a signed length": b"Content-Length: +5\r\n\r\nhello",
        "a hexadecimal length": b"Content-Length: 0x5\r\n\r\nhello",
        "a length with a blank": b"Content-Length: 1 5\r\n\r\nhello",
        "a length over 2^64": b"Content-Length: 99999999999999999999999\r\n\r\n",
        "an empty length": b"Content-Length: \r\n\r\n",
        "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "chunked, then something else": b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "an unknown coding": b"Transfer-Encoding: cow\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "xchunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "a blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "a chunk size that is none": b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n",
        "a negative chunk": b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n",
        "a chunk over 2^64": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n",
        "a chunk with 0x": b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        "a chunk longer than it says": b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        "a chunk ended by a bare line feed": b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    }
    for name, rest in bad.items():
        yield wire(name, POST + rest, REQUEST)
    close = POST + b"Connection: close\r\n"
    yield wire("a chunk extension", close + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", BAD)
    yield wire("a trailer", close + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", BAD)
    yield wire(
        "chunks of one byte", close + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n", BAD
    )
    huge = POST + b"Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n" + bytes(2_100_000)
    yield wire("a chunk of 2^63-1", huge, TOO_BIG)
    yield wire("a length of 2^63-1", close + b"Content-Length: 9223372036854775807\r\n\r\n", TOO_BIG)
    yield wire(
        "more body than its length", POST + b"Content-Length: 5\r\n\r\nhello" + SMUGGLED, BAD, NOWHERE, answers=2
    )
    first = b"GET /first HTTP/1.1\r\nHost: test\r\n\r\n"
    yield wire("two requests at once", first + b"GET /nope HTTP/1.1\r\n" + HOST + b"\r\n", NOWHERE, answers=2)


def _heads() -> Iterator[Case]:
    bad = {
        "no colon": b"Nonsense\r\n",
        "an empty name": b": x\r\n",
        "a blank in a name": b"Bad Header: x\r\n",
        "NUL in a name": b"X\0: y\r\n",
        "NUL in a value": b"X: a\0b\r\n",
        "a bare carriage return": b"X: a\rY: b\r\n",
        "a folded line": b"X: a\r\n b\r\n",
        "a folded first line": b" X: a\r\n",
        "a control character in a value": b"X: a\x01b\r\n",
    }
    for name, head in bad.items():
        codes = (REQUEST, OK) if name == "a folded line" else (REQUEST,)
        yield wire(name, b"GET /livez HTTP/1.1\r\n" + head + HOST + b"\r\n", *codes)
    yield wire("bare line feeds", b"GET /livez HTTP/1.1\nHost: test\nConnection: close\n\n", OK, REQUEST)
    yield wire("two hosts", b"GET /livez HTTP/1.1\r\nHost: other\r\n" + HOST + b"\r\n", OK, REQUEST)
    yield wire("an odd host", b"GET /livez HTTP/1.1\r\nHost: a/../b:99999\r\nConnection: close\r\n\r\n", OK, REQUEST)
    yield wire("bytes over 127 in a value", b"GET /livez HTTP/1.1\r\nX: \xff\xfe\r\n" + HOST + b"\r\n", OK)
    for name, more in (("one long header", b"X: " + b"a" * 20_000), ("4000 headers", b"\r\n".join([b"X: y"] * 4000))):
        yield wire(name, b"GET /livez HTTP/1.1\r\n" + more + b"\r\n" + HOST + b"\r\n", HEADERS)
    yield wire("a path of 20000 letters", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", HEADERS)
    yield wire("a forwarded address", b"GET /livez HTTP/1.1\r\nX-Forwarded-For: '\"<script>\r\n" + HOST + b"\r\n", OK)
    yield wire(
        "ranges",
        b"GET /static/page.js HTTP/1.1\r\nRange: bytes=" + b"0-," * 2000 + b"\r\n" + HOST + b"\r\n",
        OK,
        REQUEST,
    )
