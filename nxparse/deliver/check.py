"""The check of the mail server in nx_smtp when the addon starts."""

from __future__ import annotations

import smtplib
import ssl

from nxparse.deliver import mail
from nxparse.deliver.errors import UnreachableError
from nxparse.deliver.smarthost import Security, Smarthost

TIMEOUT = 20.0  # seconds for the connection and for each reply; there are about seven


def check_smarthost(server: Smarthost, timeout: float = TIMEOUT) -> str:
    """Connect to a mail server, start TLS, log in and quit. No mail is sent.

    Blocks until the server has replied, so call it in a thread. Returns a line for the log.
    Raises UnreachableError with the reason and the option to change. Neither text contains
    the password.
    """
    try:
        smtp = mail.connect(server, timeout)
    except (OSError, smtplib.SMTPException) as error:
        reason = mail.describe(error, server)
        raise UnreachableError(f"{server}: {reason}; {_advice(error, server)}") from None
    mail.disconnect(smtp)
    return f"{server.host} accepts {'our login' if server.user else 'connections'}"


def _advice(error: Exception, server: Smarthost) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "nx_smtp must contain the host name of the server's certificate"
    if isinstance(error, ssl.SSLError) and server.security is Security.TLS:
        return "if this port does not use TLS from the start, set nx_smtp to smtp+starttls://"
    if server.port == 465 and server.security is not Security.TLS:
        return "port 465 needs smtps:// in nx_smtp"
    return "check host and port in nx_smtp"
