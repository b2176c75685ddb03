// SPDX-License-Identifier: GPL-2.0-or-later
/* The shield: drops early, at a network device, knock packets that the gate in nftables would drop too.
 *
 * It runs the gate's automaton (core/automaton.py) and rate limit (core/tracker.py) over a fixed table with one cache
 * line for a set of sources, so that a packet from a new address allocates nothing. It never opens a port. A packet
 * that completes a knock goes on, with a token and the state in its priority; what is not surely a knock packet goes on
 * as it is. Nothing here waits or locks: two processors that see packets of one source at the same moment may lose a
 * step.
 */
#include "automaton.h"
#include "config.h"
#include "flows.h"
#include "openings.h"
#include "packet.h"
#include "sources.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct address);
    __type(value, __u32);
    __uint(max_entries, 4096);
} local SEC(".maps");

// Until when a source is banned, in nanoseconds; the key is as for its bucket.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u64);
    __type(value, __u64);
    __uint(max_entries, 1 << 14);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} banned SEC(".maps");

// Return whether the gate ignores this source's knock packets.
static __always_inline int is_banned(const struct packet *packet)
{
    __u64 network = network_of(packet);
    __u64 *until = settings.has_bans ? bpf_map_lookup_elem(&banned, &network) : 0;

    return until && bpf_ktime_get_coarse_ns() < *until;
}

// Return whether everything passes, since no daemon renewed the shield of late.
static __always_inline int is_over(void)
{
    return !cfg.is_test && bpf_ktime_get_coarse_ns() >= settings.deadline_ns;
}

static __always_inline int is_local(const struct address *address)
{
    for (int n = 0; n < OWN; n++)
        if (settings.own[n].half[1] == address->half[1] && settings.own[n].half[0] == address->half[0])
            return 1;
    return bpf_map_lookup_elem(&local, address) != 0;
}

// Read the sets of a source ahead of their use: they come from memory, both at once, while the program goes on.
static __always_inline void fetch_sets(const struct packet *packet)
{
    __u64 network = mix(network_of(packet));

    fetch(network);
    if (packet->is_v6)
        fetch(hash_of_address(network, packet));
}

// Return the flags of the port of a packet to this host; PASSED for any other packet.
static __always_inline __u32 port_of(const struct packet *packet)
{
    struct port *port = bpf_map_lookup_elem(&ports, &packet->port);

    if (!port || port->value & PASSED)
        return PASSED;
    if (!(port->value & HIDDEN) && is_first(packet))
        fetch_sets(packet);
    return is_local(&packet->destination) ? port->value : PASSED;
}

static __always_inline int drop(void)
{
    count(DROPPED);
    return TCX_DROP;
}

// Drop a packet to a hidden port that is closed to its source, unless it belongs to a flow. A SYN never does, but where
// this host sent one from that port, or an answer to one: then there is a slot.
static __always_inline int judge_hidden(struct __sk_buff *skb, const struct packet *packet)
{
    int is_syn = packet->protocol == IPPROTO_TCP && is_first(packet);

    if (!settings.drops || may_be_open(network_of(packet))) {
        prolong(packet);
        return TCX_NEXT;
    }
    return is_syn || flow_of(skb, packet) == NEW ? drop() : TCX_NEXT;
}

SEC("tc")
int shield_ingress(struct __sk_buff *skb)
{
    struct packet packet = {};

    if ((skb->priority & ~cfg.state_mask) == cfg.token || skb->priority == cfg.counted)
        skb->priority = 0; // nobody else may say that a knock is complete
    if (is_over() || !parse_received(skb, &packet))
        return TCX_NEXT;
    __u32 port = port_of(&packet);
    if (port & PASSED)
        return TCX_NEXT;
    if (port & HIDDEN)
        return judge_hidden(skb, &packet);
    __u32 matching = matching_of(&packet);
    int drops = settings.drops && cfg.is_stealth && !(port & NEEDED);
    if (!matching && !drops)
        return TCX_NEXT;
    enum flow flow = flow_of(skb, &packet);
    if (flow == ESTABLISHED)
        return TCX_NEXT;
    int counts = matching && (!cfg.known_only || port & KNOWN) && !is_banned(&packet);
    __u32 state = counts ? knock_on(&packet, port, matching) : 0;
    if (state) {
        count(KNOCKED);
        note_opening(network_of(&packet), cfg.open_s);
        skb->priority = cfg.token | (cfg.root + state);
        return TCX_NEXT;
    }
    if (drops && flow == NEW)
        return drop();
    if (counts)
        skb->priority = cfg.counted; // the gate does not count it again
    return TCX_NEXT;
}

// Drop, where a driver runs it before there is an sk_buff, what needs no look-up of a flow and completes no knock. What
// passes comes to shield_ingress, and was not counted here; nor is what follows it, or it would be counted first.
SEC("xdp.frags")
int shield_xdp(struct xdp_md *xdp)
{
    struct packet packet = {};

    if (is_over() || !settings.drops || !parse_frame(xdp, &packet))
        return XDP_PASS;
    __u32 matching = matching_of(&packet);
    int may_begin = is_first(&packet);
    if (!may_begin && !matching)
        return XDP_PASS;
    __u32 port = port_of(&packet);
    __u64 network = network_of(&packet);
    if (port & PASSED)
        return XDP_PASS;
    if (port & HIDDEN) {
        if (!may_begin || may_be_open(network) || is_behind(network) ||
            (packet.protocol == IPPROTO_UDP && used_by(&packet)))
            return XDP_PASS;
    } else {
        if (port & ENDS || (cfg.is_stealth && (!may_begin || port & NEEDED || used_by(&packet)))) {
            note_passed(network);
            return XDP_PASS;
        }
        if (!cfg.is_stealth || is_behind(network))
            return XDP_PASS;
        if (matching && (!cfg.known_only || port & KNOWN) && !is_banned(&packet))
            knock_on(&packet, port, matching);
    }
    count(DROPPED);
    return XDP_DROP;
}

// Note the ports that this host, or one behind it, sends UDP from or starts TCP connections from; answers from a hidden
// port of TCP are noted as openings to whom they are for.
SEC("tc")
int shield_egress(struct __sk_buff *skb)
{
    struct packet answer = {};

    if (!parse_sent(skb, &answer))
        return TCX_NEXT;
    struct port *port = bpf_map_lookup_elem(&ports, &answer.port);
    if (answer.protocol == IPPROTO_TCP && port && port->value & HIDDEN)
        note_opening(network_of(&answer), TCP_BUSY_S);
    else
        note_sent(skb, &answer);
    return TCX_NEXT;
}

char LICENSE[] SEC("license") = "GPL";
