"""Rules, and where they send an upload."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nxparse.deliver.routes import Rule, Target, decide, fits, rule, shown, shown_rule, target

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=60)

SAVE, MAIL, DROP = Target("save", "save"), Target("mail", "mail"), Target("drop", "drop")
TARGETS = "the targets are save, mail, run, forward, mastodon, notify, drop"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("save", SAVE, id="save"),
        pytest.param("mail", MAIL, id="mail"),
        pytest.param("drop", DROP, id="drop"),
        pytest.param(" save\t", SAVE, id="blanks-around"),
        pytest.param("save:/srv/photos", Target("save:/srv/photos", "save", "/srv/photos"), id="d"),
        pytest.param("save:C:\\a", Target("save:C:\\a", "save", "C:\\a"), id="second-colon"),
        pytest.param("mail:me@b", Target("mail:me@b", "mail", "me@b"), id="address"),
        pytest.param(
            " mail:${TO} ", Target("mail:${TO}", "mail", "${TO}"), id="variable-not-expanded"
        ),
        pytest.param("save:a b", Target("save:a b", "save", "a b"), id="blank-inside"),
        pytest.param("run:x {file}", Target("run:x {file}", "run", "x {file}"), id="run"),
        pytest.param("run: x a:b ", Target("run: x a:b", "run", " x a:b"), id="run-blanks"),
        pytest.param(
            "run:${X} ${Y}", Target("run:${X} ${Y}", "run", "${X} ${Y}"), id="run-variables"
        ),
        pytest.param(
            "forward:https://u:p@h:1/x",
            Target("forward:https://u:p@h:1/x", "forward", "https://u:p@h:1/x"),
            id="forward",
        ),
    ],
)
def test_target(text: str, expected: Target) -> None:
    """A target is a kind, and what stands behind its colon."""
    assert target(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            "",
            f"there is no target '': {TARGETS}",
            id="empty",
        ),
        pytest.param(
            "Save",
            f"there is no target 'Save': {TARGETS}",
            id="case",
        ),
        pytest.param(
            "mall:a@b",
            f"there is no target 'mall': {TARGETS}",
            id="typo",
        ),
        pytest.param(
            ":x",
            f"there is no target '': {TARGETS}",
            id="no-kind",
        ),
        pytest.param(
            "save :x",
            f"there is no target 'save ': {TARGETS}",
            id="blank",
        ),
        pytest.param(
            "a\nb\x1b",
            f"there is no target 'a\\nb\\x1b': {TARGETS}",
            id="X13",
        ),
        pytest.param("save:", "nothing stands behind 'save:'", id="save-nothing"),
        pytest.param(" mail: ", "nothing stands behind ' mail: '", id="mail-nothing"),
        pytest.param("drop:", "nothing stands behind 'drop:'", id="drop-nothing"),
        pytest.param("drop:x", "drop takes nothing behind it", id="drop-something"),
        pytest.param(
            "run", "run needs something behind it: see the table of targets in README", id="run"
        ),
        pytest.param("run:", "nothing stands behind 'run:'", id="run-nothing"),
        pytest.param(
            "forward",
            "forward needs something behind it: see the table of targets in README",
            id="forward",
        ),
        pytest.param(" forward: ", "nothing stands behind ' forward: '", id="forward-nothing"),
        pytest.param("save:/\udcff", "a target has to be written in UTF-8", id="not-utf-8"),
        pytest.param("run:\ud800", "a target has to be written in UTF-8", id="surrogate"),
    ],
)
def test_wrong_target(text: str, reason: str) -> None:
    """What is no target is refused with a sentence that says what one is."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        target(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("save", False), ("drop", False), ("mail", True), ("run", True), ("forward", True)],
)
def test_reaches_beyond_the_disk(kind: str, expected: bool) -> None:
    """Every target but save and drop reaches beyond the disk."""
    assert Target(kind, kind).reaches_beyond_the_disk == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("*@example.org=save", Rule("*@example.org", SAVE), id="glob"),
        pytest.param(" facebook = drop ", Rule("facebook", DROP), id="blanks"),
        pytest.param("*=mail:a=b@c", Rule("*", Target("mail:a=b@c", "mail", "a=b@c")), id="first="),
        pytest.param("Me@B=save", Rule("Me@B", SAVE), id="case-as-written"),
        pytest.param(
            "*=run:x --a=b", Rule("*", Target("run:x --a=b", "run", "x --a=b")), id="run-with="
        ),
        pytest.param(
            "*=forward:http://h/?a=b",
            Rule("*", Target("forward:http://h/?a=b", "forward", "http://h/?a=b")),
            id="query-with=",
        ),
    ],
)
def test_rule(text: str, expected: Rule) -> None:
    """A rule is split at its first equals sign."""
    assert rule(text) == expected


NO_RULE = "a rule is PATTERN=TARGET, like *@example.org=save"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", NO_RULE, id="empty"),
        pytest.param("save", NO_RULE, id="no-pattern"),
        pytest.param("=save", NO_RULE, id="empty-pattern"),
        pytest.param(" =save", NO_RULE, id="blank-pattern"),
        pytest.param(
            "*=",
            f"there is no target '': {TARGETS}",
            id="nothing",
        ),
        pytest.param(
            "a==save",
            f"there is no target '=save': {TARGETS}",
            id="two=",
        ),
        pytest.param("*=drop:x", "drop takes nothing behind it", id="wrong-target"),
        pytest.param("forward:http://h/?token=s3cret", NO_RULE, id="URL-without-a-pattern"),
        pytest.param("run:x --with=s3cret", NO_RULE, id="command-without-a-pattern"),
    ],
)
def test_wrong_rule(text: str, reason: str) -> None:
    """What is no rule is refused with a sentence that says what one is."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        rule(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        pytest.param("me@example.org", "me@example.org", True, id="same"),
        pytest.param("ME@Example.ORG", "me@eXample.org", True, id="X15-case"),
        pytest.param("*", "", True, id="star-nothing"),
        pytest.param("*@example.org", "me@example.org", True, id="star"),
        pytest.param("*@example.org", "me@example.org.evil.example", False, id="X15-suffix"),
        pytest.param("*@example.org", "me@evilexample.org", False, id="X15-prefix"),
        pytest.param("example.org", "me@example.org", False, id="whole"),
        pytest.param("m?@example.org", "me@example.org", True, id="question-mark"),
        pytest.param("m?@example.org", "m@example.org", False, id="question-mark-nothing"),
        pytest.param("[A-M]e@b", "me@b", True, id="set"),
        pytest.param("[!m]e@b", "ME@b", False, id="set-negated"),
        pytest.param("a.c@b", "abc@b", False, id="dot-is-a-dot"),
        pytest.param("*@b", "me\n@b", True, id="newline-is-a-character"),
        pytest.param("me@b", "me@b\n", False, id="newline-last"),
        pytest.param("straße@b", "STRASSE@b", False, id="no-case-folding"),
        pytest.param("а@b", "a@b", False, id="X15-look-alike"),  # noqa: RUF001
        pytest.param("*a" * 30 + "b", "a" * 1000, False, id="no-backtracking"),
        pytest.param("boss@example.org", "boss@ex\uff41mple.org", True, id="full-width"),
        pytest.param("boss@example.org", "boss@example\u3002org", True, id="full-stop"),
        pytest.param("boss@example.org", "boss@exam\u00adple.org", True, id="soft-hyphen"),
        pytest.param("boss@ex\uff41mple.org", "boss@example.org", True, id="pattern-full-width"),
        pytest.param("*@b\u00fccher.example", "me@xn--bcher-kva.example", True, id="idna"),
        pytest.param("*@xn--bcher-kva.example", "me@BU\u0308CHER.example", True, id="pattern-idna"),
        pytest.param("*@*cher.example", "me@xn--bcher-kva.example", True, id="glob-idna"),
        pytest.param("*@*.example", "me@ex\uff41mple\uff0eexample", True, id="glob-full-stop"),
        pytest.param("*@example.org", "me@example.org\uff0eevil.example", False, id="suffix-wide"),
        pytest.param("boss@example.org", "boss\uff20example.org", True, id="full-width-at"),
    ],
)
def test_fits(pattern: str, name: str, expected: bool) -> None:
    """A glob fits a whole name, without case."""
    assert fits(pattern, name) == expected


@pytest.mark.parametrize(
    ("rules", "names", "expected"),
    [
        pytest.param([], ["a@x"], {"mail": ("a@x",)}, id="default"),
        pytest.param([], [], {}, id="nobody"),
        pytest.param(["*=drop"], [], {}, id="nobody-fits"),
        pytest.param(["a@x=save"], ["a@x"], {"save": ("a@x",)}, id="fits"),
        pytest.param(["a@x=save"], ["A@X"], {"save": ("A@X",)}, id="fits-name-as-written"),
        pytest.param(["a@x=save"], ["b@x"], {"mail": ("b@x",)}, id="fits-not"),
        pytest.param(["*@x=save", "a@x=drop"], ["a@x"], {"save": ("a@x",)}, id="first-wins"),
        pytest.param(
            ["*@x=save", "*@x=mail"],
            ["a@x"],
            {"save": ("a@x",), "mail": ("a@x",)},
            id="same-pattern-adds",
        ),
        pytest.param(
            ["a@x=save", "*=drop", "a@x=mail"],
            ["a@x"],
            {"save": ("a@x",), "mail": ("a@x",)},
            id="same-pattern-adds-from-afar",
        ),
        pytest.param(
            ["*@x=save", "*@X=drop"], ["a@x"], {"save": ("a@x",)}, id="same-pattern-exactly"
        ),
        pytest.param(
            ["*=save", "*=save", "* = save"], ["a@x"], {"save": ("a@x",)}, id="once-each-target"
        ),
        pytest.param(
            ["a@*=save"],
            ["b@x", "a@x", "c@x", "a@y"],
            {"mail": ("b@x", "c@x"), "save": ("a@x", "a@y")},
            id="shared-in-order",
        ),
        pytest.param(
            ["a@x=save:/a", "b@x=save:/b", "c@x=save:/a"],
            ["a@x", "b@x", "c@x"],
            {"save:/a": ("a@x", "c@x"), "save:/b": ("b@x",)},
            id="argument-tells-targets-apart",
        ),
        pytest.param(
            ["a@x=mail"], ["a@x", "b@x"], {"mail": ("a@x", "b@x")}, id="rule-and-default-alike"
        ),
        pytest.param(
            ["facebook=drop", "*@*=save"],
            ["facebook", "a@x"],
            {"drop": ("facebook",), "save": ("a@x",)},
            id="site",
        ),
    ],
)
def test_decide(rules: list[str], names: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    """The first rule that fits decides; the same pattern adds; targets are shared."""
    decided = decide([rule(text) for text in rules], MAIL, names)
    assert list(decided.items()) == [(target(text), who) for text, who in expected.items()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("save", "save", id="save"),
        pytest.param("save:http://a/b", "save:http://a/b", id="save-any-folder"),
        pytest.param("drop", "drop", id="drop"),
        pytest.param("mail:me@b", "mail:me@b", id="mail"),
        pytest.param("mail:http://me:s3cret@h", "mail:http://h/...", id="mail-to-a-URL"),
        pytest.param("run:cp {file} 'a b'", "run:cp {file} 'a b'", id="run"),
        pytest.param("run:curl -us3cret http://h {file}", "run:curl ...", id="run-URL"),
        pytest.param("run:${X}/a-b.sh http://h", "run:${X}/a-b.sh ...", id="run-variable"),
        pytest.param("run:TOKEN=s3cret curl http://h", "run:...", id="run-no-program"),
        pytest.param("run:http://s3cret@h", "run:...", id="run-URL-only"),
        pytest.param("run:'s3 cret' http://h", "run:...", id="run-quoted"),
        pytest.param("notify:tgram://s3cret/x", "notify:tgram://...", id="notify"),
        pytest.param("notify:s3cret", "notify:...", id="notify-no-URL"),
        pytest.param("notify:${URL}", "notify:${URL}", id="notify-variable"),
        pytest.param("notify:${URL}s3cret", "notify:${URL}...", id="notify-more"),
        pytest.param("notify:s3cret@x://h", "notify:...", id="notify-no-scheme"),
        pytest.param("forward:${URL}", "forward:${URL}", id="all-variable"),
        pytest.param("forward:http://h", "forward:http://h", id="host"),
        pytest.param("forward:https://h:8443", "forward:https://h:8443", id="port"),
        pytest.param("forward:http://h/", "forward:http://h/...", id="root"),
        pytest.param("forward:http://h/s3cret/x", "forward:http://h/...", id="path"),
        pytest.param("forward:http://h?s3cret", "forward:http://h/...", id="query"),
        pytest.param("forward:http://h#s3cret", "forward:http://h/...", id="fragment"),
        pytest.param("forward:http://me:s3cret@h", "forward:http://h/...", id="password"),
        pytest.param("forward:http://s3cret@h:1/x", "forward:http://h:1/...", id="user"),
        pytest.param("forward:http://me:s3@cret@h/x", "forward:http://h/...", id="@-in-password"),
        pytest.param("forward:http://h/x@s3cret", "forward:http://...", id="@-in-path"),
        pytest.param("forward:http://h?x@s3cret", "forward:http://...", id="@-in-query"),
        pytest.param("forward:http://[::1]:8/s3cret", "forward:http://[::1]:8/...", id="IPv6"),
        pytest.param("forward:http://${U}:${P}@${H}/${T}", "forward:http://${H}/...", id="vars"),
        pytest.param("forward:http://me:s3/cret@h", "forward:http://...", id="/-in-password"),
        pytest.param("forward:http://me:3/cret@h", "forward:http://...", id="/-behind-digits"),
        pytest.param("forward:http://me:s3#cret@h", "forward:http://...", id="#-in-password"),
        pytest.param("forward:http://me:s3?cret@h", "forward:http://...", id="?-in-password"),
        pytest.param("forward:http://me:s3cret", "forward:http://...", id="no-host-but-password"),
        pytest.param("forward:http://me:s3cret@", "forward:http://...", id="no-host"),
        pytest.param("forward:http://h s3cret", "forward:http://...", id="blank"),
        pytest.param("forward:http://h/\ns3cret", "forward:http://h/...", id="line-end"),
        pytest.param("forward:http://h:${P}/x", "forward:http://h:${P}/...", id="variable-port"),
        pytest.param("forward:${S}://h", "forward:${S}://h", id="variable-scheme"),
        pytest.param("forward:${HOOK}/s3cret", "forward:${HOOK}...", id="variable-and-more"),
        pytest.param("forward:${A}${B}", "forward:${A}${B}", id="variables"),
        pytest.param(
            "forward:http://bücher.example/x", "forward:http://bücher.example/...", id="IDN"
        ),
        pytest.param("forward:http:/me:s3cret@h", "forward:...", id="one-slash"),
        pytest.param("forward:http:me:s3cret@h", "forward:...", id="no-slash"),
        pytest.param("forward:me:s3cret@h", "forward:...", id="no-scheme"),
        pytest.param("forward:me:s3cret@http://h", "forward:...", id="password-before-scheme"),
        pytest.param(" forward:http://me:s3cret@h ", "forward:http://h/...", id="blanks-around"),
        pytest.param("forward:", "forward:", id="nothing"),
        pytest.param("forward", "forward", id="bare"),
        pytest.param("http://me:s3cret@h", "http:...", id="no-kind"),
        pytest.param("frward:http://me:s3cret@h/x", "frward:http://h/...", id="unknown"),
        pytest.param("pigeon:s3cret", "pigeon:...", id="unknown-no-URL"),
        pytest.param("", "", id="empty"),
    ],
)
def test_shown(text: str, expected: str) -> None:
    """Of a URL no more is told than the host: what else stands in it may be a secret."""
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a@b=save:/x=y", "a@b=save:/x=y", id="save"),
        pytest.param(" a = forward:http://s3cret@h/x", " a =forward:http://h/...", id="URL"),
        pytest.param("*=http://s3cret@h/?a=b", "*=http:...", id="no-kind"),
        pytest.param("forward:http://h/?token=s3cret", "forward:http://h/...", id="no-pattern"),
        pytest.param("http://me:s3cret@h/?a=b", "http:...", id="URL-only"),
        pytest.param("a=", "a=", id="no-target"),
        pytest.param("=save", "=save", id="no-name"),
        pytest.param("save", "save", id="target-only"),
        pytest.param("", "", id="empty"),
    ],
)
def test_shown_rule(text: str, expected: str) -> None:
    """A rule is told with its pattern; where that is missing, it is told as a target."""
    assert shown_rule(text) == expected


def test_repr_shows_no_secret() -> None:
    """What a debugger or a traceback tells of a rule is no more."""
    found = rule("*=forward:http://me:s3cret@h/s3cret")
    assert repr(found) == "Rule(pattern='*', target=Target('forward:http://h/...'))"


@PROPERTY
@given(
    st.sampled_from(["forward:", "notify:", "forward: ", "", "run:x ", "mail:", "frward:"]),
    st.from_regex(r"(https?|ftp)://", fullmatch=True),
    st.from_regex(r"[a-z]{0,3}:?", fullmatch=True),
    st.from_regex(r"[/?#@:]{0,2}", fullmatch=True),
    st.sampled_from(["@", "@h", "@h/x", "@h:1/?a=b", "@[::1]/", "/@h", "@h@h"]),
)
def test_no_password_is_shown(kind: str, scheme: str, user: str, odd: str, host: str) -> None:
    """A password is not told, whatever is in it or wrong behind it."""
    text = f"{kind}{scheme}{user}{odd}s3{odd}cret{host}"
    assert [told for told in (shown(text), shown_rule(f"*={text}")) if "s3" in told] == []
    assert [told for told in (shown(text), shown_rule(text)) if "cret" in told] == []


@PROPERTY
@given(st.text() | st.from_regex(r"(save|mail|drop|run|forward)?:?.?", fullmatch=True))
@example("save:\ud800")
def test_any_target(text: str) -> None:
    """Any text is a target that is read the same again, or a wrong value."""
    try:
        found = target(text)
    except ValueError as error:
        told = str(error)
    else:
        told = repr(found)
        assert target(found.text) == found
    assert told.isprintable()


@PROPERTY
@given(
    st.lists(st.tuples(st.text(min_size=1), st.sampled_from(["save", "mail", "drop"])), max_size=8),
    st.data(),
)
def test_any_rules(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    """Whatever the rules and the names are, each name gets at least one target."""
    rules = [Rule(pattern, target(text)) for pattern, text in pairs]
    patterns = st.sampled_from([pattern for pattern, _ in pairs] or [""])
    names = data.draw(st.lists(st.text() | patterns, unique=True))
    decided = decide(rules, MAIL, names)
    assert {name for who in decided.values() for name in who} == set(names)
    assert all(len(set(who)) == len(who) for who in decided.values())
