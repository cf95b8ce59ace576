"""Letters to a real mail server: taken, put off, refused, and never bent by what somebody is called."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from pydantic import SecretStr

from activities.mailing import MailSender
from core.db.repositories.notices import Taken
from core.domain.notices import Channel, Failure, Trouble
from core.settings import Smtp, SmtpSecurity
from tests.fixtures.receivers import Mailbox, self_signed
from tests.unit.test_domain_notices import happened

URL = "https://berth.example"


def letter(to: str | None = "ann@example.org", **fields: Any) -> Taken:
    return Taken(
        notice_id="ag-1-7-email", channel=Channel.EMAIL, recipient=to, tries=1, tired=False, happened=happened(**fields)
    )


async def failed(settings: Smtp, notice: Taken | None = None) -> Failure:
    failure = await MailSender(settings, URL).send(notice or letter())
    assert failure is not None
    return failure


async def test_letter_has_one_recipient_and_an_id_that_stays_the_same(mailbox: Mailbox) -> None:
    sender = MailSender(mailbox.settings(), URL)
    assert await sender.send(letter()) is None
    assert await sender.send(letter()) is None
    first, second = mailbox.letters
    assert first["Message-ID"] == second["Message-ID"] == "<ag-1-7-email@example.org>"
    assert (first["From"], first["To"]) == ("Berth <berth@example.org>", "ann@example.org")
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["Date"] == "Sun, 01 Mar 2026 09:30:00 +0000"
    assert mailbox.envelopes[0] == ("berth@example.org", ["ann@example.org"])
    assert first.get_content_type() == "text/plain"
    assert f"{URL}/#/agents/ag-1" in first.get_content()


async def test_name_of_a_project_in_any_script_arrives_and_adds_nothing(mailbox: Mailbox) -> None:
    evil = "Läden 商店\r\nBcc: all@example.org\r\n\r\nhello"
    assert await MailSender(mailbox.settings(), URL).send(letter(project_id=evil)) is None
    (found,) = mailbox.letters
    assert found["Subject"] == "Your agent in Läden 商店 Bcc: all@example.org hello failed"
    assert found["Bcc"] is None
    assert mailbox.envelopes == [("berth@example.org", ["ann@example.org"])]


@pytest.mark.parametrize(
    "to",
    [
        *(None, "", "ann", "a@b@c", "ann@example.org\r\nRCPT TO:<x@y>", "a b@c", "<a@b>", "a@b, c@d"),
        *("ann@example.org.", "ann@example..com", "ann..b@example.org", "ann@=?utf-8?q?b=2C_c=40d?="),
    ],
)
async def test_address_that_is_none_is_given_up_at_once(mailbox: Mailbox, to: str | None) -> None:
    failure = await failed(mailbox.settings(), letter(to))
    assert (failure.trouble, failure.final) == (Trouble.NO_ADDRESS, True)
    assert mailbox.letters == []


@pytest.mark.parametrize("utf8", [False, True])
async def test_address_and_sender_in_a_domain_of_any_script_are_understood_by_every_server(
    mailbox: Mailbox, utf8: bool
) -> None:
    mailbox.utf8 = utf8
    settings = mailbox.settings(sender="Berth <berth@bücher.example>")
    assert await MailSender(settings, URL).send(letter("ann@münchen.example")) is None
    assert mailbox.envelopes == [("berth@xn--bcher-kva.example", ["ann@xn--mnchen-3ya.example"])]
    (found,) = mailbox.letters
    assert (found["From"], found["To"]) == ("Berth <berth@xn--bcher-kva.example>", "ann@xn--mnchen-3ya.example")


async def test_address_that_only_some_servers_take_is_refused_for_good_by_the_others(mailbox: Mailbox) -> None:
    # Its form in ASCII is a matter of the year: strasse.example may be somebody else's.
    mailbox.utf8, to = False, "ann@straße.example"
    failure = await failed(mailbox.settings(), letter(to))
    assert (failure.trouble, failure.final) == (Trouble.SMTP_REFUSED, True)
    assert "SMTPUTF8" in failure.detail
    assert mailbox.letters == []
    mailbox.utf8 = True
    assert await MailSender(mailbox.settings(), URL).send(letter(to)) is None
    assert mailbox.envelopes == [("berth@example.org", [to])]


async def test_greylisting_is_asked_again_and_a_refusal_is_not(mailbox: Mailbox) -> None:
    mailbox.answers = ["451 4.7.1 come back later", "550 5.1.1 no such person"]
    later = await failed(mailbox.settings())
    assert (later.trouble, later.final) == (Trouble.SMTP_LATER, False)
    assert later.detail == "451 4.7.1 come back later"
    never = await failed(mailbox.settings())
    assert (never.trouble, never.final, never.detail) == (Trouble.SMTP_REFUSED, True, "550 5.1.1 no such person")
    assert await MailSender(mailbox.settings(), URL).send(letter()) is None


async def test_server_that_is_away_is_asked_again(mailbox: Mailbox) -> None:
    await mailbox.down()
    failure = await failed(mailbox.settings())
    assert (failure.trouble, failure.final) == (Trouble.SMTP_UNREACHABLE, False)


async def served(handle: Any, **options: Any) -> asyncio.Server:
    return await asyncio.start_server(handle, "127.0.0.1", 0, **options)


async def test_server_that_never_answers_is_left_after_a_while() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await served(silent) as server:
        port = server.sockets[0].getsockname()[1]
        failure = await failed(Mailbox(port).settings(timeout_seconds=0.3))
    assert (failure.trouble, failure.detail) == (Trouble.SMTP_TIMEOUT, "no answer within 0.3 s")


async def test_server_that_closes_its_door_says_nothing_about_the_letter() -> None:
    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554 5.3.2 not now\r\n")
        await writer.drain()
        writer.close()

    async with await served(busy) as server:
        failure = await failed(Mailbox(server.sockets[0].getsockname()[1]).settings())
    assert (failure.trouble, failure.final) == (Trouble.SMTP_LATER, False)


async def test_letter_that_was_taken_is_sent_although_the_server_then_hangs_up(mailbox: Mailbox) -> None:
    """Else it would be sent again, and again."""
    lines: list[bytes] = []

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        while line := await reader.readline():
            lines.append(line)
            if line.upper().startswith(b"DATA"):
                writer.write(b"354 go on\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 taken\r\n")
                await writer.drain()
                break
            writer.write(b"250 ok\r\n")
        writer.close()

    async with await served(rude) as server:
        port = server.sockets[0].getsockname()[1]
        assert await MailSender(Mailbox(port).settings(), URL).send(letter()) is None
    assert b"RCPT TO:<ann@example.org>\r\n" in lines


class Guarded(Mailbox):
    """Lets in only who knows the password."""

    def authenticator(self, server: Any, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"berth", b"right"), handled=False)


@pytest.mark.parametrize(("password", "trouble"), [("right", None), ("wrong", Trouble.SMTP_LOGIN)])
async def test_login_that_is_refused_is_the_operators_to_mend_so_the_letter_waits(
    password: str, trouble: Trouble | None
) -> None:
    box, loop = Guarded(), asyncio.get_running_loop()

    def session() -> SMTP:
        return SMTP(box, authenticator=box.authenticator, auth_require_tls=False)

    async with await loop.create_server(session, "127.0.0.1", 0) as server:
        box.port = server.sockets[0].getsockname()[1]
        settings = box.settings(user="berth", password=SecretStr(password))
        failure = await MailSender(settings, URL).send(letter())
    assert (failure and failure.trouble) == trouble
    assert failure is None or not failure.final
    assert len(box.letters) == (1 if trouble is None else 0)


async def test_starttls_that_is_asked_for_and_not_to_be_had_sends_nothing_in_clear(mailbox: Mailbox) -> None:
    failure = await failed(mailbox.settings(security=SmtpSecurity.STARTTLS))
    assert not failure.final
    assert mailbox.letters == []


async def test_server_with_a_certificate_of_somebody_else_gets_no_letter(tmp_path: Path) -> None:
    mine, _ = await asyncio.to_thread(self_signed, "mail.example", tmp_path)
    box, loop = Mailbox(), asyncio.get_running_loop()
    for security, listening in ((SmtpSecurity.AUTO, {"tls_context": mine}), (SmtpSecurity.TLS, {})):
        wrapped = mine if security is SmtpSecurity.TLS else None
        async with await loop.create_server(
            lambda given=listening: SMTP(box, **given), "127.0.0.1", 0, ssl=wrapped
        ) as s:
            box.port = s.sockets[0].getsockname()[1]
            failure = await failed(box.settings(security=security))
            assert (failure.trouble, failure.final) == (Trouble.SMTP_TLS, False)
    assert box.letters == []
