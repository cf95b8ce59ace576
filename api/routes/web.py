"""The dashboard: one page and its files, as they lie in `api/web/dashboard`, under a policy that runs nothing else."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

from api import problems
from core.errors import NotFound

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).resolve().parent.parent / "web" / "dashboard"
_PAGE = "index.html"
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# `require-trusted-types-for` without a policy: no script of the page can turn text into HTML, whatever an id contains.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Frame-Options": "DENY",
    # Asked for anew each time and answered by its mark: a new release shows at once, without names that change.
    "Cache-Control": "no-cache",
}


@router.get("/")
async def index(request: Request) -> Response:
    return _file(request, _PAGE)


@router.get("/dashboard/{name}")
async def part(request: Request, name: str) -> Response:
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    # One folder, no way down or up: the name must be that of a file in it.
    known = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _KINDS}
    if name not in known:
        return problems.answer(NotFound("there is nothing here"))
    content = known[name].read_bytes()
    headers = {**_HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_KINDS[known[name].suffix], headers=headers)
