/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the shield reads of a packet. */
#pragma once

#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HEADERS (ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct tcphdr))
#define UDP_PORTS (1u << 16)
#define MAX_EXTENSIONS 5 // headers that RFC 8200 puts between those of IPv6 and TCP or UDP, without those of IPsec

struct packet {
    __be32 source[4]; // IPv4: the first word
    struct address destination;
    __be16 source_port, destination_port;
    __u32 port; // an index of `ports`: the destination's number, and UDP_PORTS more for UDP
    __u8 is_v6, protocol, flags;
};

// Return whether an IPv6 address is a multicast address, by its first word. No knock packet has one, and so the keys of
// IPv4 addresses, which begin like these, differ from those of all others.
static __always_inline int is_multicast(__be32 word)
{
    return (word & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

// Return what has a bucket, an opening or a ban: an IPv4 address, or the /64 of an IPv6 address.
static __always_inline __u64 network_of(const struct packet *packet)
{
    const __be32 *source = packet->source;

    return packet->is_v6 ? (__u64)source[0] << 32 | source[1] : ~0ull << 32 | source[0];
}

// Read a whole, plain packet that may be a knock, of so many bytes with its Ethernet header. False: the gate has to
// judge it (fragments, options, extension headers, other protocols, lengths that the kernel would reject).
static __always_inline int parse(void *frame, void *end, __u32 length, __be16 type, struct packet *packet)
{
    void *data = frame + ETH_HLEN, *next;
    __u32 size, before;

    if (type == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = data;
        if ((void *)(ip + 1) > end || ip->version_ihl != 0x45 || ip->frag_off & bpf_htons(0x3fff))
            return 0;
        packet->source[0] = ip->saddr;
        __builtin_memset(&packet->destination, 0xff, sizeof(packet->destination));
        packet->destination.word[3] = ip->daddr;
        packet->protocol = ip->protocol;
        before = ETH_HLEN + sizeof(*ip);
        size = bpf_ntohs(ip->tot_len) - sizeof(*ip);
        next = ip + 1;
    } else if (type == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = data;
        if ((void *)(ip + 1) > end || (ip->version_class_label & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000) ||
            is_multicast(ip->saddr[0]) || is_multicast(ip->daddr[0]))
            return 0;
        __builtin_memcpy(packet->source, ip->saddr, sizeof(packet->source));
        __builtin_memcpy(&packet->destination, ip->daddr, sizeof(packet->destination));
        packet->is_v6 = 1;
        packet->protocol = ip->nexthdr;
        before = ETH_HLEN + sizeof(*ip);
        size = bpf_ntohs(ip->payload_len);
        next = ip + 1;
    } else {
        return 0;
    }
    if (size > length - before)
        return 0;
    if (packet->protocol == IPPROTO_TCP) {
        struct tcphdr *tcp = next;
        if ((void *)(tcp + 1) > end || size < sizeof(*tcp))
            return 0;
        packet->source_port = tcp->source;
        packet->destination_port = tcp->dest;
        packet->flags = tcp->flags;
        packet->port = bpf_ntohs(tcp->dest);
        return 1;
    }
    struct udphdr *udp = next;
    if (packet->protocol != IPPROTO_UDP || (void *)(udp + 1) > end || size < sizeof(*udp) ||
        bpf_ntohs(udp->len) < sizeof(*udp))
        return 0;
    packet->source_port = udp->source;
    packet->destination_port = udp->dest;
    packet->port = UDP_PORTS | bpf_ntohs(udp->dest);
    return 1;
}

// Read such a packet at tcx: not one of a VLAN, nor for another Ethernet address.
static __always_inline int parse_received(struct __sk_buff *skb, struct packet *packet)
{
    __u32 wanted = skb->len < HEADERS ? skb->len : HEADERS;

    if (skb->pkt_type != PACKET_HOST || (skb->vlan_present && skb->vlan_tci & VLAN_VID_MASK))
        return 0; // id 0 gives a priority only
    // Some drivers leave the headers in pages.
    if ((void *)(long)skb->data + wanted > (void *)(long)skb->data_end && bpf_skb_pull_data(skb, wanted))
        return 0;
    return parse((void *)(long)skb->data, (void *)(long)skb->data_end, skb->len, skb->protocol, packet);
}

// Read such a packet at XDP, before there is an sk_buff: of a frame in several buffers only the first is seen, so it is
// left to tcx. The frame may be for another Ethernet address: then no one else here would read it.
static __always_inline int parse_frame(struct xdp_md *xdp, struct packet *packet)
{
    void *frame = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
    struct ethhdr *ethernet = frame;

    return (void *)(ethernet + 1) <= end && !(ethernet->dest[0] & 1) &&
           parse(frame, end, end - frame, ethernet->type, packet);
}

// Return whether a packet may begin a flow: conntrack knows the others, and the gate those of connections older than
// it.
static __always_inline int is_first(const struct packet *packet)
{
    return packet->protocol == IPPROTO_UDP || (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

// Skip the extension headers of an IPv6 packet. False: it is a later fragment, which has no ports, or cut short.
static __always_inline int skip_extensions(struct __sk_buff *skb, __u8 *protocol, __u32 *offset)
{
    struct {
        __u8 nexthdr, length;
        __be16 fragment;
    } header;

    for (int n = 0; n < MAX_EXTENSIONS; n++) {
        if (*protocol != IPPROTO_HOPOPTS && *protocol != IPPROTO_ROUTING && *protocol != IPPROTO_FRAGMENT &&
            *protocol != IPPROTO_DSTOPTS)
            break;
        if (bpf_skb_load_bytes_relative(skb, *offset, &header, sizeof(header), BPF_HDR_START_NET))
            return 0;
        if (*protocol != IPPROTO_FRAGMENT)
            *offset += 8 * (header.length + 1);
        else if (header.fragment & bpf_htons(0xfff8))
            return 0;
        else
            *offset += 8;
        *protocol = header.nexthdr;
    }
    return 1;
}

// Read what this host, or one behind it, sends, as if it were the packet that answers it. False: it begins no flow that
// such a packet belongs to.
static __always_inline int parse_sent(struct __sk_buff *skb, struct packet *answer)
{
    struct {
        __be16 source, dest;
        __u8 other[9], flags;
    } header;
    __u32 offset;

    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr ip;
        if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) || ip.frag_off & bpf_htons(0x1fff))
            return 0; // a later fragment has no ports
        offset = (ip.version_ihl & 0xf) * 4;
        answer->protocol = ip.protocol;
        answer->source[0] = ip.daddr;
        answer->destination.word[3] = ip.saddr;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr ip;
        if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
            return 0;
        offset = sizeof(ip);
        answer->protocol = ip.nexthdr;
        answer->is_v6 = 1;
        __builtin_memcpy(answer->source, ip.daddr, sizeof(answer->source));
        __builtin_memcpy(&answer->destination, ip.saddr, sizeof(answer->destination));
        if (!skip_extensions(skb, &answer->protocol, &offset))
            return 0;
    } else {
        return 0;
    }
    if (answer->protocol == IPPROTO_TCP) {
        if (bpf_skb_load_bytes_relative(skb, offset, &header, sizeof(header), BPF_HDR_START_NET) ||
            !(header.flags & TCP_SYN))
            return 0;
    } else if (answer->protocol != IPPROTO_UDP ||
               bpf_skb_load_bytes_relative(skb, offset, &header, 4, BPF_HDR_START_NET)) {
        return 0;
    }
    answer->source_port = header.dest;
    answer->destination_port = header.source;
    answer->port = (answer->protocol == IPPROTO_UDP ? UDP_PORTS : 0) | bpf_ntohs(header.source);
    return 1;
}
