"""Where nx_addon reaches into mitmproxy beyond its public interface.

`master` is mitmproxy's master object, `client` and `server` its connections. With a
version of mitmproxy that is organised differently, each function does less, and logs
that if users would notice.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nxparse.config import OPTIONS, Config, ConfigError, Option
from nxparse.proxy import advice, network
from nxparse.proxy.log_stream import LogStream

LAST_LINES = 1.0  # seconds to write the last lines of the log at the end

logger = logging.getLogger(__name__)


def convert_deferred(options: Any, option: Option) -> bool:
    """Convert a value that was set before the option was declared to the declared type.

    With a value of another type, mitmproxy silently drops the addon. If the value is
    invalid, returns False and logs an error, which makes mitmproxy exit.
    """
    if option.name in options.deferred:
        given = options.deferred.pop(option.name)
        if hasattr(given, "val"):  # from --set: a list of strings, empty without a value
            given = given.val or True
        try:
            options.deferred[option.name] = option.convert(given, os.environ)
        except ConfigError as error:
            logger.error(str(error))
            return False
    return True


def warn_about_unknown(options: Any) -> None:
    """Warn about options of ours that do not exist."""
    for name in sorted(options.deferred):
        if name.startswith("nx_"):
            known = ", ".join(option.name for option in OPTIONS)
            logger.warning(f"there is no option {name}: the options are {known}")


def streams(master: Any, client: Any) -> Any:
    """Return the object with the reader and writer of a TCP client; None if not found."""
    try:
        return master.addons.get("proxyserver").connections[client.id].transports[client]
    except (AttributeError, KeyError):
        logger.warning(
            "nx_addon cannot find the connections of this version of mitmproxy: "
            "replies may leave in two segments, and cut uploads may lose their end"
        )
        return None


def abort_connection(master: Any, client: Any, server: Any) -> None:
    """Abort an open connection to a server, for which `server.error` has no effect."""
    with suppress(AttributeError, KeyError):
        handler = master.addons.get("proxyserver").connections[client.id]
        writer = handler.transports[server].writer
        if isinstance(writer, asyncio.StreamWriter):
            writer.transport.abort()
        else:
            writer.close()  # UDP


def listening(master: Any, mode: str = "") -> list[tuple[str, int]]:
    """Return the addresses and ports that this process listens on in a mode, or in all.

    Without a mode, they include those of mitmweb's own interface.
    """
    servers = master.addons.get("proxyserver").servers
    chosen = [server for server in servers if mode in ("", server.mode.type_name)]
    found = [address[:2] for server in chosen for address in server.listen_addrs]
    if not mode and "web_port" in master.options:
        found.append((master.options.web_host, master.options.web_port))
    return found


def name_servers(master: Any) -> list[str]:
    """Return the addresses of the name servers that the DNS mode queries."""
    resolver = master.addons.get("dnsresolver")
    return resolver.name_servers() if resolver else []


def log_set_up(master: Any, config: Config) -> None:
    """Log how a camera reaches this process, and warn if files will belong to root."""
    regular, upstream, transparent, dns = (
        [port for _, port in listening(master, mode)]
        for mode in ("regular", "upstream", "transparent", "dns")
    )
    set_up = advice.SetUp(
        regular + upstream,
        transparent,
        dns,
        addresses=_addresses(master),
        command=shlex.join([sys.argv[0], "-s", *master.options.scripts[:1]]),
        nx_dns=str(config.dns) if config.dns else None,
        hosts=config.hosts,
    )
    for line in advice.lines(set_up):
        logger.info(line)
    folders = [config.dir, Path(master.options.confdir).expanduser()]
    if warning := advice.sudo_warning(os.environ, folders):
        logger.warning(warning)


def _addresses(master: Any) -> list[str]:
    """Return the addresses of this machine, the likeliest on the cameras' side first."""
    is_router = any(mode.startswith("transparent") for mode in master.options.mode)
    return [str(one) for one in network.addresses(lan_first=is_router)] or ["ADDRESS"]


def is_inspected(master: Any) -> bool:
    """Return whether bodies are shown, or saved with their flows."""
    options = master.options
    detail = options.flow_detail if "flow_detail" in options else 0
    interactive = master.addons.get("view") is not None
    return bool(interactive or options.save_stream_file or options.hardump or detail >= 3)


def answer_dns_before_resolver(master: Any) -> None:
    """Move the resolver behind scripts: in mitmproxy 11 it would resolve our hosts first."""
    chain, resolver = master.addons.chain, master.addons.get("dnsresolver")
    if resolver in chain:
        chain.remove(resolver)
        chain.append(resolver)


def show_comments(master: Any) -> None:
    """Show comments in mitmweb's list, unless the user has chosen its columns."""
    options = master.options
    if "web_columns" in options and options.web_columns == options.default("web_columns"):
        options.web_columns = [*options.web_columns, "comment"]


def write_stdout_in_thread(master: Any) -> None:
    """Write what mitmdump and mitmweb print in a thread; see `LogStream`."""
    handlers: list[Any] = logging.getLogger().handlers
    own = [one for one in handlers if getattr(one, "file", None) is sys.stdout]
    if not own or (os.name == "nt" and sys.stdout.isatty()):  # its console does not accept bytes
        return
    with suppress(OSError):
        sys.stdout.flush()
    stream = LogStream(sys.stdout.fileno())
    atexit.register(stream.drain, LAST_LINES)
    for handler in own:
        handler.file = stream
    if dumper := master.addons.get("dumper"):
        dumper.outfp = stream


def on_interrupt(master: Any, act: Callable[[], None]) -> None:
    """Call `act` on the next SIGINT or SIGTERM, if mitmproxy is ending because of one."""
    loop = asyncio.get_running_loop()
    if master.should_exit.is_set():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))


class PortAdvice:
    """Logs what to do about ports that mitmproxy cannot open."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._proxies = master.addons.get("proxyserver")
        if self._proxies:
            self._proxies.servers.changed.connect(self._log)  # a weak reference
            self._log()  # mitmproxy opens its ports while it loads scripts

    def _log(self) -> None:
        for server in self._proxies.servers:
            error = server.last_exception
            port = server.mode.listen_port(self._master.options.listen_port)
            if not error or not port:
                continue
            # In mitmproxy 11, only the text of an error of a UDP port has its number.
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else getattr(error, "errno", 0)
            if line := advice.remedy(port, number, _addresses(self._master)[0]):
                logger.error(line)
