// SPDX-License-Identifier: GPL-2.0-or-later
/* Sends SYNs into a veth pair without sk_buffs: it runs for copies of one frame, fills in source and ports, and
 * redirects each. bench/xdp.py compiles and runs it.
 */
#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ABORTED 0                // XDP_ABORTED
#define FIRST_SOURCE 0x10000000u // of SPOOFED in bench/frames.py, which has 2^30
#define SPREAD 0x9e3779b1u       // by it, numbers become sources that are far apart

// How struct xdp_md begins.
struct frame {
    __u32 data, data_end;
};

// Written before each flood.
volatile struct settings {
    __u32 interface;
    __u32 last_source; // their number is a power of two
    __u32 ports[2];    // in turn
    __u32 turn;
} settings;

static __always_inline __u32 halves(__u32 word)
{
    return (word & 0xffff) + (word >> 16);
}

// Correct a checksum by a sum of 16-bit words: the new ones, and the complements of the old (RFC 1624).
static __always_inline void correct(__u16 *check, __u32 sum)
{
    *check = ~halves(halves(sum + (__u16)~*check));
}

SEC("xdp")
int send_frame(struct frame *frame)
{
    void *end = (void *)(long)frame->data_end;
    struct iphdr *ip = (void *)(long)frame->data + ETH_HLEN;
    struct tcphdr *tcp = (void *)(ip + 1);
    __be32 *ports = (void *)tcp;

    if ((void *)(tcp + 1) > end)
        return ABORTED;
    __u32 turn = settings.turn++;
    __be32 source = bpf_htonl(FIRST_SOURCE + ((turn & settings.last_source) * SPREAD >> 2));
    __be32 from_to = bpf_htonl((1024 + (turn & 0x7fff)) << 16 | settings.ports[turn & 1]);
    __u32 change = halves(source) + halves(~ip->saddr); // the frame's memory was used before

    correct(&ip->check, change);
    correct(&tcp->check, change + halves(from_to) + halves(~*ports));
    ip->saddr = source;
    *ports = from_to;
    return bpf_redirect(settings.interface, 0);
}

char LICENSE[] SEC("license") = "GPL";
