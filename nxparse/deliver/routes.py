"""Which way out an upload takes: rules `PATTERN=TARGET`, from the option nx_route.

A pattern is a glob for a recipient's address, matched without case, and against the
address as mail would be sent to it, however it is spelled (`nxparse.address`). The first
rule that fits decides; further rules with exactly the same pattern add their
targets to it. Who fits no rule gets the default target. Recipients with the
same target share one delivery.

A target is kept as it was written, with `${NAME}` unexpanded, because that is
what goes into the database: secrets in it stay in the environment. A secret
that is written out all the same goes no further: what is told of a target, in a
log or anywhere else, is what `shown` leaves of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import quote

from nxparse.address import comparable
from nxparse.text import printable

DISK_ONLY = ("save", "drop")
KINDS = ("save", "mail", "run", "forward", "mastodon", "notify", "drop")
URLS = ("forward", "mastodon")  # what a variable holds is a part of a URL
_BARE = ("save", "mail", "drop")  # these can do without anything behind them

# What the menus of NX300 and NX mini offer (ge0rg/samsung-nx-emailservice,
# commit a388a20).
VIDEO_SITES = frozenset({"facebook", "youtube"})
PHOTO_SITES = VIDEO_SITES | frozenset(
    {
        "cyworld",
        "evernote",
        "kakaostory",
        "me2day",
        "odnoklassniki",
        "photobucket",
        "picasa",
        "poco",
        "renren",
        "samsungimaging",
        "vkontakte",
        "weibo",
    }
)
# These had a login page of their own. It is not known whether their logins name a user.
OAUTH_SITES = frozenset({"dropbox", "flickr", "skydrive"})
SITES = PHOTO_SITES | OAUTH_SITES

_VARIABLES = re.compile(r"(?:\$\{\w+\})*")
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*|\$\{\w+\})(?=://)")
# The host and port of a URL, if nobody can take any part of a password for them.
_HOST = re.compile(
    r"://(?:[^/?#]*@)?"
    r"((?:(?:[\w.-]|\$\{\w+\})+|\[[0-9A-Fa-f:.]+\])(?::(?:[0-9]+|\$\{\w+\}))?)"
    r"(?:[/?#][^@]*)?"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A way out: `kind` and what stands behind its colon. `text` is both as written."""

    text: str
    kind: str
    argument: str = ""

    def __repr__(self) -> str:
        return f"Target({shown(self.text)!r})"

    @property
    def reaches_beyond_the_disk(self) -> bool:
        return self.kind not in DISK_ONLY


@dataclass(frozen=True, slots=True)
class Rule:
    pattern: str
    target: Target


def target(text: str) -> Target:
    """Read `KIND` or `KIND:ARGUMENT`. Raises ValueError."""
    if re.search("[\ud800-\udfff]", text):  # the database could not keep it
        raise ValueError("a target has to be written in UTF-8")
    kind, colon, argument = text.strip().partition(":")
    if kind not in KINDS:
        raise ValueError(f"there is no target {kind!r}: the targets are {', '.join(KINDS)}")
    if colon and not argument:
        raise ValueError(f"nothing stands behind {text!r}")
    if kind not in _BARE and not argument:
        raise ValueError(f"{kind} needs something behind it: see the table of targets in README")
    if kind == "drop" and colon:
        raise ValueError("drop takes nothing behind it")
    return Target(text.strip(), kind, argument)


def rule(text: str) -> Rule:
    """Read `PATTERN=TARGET`. Raises ValueError."""
    pattern, equals, rest = text.partition("=")
    if not equals or not pattern.strip() or ":" in pattern:
        raise ValueError("a rule is PATTERN=TARGET, like *@example.org=save")
    return Rule(pattern.strip(), target(rest))


def decide(
    rules: Sequence[Rule], default: Target, names: Iterable[str]
) -> Mapping[Target, tuple[str, ...]]:
    """The targets of an upload, each with the names (recipients) that it is for, in order."""
    decided: dict[Target, tuple[str, ...]] = {}
    for name in names:
        for found in _targets(rules, default, name):
            decided[found] = (*decided.get(found, ()), name)
    return decided


def _targets(rules: Sequence[Rule], default: Target, name: str) -> list[Target]:
    fitting = next((one for one in rules if fits(one.pattern, name)), None)
    if fitting is None:
        return [default]
    same = [one.target for one in rules if one.pattern == fitting.pattern]
    return list(dict.fromkeys(same))


def fits(pattern: str, name: str) -> bool:
    """Whether a glob matches an address or a name, in any spelling of it."""
    return fnmatchcase(comparable(name), comparable(pattern))


def shown(text: str) -> str:
    """A target as it may be told, even if it is none: of a URL, no more than scheme and host."""
    kind, _, argument = text.strip().partition(":")
    has_url = "://" in argument
    if kind in DISK_ONLY or (kind in ("mail", "run") and not has_url):
        return text
    if kind == "run":  # whatever stands beside a URL may be a password for it
        program = argument.split()[0]
        return f"run:{program} ..." if re.fullmatch(r"[\w./~${}-]+", program) else "run:..."
    variables = _VARIABLES.match(argument)
    assert variables
    if variables[0] == argument:
        return text
    scheme = _SCHEME.match(argument)
    if not scheme:
        return f"{kind}:{variables[0]}..."
    host = _HOST.fullmatch(argument, scheme.end())
    if not host or kind == "notify":  # where others have a host it may have a token
        return f"{kind}:{scheme[0]}://..."
    bare = f"{scheme[0]}://{host[1]}"
    return f"{kind}:{bare}{'' if bare == argument else '/...'}"


def shown_rule(text: str) -> str:
    """A rule as it may be told, even if it is none."""
    pattern, equals, rest = text.partition("=")
    return f"{pattern}={shown(rest)}" if equals and ":" not in pattern else shown(text)


def target_label(text: str) -> str:
    """Return a target without the secrets it may contain, fit for one line of a log."""
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
        try:
            return quote(environ[name], "")
        except UnicodeEncodeError:
            raise ValueError(f"the variable {name} is not UTF-8") from None

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", variable, value)


def expand_argument(target: Target, environ: Mapping[str, str]) -> str:
    """Return the argument of a target with its variables filled in. Raises ValueError."""
    try:
        return expand(target.argument, environ, url=target.kind in URLS)
    except ValueError as error:
        raise ValueError(f"nx_route={shown(target.text)}: {error}") from None
