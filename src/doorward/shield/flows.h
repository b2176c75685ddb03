/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which packets belong to a flow that the gate accepts before it looks for knocks ("ct state established").
 *
 * Conntrack knows that. To ask it costs more than the rest of the shield, so the program at egress notes from which
 * ports this host sends: a packet to any other port that may begin a flow belongs to none. It notes too whether
 * conntrack, asked for the answer, knows one; if not, since it is in another zone or is not tracked, a packet to that
 * port may be an answer.
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

// Return what conntrack says of a packet, or would say of it; UNSURE: it knows no flow.
static __always_inline enum flow ask_conntrack(struct __sk_buff *skb, const struct packet *packet)
{
    struct bpf_ct_opts options = {.netns_id = BPF_F_CURRENT_NETNS, .l4proto = packet->protocol};
    struct bpf_sock_tuple tuple = {};
    __u32 size;

    if (packet->is_v6) {
        __builtin_memcpy(tuple.ipv6.saddr, packet->source, sizeof(tuple.ipv6.saddr));
        __builtin_memcpy(tuple.ipv6.daddr, &packet->destination, sizeof(tuple.ipv6.daddr));
        tuple.ipv6.sport = packet->source_port;
        tuple.ipv6.dport = packet->destination_port;
        size = sizeof(tuple.ipv6);
    } else {
        tuple.ipv4.saddr = packet->source[0];
        tuple.ipv4.daddr = packet->destination.word[3];
        tuple.ipv4.sport = packet->source_port;
        tuple.ipv4.dport = packet->destination_port;
        size = sizeof(tuple.ipv4);
    }
    struct nf_conn *flow = bpf_skb_ct_lookup(skb, &tuple, size, &options, sizeof(options));
    if (!flow)
        return UNSURE;
    int is_established = options.dir == IP_CT_DIR_REPLY || flow->status & IPS_SEEN_REPLY;
    bpf_ct_release(flow);
    return is_established ? ESTABLISHED : NEW;
}

#else

#define ask_conntrack(skb, packet) ((void)(skb), (void)(packet), UNSURE)

#endif

// Note what this host sent.
static __always_inline void note_sent(struct __sk_buff *skb, const struct packet *answer)
{
    __u32 *used = bpf_map_lookup_elem(&busy, &answer->port), now = now_s();

    if (used && *used >> 1 != now)
        *used = now << 1 | (ask_conntrack(skb, answer) != UNSURE);
}

// Return what a packet to this host belongs to.
static __always_inline enum flow flow_of(struct __sk_buff *skb, const struct packet *packet)
{
    __u32 *used = bpf_map_lookup_elem(&busy, &packet->port), now = now_s();

    if (!is_first(packet))
        return ask_conntrack(skb, packet);
    if (!used || !*used || now - (*used >> 1) > (packet->protocol == IPPROTO_UDP ? settings.udp_busy_s : TCP_BUSY_S))
        return NEW;
    if (!(*used & 1))
        return UNSURE;
    if (ask_conntrack(skb, packet) != ESTABLISHED)
        return NEW;
    *used = now << 1 | 1; // the flow may go on for longer than this host sends
    return ESTABLISHED;
}
