"""Parsers of foreign bytes as fuzz targets: each module has `one(data)`, which raises only where the parser is wrong.

An error that the parser is meant to give is part of the answer. `corpus/` holds what each target begins with, and
every input that once broke it.
"""

TARGETS = (
    "packets",
    "ring",
    "pcap_file",
    "netfilter_log",
    "netlink",
    "nft_output",
    "requests",
    "doorward_toml",
    "knockd_conf",
    "fwknop_access",
    "one_time",
    "firewall_commands",
    "hosts_toml",
    "command_line",
    "ledger_file",
    "ledger_rows",
    "reader_events",
    "nft_changes",
    "ssh_session",
    "doctor_rules",
    "nmap_report",
    "signed_packets",
    "stun_frames",
    "fwknop_packets",
    "verifier_reports",
    "etcd_answers",
    "fleet_messages",
    "ssh_keys",
    "ssh_signatures",
    "ssh_certificates",
    "authorized_keys",
    "agent_replies",
    "doorward_link",
    "private_key",
)
