"""What may be somebody's e-mail address: that which a letter can be addressed to, word for word. Pure."""

import re
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
