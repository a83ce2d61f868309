"""Rules, and the targets that they choose."""

from __future__ import annotations

from itertools import product

import pytest

from nxparse.deliver.routes import (
    Rule,
    Target,
    decide,
    expand,
    fits,
    parse_rule,
    parse_target,
    shown,
    shown_rule,
)

MAIL = Target("mail", "mail")
TARGETS = "the targets are save, mail, run, forward, mastodon, notify, drop"
NO_RULE = "a rule is PATTERN=TARGET, for example *@example.org=save"
SEE_README = "needs an argument: see the table of targets in README"
NOT_TEXT = "a target must be text in UTF-8"


@pytest.mark.parametrize(
    ("text", "kind", "argument"),
    [
        ("drop", "drop", ""),
        ("save:C:\\a b", "save", "C:\\a b"),
        ("run: x a:b {file}", "run", " x a:b {file}"),
    ],
)
def test_target(text: str, kind: str, argument: str) -> None:
    """A target is split at its first colon, without the blanks around it."""
    assert parse_target(f" {text}\t") == Target(text, kind, argument)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", f"unknown target '': {TARGETS}"),
        ("Save", f"unknown target 'Save': {TARGETS}"),
        (" save: ", f"save {SEE_README}"),
        ("drop:x", "drop takes no argument"),
        ("run", f"run {SEE_README}"),
        ("save:/\udcff", NOT_TEXT),
        ("run:x {file}\0", NOT_TEXT),
    ],
)
def test_invalid_target(text: str, reason: str) -> None:
    """An invalid target is refused with a sentence that describes a valid one."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_target(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("text", "pattern", "target"),
    [
        (" facebook = drop ", "facebook", "drop"),
        ("Me@B=mail:a=b@c", "Me@B", "mail:a=b@c"),
        ("*=forward:http://h/?a=b", "*", "forward:http://h/?a=b"),
    ],
)
def test_rule(text: str, pattern: str, target: str) -> None:
    """A rule is split at its first equals sign."""
    assert parse_rule(text) == Rule(pattern, parse_target(target))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", NO_RULE),
        ("save", NO_RULE),
        (" =save", NO_RULE),
        ("forward:http://h/?token=s3cret", NO_RULE),
        ("*=", f"unknown target '': {TARGETS}"),
    ],
)
def test_invalid_rule(text: str, reason: str) -> None:
    """An invalid rule is refused with a sentence that describes a valid one."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_rule(text)
    assert str(caught.value) == reason


FITS = {
    "case": ("ME@Example.ORG", "me@eXample.org"),
    "star for nothing": ("*", ""),
    "question mark": ("m?@example.org", "me@example.org"),
    "set": ("[A-M]e@b", "me@b"),
    "newline for a star": ("*@b", "me\n@b"),
    "full width": ("boss@example.org", "boss@ex\uff41mple.org"),
    "ideographic full stop": ("boss@example.org", "boss@example\u3002org"),
    "full-width at": ("boss@example.org", "boss\uff20example.org"),
    "full width in the pattern": ("boss@ex\uff41mple.org", "boss@example.org"),
    "IDNA": ("*@b\u00fccher.example", "me@xn--bcher-kva.example"),
    "IDNA in the pattern": ("*@xn--bcher-kva.example", "me@BU\u0308CHER.example"),
    "glob for a full stop": ("*@*.example", "me@ex\uff41mple\uff0eexample"),
}
DOES_NOT_FIT = {
    "suffix": ("*@example.org", "me@example.org.evil.example"),
    "suffix in full width": ("*@example.org", "me@example.org\uff0eevil.example"),
    "prefix": ("*@example.org", "me@evilexample.org"),
    "question mark for nothing": ("m?@example.org", "m@example.org"),
    "newline at the end": ("me@b", "me@b\n"),
    "case folding": ("straße@b", "STRASSE@b"),
    "look-alike": ("а@b", "a@b"),  # noqa: RUF001
    "backtracking": ("*a" * 30 + "b", "a" * 1000),
}


@pytest.mark.parametrize(("pattern", "name"), FITS.values(), ids=FITS)
def test_fits(pattern: str, name: str) -> None:
    """A glob matches a whole name, without case, in any spelling of the domain."""
    assert fits(pattern, name)


@pytest.mark.parametrize(("pattern", "name"), DOES_NOT_FIT.values(), ids=DOES_NOT_FIT)
def test_does_not_fit(pattern: str, name: str) -> None:
    """A glob does not match a part of a name, or one that only looks the same."""
    assert not fits(pattern, name)


DECISIONS: dict[str, tuple[str, str, dict[str, str]]] = {
    "no rule": ("", "a@x", {"mail": "a@x"}),
    "no match": ("a@x=save", "b@x", {"mail": "b@x"}),
    "first match decides": ("*@x=save a@x=drop", "a@x", {"save": "a@x"}),
    "same pattern": ("a@x=save *=drop a@x=mail", "a@x", {"save": "a@x", "mail": "a@x"}),
    "pattern in another case": ("*@x=save *@X=drop", "a@x", {"save": "a@x"}),
    "same target twice": ("*=save *=save", "a@x", {"save": "a@x"}),
    "shared": ("a@*=save", "b@x a@x c@x a@y", {"mail": "b@x c@x", "save": "a@x a@y"}),
    "site": ("facebook=drop *@*=save", "facebook a@x", {"drop": "facebook", "save": "a@x"}),
}


@pytest.mark.parametrize(("rules", "names", "expected"), DECISIONS.values(), ids=DECISIONS)
def test_decide(rules: str, names: str, expected: dict[str, str]) -> None:
    """All rules of the first matching pattern apply; recipients of a target stay in order."""
    decided = decide([parse_rule(text) for text in rules.split()], MAIL, names.split())
    wanted = [(parse_target(text), tuple(to.split())) for text, to in expected.items()]
    assert list(decided.items()) == wanted


ENVIRON = {"A": "a/?#@:%&=+[] ü\r\n", "URL": "https://me:x@h", "EMPTY": "", "BYTES": "\udcff"}
ODD, QUOTED = ENVIRON["A"], "a%2F%3F%23%40%3A%25%26%3D%2B%5B%5D%20%C3%BC%0D%0A"


@pytest.mark.parametrize(
    ("value", "url", "expected"),
    [
        ("/${A}/$A/${1}/{A}${EMPTY}", False, f"/{ODD}/$A/${{1}}/{{A}}"),
        ("http://${A}:${A}@h:1/x", True, f"http://{QUOTED}:{QUOTED}@h:1/x"),
        ("http://h/${A}?x=${A}", True, f"http://h/{ODD}?x={QUOTED}"),
        ("http://${A}/x@y", True, f"http://{ODD}/x@y"),
        ("${URL}/x", True, "https://me:x@h/x"),
        ("${BYTES}", False, "\udcff"),
    ],
)
def test_expand(value: str, url: bool, expected: str) -> None:
    """A variable is quoted in user, password and query of a URL, and not elsewhere."""
    assert expand(value, ENVIRON, url=url) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("${NONE}", "the environment has no variable NONE; set it before you start mitmproxy"),
        ("http://h/?${BYTES}", "surrogates not allowed"),
    ],
)
def test_cannot_expand(value: str, reason: str) -> None:
    """A variable must exist, and be valid text where it is quoted."""
    with pytest.raises(ValueError, match=f"{reason}$"):
        expand(value, ENVIRON, url=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail:me@b", "mail:me@b"),
        ("mail:http://me:s3cret@h", "mail:http://h/..."),
        ("run:cp {file} 'a b'", "run:cp {file} 'a b'"),
        ("run:curl -us3cret http://h {file}", "run:curl ..."),
        ("notify:tgram://s3cret/x", "notify:tgram://..."),
        ("notify:s3cret", "notify:..."),
        ("notify:${URL}", "notify:${URL}"),
        ("forward:https://h:8443", "forward:https://h/..."),
        ("forward:http://h/s3cret/x", "forward:http://h/..."),
        (" forward:http://me:s3cret@h ", "forward:http://h/..."),
        ("forward:http://h/x@s3cret", "forward:http://..."),
        ("forward:http://[::1]:8/s3cret", "forward:http://[::1]:8/..."),
        ("forward:https://me:1234", "forward:https://me/..."),
        ("forward:http://${U}:${P}@${H}/${T}", "forward:http://${H}/..."),
        ("forward:http://me:s3cret", "forward:http://..."),
        ("forward:http://bücher.example/x", "forward:http://bücher.example/..."),
        ("frward:http://me:s3cret@h/x", "frward:http://h/..."),
        ("", ""),
    ],
)
def test_shown(text: str, expected: str) -> None:
    """Only scheme and host of a URL are shown, since the rest may be a secret."""
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b=save:/x=y", "a@b=save:/x=y"),
        (" a = forward:http://s3cret@h/x", " a =forward:http://h/..."),
        ("forward:http://h/?token=s3cret", "forward:http://h/..."),
        ("http://me:s3cret@h/?a=b", "http:..."),
        ("save", "save"),
        ("", ""),
    ],
)
def test_shown_rule(text: str, expected: str) -> None:
    """A rule is shown with its pattern, a text without pattern like a target."""
    assert shown_rule(text) == expected


def test_repr_shows_no_secret() -> None:
    """The repr of a rule, as in a traceback, shows no secret."""
    found = parse_rule("*=forward:http://me:s3cret@h/s3cret")
    assert repr(found) == "Rule(pattern='*', target=Target('forward:http://h/...'))"


@pytest.mark.parametrize("kind", ["forward:", "notify:", " forward: ", "", "run:x ", "mail:"])
def test_no_password_is_shown(kind: str) -> None:
    """A password is not shown, whatever characters are in it or missing after it."""
    users = ["", "a", ":", "abc:"]
    odd = ["", "/", "?", "#", "@", ":", "/@", "@:", ":/", "#?"]
    hosts = ["@", "@h", "@h/x", "@h:1/?a=b", "@[::1]/", "/@h", "@h@h"]
    for user, before, within, host in product(users, odd, odd, hosts):
        text = f"{kind}http://{user}{before}s3{within}cret{host}"
        texts = [shown(text), shown_rule(text), shown_rule(f"*={text}")]
        assert [one for one in texts if "cret" in one] == []
        assert [one for one in (texts[0], texts[2]) if "s3" in one] == []
