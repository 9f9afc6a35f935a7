/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Somebody else's firewall that drops what is forwarded, as Docker's and ufw's do
 * by their policy and firewalld's by its last rule. An accept of ours cannot overrule
 * it: the packet must be accepted there too. Docker keeps a chain for that.
 *
 * Only what nftables knows is seen, which includes iptables where it is the nft one.
 *
 * Workers and start-up, one thread at a time (libnftables).
 */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

/*
 * Looks at every forward hook. Where guests' packets would be dropped: opens puts
 * two accept rules of ours there; else commands gets what the operator is to run.
 */
int firewall_check(bool opens, struct buf *commands, struct err *e);

/* Takes our accept rules out again. */
int firewall_restore(struct err *e);
