"""Text for durations, knocks, packets, addresses and progress."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from doorward.config.duration import format_duration, rough_duration
from doorward.config.schema import Mode
from doorward.explain.compiled_config import CompiledConfig, Progress
from doorward.explain.replay import UNNAMED, MachineStep, PacketVerdict, ReplayStep
from doorward.model import TCP_FLAGS, Door, Protocol
from doorward.packets.decode import Flow

_NETWORK_BYTES = 8  # of IPv6: one client's addresses share their /64
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def ordinal(number: int) -> str:
    """Return `third`, or `12th` beyond the tenth."""
    return _ORDINALS[number - 1] if 1 <= number <= len(_ORDINALS) else f"{number}th"


def number_word(number: int) -> str:
    """Return `two`, or digits beyond ten."""
    return _NUMBERS[number] if 0 <= number < len(_NUMBERS) else f"{number:,}"


def counted(number: int, one: str, many: str = "") -> str:
    """Return `1 knock`, `2 knocks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """Return a duration in a fitting unit: `40 µs`, `0.4 ms`, `12 ms`, `6.2 s`, `2m 5s`."""
    seconds = max(0.0, seconds)
    if seconds < 0.0001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return rough_duration(seconds)


def span_beyond(seconds: float, limit_s: float) -> str:
    """Return a duration above a limit, precise enough to differ from the limit."""
    rough = span(seconds)
    return rough if rough != span(limit_s) else f"{seconds:.3f} s"


def listed(words: Sequence[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1] if words else "")))


def address(packed: bytes) -> str:
    """Return a packed address as text."""
    return str(ip_address(packed))


def is_same_network(one: bytes, other: bytes) -> bool:
    """Return whether two addresses are in one IPv6 /64 and so, as a rule, belong to one client."""
    return len(one) == len(other) == 2 * _NETWORK_BYTES and one[:_NETWORK_BYTES] == other[:_NETWORK_BYTES]


def flags(bits: int) -> str:
    """Return TCP flags as `SYN+ECE`."""
    return "+".join(name.upper() for name, bit in TCP_FLAGS.items() if bits & bit) or "no flags"


def packet(flow: Flow) -> str:
    """Return a packet as `SYN 7000/tcp`."""
    if flow.port is None:
        names = {Protocol.TCP: "tcp", Protocol.UDP: "udp"}
        return f"protocol {names.get(flow.protocol, flow.protocol)}"  # type: ignore[call-overload]
    if flow.port.protocol is Protocol.UDP:
        return str(flow.port)
    return f"{flags(flow.packet.flags)} {flow.port}" if flow.packet else str(flow.port)


def knocks(door: Door) -> str:
    """Return a door's sequence as text."""
    return " ".join(map(str, door.knock))


def ports(door: Door) -> str:
    """Return the ports that a door opens as text."""
    return listed([str(port) for port in door.all_opens])


START = "start"


def _datagram(config: CompiledConfig) -> str:
    return "a signed knock or a fwknop packet" if config.has_fwknop else "a signed knock"


def verdict_text(config: CompiledConfig, step: ReplayStep) -> str:
    """Return what a packet counted as."""
    plain = {
        PacketVerdict.SAME: "repeated: no change",
        PacketVerdict.IDLE: "not a first knock: no change",
        PacketVerdict.FAST: "rate limit exceeded: ignored, progress reset",
        PacketVerdict.UNKNOWN: 'in no sequence: ignored (wrong_port = "known")',
        PacketVerdict.PUBLIC: "public port: not a knock",
        PacketVerdict.SIGNED: f"possibly {_datagram(config)}: the daemon verifies it",
        PacketVerdict.CONNECTION: "part of a connection: not a knock",
    }
    if step.verdict in plain:
        return plain[step.verdict]
    if step.verdict is PacketVerdict.OPENS:
        return _opens(config, step)
    if step.verdict in (PacketVerdict.FORWARD, PacketVerdict.BACK, PacketVerdict.WRONG):
        return _moved(config, step)
    return _uncounted(config, step)


def progress_text(config: CompiledConfig, step: ReplayStep) -> str:
    """Return the source's progress after a packet; empty if the packet did not count."""
    if step.verdict is PacketVerdict.FAST:
        return START
    if not step.machine_steps:
        return ""
    progresses = [
        config.progress_by_state[machine_step.after[0]]
        for machine_step in step.machine_steps
        if machine_step.after[0] in config.progress_by_state
    ]
    return ", ".join(_progress(config, progress) for progress in progresses) or START


def due_ports(config: CompiledConfig, machine_step: MachineStep) -> str:
    """Return the ports that were due as the next knock, or an empty text."""
    progress = config.progress_by_state.get(machine_step.before[0])
    if progress is None:
        return ""
    doors = [config.doors[index] for index in progress.doors]
    wanted = dict.fromkeys(str(door.knock[progress.knocks]) for door in doors if len(door.knock) > progress.knocks)
    return " or ".join(wanted)


def _opens(config: CompiledConfig, step: ReplayStep) -> str:
    parts = []
    for index in step.opened:
        door = config.doors[index]
        what = f" ({ports(door)}) for {format_duration(door.for_ms)}" if door.all_opens else ""
        if door.exclusion(ip_address(step.captured.flow.source)):
            what = " (to no host of this address family)"
        parts.append(f"{door.name}{what}")
    last = len(config.doors[step.opened[0]].knock)
    return f"knock {last} of {last}: opens {listed(parts)}"


def _moved(config: CompiledConfig, step: ReplayStep) -> str:
    machine_step = next(machine_step for machine_step in step.machine_steps if machine_step.verdict is step.verdict)
    progress = config.progress_by_state.get(machine_step.after[0])
    late = ""
    if machine_step.began_ns is not None:
        within = format_duration(config.automaton.machines[machine_step.machine].within_ms)
        took_s = (step.captured.at_ns - machine_step.began_ns) / 1e9
        late = f"too late, {span(took_s)} after the first (within {within}): "
    if progress is None:
        wanted = due_ports(config, machine_step)
        return f"{late or 'wrong: '}{f'expected {wanted}; ' if wanted and not late else ''}back to the start"
    again = "restarted: " if machine_step.verdict is PacketVerdict.BACK else ""
    return f"{late or again}knock {_knock_number(config, progress)}"


def _knock_number(config: CompiledConfig, progress: Progress) -> str:
    """Return `2 of 3 for ssh`, or `2 for ssh, web` if the lengths of the sequences differ."""
    doors = [config.doors[index] for index in progress.doors]
    names = ", ".join(door.name for door in doors) + (f" and {progress.more:,} more" if progress.more else "")
    lengths = {len(door.knock) for door in doors}
    total = f" of {lengths.pop()}" if len(lengths) == 1 and not progress.more else ""
    return f"{progress.knocks}{total} for {names}"


def _progress(config: CompiledConfig, progress: Progress) -> str:
    door = config.doors[progress.doors[0]]
    others = len(progress.doors) - 1 + progress.more
    return f"{door.name} {progress.knocks}/{len(door.knock)}" + (f" +{others}" if others else "")


def _uncounted(config: CompiledConfig, step: ReplayStep) -> str:
    captured = step.captured
    if step.verdict is PacketVerdict.ENTERS:
        return f"accepted: {_service_names(config, step)} is open for another {span(step.left_s)}"
    if step.verdict is PacketVerdict.HIDDEN and step.is_after_signed and config.gate.mode is not Mode.OBSERVE:
        return f"dropped, unless the signed knock opened {_service_names(config, step)}"
    if step.verdict is PacketVerdict.HIDDEN:
        dropped = "not dropped (mode observe)" if config.gate.mode is Mode.OBSERVE else "dropped"
        return f"{dropped}: {_service_names(config, step)} is closed"
    if step.verdict is PacketVerdict.FLAGS:
        wanted = listed(sorted({str(machine.flags) for machine in config.automaton.machines}))
        return f"TCP flags do not match ({wanted}): not a knock"
    if step.verdict is PacketVerdict.ELSEWHERE:
        return f"sent to {address(captured.flow.destination)}, not to this host: not a knock"
    if step.verdict is PacketVerdict.INSIDE:
        if captured.interface and captured.interface != "lo" and not captured.interface.startswith(UNNAMED):
            return f"arrived on {captured.interface}, which is not watched: not a knock"
        return "sent by this host itself: not a knock"
    return f"incomplete packet: {captured.flow.trouble}"


def _service_names(config: CompiledConfig, step: ReplayStep) -> str:
    indexes = config.services.get(step.service, ()) if step.service else ()
    names = [config.doors[index].name for index in indexes[:3]]
    return listed(names) or "no door"
