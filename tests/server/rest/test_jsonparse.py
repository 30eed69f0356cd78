"""JSON is read as RapidJSON reads it: same values, same errors at the same byte offsets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.server.requests.status import ServingError
from toolkit.server.rest.jsonparse import MAX_DEPTH, parse, parse_exactly

ERRORS = {
    b" ": "The document is empty. at offset: 1",
    b"]{": "The document is empty. at offset: 0",
    b" ,": "The document is empty. at offset: 1",
    b"\xef\xbb": "The document is empty. at offset: 2",
    b"x": "Invalid value. at offset: 0",
    b"{": "Missing a name for object member. at offset: 1",
    b'{"a" 1}': "Missing a colon after a name of object member. at offset: 5",
    b'{"a":1 "b"': "Missing a comma or '}' after an object member. at offset: 7",
    b"[1 2]": "Missing a comma or ']' after an array element. at offset: 3",
    b"[1,]": "Invalid value. at offset: 3",
    b"[nul]": "Invalid value. at offset: 4",
    b"[01]": "Missing a comma or ']' after an array element. at offset: 2",
    b"[-]": "Invalid value. at offset: 2",
    b"[1.]": "Miss fraction part in number. at offset: 3",
    b"[1e]": "Miss exponent in number. at offset: 3",
    b"[1e400]": "Number too big to be stored in double. at offset: 1",
    b'["a': "Missing a closing quotation mark in string. at offset: 3",
    b'["\\x"]': "Invalid escape character in string. at offset: 2",
    b'["\\u12g4"]': "Incorrect hex digit after \\u escape in string. at offset: 2",
    b'["\\ud800"]': "The surrogate pair in string is invalid. at offset: 2",
    b'["a\nb"]': "Invalid escape character in string. at offset: 3",
    b"[Infinit]": "Invalid value. at offset: 8",
}


@pytest.mark.parametrize("body", ERRORS, ids=repr)
def test_malformed_documents_are_refused_with_rapidjsons_words(body: bytes) -> None:
    with pytest.raises(ServingError) as caught:
        parse(body)
    assert caught.value.message == f"JSON Parse error: {ERRORS[body]}"


def test_what_follows_the_first_value_is_ignored() -> None:
    assert parse(b"  [1] trailing") == parse_exactly(b"  [1] trailing") == [1]


def test_of_equal_names_the_first_counts() -> None:
    assert parse(b'{"a":1,"a":2}') == parse_exactly(b'{"a":1,"a":2}') == {"a": 1}


def test_infinity_has_two_names_and_nan_one() -> None:
    assert parse(b"[Infinity, Inf, -Inf]") == [float("inf"), float("inf"), float("-inf")]
    assert str(parse(b"[NaN]")) == "[nan]"


def test_bytes_that_are_not_utf8_survive() -> None:
    assert parse(b'["\xff\x00z'.replace(b"\x00", b"") + b'"]')[0].encode("utf-8", "surrogateescape") == b"\xffz"


def test_emoji_escaped_as_a_pair_is_one_character() -> None:
    assert parse(b'["\\ud83d\\ude00"]') == parse_exactly(b'["\\ud83d\\ude00"]') == ["\U0001f600"]


def test_endless_nesting_is_refused_and_does_not_crash() -> None:
    with pytest.raises(ServingError, match=f"Nested deeper than {MAX_DEPTH}"):
        parse(b"[" * 1_000_000)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_both_parsers_agree_with_the_standard_library(value: object) -> None:
    for ascii_only in (True, False):
        body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        expected = json.loads(body) if b"\xed" not in body else value
        assert repr(parse(body)) == repr(parse_exactly(body)) == repr(expected)


@given(st.binary() | st.text(alphabet='{}[]":,\\u0123456789eE+-.nulltruefalse Infinity\n').map(str.encode))
def test_any_bytes_are_a_value_or_a_clean_error(body: bytes) -> None:
    try:
        expected = parse_exactly(body) if body else None
    except ServingError as error:
        with pytest.raises(ServingError) as caught:
            parse(body)
        assert caught.value.message == error.message  # noqa: PT017 - both parsers must agree
    else:
        if body:
            assert repr(parse(body)) == repr(expected)
