// SPDX-License-Identifier: GPL-2.0-or-later
/* The shield that asks conntrack (flows.h): an object of its own, since libbpf loads none with an unknown function. */
#define CONNTRACK
#include "shield.bpf.c"
