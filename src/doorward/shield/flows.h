/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which packets belong to a flow that the gate accepts before it looks for knocks ("ct state established").
 *
 * Conntrack knows that. To ask it costs more than the rest of the shield, so the program at egress notes from which
 * ports this host sends: a packet to any other port that may begin a flow belongs to none. It notes too whether
 * conntrack, asked for the answer, knows one; if not, since it is in another zone or is not tracked, a packet to that
 * port may be an answer.
 *
 * A later packet of a TCP connection belongs to one that conntrack or, of this host's own, the sockets know.
 *
 * Where the kernel has conntrack in a module, only a loader with CAP_SYS_ADMIN can find the function, and the shield is
 * compiled without CONNTRACK: then every packet to such a port may be an answer.
 */
#pragma once

#include "config.h"
#include "packet.h"

#define TCP_BUSY_S 240 // more than nf_conntrack_tcp_timeout_syn_sent

// When this host last sent from a port, in seconds and doubled, plus 1 if conntrack knew the flow.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, __u32);
    __uint(max_entries, 2 * UDP_PORTS);
} busy SEC(".maps");

enum flow { NEW, UNSURE, ESTABLISHED };

#ifdef CONNTRACK

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 tuple_size,
                                         struct bpf_ct_opts *options, __u32 options_size) __ksym;
extern void bpf_ct_release(struct nf_conn *flow) __ksym;

// Write the addresses and ports of a packet for a look-up, and return their size.
static __always_inline __u32 tuple_of(const struct packet *packet, struct bpf_sock_tuple *tuple)
{
    if (packet->is_v6) {
        __builtin_memcpy(tuple->ipv6.saddr, packet->source, sizeof(tuple->ipv6.saddr));
        __builtin_memcpy(tuple->ipv6.daddr, &packet->destination, sizeof(tuple->ipv6.daddr));
        tuple->ipv6.sport = packet->source_port;
        tuple->ipv6.dport = packet->destination_port;
        return sizeof(tuple->ipv6);
    }
    tuple->ipv4.saddr = packet->source[0];
    tuple->ipv4.daddr = packet->destination.word[3];
    tuple->ipv4.sport = packet->source_port;
    tuple->ipv4.dport = packet->destination_port;
    return sizeof(tuple->ipv4);
}

// Return what conntrack says of a packet, or would say of it; UNSURE: it knows no flow.
static __always_inline enum flow ask_conntrack(struct __sk_buff *skb, const struct packet *packet)
{
    struct bpf_ct_opts options = {.netns_id = BPF_F_CURRENT_NETNS, .l4proto = packet->protocol};
    struct bpf_sock_tuple tuple = {};
    __u32 size = tuple_of(packet, &tuple);
    struct nf_conn *flow = bpf_skb_ct_lookup(skb, &tuple, size, &options, sizeof(options));

    if (!flow)
        return UNSURE;
    int is_established = options.dir == IP_CT_DIR_REPLY || flow->status & IPS_SEEN_REPLY;
    bpf_ct_release(flow);
    return is_established ? ESTABLISHED : NEW;
}

// Return whether this host has a connection that a packet belongs to: one that is older than conntrack, or in one of
// its zones.
static __always_inline int has_connection(struct __sk_buff *skb, const struct packet *packet)
{
    struct bpf_sock_tuple tuple = {};
    __u32 size = tuple_of(packet, &tuple);
    struct bpf_sock *socket = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);

    if (!socket)
        return 0;
    int is_listening = socket->state == BPF_TCP_LISTEN;
    bpf_sk_release(socket);
    return !is_listening;
}

// Return what a TCP packet that begins no connection belongs to.
static __always_inline enum flow connection_of(struct __sk_buff *skb, const struct packet *packet)
{
    enum flow flow = ask_conntrack(skb, packet);

    if (flow == UNSURE)
        return settings.forwards || has_connection(skb, packet) ? UNSURE : NEW;
    return flow == ESTABLISHED ? ESTABLISHED : UNSURE;
}

#else

#define ask_conntrack(skb, packet) ((void)(skb), (void)(packet), UNSURE)
#define connection_of ask_conntrack

#endif

// Note what this host sent.
static __always_inline void note_sent(struct __sk_buff *skb, const struct packet *answer)
{
    __u32 *used = bpf_map_lookup_elem(&busy, &answer->port), now = now_s();

    if (used && *used >> 1 != now)
        *used = now << 1 | (ask_conntrack(skb, answer) != UNSURE);
}

// Return when this host last sent from the port of a packet that may begin a flow, as `busy` has it; 0: the packet
// belongs to no flow.
static __always_inline __u32 *used_by(const struct packet *packet)
{
    __u32 *used = bpf_map_lookup_elem(&busy, &packet->port);
    __u32 most_s = packet->protocol == IPPROTO_UDP ? settings.udp_busy_s : TCP_BUSY_S;

    return used && *used && now_s() - (*used >> 1) <= most_s ? used : 0;
}

// Renew the note for a UDP packet that passes without a look-up: its flow may go on for longer than this host sends.
static __always_inline void prolong(const struct packet *packet)
{
    __u32 *used = packet->protocol == IPPROTO_UDP ? used_by(packet) : 0, now = now_s();

    if (used && *used >> 1 != now)
        *used = now << 1 | (*used & 1);
}

// Return what a packet to this host belongs to.
static __always_inline enum flow flow_of(struct __sk_buff *skb, const struct packet *packet)
{
    if (!is_first(packet))
        return connection_of(skb, packet);
    __u32 *used = used_by(packet);
    if (!used)
        return NEW;
    if (!(*used & 1))
        return UNSURE;
    if (ask_conntrack(skb, packet) != ESTABLISHED)
        return NEW;
    *used = now_s() << 1 | 1; // the flow may go on for longer than this host sends
    return ESTABLISHED;
}
