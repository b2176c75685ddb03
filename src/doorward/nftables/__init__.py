"""The packet filter: ruleset text, libnftables and nf_tables over netlink."""
