"""Rules `PATTERN=TARGET` of the option nx_route, and the targets they choose for an upload.

A pattern is a glob for a recipient's address, in any spelling, or the name of a site. The first
matching rule decides; further rules with exactly the same pattern add their targets. Recipients
that no rule matches get the default target. Recipients with the same target share one delivery.
The database stores a target as written, with `${NAME}` unexpanded, so that secrets stay in the
environment. Logs and messages show only the result of `shown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import quote

from nxparse.address import comparable
from nxparse.text import printable

DISK_ONLY = ("save", "drop")
KINDS = ("save", "mail", "run", "forward", "mastodon", "notify", "drop")
_NO_ARGUMENT = ("save", "mail", "drop")  # these need none

# The sites in the menus of NX300 and NX mini (ge0rg/samsung-nx-emailservice, commit a388a20).
VIDEO_SITES = frozenset({"facebook", "youtube"})
_PHOTO_ONLY = {"cyworld", "evernote", "kakaostory", "me2day", "odnoklassniki", "photobucket"}
_PHOTO_ONLY |= {"picasa", "poco", "renren", "samsungimaging", "vkontakte", "weibo"}
PHOTO_SITES = VIDEO_SITES | _PHOTO_ONLY
# These had a login page of their own. It is not known whether their logins name a user.
OAUTH_SITES = frozenset({"dropbox", "flickr", "skydrive"})
SITES = PHOTO_SITES | OAUTH_SITES

# Scheme, host and port of a URL, the latter two only where they cannot be part of a password. At
# the end, digits could be a password after a user whose host is missing.
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)"
    r"(?:(?:[^/?#]*@)?([\w.${}-]+|\[[0-9A-Fa-f:.]+\])"
    r"(:[0-9]{1,5}(?=[/?#]))?(?::[0-9]+)?(?:[/?#][^@]*)?\Z)?"
)


class Target(NamedTuple):
    """A target: `text` as written, `kind` and `argument` before and after its colon."""

    text: str
    kind: str
    argument: str = ""

    def __repr__(self) -> str:
        return f"Target({shown(self.text)!r})"

    @property
    def reaches_beyond_the_disk(self) -> bool:
        return self.kind not in DISK_ONLY


class Rule(NamedTuple):
    pattern: str
    target: Target


def parse_target(text: str) -> Target:
    """Parse `KIND` or `KIND:ARGUMENT`. Raises ValueError."""
    if re.search("[\0\ud800-\udfff]", text):  # neither the database nor a program accepts it
        raise ValueError("a target must be text in UTF-8")
    kind, colon, argument = text.strip().partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown target {kind!r}: the targets are {', '.join(KINDS)}")
    if not argument and (colon or kind not in _NO_ARGUMENT):
        raise ValueError(f"{kind} needs an argument: see the table of targets in README")
    if kind == "drop" and colon:
        raise ValueError("drop takes no argument")
    return Target(text.strip(), kind, argument)


def parse_rule(text: str) -> Rule:
    """Parse `PATTERN=TARGET`. Raises ValueError."""
    pattern, equals, target = text.partition("=")
    if not equals or not pattern.strip() or ":" in pattern:
        raise ValueError("a rule is PATTERN=TARGET, for example *@example.org=save")
    return Rule(pattern.strip(), parse_target(target))


def decide(
    rules: Sequence[Rule], default: Target, names: Iterable[str]
) -> Mapping[Target, tuple[str, ...]]:
    """Return the targets of an upload, each with its recipients (or site) in order."""
    decided: dict[Target, tuple[str, ...]] = {}
    for name in names:
        pattern = next((one.pattern for one in rules if fits(one.pattern, name)), None)
        targets = [one.target for one in rules if one.pattern == pattern] or [default]
        for target in dict.fromkeys(targets):
            decided[target] = (*decided.get(target, ()), name)
    return decided


def fits(pattern: str, name: str) -> bool:
    """Return whether a glob matches an address or a name, in any spelling of it."""
    return fnmatchcase(comparable(name), comparable(pattern))


def shown(text: str) -> str:
    """Return a target without secrets: of a URL only scheme and host. It may be invalid."""
    kind, _, argument = text.strip().partition(":")
    has_url = "://" in argument
    if kind in DISK_ONLY or (kind in ("mail", "run") and not has_url):
        return text
    if kind == "run":  # anything beside a URL may be a password for it
        program = argument.split()[0]
        return f"run:{program} ..." if re.fullmatch(r"[\w./~${}-]+", program) else "run:..."
    if re.fullmatch(r"(?:\$\{\w+\})*", argument):
        return text
    url = shown_url(argument)
    if kind == "notify" and has_url:  # the host of its URLs may be a token
        url = re.sub("://.*", "://...", url)
    return f"{kind}:{url}"


def shown_url(url: str) -> str:
    """Return scheme and host of a URL that may be invalid, with dots for the rest."""
    found = _URL.match(url.strip())
    if not found:
        return "..."
    bare = "".join(found.groups(""))
    if bare == url.strip():
        return bare
    return f"{bare}/..." if found[2] else f"{bare}..."


def shown_rule(text: str) -> str:
    """Return a rule without secrets. It may be invalid."""
    pattern, equals, target = text.partition("=")
    return f"{pattern}={shown(target)}" if equals and ":" not in pattern else shown(text)


def target_label(text: str) -> str:
    """Return a target without secrets, fit for one line of a log."""
    return printable(shown(text))


def expand(value: str, environ: Mapping[str, str], *, url: bool = False) -> str:
    """Replace `${NAME}` in a value by the variable of that name.

    In a URL, a variable used as user, password or part of the query is percent-quoted.
    Raises ValueError if there is no such variable.
    """

    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if name not in environ:
            raise ValueError(
                f"the environment has no variable {name}; set it before you start mitmproxy"
            )
        before, after = value[: match.start()], value[match.end() :]
        is_login = re.fullmatch(r"[^/]+//[^/?#]*", before) and re.match(r"[^/?#]*@", after)
        if not (url and (is_login or "?" in before)):
            return environ[name]
        return quote(environ[name], "")

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", variable, value)
