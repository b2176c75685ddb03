"""In a real shell, a command rewritten by `doorward import` does the same with the address as an argument."""

from __future__ import annotations

import subprocess
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from doorward.importer.shell_argument import as_argument

ADDRESSES = ("192.0.2.7", "2001:db8::7", "fe80::1", "::1")
# All shell syntax except redirections; without PATH only shell builtins can run.
PIECES = st.sampled_from(
    ["%IP%"] * 6 + ["'", '"', "\\", "$", "(", ")", "$(", "`", "#", " ", "\n", ";", "|", "a", "0", "x", ":", "%", "IP%",
    "${x}", "${x:-y}", "$x", "$1", "$((1+2))", "{", "}", "=", "!", "~", "*", "echo ", "case ", " in ", " esac", "set ",
    "x=", "then ", "\\\n", "$'", '$"', "IFS=.;", "\t"]
)  # fmt: skip


def run(script: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["/bin/sh", "-c", script, *arguments],
        env={"PATH": "/nonexistent", "x": "a b"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    return done.returncode, done.stdout


def same(script: str, address: str) -> None:
    try:
        rewritten = as_argument(script)
    except ValueError:
        assume(False)
    assert "%IP%" not in rewritten
    status, output = run(script.replace("%IP%", address))
    assume(status != 2)  # the shell reports a syntax error
    assert run(rewritten, "doorward", address) == (status, output), rewritten


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(PIECES, min_size=1, max_size=14).map("".join), st.sampled_from(ADDRESSES))
def test_any_words_reach_the_program_unchanged(words: str, address: str) -> None:
    assume("%IP%" in words and "$$" not in words)  # a process number differs each time
    same(f"printf '<%s>' {words}", address)


REWRITTEN = {
    "iptables -s %IP% -j ACCEPT": 'iptables -s "$1" -j ACCEPT',
    "echo '%IP%' 'at %IP%!'": """echo "$1" 'at '"$1"'!'""",
    'echo "%IP%" "%IP%0"': 'echo "$1" "${1}0"',
    r'echo \%IP% "\%IP%"': r'echo "$1" "\\$1"',
    "echo x # '%IP%": "echo x # '$1",
    'log "$(host %IP%) %IP%" >%IP%.log': 'log "$(host "$1") $1" >"$1".log',
    "case %IP% in *:*) echo 6;; esac": 'case "$1" in *:*) echo 6;; esac',
    "set -e; awk '{print $1}' %IP%": """set -e; awk '{print $1}' "$1\"""",
    "reboot": "reboot",
}
REFUSED = [
    "cat <<END %IP%",
    "echo '%IP%",
    'echo "%IP%',
    "echo $(host %IP%",
    "echo %IP% \\",
    "f() { echo x; }; f %IP%",
    "set -- x; echo %IP%",
    "shift; echo %IP%",
    "echo $1 %IP%",
    'echo "$@" %IP%',
    "echo ${x:-%IP%}",
    "echo $x%IP%",
    "echo $%IP%",
    "echo $'%IP%'",
    "echo ~%IP%",
    'echo "$(case %IP% in a) echo;; esac)"',
    "IFS=.; echo `echo %IP%`",
]


@pytest.mark.parametrize(("script", "rewritten"), REWRITTEN.items())
def test_rewritten_commands(script: str, rewritten: str) -> None:
    assert as_argument(script) == rewritten


@pytest.mark.parametrize("script", REFUSED)
def test_rejects_unsafe_commands(script: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        as_argument(script)


@given(st.lists(PIECES | st.text(max_size=5)).map("".join))
def test_no_placeholder_remains(script: str) -> None:
    with suppress(ValueError):
        assert "%IP%" not in as_argument(script)
