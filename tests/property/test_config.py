"""Any text gives a configuration or located faults; written configurations are read back; line numbers are right."""

import json
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from doorward.config.duration import format_duration, parse_duration_ms
from doorward.config.schema import Configuration, Gate, Mode, WrongPort
from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.errors import ConfigError, ConfigFault
from doorward.lint.checks import warnings
from doorward.model import TCP_FLAGS, Door, FlagFilter, HostPort, Port, Protocol

FRAGMENTS = [
    *"[]{}=,.#\"' \n\\",
    *('"""', "'''", "[[", "]]", "\r\n", "\ufeff", "true", "7000", "0x", "1979-05-27", "nan", "é"),
    *("gate", "doors", "mode", '"guard"', "knock", "within", '"15s"', "flags", '"syn"', "opens", "for", "public"),
    *(
        "[gate]\n",
        "[doors.a]\n",
        "[doors.b]\n",
        '[doors."\\n\\u001b"]\n',
        "[[doors]]\n",
        'opens = ["22/tcp"]\n',
        'knock = ["7000/tcp"]\n',
    ),
    *(
        "knock = [\n",
        '"7000/tcp",\n',
        '"22/tcp", # x\n',
        "]\n",
        "public = [80, 443]\n",
        '"1-65535/udp"',
        "within = 15\n",
    ),
]
texts = st.text() | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=60).map("".join)

names = st.from_regex(r"[0-9]{0,3}[A-Za-z_-][A-Za-z0-9_-]{0,60}", fullmatch=True)
half = st.integers(1, 32767)  # even ports are knock ports, odd ones are opened or public
knock_ports = st.builds(Port, st.sampled_from(Protocol), half.map(lambda number: 2 * number))
taken_ports = st.builds(Port, st.sampled_from(Protocol), half.map(lambda number: 2 * number + 1))
host_ports = st.builds(
    lambda port, host: HostPort(port.protocol, port.number, host),
    taken_ports,
    st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="2001:db8::/32"),
)
flag_filters = st.dictionaries(st.sampled_from(sorted(TCP_FLAGS)), st.booleans()).map(
    lambda words: FlagFilter.parse(tuple(("" if is_set else "!") + word for word, is_set in words.items()))
)
gates = st.builds(
    Gate,
    mode=st.sampled_from(Mode),
    interfaces=st.lists(st.sampled_from(["eth0", "ppp*", "wg-1", "ens1f0.7", "äöü"]), unique=True).map(tuple),
    public=st.lists(taken_ports, unique=True, max_size=5).map(tuple),
    wrong_port=st.sampled_from(WrongPort),
    ping=st.booleans(),
    capacity=st.none() | st.integers(1024, 1 << 24),
    name=st.none() | names,
    control_group=st.none() | st.sampled_from(["adm", "domain users"]),
)


def may_be_for_one(door: Door) -> bool:
    return not door.behind and all(port.protocol is Protocol.TCP for port in door.opens)


doors = st.builds(
    Door,
    name=names,
    knock=st.lists(knock_ports, max_size=6).map(tuple),
    opens=st.lists(taken_ports, unique=True, min_size=1, max_size=4).map(tuple),
    within_ms=st.integers(1, 3_600_000),
    for_ms=st.integers(1, 365 * 86_400_000),
    flags=flag_filters,
    target=st.none(),
    on_open=st.just(()),
    on_close=st.just(()),
    shared=st.just(False),  # needs a fleet
    once=st.booleans(),
    ranges=st.just(()),
    redirects=st.just(()),
    masquerade=st.just(False),
    behind=st.lists(host_ports, unique=True, max_size=3).map(tuple),
).map(lambda door: door._replace(once=door.once and may_be_for_one(door)))
configurations = st.builds(
    Configuration,
    gates,
    st.lists(
        doors,
        min_size=1,
        max_size=5,
        unique_by=(lambda door: door.name, lambda door: door.knock or door.name),
    ).map(tuple),
)


def written(configuration: Configuration) -> str:
    gate, lines = configuration.gate, ["[gate]"]
    for key in ("mode", "wrong_port", "ping", "capacity", "name", "control_group", "interfaces"):
        if (value := getattr(gate, key)) not in (None, ()):
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}"]
    lines.append(f"public = {json.dumps([*map(str, gate.public)])}")
    for door in configuration.doors:
        lines += [f"[doors.{door.name}]", f"opens = {json.dumps([*map(str, door.all_opens)])}"]
        lines.append(f"once = {json.dumps(door.once)}")
        if door.knock:
            lines += ["knock = [", *(f'  "{port}",' for port in door.knock), "]"]
        flags = [] if str(door.flags) == "any" else str(door.flags).split(",")
        lines.append(f"flags = {json.dumps(flags)}")
        lines += [f'within = "{format_duration(door.within_ms)}"', f'for = "{format_duration(door.for_ms)}"']
    return "\n".join(lines)


def faults_of(text: str) -> list[ConfigFault]:
    try:
        warnings(parse(text, "f"), find_lines(text))
    except ConfigError as error:
        return error.faults
    return []


@given(texts)
def test_any_text_gives_a_configuration_or_faults_with_a_place(text: str) -> None:
    lines = find_lines(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
    for fault in faults_of(text):
        assert 1 <= fault.line <= text.count("\n") + 1
        assert fault.what
        assert fault.instead
        assert "\n" not in str(fault)


@given(configurations)
def test_written_configuration_is_read_back(configuration: Configuration) -> None:
    assert parse(written(configuration), "f") == configuration


@given(configurations)
def test_lines_are_where_the_keys_were_written(configuration: Configuration) -> None:
    text = written(configuration)
    table: tuple[str, ...] = ()
    expected: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("["):
            table = tuple(line.strip("[]").split("."))
            expected.setdefault(table[:1], number)
            expected[table] = number
        elif line.startswith("  "):
            expected[(*table, "knock", str(number - expected[*table, "knock"] - 1))] = number
        elif line != "]":
            expected[(*table, line.split(" ")[0])] = number
    assert find_lines(text) == expected


@given(texts)
def test_every_key_that_tomllib_sees_has_a_line(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError):
        return
    lines = find_lines(text)
    for key, value in document.items():
        assert (key,) in lines
        if isinstance(value, dict):
            assert all((key, inner) in lines for inner in value)


@given(st.integers(1, 10**14))
def test_durations_are_read_back(ms: int) -> None:
    assert parse_duration_ms(format_duration(ms)) == ms
