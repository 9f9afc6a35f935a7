/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's network: every guest has the same address inside, and the host tells them apart,
 * so this is done once at boot and nothing changes in a restore or fork.
 */
#pragma once

#include "agent/config.h"

/* lo, and eth0 as the config says, with the gateway's hardware address fixed. */
int network_up(const struct guest_network *n, struct err *e);

/* /etc/hostname, /etc/hosts and the kernel's own name. */
void set_hostname(const char *name, const char *address);

/*
 * For an image's own init, in /run: its network daemons are to leave eth0 as it is. They would ask
 * for another address by DHCP, get none, and take away the one that is there.
 */
int network_pin(const struct guest_network *n, struct err *e);

/* /etc/resolv.conf, and the outer address where guests that publish it find it. */
void network_files(const struct guest_network *n);
void set_outer_address(const char *address);
