"""What stops the local stack from starting, as one sentence for a person."""


class CannotStart(RuntimeError):
    """The stack, or a part of it, cannot start; the text says why and what to do, on one line."""
