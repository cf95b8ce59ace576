"""A language model that knows its lines: an OpenAI-compatible HTTP server that plays a script to browser-use.

The numbers of a page's elements are not known beforehand, so a step may be a function that looks them up in the text
of the browser's state. Standard library only, so that it runs in every environment of the project.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Action = Mapping[str, Any]
Step = Callable[[str], Sequence[Action]]

_STATE = "<browser_state>"
_MAX_BODY = 32 << 20  # a picture of the page may be in it


class OutOfLines(LookupError):
    """The script has no answer: it is over, or the page does not hold what it looks for."""


def element(state: str, pattern: str) -> int:
    """The number of the first element in the browser's state whose line matches `pattern`."""
    for line in state.splitlines():
        number = re.search(r"\[(\d+)\]<", line)
        if number and re.search(pattern, line):
            return int(number.group(1))
    raise OutOfLines(f"no element matches {pattern!r}")


def say(*actions: Action) -> Step:
    """A step that does the same whatever the page looks like."""
    return lambda state: actions


def done(text: str, *, success: bool = True) -> Step:
    return say({"done": {"text": text, "success": success, "files_to_display": []}})


def order_tea(shop_url: str, name: str, email: str, tea: str = "White tea") -> list[Step]:
    """Opens the demo shop's form, fills it in, sends it and reports the order number."""

    def fill(state: str) -> Sequence[Action]:
        return (
            {"input": {"index": element(state, r"<input.*id=name"), "text": name}},
            {"input": {"index": element(state, r"<input.*id=email"), "text": email}},
            {"select_dropdown": {"index": element(state, r"<select"), "text": tea}},
            {"click": {"index": element(state, r"<input.*type=checkbox")}},
        )

    def send(state: str) -> Sequence[Action]:
        return ({"click": {"index": element(state, r"<button.*id=send")}},)

    def report(state: str) -> Sequence[Action]:
        number = re.search(r"Order number:\s*(\d+)", state)
        if number is None:
            raise OutOfLines("the page shows no order number")
        return done(f"Order {number.group(1)} placed for {name}")(state)

    return [say({"navigate": {"url": f"{shop_url}/order"}}), fill, send, report]


class ScriptedModel:
    """The running model. `base_url` is what LLM_BASE_URL takes; each task that starts plays a script from its start.

    `scripts` are chosen by a word of the task: the first whose key is contained in it; "" fits every task.
    """

    def __init__(
        self,
        scripts: Mapping[str, Sequence[Step]],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "",
        delay: float = 0,
    ):
        self.scripts = dict(scripts)
        self.delay = delay
        """Seconds before each answer, as a real model would take."""
        self.calls = 0
        self._api_key = api_key
        self._server = ThreadingHTTPServer((host, port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="scripted model", daemon=True)
        self.base_url = f"http://{host}:{self._server.server_address[1]}/v1"

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

    def admits(self, authorization: str | None) -> bool:
        return not self._api_key or authorization == f"Bearer {self._api_key}"

    def answer(self, texts: Sequence[str]) -> str:
        """The content of the next message, as browser-use expects it. Raises `OutOfLines`."""
        self.calls += 1
        whole = "\n".join(texts)
        state = next((text[text.index(_STATE) :] for text in reversed(texts) if _STATE in text), "")
        step = _step_number(state)
        requests = re.findall(r"<user_request>(.*?)</user_request>", whole, re.DOTALL)
        task = requests[-1] if requests else whole  # the first may be the instructions, which explain the word
        steps = next((steps for word, steps in self.scripts.items() if word in task), None)
        if steps is None or step >= len(steps):
            raise OutOfLines(f"no line for step {step + 1}")
        return json.dumps(
            {
                "thinking": "as rehearsed",
                "evaluation_previous_goal": "done",
                "memory": "",
                "next_goal": f"step {step + 1}",
                "action": list(steps[step](state)),
            }
        )


def _step_number(state: str) -> int:
    """Which step browser-use is at, from 0; it tells the model in every state."""
    number = re.search(r"<step_info>\s*Step\s*(\d+)", state)
    return int(number.group(1)) - 1 if number else 0


def _handler(model: ScriptedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """`POST /v1/chat/completions` without streaming, and `GET /v1/models`."""

        def do_GET(self) -> None:
            self._answer(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > _MAX_BODY:
                self._answer(413, {"error": {"message": "the request is too large", "type": "invalid_request_error"}})
                return
            body = json.loads(self.rfile.read(length))
            if not model.admits(self.headers.get("Authorization")):
                self._answer(401, {"error": {"message": "wrong key", "type": "invalid_request_error"}})
                return
            if model.delay:
                time.sleep(model.delay)
            try:
                content = model.answer([_text(message) for message in body["messages"]])
            except OutOfLines as error:
                # 400 is the answer that clients do not repeat.
                self._answer(400, {"error": {"message": str(error), "type": "invalid_request_error"}})
                return
            self._answer(
                200,
                {
                    "id": "chatcmpl-scripted",
                    "object": "chat.completion",
                    "created": int(time.time()),
                    "model": body.get("model", "scripted"),
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": "stop",
                            "message": {"role": "assistant", "content": content},
                        }
                    ],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                },
            )

        def _answer(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: the agent tells what its task did."""

    return Handler


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)
