"""What can go wrong while images are built or loaded."""


class CannotBuild(RuntimeError):
    """An image cannot be built or loaded here; the text is for a person and says what would help."""
