"""What an agent may store and what it gets back."""

from enum import StrEnum

from core.db.repositories.artefacts import ArtefactView
from core.domain.wire import Artefact


class ContentType(StrEnum):
    """Kinds that a browser shows without running anything."""

    PNG = "image/png"
    JPEG = "image/jpeg"
    PDF = "application/pdf"
    TEXT = "text/plain"
    JSON = "application/json"


ENDINGS = {
    ContentType.PNG: "png",
    ContentType.JPEG: "jpg",
    ContentType.PDF: "pdf",
    ContentType.TEXT: "txt",
    ContentType.JSON: "json",
}


def artefact_body(view: ArtefactView) -> Artefact:
    return Artefact(
        artefact_id=view.artefact_id,
        content_type=view.content_type,
        bytes=view.bytes,
        url=f"/api/artefacts/{view.artefact_id}",
    )
