"""The DESCRIPTION of each command's manual page: what it does, what it changes, and what it needs."""

from __future__ import annotations

DESCRIPTIONS = {
    "init": """\
Finds the services of this host, asks what to hide and who may knock, and writes `doorward.toml`, the server's
key and `authorized_keys`, readable by root and the daemon. It hides nothing yet, and prints the command that
sets up a client and the commands to run next. Existing files are kept: run again, it writes those that are
missing. Where it finds SSH keys, only signed knocks open the doors; `--sequence` adds a port sequence to each.""",
    "run": """\
Loads the ruleset into nftables and runs the daemon in the foreground, as `doorward.service` does. Started by
root, it drops its privileges to the user `doorward`. When it ends, hidden ports stay hidden, and openings
expire by the kernel's timers. With `--trial`, the previous ruleset is restored after the given time, unless
`doorward confirm` is run from a connection that was made during the trial.""",
    "check": """\
Reads the configuration and the files that it names as the daemon does, and reports every fault with its line
and what to write instead. A valid configuration is rated: warnings are weaknesses, for example a sequence that
can be guessed; notes are for information. It changes nothing and needs no daemon.""",
    "doctor": """\
Looks for what would lock the operator out, and for rules of other firewalls that would drop connections through
an open door. It copies all rulesets into a network namespace and sends real packets through the copy, so
nothing on the host changes. For each problem it prints the command that solves it. With `--fix` it also runs those
for ufw and firewalld, if you type yes on a terminal, and checks again. They add lasting rules with the comment
`doorward`, which accept what `accept_mark` marks; `--undo` removes them.""",
    "compile": """\
Prints the nftables ruleset of a configuration, for use without the daemon: port sequences open doors in the
kernel, which also closes them. With `--graph` it draws the automaton of the port sequences instead. It loads
nothing.""",
    "key": """\
Prints the public half of the server's key, which clients need for signed knocks, and creates the key
first if it is missing. The key is not a secret; the file that it is read from is.""",
    "allow": """\
Adds a public key to `authorized_keys`, with the doors that it may open and for how long. The line may contain
nothing but one key and its name. The daemon reads the file again, so the key is valid from the next packet on.
Comments and other lines are kept.""",
    "revoke": """\
Removes every key of a name from `authorized_keys`, or the one with a fingerprint. The daemon rejects their next
knocks. Openings that they made last until their time is over; `doorward close` ends them.""",
    "people": """\
Lists the keys in `authorized_keys`: their names, the doors that they open, their limits and their fingerprints.
Lines that are invalid, and so authorize nobody, are reported.""",
    "share": """\
Prints what a phone or another client needs for a door: the server's address and public key, and the door's port
sequence if it has one. A sequence is a secret. With `--page` it prints an HTML file from which a browser
knocks.""",
    "completion": """\
Prints a script by which the shell completes commands, options, doors and hosts. The packages have installed it
already.""",
    "status": """\
Shows the state of the daemon: its mode and configuration, each door and to whom it is open, signed knocks by
outcome, bans, a trial with the time that is left, and warnings. It works for root and for members of
`control_group`.""",
    "open": """\
Opens a door to an address without a knock, for the door's own time or the given one. If it is open already, it
stays open for at least that long. Established connections are not affected when it closes.""",
    "close": """\
Closes a door to an address before its time is over. Established connections continue, unless `--cut` ends them.
An opening in a fleet is closed at every gate that shares the door.""",
    "ban": """\
Closes every door to an address, ignores its knocks, and drops its packets to hidden ports, until the ban ends.
Without an address it lists the bans. Bans survive restarts and reboots. Public ports stay reachable.""",
    "unban": """\
Ends the ban of an address before its time is over. The address has to knock again.""",
    "log": """\
Shows openings, refusals and bans from the ledger, the oldest first: when, who, which door, by what, and how it
ended. It needs no daemon, but permission to read `/var/lib/doorward/ledger.sqlite3`.""",
    "watch": """\
Shows openings, knocks in progress, bans, counters and events while they happen. On a terminal it is a screen
with keys to open, close, prolong, ban and unban; `?` lists them. Otherwise it prints one event per line.""",
    "report": """\
Writes one HTML file that shows who opened which door and when, who was refused and why, bans, and how strong
the doors are. The file needs no network and contains no script. It contains names and addresses: protect it
like the ledger.""",
    "metrics": """\
Prints the daemon's statistics in the text format of Prometheus, or serves them over HTTP on this host. Counts
that would show whether a knock packet was correct are served at the Unix socket only.""",
    "apply": """\
Validates a configuration, loads it, and installs it as the daemon's file; the old one is kept as
`doorward.toml.before`. With `--trial`, it is installed only after `doorward confirm`, and otherwise reverted.
Established connections and openings are kept.""",
    "confirm": """\
Keeps the configuration that is on trial. It is accepted from an SSH connection that was made during the trial,
which proves that the way in works, and from the console.""",
    "off": """\
Removes the ruleset and ends the daemon; neither starts again until `doorward on`. Everything that was hidden
can be reached. It needs neither a daemon nor a valid configuration, so it is the way out of a lock-out.""",
    "on": """\
Undoes `doorward off`: the ruleset can be loaded and the daemon started again. If `doorward.service` is enabled,
it is started.""",
    "fleet": """\
Removes the record of a gate whose host is gone from the fleet's store, so that `doorward status --fleet` no
longer lists it. It connects to etcd with the credentials of the configuration.""",
    "add": """\
Writes a server into `~/.config/doorward/hosts.toml`, from a link that `doorward init` or `doorward share`
printed, or from options. With `--ssh` it also updates `~/.ssh/config`, so that `ssh HOST` knocks first. With
the name of a known host and `--qr` it shows that host's link as a QR code.""",
    "hosts": """\
Lists the servers in `~/.config/doorward/hosts.toml`, with their addresses, their doors, and whether
signed knocks or port sequences open these.""",
    "remove": """\
Removes a server from `~/.config/doorward/hosts.toml`, and from `~/.ssh/config` what `doorward add --ssh` has
written there. The previous file is kept.""",
    "knock": """\
Sends a knock: one signed UDP packet if the server's key is known, else the packets of a port sequence. The
server never answers, unless it is configured to confirm signed knocks; so the exit status is 0 once the packets
are sent. With `--wait` it repeats the knock until the port answers.""",
    "proxy": """\
Knocks, connects to a TCP port, and relays the connection to standard input and output, as the ProxyCommand of
ssh. It knocks again until the port answers. With `--fdpass`, and ProxyUseFdpass in ssh_config(5), it passes the
connection to ssh and exits.""",
    "hold": """\
Knocks, runs a command, and keeps the door open until the command ends: it knocks again before the opening ends
and when this machine's address changes. At the end it closes the door with a signed knock. Without a command it
does so until it is interrupted.""",
    "explain": """\
Shows for each packet of a client how it was counted, and why a knock did or did not open a door. It reads a
capture file, or packets as they arrive (`--live`); for an address alone it shows the events of the ledger. The
gate never answers a failed knock, so this is the way to find the reason.""",
    "verify": """\
Scans a server with nmap from another machine before a knock, while the door is open, and after it has closed,
and compares the answers with what they should be. Scan only hosts that you may scan.""",
    "lab": """\
Makes a server, a client and an attacker in network namespaces of this machine, and shows with real packets what
each of them sees. Nothing outside these namespaces is changed.""",
    "import": """\
Converts a configuration of knockd or fwknop to a `doorward.toml`. Settings without a counterpart are reported,
with the reason. It changes no file; with `--output` it writes a new one, and the shared keys of fwknop's clients
to `fwknop.keys` next to it.""",
}
