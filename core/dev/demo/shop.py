"""A small shop on this machine: pages, an order form with order numbers, a cookie that counts visits, a closed corner.

Standard library only, so that it runs in every environment of the project.
"""

import html
import itertools
import threading
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

_MAX_BODY = 64 << 10
_YEAR_SECONDS = 365 * 86400
_STYLE = """
:root{color-scheme:light dark;font:17px/1.5 system-ui,sans-serif}
body{max-width:44em;margin:2.5em auto;padding:0 1.2em}
nav a{margin-right:1.2em}
form{display:grid;gap:.9em;max-width:24em}
label{display:grid;gap:.2em}
.check{display:flex;gap:.5em;align-items:center}
input,select,button{font:inherit;padding:.45em .6em}
button{background:#2557a7;color:#fff;border:0;border-radius:.4em;cursor:pointer}
table{border-collapse:collapse}
td,th{padding:.3em 1.2em .3em 0;text-align:left}
"""
_TEAS = (("Green tea", "4.20"), ("Black tea", "3.90"), ("White tea", "6.50"))


@dataclass(frozen=True)
class Order:
    """One order as it was sent."""

    number: int
    name: str
    email: str
    tea: str


@dataclass
class Book:
    """The shop's orders, in the order they came; safe for several threads."""

    orders: list[Order] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(4711))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, email: str, tea: str) -> Order:
        with self._lock:
            order = Order(next(self._numbers), name, email, tea)
            self.orders.append(order)
        return order


class Shop:
    """The running shop. `url` is its address; use it as a context manager, or `start` and `stop`."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.book = Book()
        self.seen: list[str] = []
        """Every path that was asked for."""
        self._server = ThreadingHTTPServer((host, port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="demo shop", daemon=True)
        self.host = host
        self.port = int(self._server.server_address[1])
        self.url = f"http://{host}:{self.port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _handler(shop: Shop) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One request; the connection ends with it."""

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            shop.seen.append(parts.path)
            match parts.path:
                case "/":
                    self._home()
                case "/order":
                    self._page(200, "Order tea", _order_form())
                case "/secret":
                    self._page(200, "Secret", "<p id=secret>Nobody outside this machine should read this.</p>")
                case "/prices.csv":
                    prices = "".join(f"{tea},{price}\n" for tea, price in _TEAS)
                    self._answer(200, prices, {"Content-Type": "text/csv", "Content-Disposition": "attachment"})
                case "/away":
                    self._answer(302, "", {"Location": parse_qs(parts.query).get("to", ["/"])[0]})
                case "/long":
                    rows = "".join(f"<p>Line {number} of a long page.</p>" for number in range(400))
                    self._page(200, "A long page", rows)
                case "/large":
                    self._page(200, "A large page", "<p>" + "many words " * 150_000 + "</p>")
                case _:
                    self._page(404, "Not found", "<p>There is no such page in this shop.</p>")

        def do_POST(self) -> None:
            shop.seen.append(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/order" or length > _MAX_BODY:
                self._page(404, "Not found", "<p>Nothing is taken here.</p>")
                return
            fields = parse_qs(self.rfile.read(length).decode(errors="replace"))
            name, email, tea = (fields.get(key, [""])[0].strip() for key in ("name", "email", "tea"))
            if not name or "@" not in email or fields.get("agree") != ["yes"]:
                self._page(422, "Something is missing", _order_form("Name, e-mail and your consent are needed."))
                return
            order = shop.book.add(name, email, tea)
            self._page(
                200,
                "Thank you",
                f"<p>Order number: <b id=number>{order.number}</b></p>"
                f"<p>{html.escape(order.tea)} for {html.escape(order.name)}, {html.escape(order.email)}.</p>",
            )

        def _home(self) -> None:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
            before = cookies["visits"].value if "visits" in cookies else "0"
            visits = int(before) + 1 if before.isdigit() else 1
            rows = "".join(f"<tr><td>{tea}</td><td>{price} EUR</td></tr>" for tea, price in _TEAS)
            links = "<a id=prices href=/prices.csv>Price list</a>"
            body = (
                f"<p>Visit <b id=visits>{visits}</b></p>{links}<table><tr><th>Tea</th><th>Price</th></tr>{rows}</table>"
            )
            self._page(200, "Tea shop", body, {"Set-Cookie": f"visits={visits}; Max-Age={_YEAR_SECONDS}; Path=/"})

        def _page(self, status: int, title: str, body: str, headers: dict[str, str] | None = None) -> None:
            text = (
                f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
                f'<nav><a href="/">Shop</a><a href="/order">Order</a></nav><h1>{title}</h1>{body}</html>'
            )
            self._answer(status, text, headers or {})

        def _answer(self, status: int, text: str, headers: dict[str, str]) -> None:
            body = text.encode()
            self.send_response(status)
            for name, value in {"Content-Type": "text/html; charset=utf-8", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: whoever runs the shop reads `seen`."""

    return Handler


def _order_form(problem: str = "") -> str:
    options = "".join(f"<option>{tea}</option>" for tea, _ in _TEAS)
    return (
        (f"<p id=problem role=alert>{problem}</p>" if problem else "")
        + '<form method="post" action="/order">'
        + '<label>Name <input id="name" name="name" placeholder="Your name" autocomplete="off"></label>'
        + '<label>E-mail <input id="email" name="email" type="email" placeholder="you@example.test"></label>'
        + f'<label>Tea <select id="tea" name="tea">{options}</select></label>'
        + '<label class="check"><input id="agree" name="agree" type="checkbox" value="yes"> I agree</label>'
        + '<button id="send" type="submit">Send order</button></form>'
    )
