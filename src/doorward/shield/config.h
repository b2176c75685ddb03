/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the loader sets, the counters and the clocks. */
#pragma once

#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define OWN 4      // of this host's addresses, which are found faster than in the map of all
#define MACHINES 8 // automata that run side by side: doors with other `flags` or another `within`

struct address {
    union {
        __be32 word[4]; // an IPv4 address is in the last one, after others with all bits set
        __u64 half[2];
    };
};

struct machine {
    __u32 within_ms;
    __u8 flags_mask, flags_value; // of TCP packets
    __u16 spare;
};

// Filled in before the program is loaded (shield/libbpf.py). The verifier knows these values and removes what they rule
// out, so that one automaton does not pay for eight.
const volatile struct config {
    __u64 seed[2];
    __u32 set_mask;   // of the number of a set of sources
    __u32 state_mask; // the bits of a priority that have the state; the others have the token
    __u32 token;
    __u32 root;      // the number that the gate has for START, of the first automaton
    __u32 within_ms; // the longest
    __u32 machines;
    __u32 known_only; // other ports than those of sequences are not knock packets (wrong_port = "known")
    __u32 is_stealth; // the gate drops every knock packet; in mode guard only those to hidden ports
    __u32 is_test;    // the time is `test_ms`
    __u32 open_s;     // an opening by a knock ends earlier than so long after it
    __u32 counted;    // in place of a token and a state: the packet was counted, and completes nothing
    struct machine machine[MACHINES];
} cfg;

// Set while it runs.
volatile struct settings {
    __u64 deadline_ns; // the daemon renews it; from then on everything passes
    __u32 test_ms;
    __u32 udp_busy_s; // no flow of UDP lives longer in conntrack after its last packet
    __u32 has_bans;
    __u32 drops;    // 0: it leaves that to the gate
    __u32 forwards; // this host forwards packets: conntrack may have TCP connections in zones that cannot be asked
    struct address own[OWN];
} settings;

enum counter { DROPPED, KNOCKED, THROTTLED, NO_ROOM, EVICTED, RACED, COUNTERS };

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, COUNTERS);
} counters SEC(".maps");

static __always_inline void count(enum counter which)
{
    __u32 key = which;
    __u64 *number = bpf_map_lookup_elem(&counters, &key);

    if (number)
        (*number)++;
}

static __always_inline __u32 now_ms(void)
{
    return cfg.is_test ? settings.test_ms : bpf_ktime_get_coarse_ns() / 1000000;
}

static __always_inline __u32 now_s(void)
{
    return bpf_ktime_get_coarse_ns() / 1000000000 + 1; // 0 is never
}
