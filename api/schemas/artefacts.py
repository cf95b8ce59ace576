"""What an agent may store and what it gets back."""

from enum import StrEnum

from core.domain import wire


class ContentType(StrEnum):
    """Kinds that a browser shows, or keeps, without running anything."""

    PNG = "image/png"
    JPEG = "image/jpeg"
    PDF = "application/pdf"
    TEXT = "text/plain"
    JSON = "application/json"
    ZIP = wire.ZIP


ENDINGS = {
    ContentType.PNG: "png",
    ContentType.JPEG: "jpg",
    ContentType.PDF: "pdf",
    ContentType.TEXT: "txt",
    ContentType.JSON: "json",
    ContentType.ZIP: "zip",
}
