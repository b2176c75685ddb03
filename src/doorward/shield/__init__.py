"""The shield: an early drop in front of the gate, in BPF (shield.bpf.c), for floods of knock packets."""
