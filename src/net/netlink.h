/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Netlink: a socket, and messages to the kernel that go out together.
 *
 * A message is begun, gets its attributes by libmnl or libnftnl, and is ended;
 * nl_send() sends all of them in one system call and takes the kernel's answers.
 * The kernel works while we send, so its answers are there when that returns;
 * what may wait is the kernel's own lock, while somebody else changes interfaces.
 * So this is for workers, never for the loop. One socket belongs to one thread.
 *
 * A socket of ours says so by its port number. Whoever follows what changes
 * (net/watch.h) knows by it what we did ourselves.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <libmnl/libmnl.h>

#include "base/buf.h"
#include "base/err.h"

struct nl {
    int fd;
    bool is_nft;        /* its messages are transactions */
    uint32_t seq;       /* of the last message */
    uint32_t first_seq; /* of the first that was not sent yet */
    struct buf out;
    int *fine; /* for each message since first_seq: the errno that is no error, 0: none is */
    const char **doing;
    size_t room;
    int error; /* errno of what went wrong in the last nl_send() */
};

#define NL_CLOSED ((struct nl){.fd = -1})
#define auto_nl __attribute__((cleanup(nl_close)))

/* NETLINK_ROUTE or NETLINK_NETFILTER. */
int nl_open(struct nl *n, int protocol, struct err *e);
void nl_close(struct nl *n);

/*
 * Sockets for nftables that are kept for the next user, of any thread: closing one waits
 * until the kernel has thrown away what was ever deleted, 12 ms.
 */
enum { NL_PARKED = 16 };
struct nl_park {
    atomic_int fds[NL_PARKED]; /* one more than the fd; 0: none */
};
int nl_park_open(struct nl_park *park, struct err *e); /* all of them, at start */
int nl_open_parked(struct nl *n, struct nl_park *park, struct err *e);
void nl_park(struct nl *n, struct nl_park *park); /* instead of nl_close() */
void nl_park_close(struct nl_park *park);

/*
 * nl_begin() gives room for one message of up to NL_MESSAGE bytes; nl_end() takes
 * its length from its header. doing, for the error's text, is a constant: "add the
 * route". fine is the errno that means there was nothing to do, or NL_ANY_ERROR.
 */
enum { NL_MESSAGE = 4096, NL_ANY_ERROR = -1 };
struct nlmsghdr *nl_begin(struct nl *n, uint16_t type, uint16_t flags);
void nl_end(struct nl *n, struct nlmsghdr *h, const char *doing, int fine);

/*
 * Sends what was begun and ended. Of routing messages each stands for itself: all are tried, the
 * first error is told. Of nftables' messages, between NL_BATCH_BEGIN and its end, all count or
 * none.
 */
int nl_send(struct nl *n, struct err *e);

/* An nftables transaction goes between these two. */
void nl_batch_begin(struct nl *n);
void nl_batch_end(struct nl *n);

/* The one message that was ended asks for a dump: each gets its parts; -1 with e set stops it. */
typedef int nl_each(void *arg, const struct nlmsghdr *h, struct err *e);
int nl_dump(struct nl *n, nl_each *each, void *arg, struct err *e);

/* A socket that hears of what changes, for the loop: it waits for nothing. The fd, or -1. */
int nl_follow(int protocol, const unsigned *groups, size_t n, struct err *e);

/* Whether a message that others see was caused by a socket of ours. */
bool nl_is_ours(const struct nlmsghdr *h);

/* Walks over attributes: of a message, after its own header, or of a nest. */
#define nl_attributes(a, h, header)                                                                \
    for ((a) = mnl_nlmsg_get_payload_offset((h), (header));                                        \
         nl_attribute_is_in((a), mnl_nlmsg_get_payload_tail(h));                                   \
         (a) = mnl_attr_next(a))
#define nl_nested(a, nest)                                                                         \
    for ((a) = mnl_attr_get_payload(nest);                                                         \
         nl_attribute_is_in((a), (const char *)(nest) + (nest)->nla_len);                          \
         (a) = mnl_attr_next(a))

static inline bool nl_attribute_is_in(const struct nlattr *a, const void *end)
{
    return mnl_attr_ok(a, (int)((const char *)end - (const char *)a));
}
