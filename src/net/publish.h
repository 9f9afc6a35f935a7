/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports of the host that lead to guests' ports.
 *
 * A port is reserved for an instance from its start to its stop, also while it sleeps:
 * a socket bound to it keeps every other program off it, and shows whether one was
 * there before. While a VMM runs, elements of two maps lead the port to its address.
 *
 * Reserving is for the loop: it binds sockets and waits for nothing. Opening and
 * closing are for workers, of several operations at once; a port may be given to
 * another instance before the pool has closed it, so closing leaves alone what
 * somebody else has opened since.
 */
#pragma once

#include <pthread.h>

#include "base/list.h"
#include "net/rules.h"

struct port_map {
    uint32_t host_ip; /* 0: all of the host's */
    uint16_t host_port;
    uint16_t guest_port;
    bool is_udp;
};

enum { PORT_MAPS_MAX = 64, PORT_TEXT_SIZE = 32 };

const char *port_text(const struct port_map *p, char out[PORT_TEXT_SIZE]); /* "8080/tcp" */

/* --- reserving --- */

struct reservation;

/* owner names who has them, for the next who asks. ERR_EXISTS ("conflict") says who. */
struct reservation *ports_reserve(struct list *all, const char *owner, const struct port_map *v,
                                  size_t n, struct err *e);
void ports_give_back(struct reservation *r); /* NULL is fine */

/* --- leading to a guest --- */

/* What is open; any thread. */
struct open_ports {
    pthread_mutex_t lock;
    struct list sets;
};

/* The ports of one slot. Its holder's, apart from what the functions below do with it. */
struct port_set;
struct port_set *port_set_new(uint32_t address, const struct port_map *v, size_t n);
void port_set_free(struct port_set *s); /* NULL is fine; what is open stays so, without us */

void ports_init(struct open_ports *o);
int ports_open(struct open_ports *o, struct port_set *s, struct nl *nft, struct err *e);
int ports_close(struct open_ports *o, struct port_set *s, struct nl *nft, struct err *e);

/* At start: open already, or as soon as the rules are written. */
void ports_adopt(struct open_ports *o, struct port_set *s);

/* The rules' part. The caller holds the lock until they are in place. */
rules_part rules_ports;
