"""The check of the mail server at the start."""

from __future__ import annotations

import base64
import os
import re
import socket

import pytest

from nxparse.deliver.check import check_smarthost
from nxparse.deliver.errors import UnreachableError
from nxparse.deliver.smarthost import Security, Smarthost
from tests.smtp_servers import HOST, Act, Authority, MailServer, Script, ScriptedServer, ehlo

USER, PASSWORD = "me@example.org", "geheim-ß"
TOKEN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
LOGIN = "127.0.0.1 accepts our login"
PLAIN, STARTTLS, TLS = Security


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def _trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the authority of the tests, and no other one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)


def warning(server: Smarthost, timeout: float = 10.0) -> str:
    """The reason why a check fails, with SERVER in the place of host and port."""
    with pytest.raises(UnreachableError) as caught:
        check_smarthost(server, timeout)
    text = str(caught.value)
    assert text.isprintable()
    assert not re.search(f"{PASSWORD}|{TOKEN}", text)
    return text.replace(str(server), "SERVER")


@pytest.mark.parametrize("security", Security)
def test_login(security: Security, authority: Authority) -> None:
    """With a user, the check logs in over TLS and sends no mail."""
    tls, implicit = authority.context(), security is TLS
    with MailServer(tls=tls, implicit=implicit, login=(USER, PASSWORD)) as server:
        assert check_smarthost(Smarthost(HOST, server.port, security, USER, PASSWORD)) == LOGIN
    assert server.logins == [("PLAIN", USER, PASSWORD)]
    assert server.mails == []


def test_without_a_user() -> None:
    """Without a user, the check connects and quits."""
    with ScriptedServer() as server:
        found = check_smarthost(Smarthost(HOST, server.port, PLAIN))
    assert found == "127.0.0.1 accepts connections"
    assert server.keys == ["connect", "EHLO", "QUIT"]


AUTH = ehlo("AUTH PLAIN")


@pytest.mark.parametrize(
    ("script", "security", "expected"),
    [
        pytest.param(
            {"EHLO": AUTH, "AUTH": f"535 5.7.8 no {TOKEN}"},
            PLAIN,
            r"SERVER refuses the login of 'me@example\.org' \(535 5\.7\.8 no \*\*\*\): "
            r"check the user and password in nx_smtp",
            id="wrong-password",
        ),
        pytest.param(
            {"greeting": ("554 5.7.1 not you", Act.CLOSE)},
            PLAIN,
            r"SERVER: 554 5\.7\.1 not you; check host and port in nx_smtp",
            id="refused-by-greeting",
        ),
        pytest.param(
            {"greeting": "220 mail.example ESMTP"},
            TLS,
            r"SERVER: \[SSL.*; if this port .* set nx_smtp to smtp\+starttls://",
            id="port-without-tls",
        ),
        pytest.param(
            {"EHLO": ehlo("STARTTLS")},
            STARTTLS,
            "SERVER: .*certificate verify failed.*; nx_smtp must contain the host name .*",
            id="certificate-of-another-host",
        ),
    ],
)
def test_warning(script: Script, security: Security, expected: str, authority: Authority) -> None:
    """The warning has the reason and names the option to change."""
    with ScriptedServer(script, tls=authority.context("mail.example")) as server:
        found = warning(Smarthost(HOST, server.port, security, USER, PASSWORD))
    assert re.fullmatch(expected, found), found


def test_silent_server() -> None:
    """A silent server is abandoned after the timeout."""
    with ScriptedServer({"greeting": Act.SILENCE}) as server:
        found = warning(Smarthost(HOST, server.port, PLAIN, USER, PASSWORD), timeout=0.2)
    assert found.endswith("timed out; check host and port in nx_smtp")


def test_port_465_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on port 465 waits for TLS, so smtp:// times out: the warning says smtps://."""

    def refuse(*arguments: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", refuse)
    found = warning(Smarthost("mail.example", 465, STARTTLS, USER, PASSWORD))
    assert found == "SERVER: timed out; port 465 needs smtps:// in nx_smtp"
