"""Somebody else's text in a sentence or a log of ours."""

import pytest

from core.domain.excerpts import place, with_places


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://shop.test/in?code=secret", "https://shop.test/in"),
        ("https://shop.test/in#token=secret", "https://shop.test/in"),
        ("https://shop.test?next=https://x/secret", "https://shop.test"),
        ("https://ann:secret@shop.test:8443/in", "https://shop.test:8443/in"),
        ("https://shop.test/@ann", "https://shop.test/@ann"),
        ("data:text/html,<p>a secret of //its own", "data:"),
        ("blob:https://shop.test/secret", "blob:"),
        ("about:blank", "about:"),
        ("", ""),
    ],
)
def test_place_of_a_url_holds_nothing_that_lets_one_in(url: str, told: str) -> None:
    assert place(url) == told


def test_every_url_in_a_text_becomes_its_place_and_the_rest_stays() -> None:
    text = "page https://shop.test/in?code=secret crashed 11: see data:text/html,secret or http://ann:secret@b.test"
    assert with_places(text) == "page https://shop.test/in crashed 11: see data: or http://b.test"
    assert with_places("ordered: nothing at 127.0.0.1:80?") == "ordered: nothing at 127.0.0.1:80?"
