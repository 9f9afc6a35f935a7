/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TAP with a guest behind it, in namespaces of this program's own: what a packet
 * costs on its way, and how much goes through. One path leads through our mapping, the
 * other is a bare routed TAP, to hold against it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct netpath {
    bool is_bare;
    int host_ns, guest_ns;
    int tap_fd; /* the host's end */
    uint32_t outer, inner;
    struct loop *loop;
    struct net *net;
    struct net_slot *slot;

    /* While bulk data goes through. */
    int guest_fd;
    atomic_bool ends;
    pthread_t pump;
};

/* Ends the program when it cannot be made. Changes the calling thread's namespace. */
void netpath_open(struct netpath *p, bool is_bare);
void netpath_close(struct netpath *p);

/* Nanoseconds of processor time a packet, from the host's socket to the TAP's file, and the other
 * way. */
double netpath_to_guest_ns(const struct netpath *p, int packets);
double netpath_to_host_ns(const struct netpath *p, int packets);

/* TCP from the host into the guest's namespace. Its rate depends on who else is on the machine. */
struct netpath_bulk {
    double mb_s;
    double cpu_us; /* a megabyte, of all that take part */
};
struct netpath_bulk netpath_bulk(struct netpath *p, int megabytes);
