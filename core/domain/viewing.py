"""What a viewer of a desktop says by itself, told from what a person made it say."""

_CUT_TEXT = 6
# Of the extended clipboard, as TigerVNC and noVNC speak it: the actions caps, request and peek.
_BY_ITSELF = 0b111 << 24


def said_by_itself(message: bytes) -> bool:
    """True for one whole message with which a viewer answers the server about clipboards, with nobody at the keys.

    Each control view does so once when it opens, and whenever something is copied inside the desktop.
    """
    if len(message) < 12 or message[0] != _CUT_TEXT:
        return False
    size = int.from_bytes(message[4:8], "big", signed=True)
    actions = int.from_bytes(message[8:12], "big")
    return size < 0 and len(message) == 8 - size and bool(actions & _BY_ITSELF)
