/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sources that sent knock packets of late: a fixed table. A packet touches one cache line of it for each automaton,
 * over IPv6 one more, and a new source takes the place of another.
 */
#pragma once

#include "config.h"

#define WAYS 4         // sources in a set, which fills a cache line
#define NO_WAY WAYS    // neither is the source there, nor may it take another's place
#define TOKEN_MS 50    // 20 knock packets a second
#define BUCKET_MS 2000 // a bucket of 40 is full again after that long
#define HEAVY_MS 100   // a source that sent more than two packets of late is not forgotten for another
// A state: its number, and these flags.
#define START 0              // the root of every automaton
#define COMPLETES (1u << 31) // it opens a door
#define FALLS (1u << 30)     // it has a failure link
#define FIRST (1u << 29)     // it is one knock packet from the start
#define PAUSED 0xffffffffu   // in place of one: over the rate, ignored until `began`

struct progress {
    __u32 state, began;
} __attribute__((aligned(8)));

struct set {
    __u32 tag[WAYS];
    __u32 full[WAYS]; // when the bucket is full again
    struct progress at[WAYS];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct set);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE); // or else no element begins at a cache line
} sources SEC(".maps");

// A keyed permutation of 64 bits.
static __always_inline __u64 mix(__u64 x)
{
    x ^= cfg.seed[0];
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ull;
    x ^= (x >> 29) ^ cfg.seed[1];
    x *= 0xa0761d6478bd642full;
    return x ^ x >> 32;
}

static __always_inline struct set *set_of(__u64 hash)
{
    __u32 index = hash & cfg.set_mask;

    return bpf_map_lookup_elem(&sources, &index);
}

static __always_inline void fetch(__u64 hash)
{
    const volatile struct set *set = set_of(hash);

    if (set)
        (void)set->tag[0];
}

// How long until the bucket is full. Milliseconds start again after 49 days: what is too long is past.
static __always_inline __u32 filling_ms(const struct set *set, __u32 way, __u32 now)
{
    __u32 left = set->full[way] - now;

    return left <= BUCKET_MS ? left : 0;
}

// Return the state that a source would lose with its place: START for one that opened a door, or is PAUSED.
static __always_inline __u32 state_of(const struct set *set, __u32 way, __u32 now)
{
    __u32 state = set->at[way].state;

    return state & COMPLETES || now - set->at[way].began >= cfg.within_ms ? START : state;
}

// Return where a source is in its set, or whose place it may take: that of the oldest at the start or, if it begins a
// knock and there is none, one knock packet in. Never of one further on, nor of one near the rate limit: its bucket
// would be refilled.
__noinline __u32 find(const struct set *set, __u32 tag, __u32 now, __u32 begins)
{
    if (!set)
        return NO_WAY;
    for (__u32 way = 0; way < WAYS; way++)
        if (set->tag[way] == tag)
            return way;
    __u32 found = NO_WAY, most = 0;
    for (__u32 way = 0; way < WAYS; way++) {
        __u32 state = state_of(set, way, now), age = (now - set->at[way].began) >> 1 | 1;
        if (state == START)
            age |= 1u << 31;
        else if (!begins || !(state & FIRST))
            continue;
        if (age > most && filling_ms(set, way, now) <= HEAVY_MS) {
            found = way;
            most = age;
        }
    }
    return found;
}

// Return a way as it is, in a form that the verifier sees is within a set.
static __always_inline __u32 bounded(__u32 way)
{
    asm volatile("%0 &= 3" : "+r"(way));
    return way;
}

// Take a place for a source unless it has it. False: another processor was faster.
static __always_inline int claim(struct set *set, __u32 way, __u32 tag, __u32 now)
{
    way = bounded(way);
    __u32 before = set->tag[way];

    if (before == tag)
        return 1;
    if (state_of(set, way, now) != START)
        count(EVICTED);
    if (!__sync_bool_compare_and_swap(&set->tag[way], before, tag))
        return 0;
    set->at[way].state = START;
    set->at[way].began = set->full[way] = now;
    return 1;
}

// Count one knock packet. False: over the rate.
static __always_inline int admit(struct set *set, __u32 way, __u32 now)
{
    way = bounded(way);
    struct progress *at = &set->at[way];

    if (at->state == PAUSED) {
        if (at->began - now - 1 < TOKEN_MS)
            return 0;
        at->state = START;
    }
    __u32 filling = filling_ms(set, way, now);
    if (filling > BUCKET_MS - TOKEN_MS) {
        at->state = PAUSED;
        at->began = now + TOKEN_MS;
        return 0;
    }
    set->full[way] = now + filling + TOKEN_MS;
    return 1;
}
