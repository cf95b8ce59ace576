"""What may be somebody's e-mail address: that which a letter can be addressed to, word for word. Pure."""

import re
import unicodedata
from email.errors import MessageError
from email.headerregistry import Address

# One address and nothing that a header or an envelope gives a meaning of its own.
_ONE = re.compile(r"[^\s@<>()\[\]\\,;:\"]+@[^\s@<>()\[\]\\,;:\"]+")


def mailbox(text: str) -> Address:
    """The address in `text`. Raises ValueError when it is none that can stand in a letter's head as it is."""
    if not _ONE.fullmatch(text):
        raise ValueError("it is not one e-mail address")
    try:
        found = Address(addr_spec=text)
    except MessageError:  # the other errors of an address are ValueErrors
        raise ValueError("it is no e-mail address that a letter can be sent to") from None
    if found.addr_spec != text:
        # Encoded words are read as what they stand for, which may be another address, or several.
        raise ValueError("it is no e-mail address that a letter can be sent to")
    return found


def in_ascii(address: str) -> str:
    """`address` with its domain as DNS and every mail server know it: `a@xn--mnchen-3ya.de` for `a@münchen.de`.

    As it is where its domain has no such form, or would be another one in it: the codec is of 2003, and takes the ß of
    a name that has been allowed since for ss.
    """
    user, _, domain = address.rpartition("@")
    try:
        encoded = domain.encode("idna")
        same = encoded.decode("idna") == unicodedata.normalize("NFC", domain).lower()
    except UnicodeError:
        return address
    return f"{user}@{encoded.decode('ascii')}" if same and not domain.isascii() else address
