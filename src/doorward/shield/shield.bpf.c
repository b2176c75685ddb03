// SPDX-License-Identifier: GPL-2.0-or-later
/* The shield: drops early, at a network device, knock packets that the gate in nftables would drop too.
 *
 * It runs the gate's automaton (core/automaton.py) and rate limit (core/tracker.py) over a fixed table with one cache
 * line for a set of sources, so that a packet from a new address allocates nothing. It never opens a port. A packet
 * that completes a knock goes on, with a token and the state in its priority; what is not surely a knock packet goes on
 * as it is. Nothing here waits or locks: two processors that see packets of one source at the same moment may lose a
 * step.
 */
#include "config.h"
#include "flows.h"
#include "packet.h"

#define WAYS 3               // sources in a set, which fills a cache line
#define NO_WAY WAYS          // neither is the source there, nor may it take another's place
#define TOKEN_MS 50          // 20 knock packets a second
#define BUCKET_MS 2000       // a bucket of 40 is full again after that long
#define HEAVY_MS 100         // a source that sent more than two packets of late is not forgotten for another
#define MAX_FALLS 31         // failure links in a row
#define START 0              // the automaton's root
#define PAUSED 0xffffffffu   // a state: over the rate, ignored until `began`
#define SAME 0xfffffffeu     // in place of an edge: the packet repeats the last one
#define COMPLETES (1u << 31) // in an edge: the state that it leads to opens a door
#define FALLS (1u << 30)     // in an edge and in a state: it has a failure link
// A value of `ports`: these flags, and from FIRST_SHIFT on the state after a first knock packet to it, or 0.
#define PASSED 1          // public, a door's, or for signed knocks: not a knock packet
#define LATER 2           // some sequence has it after its first packet
#define NEEDED 4          // DHCP: a knock packet, and the gate decides whether it is dropped
#define FIRST_COMPLETES 8 // a sequence of one packet
#define FIRST_SHIFT 8

struct progress {
    __u32 state, began;
} __attribute__((aligned(8)));

struct set {
    __u32 hand; // whose place to take next
    __u32 tag[WAYS];
    __u32 full[WAYS]; // when the bucket is full again
    __u32 spare;
    struct progress at[WAYS];
    __u64 spare2;
};

struct edge {
    __u32 state, symbol;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct set);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE); // or else no element begins at a cache line
} sources SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32); // the port; 65,536 more for UDP
    __type(value, __u32);
    __uint(max_entries, 1 << 17);
} ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct edge);
    __type(value, __u32);
    __uint(max_entries, 1);
} edges SEC(".maps");

// A Bloom filter of `edges`: most packets take none.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, __u32);
    __uint(max_entries, 1);
} edge_bits SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, __u32);
    __uint(max_entries, 1);
} failure_links SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct address);
    __type(value, __u32);
    __uint(max_entries, 4096);
} local SEC(".maps");

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

// How long until the bucket is full. Milliseconds start again after 49 days: what is too long is past.
static __always_inline __u32 filling_ms(const struct set *set, __u32 way, __u32 now)
{
    __u32 left = set->full[way] - now;

    return left <= BUCKET_MS ? left : 0;
}

static __always_inline __u32 state_of(const struct set *set, __u32 way, __u32 now)
{
    __u32 state = set->at[way].state;

    return state == PAUSED || now - set->at[way].began >= cfg.within_ms ? START : state;
}

// Return where a source is in its set, or whose place it may take: that of a source at the start or, for a first knock
// packet, one knock packet in. Never of one further on, nor of one near the rate limit: its bucket would be refilled.
__noinline __u32 find(const struct set *set, __u32 tag, __u32 now, __u32 is_first)
{
    if (!set)
        return NO_WAY;
    for (__u32 way = 0; way < WAYS; way++)
        if (set->tag[way] == tag)
            return way;
    __u32 way = set->hand;
    for (__u32 n = 0; n < WAYS; n++, way++) {
        if (way >= WAYS)
            way = 0;
        __u32 state = state_of(set, way, now) & ~FALLS;
        if (filling_ms(set, way, now) <= HEAVY_MS && (state == START || (is_first && state <= cfg.firsts)))
            return way;
    }
    return NO_WAY;
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
    if (filling_ms(set, way, now) && before)
        count(EVICTED);
    if (!__sync_bool_compare_and_swap(&set->tag[way], before, tag))
        return 0;
    set->at[way].state = START;
    set->at[way].began = set->full[way] = now;
    set->hand = way + 1;
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

static __always_inline __u32 *edge_from(__u32 state, __u32 symbol)
{
    struct edge edge = {state & ~FALLS, symbol};
    __u32 bit = edge.state * 0x9e3779b1u ^ symbol * 0x85ebca6bu;

    bit ^= bit >> 15;
    __u32 index = bit >> 5 & cfg.edge_mask;
    __u32 *word = bpf_map_lookup_elem(&edge_bits, &index);
    return word && *word >> (bit & 31) & 1 ? bpf_map_lookup_elem(&edges, &edge) : 0;
}

// Return the edge that a knock packet takes: the state with its flags, or SAME.
static __always_inline __u32 step(__u32 state, __u32 symbol, __u32 port)
{
    __u32 first = port >> FIRST_SHIFT | (port & FIRST_COMPLETES ? COMPLETES : 0);

    if (state == START)
        return first;
    if (!(port & LATER))
        return state == (first & ~COMPLETES) ? SAME : first;
    __u32 *to = edge_from(state, symbol);
    if (to)
        return *to;
    for (int n = 0; n < MAX_FALLS && state & FALLS; n++) {
        __u32 bare = state & ~FALLS;
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

// Find the source's place, or 0. Over IPv6 the /64 has a bucket, in the same set; `is_admitted` has its answer.
static __always_inline struct set *place(const struct packet *packet, __u32 port, __u32 now, __u32 *way,
                                         int *is_admitted)
{
    __u64 network = packet->is_v6 ? (__u64)packet->source[0] << 32 | packet->source[1] : 1ull << 32 | packet->source[0];
    __u64 hash = mix(network);
    __u32 index = hash & cfg.set_mask, tag = hash >> 32 | 1, is_first = port >> FIRST_SHIFT != 0;
    struct set *set = bpf_map_lookup_elem(&sources, &index);

    if (!set)
        return 0;
    if (packet->is_v6) {
        *way = find(set, tag, now, 0);
        if (*way >= WAYS || !claim(set, *way, tag, now)) {
            count(NO_ROOM);
            return 0;
        }
        *is_admitted = admit(set, *way, now);
        tag = mix(hash ^ ((__u64)packet->source[2] << 32 | packet->source[3])) >> 32 & ~1u;
    }
    *way = find(set, tag, now, is_first);
    if (*way >= WAYS) {
        count(NO_ROOM);
        return 0;
    }
    if (packet->is_v6 && set->tag[bounded(*way)] != tag && !(is_first && *is_admitted))
        return 0; // an address at the start stays there
    if (!claim(set, *way, tag, now)) {
        count(RACED);
        return 0;
    }
    if (packet->is_v6)
        set->full[bounded(*way)] = now; // its network's bucket counts
    else
        *is_admitted = admit(set, *way, now);
    return set;
}

// Process a knock packet; return the state if it completes a knock, else 0.
static __always_inline __u32 knock(const struct packet *packet, __u32 port)
{
    __u32 now = now_ms(), way = 0, to = START;
    int is_admitted = 0;
    struct set *set = place(packet, port, now, &way, &is_admitted);

    if (!set)
        return 0;
    way = bounded(way);
    if (!is_admitted) {
        count(THROTTLED);
        if (packet->is_v6)
            set->at[way].state = START;
        return 0;
    }
    struct progress was = set->at[way];
    __u32 state = now - was.began >= cfg.within_ms ? START : was.state;
    __u32 symbol = (packet->port >> 16 ? IPPROTO_UDP : IPPROTO_TCP) << 16 | (packet->port & 0xffff);
    to = step(state, symbol, port);
    if (to == SAME || (to == START && state == START))
        return 0;
    struct progress is = {to & ~COMPLETES, was.began};
    if ((is.state & ~FALLS) - 1 < cfg.firsts)
        is.began = now; // the deadline runs from the first knock packet
    __u64 from = (__u64)was.began << 32 | was.state, into = (__u64)is.began << 32 | is.state;
    if (!__sync_bool_compare_and_swap((__u64 *)&set->at[way], from, into)) {
        count(RACED);
        return 0;
    }
    return to & COMPLETES ? to & ~(COMPLETES | FALLS) : 0;
}

SEC("tc")
int shield_ingress(struct __sk_buff *skb)
{
    struct packet packet = {};

    if ((skb->priority & ~cfg.state_mask) == cfg.token)
        skb->priority = 0; // nobody else may say that a knock is complete
    if (!cfg.is_test && bpf_ktime_get_coarse_ns() >= deadline_ns)
        return TCX_NEXT;
    if (skb->vlan_present || skb->pkt_type != PACKET_HOST || !parse(skb, &packet))
        return TCX_NEXT;
    __u32 *port = bpf_map_lookup_elem(&ports, &packet.port);
    if (!port || *port & PASSED || !bpf_map_lookup_elem(&local, &packet.destination))
        return TCX_NEXT;
    enum flow flow = flow_of(skb, &packet);
    if (flow == ESTABLISHED)
        return TCX_NEXT;
    __u32 state = cfg.known_only && !(*port & ~NEEDED) ? 0 : knock(&packet, *port);
    if (state) {
        count(KNOCKED);
        skb->priority = cfg.token | (cfg.root + state);
        return TCX_NEXT;
    }
    if (*port & NEEDED || flow == UNSURE) {
        skb->priority = cfg.token; // and no state: the gate does not count it again
        return TCX_NEXT;
    }
    count(DROPPED);
    return TCX_DROP;
}

// Note the ports that this host, or one behind it, sends UDP from or starts TCP connections from.
SEC("tc")
int shield_egress(struct __sk_buff *skb)
{
    struct packet answer = {};

    if (parse_sent(skb, &answer))
        note_sent(skb, &answer);
    return TCX_NEXT;
}

char LICENSE[] SEC("license") = "GPL";
