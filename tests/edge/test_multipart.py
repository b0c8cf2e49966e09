import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.edge.multipart import is_multipart, parse
from serving.errors import InvalidRequest
from tests.fixtures.server import form


def test_parts_are_found_with_their_names() -> None:
    data, content_type = form(("image", "a.png", b"\x89PNG\r\n--bound"), ("note", None, "é".encode()))
    first, second = parse(data, content_type, 2)
    assert (first.name, first.filename, first.data) == ("image", "a.png", b"\x89PNG\r\n--bound")
    assert (second.name, second.filename, second.data) == ("note", None, "é".encode())


@pytest.mark.parametrize(
    ("data", "content_type", "told"),
    [
        (b"", "multipart/form-data", "without a boundary"),
        (b"", "multipart/form-data; boundary=x", "closing boundary is missing"),
        (b"hello", "multipart/form-data; boundary=x", "malformed"),
        (form(("image", "a", b"1"))[0], "multipart/form-data; boundary=other", "malformed"),
        (form(("image", "a", b"1"))[0][:-8], form()[1], "closing boundary is missing"),
        (b"--x\r\nA: b\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x", "Content-Disposition"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x", "name="),
        (form(*[("image", "a", b"1")] * 30)[0], form()[1], "more than 2 parts"),
    ],
)
def test_a_malformed_form_is_refused_with_the_reason(data: bytes, content_type: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        parse(data, content_type, 2)


def test_base64_parts_are_refused_and_not_misread() -> None:
    data = (
        b'--x\r\nContent-Disposition: form-data; name="image"\r\nContent-Transfer-Encoding: base64\r\n\r\nAA\r\n--x--'
    )
    with pytest.raises(InvalidRequest, match="Content-Transfer-Encoding"):
        parse(data, "multipart/form-data; boundary=x", 2)


def test_only_multipart_form_data_is_multipart() -> None:
    assert is_multipart("Multipart/Form-Data; boundary=x")
    assert not is_multipart("multipart/mixed; boundary=x")
    assert not is_multipart("image/png")


@given(st.lists(st.tuples(st.sampled_from(["image", "é", "a b"]), st.binary(max_size=300)), max_size=5))
def test_what_was_sent_is_what_is_read(parts: list[tuple[str, bytes]]) -> None:
    data, content_type = form(*((name, "f", content) for name, content in parts), boundary="ahxohng8Phei8Ahsee1ooH4f")
    if not parts:
        return
    assert [(part.name, part.data) for part in parse(data, content_type, 5)] == parts


@settings(max_examples=300)
@given(st.binary(max_size=400), st.text(st.characters(max_codepoint=255), max_size=40), st.booleans())
def test_any_body_is_read_or_refused(data: bytes, tail: str, framed: bool) -> None:
    body = b"--x\r\n" + data + b"\r\n--x--\r\n" if framed else data
    try:
        parse(body, f"multipart/form-data; boundary=x{'' if framed else tail}", 5)
    except InvalidRequest as err:
        assert str(err)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('filename="a.png"', "a.png"),
        ('filename="ä.png"', "ä.png"),
        ('filename="a%22b%0D%0ac.png"', 'a"b\r\nc.png'),  # as browsers do
        ('filename="100%25.png"', "100%25.png"),  # which they leave as it is
        ("filename*=utf-8''%c3%a4%20b.png", "ä b.png"),  # as Python's requests did
        ("filename*=ISO-8859-1'en'%e4.png", "ä.png"),
        ("filename*=utf-8''%ff.png", "\ufffd.png"),
        ("filename=\"a.png\"; filename*=utf-8''b.png", "a.png"),  # RFC 7578, section 4.2
        ("filename*=nonsense", None),
    ],
)
def test_name_of_a_file(written: str, name: str | None) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="image"; {written}\r\n\r\n'
    (part,) = parse(head.encode() + b"x\r\n--b--\r\n", "multipart/form-data; boundary=b", 1)
    assert part.filename == name
