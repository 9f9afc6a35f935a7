/* SPDX-License-Identifier: Apache-2.0 */
#include "net/netlink.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "base/cleanup.h"
#include "base/mem.h"

/* Port numbers of ours: 'h', 'm', and 16 bits that count. The kernel's own choices are pids, and
 * negative numbers. */
#define OUR_PORTS 0x686d0000U

enum {
    OUT_MAX = 32 << 20,
    CHUNK = 48 * 1024,
    ANSWER = 32 * 1024,
    PORTS_TRIED = 64,
    FOLLOW_ROOM = 1 << 20
};

static size_t aligned(const struct nlmsghdr *h)
{
    return (h->nlmsg_len + 3U) & ~3U;
}

static int bind_ours(int fd, struct err *e)
{
    static atomic_uint counter;
    struct sockaddr_nl a = {.nl_family = AF_NETLINK};

    for (int i = 0; i < PORTS_TRIED; i++) {
        a.nl_pid = OUR_PORTS | (atomic_fetch_add(&counter, 1) & 0xffff);
        if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
            return 0;
        if (errno != EADDRINUSE)
            break;
    }
    return err_errno(e, "bind a netlink socket");
}

bool nl_is_ours(const struct nlmsghdr *h)
{
    return (h->nlmsg_pid & 0xffff0000U) == OUR_PORTS;
}

int nl_follow(int protocol, const unsigned *groups, size_t n, struct err *e)
{
    auto_close int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    struct sockaddr_nl a = {.nl_family = AF_NETLINK};
    int room = FOLLOW_ROOM;

    if (fd < 0 || bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0)
        return err_errno(e, "open a netlink socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
    for (size_t i = 0; i < n; i++) {
        if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &groups[i], sizeof(groups[i])) < 0)
            return err_errno(e, "follow the kernel's changes");
    }
    return take_fd(&fd);
}

int nl_open(struct nl *n, int protocol, struct err *e)
{
    auto_close int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    int one = 1;

    *n = NL_CLOSED;
    if (fd < 0)
        return err_errno(e, "open a netlink socket");
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
    if (bind_ours(fd, e) < 0)
        return -1;
    n->fd = take_fd(&fd);
    n->is_nft = protocol == NETLINK_NETFILTER;
    n->out = BUF(OUT_MAX);
    n->first_seq = 1;
    return 0;
}

void nl_close(struct nl *n)
{
    if (n->fd >= 0)
        close(n->fd);
    buf_free(&n->out);
    free(n->fine);
    free(n->doing);
    *n = NL_CLOSED;
}

void nl_park(struct nl *n, struct nl_park *park)
{
    for (int i = 0; i < NL_PARKED && n->fd >= 0; i++) {
        int none = 0;

        if (atomic_compare_exchange_strong(&park->fds[i], &none, n->fd + 1))
            n->fd = -1;
    }
    nl_close(n);
}

int nl_park_open(struct nl_park *park, struct err *e)
{
    for (int i = 0; i < NL_PARKED; i++) {
        struct nl n;

        if (nl_open(&n, NETLINK_NETFILTER, e) < 0)
            return -1;
        nl_park(&n, park);
    }
    return 0;
}

int nl_open_parked(struct nl *n, struct nl_park *park, struct err *e)
{
    for (int i = 0; i < NL_PARKED; i++) {
        int fd = atomic_exchange(&park->fds[i], 0) - 1;

        if (fd >= 0) {
            *n = (struct nl){.fd = fd, .is_nft = true, .first_seq = 1, .out = BUF(OUT_MAX)};
            return 0;
        }
    }
    return nl_open(n, NETLINK_NETFILTER, e);
}

void nl_park_close(struct nl_park *park)
{
    for (int i = 0; i < NL_PARKED; i++) {
        int fd = atomic_exchange(&park->fds[i], 0) - 1;

        if (fd >= 0)
            close(fd);
    }
}

struct nlmsghdr *nl_begin(struct nl *n, uint16_t type, uint16_t flags)
{
    char *room = buf_space(&n->out, NL_MESSAGE);
    struct nlmsghdr *h;

    assert(room); /* who sends that much would have sent before */
    h = mnl_nlmsg_put_header(room);
    h->nlmsg_type = type;
    h->nlmsg_flags = NLM_F_REQUEST | flags;
    h->nlmsg_seq = ++n->seq;
    return h;
}

void nl_end(struct nl *n, struct nlmsghdr *h, const char *doing, int fine)
{
    size_t i = n->seq - n->first_seq;

    if (i >= n->room) {
        n->room = n->room ? n->room * 2 : 32;
        n->fine = mem_realloc(n->fine, n->room * sizeof(*n->fine));
        n->doing = mem_realloc(n->doing, n->room * sizeof(*n->doing));
    }
    n->fine[i] = fine;
    n->doing[i] = doing;
    buf_added(&n->out, aligned(h));
}

static void batch_mark(struct nl *n, uint16_t type)
{
    struct nlmsghdr *h = nl_begin(n, type, 0);
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

    g->version = NFNETLINK_V0;
    g->res_id = htons(NFNL_SUBSYS_NFTABLES);
    nl_end(n, h, "change the firewall", 0);
}

void nl_batch_begin(struct nl *n)
{
    batch_mark(n, NFNL_MSG_BATCH_BEGIN);
}

void nl_batch_end(struct nl *n)
{
    batch_mark(n, NFNL_MSG_BATCH_END);
}

/* The kernel's own words, if it has any. */
static const char *words_of(const struct nlmsghdr *h)
{
    const struct nlattr *a;

    if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
        return NULL;
    nl_attributes(a, h, sizeof(struct nlmsgerr))
    {
        if (mnl_attr_get_type(a) == NLMSGERR_ATTR_MSG &&
            mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
            return mnl_attr_get_str(a);
    }
    return NULL;
}

/* The first error is kept. */
static void take_answer(struct nl *n, const struct nlmsghdr *h, struct err *e)
{
    const struct nlmsgerr *answer = mnl_nlmsg_get_payload(h);
    size_t i = h->nlmsg_seq - n->first_seq;
    const char *words = words_of(h);
    const char *doing = i <= n->seq - n->first_seq ? n->doing[i] : "netlink";

    if (answer->error == 0 || e->code != ERR_NONE)
        return;
    if (i <= n->seq - n->first_seq && (n->fine[i] == -answer->error || n->fine[i] == NL_ANY_ERROR))
        return;
    errno = n->error = -answer->error;
    err_errno(e, "%s%s%.200s%s", doing, words ? " (" : "", words ? words : "", words ? ")" : "");
}

/* All that the kernel has answered; it has done so while we sent. */
static int take_answers(struct nl *n, struct err *e)
{
    _Alignas(struct nlmsghdr) char in[ANSWER];
    bool answered = false;

    for (;;) {
        ssize_t got = recv(n->fd, in, sizeof(in), MSG_DONTWAIT);
        const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)in;
        int left = (int)got;

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0)
            return e->code != ERR_NONE ? -1 : err_errno(e, "read from netlink");
        for (; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
            answered = true;
            if (h->nlmsg_type == NLMSG_ERROR)
                take_answer(n, h, e);
        }
    }
    if (!answered)
        return err_set(e, ERR_INTERNAL, "the kernel gave no answer over netlink");
    return e->code != ERR_NONE ? -1 : 0;
}

static bool is_mark(const struct nl *n, const struct nlmsghdr *h)
{
    return n->is_nft &&
           (h->nlmsg_type == NFNL_MSG_BATCH_BEGIN || h->nlmsg_type == NFNL_MSG_BATCH_END);
}

/*
 * As many whole messages as go out at once: a transaction, or a chunk. The last asks for an
 * answer; errors come unasked. False: there is nothing to do in it.
 */
static bool next_piece(const struct nl *n, size_t from, size_t *len_out)
{
    struct nlmsghdr *last = NULL;
    size_t at = from;

    while (at < n->out.len) {
        struct nlmsghdr *h = (struct nlmsghdr *)(void *)(n->out.data + at);

        if (!n->is_nft && at > from && at - from + h->nlmsg_len > CHUNK)
            break;
        if (!is_mark(n, h))
            last = h;
        at += aligned(h);
    }
    if (last)
        last->nlmsg_flags |= NLM_F_ACK;
    *len_out = at - from;
    return last != NULL;
}

int nl_send(struct nl *n, struct err *e)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct err first = {0};

    n->error = 0;
    for (size_t at = 0, len; at < n->out.len && first.code == ERR_NONE; at += len) {
        if (!next_piece(n, at, &len))
            continue;
        if (sendto(
                n->fd, n->out.data + at, len, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) <
            0)
            err_errno(&first, "write to netlink");
        else
            (void)take_answers(n, &first);
    }
    buf_reset(&n->out);
    n->first_seq = n->seq + 1;
    if (first.code == ERR_NONE)
        return 0;
    *e = first;
    return -1;
}

/* 1: it was the last part. */
static int take_part(const struct nlmsghdr *h, nl_each *each, void *arg, struct err *e)
{
    const struct nlmsgerr *answer = mnl_nlmsg_get_payload(h);

    if (h->nlmsg_type == NLMSG_DONE)
        return 1;
    if (h->nlmsg_type != NLMSG_ERROR)
        return each(arg, h, e);
    if (answer->error == 0)
        return 1;
    errno = -answer->error;
    return err_errno(e, "ask over netlink");
}

int nl_dump(struct nl *n, nl_each *each, void *arg, struct err *e)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    _Alignas(struct nlmsghdr) char in[ANSWER];
    int rc =
        sendto(
            n->fd, n->out.data, n->out.len, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0
            ? err_errno(e, "write to netlink")
            : 0;

    buf_reset(&n->out);
    n->first_seq = n->seq + 1;
    while (rc == 0) {
        ssize_t got = recv(n->fd, in, sizeof(in), 0);
        const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)in;
        int left = (int)got;

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return err_errno(e, "read from netlink");
        for (; rc == 0 && mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left))
            rc = take_part(h, each, arg, e);
    }
    return rc < 0 ? -1 : 0;
}
