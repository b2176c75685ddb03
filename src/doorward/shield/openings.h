/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which sources may have an opening: to all others hidden ports are closed.
 *
 * Each source has a slot by a hash of its address, so a source may have one for another's sake: then the gate judges
 * its packets. The slots must miss none. The daemon, which maps them (shield/opening_slots.py), notes openings before
 * it adds them to the gate, and what it hears of; the program notes those by the knocks that it passes on.
 */
#pragma once

#include "config.h"
#include "packet.h"

#define SLOTS_SHIFT 14
#define SLOTS (1u << SLOTS_SHIFT) // after them is one for all sources
#define PASSING_MS 50             // from XDP to tcx, and more

struct slot {
    __u64 until_s; // by the daemon; it writes no other field
    __u64 noted_s; // by the program; in the last slot not 0 if the daemon has noted all that there was before
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct slot);
    __uint(max_entries, SLOTS + 1);
    __uint(map_flags, BPF_F_MMAPABLE);
} openings SEC(".maps");

// When XDP last passed on a packet that tcx may count, in milliseconds; by the slots above.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, __u32);
    __uint(max_entries, SLOTS);
} passed SEC(".maps");

static __always_inline __u32 index_of(__u64 network)
{
    return network * 0x9e3779b97f4a7c15ull >> (64 - SLOTS_SHIFT);
}

static __always_inline struct slot *slot_of(__u64 network)
{
    __u32 index = index_of(network);

    return bpf_map_lookup_elem(&openings, &index);
}

// Return whether a source may have an opening.
static __always_inline int may_be_open(__u64 network)
{
    __u32 last = SLOTS, now = now_s();
    struct slot *own = slot_of(network), *all = bpf_map_lookup_elem(&openings, &last);

    return !own || !all || !all->noted_s || own->until_s >= now || own->noted_s >= now || all->until_s >= now;
}

// Note that a source may have an opening from now on for so long.
static __always_inline void note_opening(__u64 network, __u32 seconds)
{
    struct slot *slot = slot_of(network);
    __u64 until = (__u64)now_s() + seconds;

    for (int tries = 0; slot && tries < 4; tries++) {
        __u64 before = slot->noted_s;
        if (before >= until || __sync_bool_compare_and_swap(&slot->noted_s, before, until))
            return;
    }
}

static __always_inline void note_passed(__u64 network)
{
    __u32 index = index_of(network), *at = bpf_map_lookup_elem(&passed, &index);

    if (at)
        *at = now_ms();
}

// Return whether a packet of a source may still be on its way from XDP to tcx, since a driver reads several at once.
static __always_inline int is_behind(__u64 network)
{
    __u32 index = index_of(network), *at = bpf_map_lookup_elem(&passed, &index);

    return at && now_ms() - *at < PASSING_MS;
}
