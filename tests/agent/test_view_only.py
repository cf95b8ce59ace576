"""The view-only filter, byte by byte: what acts is gone, what is passed is unchanged, nothing hides."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_image.agent.rfb import UnknownMessage, ViewOnly

HELLO = b"RFB 003.008\n\x01\x01"
KEY = struct.pack(">BBHI", 4, 1, 0, 0x61)
POINTER = struct.pack(">BBHH", 5, 1, 10, 10)
CUT = struct.pack(">BBHi", 6, 0, 0, 5) + b"paste"
EXTENDED_CUT = struct.pack(">BBHi", 6, 0, 0, -5) + b"\x04keys"
RESIZE = struct.pack(">BBHHBB", 251, 0, 9, 9, 1, 0) + b"\0" * 16
QEMU_KEY = struct.pack(">BBHII", 255, 0, 1, 0x61, 30)
XVP = struct.pack(">BBBB", 250, 0, 1, 2)
ACTING = [KEY, POINTER, CUT, EXTENDED_CUT, RESIZE, QEMU_KEY, XVP]
FORMAT = b"\0" * 20
REQUEST = struct.pack(">BBHHHH", 3, 1, 0, 0, 100, 100)
FENCE = struct.pack(">BBHIB", 248, 0, 0, 1, 3) + b"\x04\x05\x06"
CONTINUOUS = struct.pack(">BBHHHH", 150, 1, 0, 0, 9, 9)
ENCODINGS = struct.pack(">BBHii", 2, 0, 2, 7, -308)
PASSIVE = [FORMAT, REQUEST, FENCE, CONTINUOUS, ENCODINGS]


@given(st.lists(st.sampled_from(ACTING + PASSIVE)), st.lists(st.integers(1, 40)))
def test_only_passive_messages_pass_however_the_bytes_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream, passed, filter_ = HELLO + b"".join(messages), b"", ViewOnly()
    while stream:
        length = cuts.pop() if cuts else len(stream)
        passed += filter_.feed(stream[:length])
        stream = stream[length:]
    assert passed == HELLO + b"".join(message for message in messages if message in PASSIVE)


def test_encodings_that_would_change_later_messages_are_taken_out() -> None:
    offered = struct.pack(">BBHiiI", 2, 0, 3, 7, -316, 0xC0A1E5CE)
    assert ViewOnly().feed(HELLO + offered) == HELLO + struct.pack(">BBHi", 2, 0, 1, 7)


@pytest.mark.parametrize("message", [b"\x01", b"\x63", b"\xfc", b"\xff\x01"])
def test_message_of_unknown_length_ends_the_connection(message: bytes) -> None:
    filter_ = ViewOnly()
    filter_.feed(HELLO)
    with pytest.raises(UnknownMessage):
        filter_.feed(message)


@pytest.mark.parametrize(
    "hello", [b"RFB 003.003\n\x01", b"RFB 003.007\n\x01\x01", b"RFB 003.008\n\x02\x01", b"\x04" * 14]
)
@pytest.mark.parametrize("at_once", [1, 99])
def test_handshake_of_another_length_or_kind_ends_the_connection(hello: bytes, at_once: int) -> None:
    """The server would read the old version's hello as one byte shorter, and the rest as other messages than we do."""
    filter_, stream = ViewOnly(), hello + KEY

    def say() -> None:
        for start in range(0, len(stream), at_once):
            filter_.feed(stream[start : start + at_once])

    with pytest.raises(UnknownMessage):
        say()


def test_long_cut_text_is_dropped_without_being_collected() -> None:
    filter_ = ViewOnly()
    filter_.feed(HELLO + struct.pack(">BBHi", 6, 0, 0, 100_000_000))
    for _ in range(100):
        assert filter_.feed(b"x" * 1_000_000) == b""
        assert len(filter_._buffer) == 0
    assert filter_.feed(KEY + REQUEST) == REQUEST
