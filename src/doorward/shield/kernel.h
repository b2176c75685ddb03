/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The few definitions of the kernel's interface that the shield uses, from linux/bpf.h, if_ether.h, ip.h, ipv6.h, tcp.h
 * and udp.h, and of its conntrack: those headers need an architecture, and vmlinux.h is of one kernel and has 100,000
 * lines.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum {
    BPF_MAP_TYPE_HASH = 1,
    BPF_MAP_TYPE_ARRAY = 2,
    BPF_MAP_TYPE_PERCPU_ARRAY = 6,
};
enum { BPF_F_NO_PREALLOC = 1 << 0, BPF_F_MMAPABLE = 1 << 10 };
enum { BPF_HDR_START_NET = 1 };
enum { BPF_F_CURRENT_NETNS = -1 };
enum { TCX_NEXT = -1, TCX_DROP = 2 };
enum { XDP_DROP = 1, XDP_PASS = 2 };
enum { BPF_TCP_LISTEN = 10 };
enum { PACKET_HOST = 0 };
enum { VLAN_VID_MASK = 0xfff };
enum { ETH_HLEN = 14, ETH_P_IP = 0x0800, ETH_P_IPV6 = 0x86dd };
enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17 };
enum { IPPROTO_HOPOPTS = 0, IPPROTO_ROUTING = 43, IPPROTO_FRAGMENT = 44, IPPROTO_DSTOPTS = 60 };
enum { TCP_SYN = 0x02, TCP_ACK = 0x10 };

/* The verifier translates each access, so the fields have to be at these offsets up to the last one that is used. */
struct __sk_buff {
    __u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
    __u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end;
};

struct xdp_md {
    __u32 data, data_end;
};

struct bpf_sock {
    __u32 bound_dev_if, family, type, protocol, mark, priority, src_ip4, src_ip6[4], src_port;
    __be16 dst_port, spare;
    __u32 dst_ip4, dst_ip6[4], state;
};

struct ethhdr {
    __u8 dest[6], source[6];
    __be16 type;
} __attribute__((packed));

struct iphdr {
    __u8 version_ihl, tos;
    __be16 tot_len, id, frag_off;
    __u8 ttl, protocol;
    __u16 check;
    __be32 saddr, daddr;
};

struct ipv6hdr {
    __be32 version_class_label;
    __be16 payload_len;
    __u8 nexthdr, hop_limit;
    __be32 saddr[4], daddr[4];
};

struct tcphdr {
    __be16 source, dest;
    __be32 seq, ack_seq;
    __u8 doff, flags;
    __be16 window;
    __u16 check, urg_ptr;
};

struct udphdr {
    __be16 source, dest, len;
    __u16 check;
};

struct bpf_sock_tuple {
    union {
        struct {
            __be32 saddr, daddr;
            __be16 sport, dport;
        } ipv4;
        struct {
            __be32 saddr[4], daddr[4];
            __be16 sport, dport;
        } ipv6;
    };
};

struct bpf_ct_opts { // as Linux 5.18 has it; later kernels accept this length
    __s32 netns_id, error;
    __u8 l4proto, dir, reserved[2];
};

struct nf_conn {
    unsigned long status;
} __attribute__((preserve_access_index));

enum { IP_CT_DIR_REPLY = 1 };
enum { IPS_SEEN_REPLY = 1 << 1 };
