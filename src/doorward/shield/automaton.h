/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The automaton of knocks (core/automaton.py): what a knock packet does to its source. */
#pragma once

#include "config.h"
#include "packet.h"
#include "sources.h"

#define MAX_FALLS 31 // failure links in a row
// A value of `edges`: the state that it leads to and its flags, or SAME.
#define SAME 0xfffffffeu   // the packet repeats the last one
#define NUMBER (FIRST - 1) // of a state
// The value of a port: these flags, and from FIRST_SHIFT on the state after a first knock packet to it, or 0.
#define PASSED 1          // public, or for signed knocks: not a knock packet
#define LATER 2           // some sequence has it after its first packet
#define NEEDED 4          // DHCP: a knock packet, and the gate decides whether it is dropped
#define FIRST_COMPLETES 8 // a sequence of one packet
#define BEGINS 16         // some sequence has it first
#define KNOWN 32          // a sequence has it, if only such ports are knock packets
#define HIDDEN 64         // a door's: not a knock packet
#define ENDS 128          // some sequence has it last
#define FIRST_SHIFT 8
#define PORTS (2 * UDP_PORTS) // of one automaton in `ports`

struct port {
    __u32 value;
    __u32 before; // a Bloom filter of the states after a first packet that have an edge for it: most have none
};

struct edge {
    __u32 state, symbol;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32); // as in a packet, and PORTS more for each further automaton
    __type(value, struct port);
    __uint(max_entries, PORTS);
} ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct edge);
    __type(value, __u32);
    __uint(max_entries, 1);
} edges SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, __u32);
    __uint(max_entries, 1);
} failure_links SEC(".maps");

static __always_inline __u32 *edge_from(__u32 state, __u32 symbol)
{
    struct edge edge = {state & NUMBER, symbol};

    return bpf_map_lookup_elem(&edges, &edge);
}

// Return whether a state has no edge for a port, without a look-up of it.
static __always_inline int has_none(__u32 state, const struct port *port)
{
    return !(port->value & LATER) || (state & FIRST && !(port->before >> ((state & NUMBER) * 0x9e3779b1u >> 27) & 1));
}

// Return the edge that a knock packet takes: the state with its flags, or SAME.
static __always_inline __u32 step(__u32 state, __u32 symbol, const struct port *port)
{
    __u32 first = port->value >> FIRST_SHIFT;

    if (first)
        first |= FIRST | (port->value & FIRST_COMPLETES ? COMPLETES : 0);
    if (state == START)
        return first;
    if (has_none(state, port))
        return state == first ? SAME : first;
    __u32 *to = edge_from(state, symbol);
    if (to)
        return *to;
    for (int n = 0; n < MAX_FALLS && state & FALLS; n++) {
        __u32 bare = state & NUMBER;
        __u32 *shorter = bpf_map_lookup_elem(&failure_links, &bare);
        if (!shorter)
            break;
        state = *shorter;
        to = edge_from(state, symbol);
        if (to && *to != SAME)
            return *to;
    }
    return first;
}

struct knock {
    __u64 network; // keyed hashes: of the IPv4 address or the /64,
    __u64 address; // and of the address
    __u32 now, symbol;
    __u32 port; // its index in `ports`
    __u32 is_v6, is_admitted;
};

// Take the step in one automaton; return the state if it completes a knock, else 0.
static __always_inline __u32 advance(struct progress *at, const struct knock *knock, const struct port *port,
                                     __u32 machine)
{
    struct progress was = *at;
    __u32 state = knock->now - was.began >= cfg.machine[machine].within_ms ? START : was.state;
    __u32 to = step(state, knock->symbol, port);

    if (to == SAME || (to == START && state == START))
        return 0;
    struct progress is = {to, was.began};
    if (to & FIRST)
        is.began = knock->now; // the deadline runs from the first knock packet
    __u64 from = (__u64)was.began << 32 | was.state, into = (__u64)is.began << 32 | is.state;
    if (!__sync_bool_compare_and_swap((__u64 *)at, from, into)) {
        count(RACED);
        return 0;
    }
    return to & COMPLETES ? to & NUMBER : 0;
}

static __always_inline __u64 hash_of_address(__u64 network, const struct packet *packet)
{
    return mix(network ^ ((__u64)packet->source[2] << 32 | packet->source[3]));
}

// Return the hash for the state of a source in one automaton, where that is not beside its bucket.
static __always_inline __u64 hash_of(const struct knock *knock, __u32 machine)
{
    return machine ? mix(knock->address + machine) : knock->address;
}

// Return the tag of such an entry; those of buckets are odd.
static __always_inline __u32 address_tag(__u64 hash)
{
    return (hash >> 32 & ~1u) | 2; // 0 is free
}

// Return whether a source is on its way in an automaton whose state is not beside its bucket.
__noinline __u32 is_ahead(const struct knock *knock)
{
    if (!knock)
        return 0;
    for (__u32 machine = !knock->is_v6; machine < MACHINES && machine < cfg.machines; machine++) {
        __u64 hash = hash_of(knock, machine);
        struct set *set = set_of(hash);
        __u32 tag = address_tag(hash), way = find(set, tag, knock->now, 0);
        if (set && way < WAYS && set->tag[bounded(way)] == tag && state_of(set, bounded(way), knock->now) != START)
            return 1;
    }
    return 0;
}

// Find the state of a source in one automaton, and advance or reset it. The first has that of an IPv4 address beside
// its bucket (`set`, `way`). Those of IPv6 addresses and of the other automata have entries of their own.
__noinline __u32 run(struct set *set, __u32 way, const struct knock *knock, __u32 machine)
{
    if (!set || !knock)
        return 0;
    machine &= MACHINES - 1;
    __u32 index = machine * PORTS + knock->port;
    struct port *port = bpf_map_lookup_elem(&ports, &index);
    if (!port)
        return 0;
    if (machine || knock->is_v6) {
        __u64 hash = hash_of(knock, machine);
        __u32 tag = address_tag(hash), now = knock->now, begins = knock->is_admitted && port->value >> FIRST_SHIFT;
        set = set_of(hash);
        if (!set)
            return 0;
        way = find(set, tag, now, begins);
        if (way >= WAYS || (set->tag[bounded(way)] != tag && !begins)) {
            if (begins)
                count(NO_ROOM);
            return 0; // it is at the start, and stays there
        }
        if (!claim(set, way, tag, now)) {
            count(RACED);
            return 0;
        }
        if (!knock->is_admitted)
            set->at[bounded(way)].state = START;
    }
    return knock->is_admitted ? advance(&set->at[bounded(way)], knock, port, machine) : 0;
}

// Process a knock packet for the automata in `matching`, a bit each; return the state if it completes a knock, else 0.
static __always_inline __u32 knock_on(const struct packet *packet, __u32 port, __u32 matching)
{
    struct knock knock = {
        .network = mix(network_of(packet)),
        .now = now_ms(),
        .symbol = packet->protocol << 16 | (packet->port & 0xffff),
        .port = packet->port,
        .is_v6 = packet->is_v6,
    };
    struct set *set = set_of(knock.network);
    __u32 tag = knock.network >> 32 | 1, state = 0;

    if (!set)
        return 0;
    if (packet->is_v6 || cfg.machines > 1)
        knock.address = hash_of_address(knock.network, packet);
    __u32 way = find(set, tag, knock.now, port & BEGINS);
    if (way >= WAYS && is_ahead(&knock))
        way = find(set, tag, knock.now, 1); // without a bucket its packet would be lost
    if (way >= WAYS) {
        count(NO_ROOM);
        return 0;
    }
    if (!claim(set, way, tag, knock.now)) {
        count(RACED);
        return 0;
    }
    knock.is_admitted = admit(set, way, knock.now);
    if (!knock.is_admitted)
        count(THROTTLED);
    for (__u32 n = 0; n < MACHINES && n < cfg.machines; n++)
        if (matching >> n & 1 || !knock.is_admitted)
            state |= run(set, way, &knock, n); // no packet completes knocks of two (shield/tables.py)
    return state;
}

// Return the automata that a packet is a knock packet for, by its TCP flags.
static __always_inline __u32 matching_of(const struct packet *packet)
{
    __u32 matching = 0;

    if (packet->protocol == IPPROTO_UDP)
        return (1 << MACHINES) - 1;
    for (__u32 n = 0; n < MACHINES && n < cfg.machines; n++) {
        __u32 differs = (packet->flags & cfg.machine[n].flags_mask) ^ cfg.machine[n].flags_value;
        barrier_var(differs); // or there is a branch, and the verifier goes both ways at each: up to 256
        matching |= (differs - 1) >> 31 << n;
    }
    return matching;
}
