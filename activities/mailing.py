"""E-mail over SMTP: one plain-text letter a notice, to one address."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as WIRE
from email.utils import format_datetime, parseaddr

import aiosmtplib
from aiosmtplib import SMTP

from core.db.repositories.notices import Taken
from core.domain.letters import compose
from core.domain.mailboxes import in_ascii, mailbox
from core.domain.notices import Failure, Trouble
from core.settings import Smtp, SmtpSecurity

_TLS_PORT = 465
_QUIT_SECONDS = 2


class _NotTaken(Exception):
    """The server has no way to take letters for such an address."""


class MailSender:
    """A letter counts as sent when the mail server has taken it. Its Message-ID is made of the notice's id, so that
    a second one of the same, after a crash between the two, is known for what it is.
    """

    at_once = 4

    def __init__(self, settings: Smtp, public_url: str) -> None:
        """Raises ValueError when there is no server."""
        if settings.host is None or settings.sender is None:
            raise ValueError("SMTP__HOST is not set")
        self._settings = settings
        self._host = settings.host
        sender = parseaddr(settings.sender)[1]
        self._sender = in_ascii(sender)
        self._from = settings.sender.replace(sender, self._sender)
        self._public_url = public_url

    async def send(self, notice: Taken) -> Failure | None:
        """None: the server has taken it."""
        try:
            to = Address(addr_spec=in_ascii(mailbox(notice.recipient or "").addr_spec))
        except ValueError:
            return _failure(Trouble.NO_ADDRESS, "the user's e-mail address is none", final=True)
        message = self._letter(notice, to)
        smtp = self._client()
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                await smtp.connect()
                await self._hand_over(smtp, message, to)
        except _NotTaken as error:
            return _failure(Trouble.SMTP_REFUSED, _line(str(error)), final=True)
        except (TimeoutError, aiosmtplib.SMTPTimeoutError):
            return _failure(Trouble.SMTP_TIMEOUT, f"no answer within {self._settings.timeout_seconds:g} s")
        except (aiosmtplib.SMTPException, OSError) as error:
            return _failure_of(error)
        finally:
            await _part(smtp)
        return None

    async def _hand_over(self, smtp: SMTP, message: EmailMessage, to: Address) -> None:
        try:
            await smtp.send_message(message, sender=self._sender, recipients=[to.addr_spec])
        except aiosmtplib.SMTPNotSupported as error:
            # Of an address that cannot be said in ASCII. The same error at the door is about the way in.
            raise _NotTaken(str(error)) from error

    def _letter(self, notice: Taken, to: Address) -> EmailMessage:
        letter = compose(notice.happened, self._public_url)
        message = EmailMessage(policy=WIRE)
        message["From"] = self._from
        message["To"] = to
        message["Subject"] = letter.subject
        message["Date"] = format_datetime(notice.happened.at)
        message["Message-ID"] = f"<{notice.notice_id}@{self._sender.rpartition('@')[2]}>"
        # No machine shall answer it.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        return message

    def _client(self) -> SMTP:
        mail = self._settings
        tls = mail.security is SmtpSecurity.TLS or (mail.security is SmtpSecurity.AUTO and mail.port == _TLS_PORT)
        return SMTP(
            hostname=self._host,
            port=mail.port,
            username=mail.user,
            password=mail.password.get_secret_value() if mail.password else None,
            timeout=mail.timeout_seconds,
            use_tls=tls,
            start_tls=False if tls else self._start_tls(),
            local_hostname=socket.gethostname(),
        )

    def _start_tls(self) -> bool | None:
        match self._settings.security:
            case SmtpSecurity.STARTTLS:
                return True
            case SmtpSecurity.NONE:
                return False
            case SmtpSecurity.AUTO | SmtpSecurity.TLS:
                # None: where it is offered. A password is never sent to another machine in clear.
                return True if self._settings.password and not _is_loopback(self._host) else None


async def _part(smtp: SMTP) -> None:
    """Say goodbye; what was taken stays taken, however that goes."""
    with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        if smtp.is_connected:
            async with asyncio.timeout(_QUIT_SECONDS):
                await smtp.quit()
    smtp.close()


def _failure_of(error: Exception) -> Failure:
    match error:
        case aiosmtplib.SMTPRecipientsRefused():
            return _answered(error.recipients[0])
        case aiosmtplib.SMTPSenderRefused() | aiosmtplib.SMTPRecipientRefused() | aiosmtplib.SMTPDataError():
            return _answered(error)
        case aiosmtplib.SMTPAuthenticationError():
            return _failure(Trouble.SMTP_LOGIN, f"the server refuses the login ({error.code})")
        case aiosmtplib.SMTPResponseException():
            # Said of the server itself, at its door: no word about this letter.
            return _failure(Trouble.SMTP_LATER, f"{error.code} {_line(error.message)}")
        case ssl.SSLError():
            return _failure(Trouble.SMTP_TLS, _line(str(error)))
        case aiosmtplib.SMTPConnectError() | aiosmtplib.SMTPServerDisconnected() | OSError():
            tls = isinstance(error.__cause__, ssl.SSLError)
            return _failure(Trouble.SMTP_TLS if tls else Trouble.SMTP_UNREACHABLE, _line(str(error)))
        case _:
            return _failure(Trouble.SMTP_LOGIN, _line(str(error)))


def _answered(error: aiosmtplib.SMTPResponseException) -> Failure:
    """4xx: later, which is also what greylisting says. 5xx: never."""
    said = f"{error.code} {_line(error.message)}"
    if error.code >= 500:
        return _failure(Trouble.SMTP_REFUSED, said, final=True)
    return _failure(Trouble.SMTP_LATER, said)


def _failure(trouble: Trouble, detail: str, *, final: bool = False) -> Failure:
    return Failure(trouble=trouble, detail=detail, final=final)


def _line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text[:400]).split())[:200]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
