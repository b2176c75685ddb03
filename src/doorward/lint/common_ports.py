"""Ports that attackers try before others; docs/dev/guessing.md lists the sources. Pure."""

from __future__ import annotations

from doorward.model import Port, Protocol

# nmap's 100 most frequent TCP ports (`nmap -F`), as of nmap 7.93.
_TCP = """
    7 9 13 21 22 23 25 26 37 53 79 80 81 88 106 110 111 113 119 135 139 143 144 179 199 389 427 443 444 445 465 513 514
    515 543 544 548 554 587 631 646 873 990 993 995 1025 1026 1027 1028 1029 1110 1433 1720 1723 1755 1900 2000 2001
    2049 2121 2717 3000 3128 3306 3389 3986 4899 5000 5009 5051 5060 5101 5190 5357 5432 5631 5666 5800 5900 6000 6001
    6646 7070 8000 8008 8009 8080 8081 8443 8888 9100 9999 10000 32768 49152 49153 49154 49155 49156 49157
"""
# Its 50 most frequent UDP ports.
_UDP = """
    7 53 67 68 69 80 111 123 135 136 137 138 139 161 162 445 500 514 518 520 593 626 631 996 997 998 999 1025 1026 1027
    1433 1434 1645 1646 1701 1812 1900 2048 2049 2222 3283 3456 4500 5060 5353 20031 32768 49152 49153 49154
"""
# Numbers that people choose, and manuals use: thousands, one repeated digit, consecutive digits, knockd's examples.
_THOUSANDS = range(1000, 65536, 1000)
_ONE_DIGIT = [number for number in range(1111, 65536) if len(set(str(number))) == 1]
_ROWS = [int("0123456789"[first : first + length]) for length in (4, 5) for first in range(1, 11 - length)]
_ROWS = [number for row in _ROWS for number in (row, int(str(row)[::-1])) if number < 65536]
_MANUALS = [7770, 8880, 8881, 9990, 9991]  # knockd(1), /etc/knockd.conf and the articles that repeat them

_CHOSEN = frozenset({*_THOUSANDS, *_ONE_DIGIT, *_ROWS, *_MANUALS})
TRIED_FIRST = {
    Protocol.TCP: _CHOSEN | frozenset(map(int, _TCP.split())),
    Protocol.UDP: _CHOSEN | frozenset(map(int, _UDP.split())),
}

# TCP ports of services that let an authenticated user run programs.
SHELLS = {
    22: "SSH",
    23: "telnet",
    512: "rexec",
    513: "rlogin",
    514: "rsh",
    2222: "SSH",
    2375: "Docker",
    2376: "Docker",
    3389: "remote desktop",
    5900: "VNC",
    5901: "VNC",
    5985: "WinRM",
    5986: "WinRM",
    9090: "Cockpit",
    10000: "Webmin",
}


def is_tried_first(port: Port) -> bool:
    """Return whether attackers try this port before most others."""
    return port.number in TRIED_FIRST[port.protocol]
