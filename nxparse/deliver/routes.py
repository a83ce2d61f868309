"""Which way out an upload takes: rules `PATTERN=TARGET`, from the option nx_route.

A pattern is a glob for a recipient's address, matched without case. The first
rule that fits decides; further rules with exactly the same pattern add their
targets to it. Who fits no rule gets the default target. Recipients with the
same target share one delivery.

A target is kept as it was written, with `${NAME}` unexpanded, because that is
what goes into the database and the log: secrets in it stay in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

DISK_ONLY = ("save", "drop")
KINDS = ("save", "mail", "run", "forward", "mastodon", "notify", "drop")
URLS = ("forward", "mastodon")  # what a variable holds is a part of a URL
_BARE = ("save", "mail", "drop")  # these can do without anything behind them


@dataclass(frozen=True, slots=True)
class Target:
    """A way out: `kind` and what stands behind its colon. `text` is both as written."""

    text: str
    kind: str
    argument: str = ""

    @property
    def reaches_beyond_the_disk(self) -> bool:
        return self.kind not in DISK_ONLY


@dataclass(frozen=True, slots=True)
class Rule:
    pattern: str
    target: Target


def target(text: str) -> Target:
    """Read `KIND` or `KIND:ARGUMENT`. Raises ValueError."""
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
    if not equals or not pattern.strip():
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
    """Does a glob fit a name, both without case?"""
    return fnmatchcase(name.lower(), pattern.lower())


def shown(text: str) -> str:
    """A target as it may be told: of a URL that was written out, no more than the host."""
    kind, _, argument = text.partition(":")
    scheme, found, rest = argument.partition("://")
    if kind in DISK_ONLY or kind == "run" or not found:
        return text
    if kind == "notify":
        return f"{kind}:{scheme}://..."  # where others have a host it may have a token
    host = re.split("[/?#]", rest)[0].rpartition("@")[2]
    return f"{kind}:{scheme}://{host}{'' if rest == host else '/...'}"
