"""Names of container images, as registries write them: `[host[:port]/]path[:tag][@digest]`, and nothing else."""

import re

MAX_LENGTH = 255
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}"
_DIGEST = r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}"
_IMAGE = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::{_TAG})?(?:@(?:{_DIGEST}))?")


def check_image(value: str) -> str:
    """Return `value` when it names an image, else raise ValueError with a sentence for whoever wrote it."""
    if len(value) > MAX_LENGTH:
        raise ValueError(f"an image's name has at most {MAX_LENGTH} characters, this one {len(value)}")
    if not _IMAGE.fullmatch(value):
        raise ValueError("not an image's name: [host[:port]/]path[:tag][@sha256:...], the path in lower case")
    return value
