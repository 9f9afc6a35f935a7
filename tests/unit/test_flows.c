/* SPDX-License-Identifier: Apache-2.0 */
/* Guests' connections: what is told, what is listed, and which of them counts. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "net/conntrack.h"
#include "net/flows.h"
#include "unit.h"

enum { ONE = 0x0a640002, TWO = 0x0a640003, OUTSIDE = 0xcb007102 };

static struct flow_news news(uint32_t from, uint16_t port, uint32_t to, bool is_open)
{
    return (struct flow_news){
        .key = {from, to, port, 80},
        .guests = {from >> 16 == 0x0a64 ? from : 0, to >> 16 == 0x0a64 ? to : 0},
        .is_open = is_open,
    };
}

static void tell(struct flows *f, uint32_t from, uint16_t port, uint32_t to, bool is_open)
{
    const struct flow_news n = news(from, port, to, is_open);

    flows_tell(f, &n);
}

static void expect(const struct flows *f, uint32_t guest, unsigned inbound, unsigned outbound)
{
    struct flow_counts n = flows_of(f, guest);

    assert_int_equal(n.inbound, inbound);
    assert_int_equal(n.outbound, outbound);
}

static void each_change_counts_once(void **state)
{
    struct flows *f = flows_new();

    (void)state;
    tell(f, OUTSIDE, 1, ONE, true);
    tell(f, OUTSIDE, 1, ONE, true); /* another state of the same */
    tell(f, ONE, 1, TWO, true);
    tell(f, ONE, 2, ONE, true);
    expect(f, ONE, 2, 2);
    expect(f, TWO, 1, 0);
    tell(f, ONE, 2, ONE, false);
    tell(f, ONE, 2, ONE, false);
    tell(f, OUTSIDE, 1, ONE, false);
    tell(f, OUTSIDE, 7, TWO, false); /* never heard of */
    expect(f, ONE, 0, 1);
    expect(f, TWO, 1, 0);
    assert_int_equal(flows_untold(f), 0);
    flows_free(f);
}

static void a_list_puts_right_what_was_not_heard(void **state)
{
    struct flows *f = flows_new();
    const struct flow_news all[] = {
        news(OUTSIDE, 1, ONE, true),
        news(OUTSIDE, 3, ONE, true),
        news(OUTSIDE, 4, ONE, false),
    };

    (void)state;
    tell(f, OUTSIDE, 1, ONE, true);
    tell(f, OUTSIDE, 2, ONE, true); /* its end was missed */
    tell(f, OUTSIDE, 4, ONE, true);
    flows_list_begin(f);
    flows_list(f, all, 3);
    flows_list_end(f);
    expect(f, ONE, 2, 0);
    assert_int_equal(flows_untold(f), 1);
    tell(f, OUTSIDE, 3, ONE, true);
    assert_int_equal(flows_untold(f), 0);
    flows_free(f);
}

static void what_is_told_while_a_list_is_made_is_newer_than_the_list(void **state)
{
    struct flows *f = flows_new();
    const struct flow_news all[] = {
        news(OUTSIDE, 1, ONE, true),
        news(OUTSIDE, 2, ONE, true),
        news(OUTSIDE, 4, ONE, false),
    };

    (void)state;
    tell(f, OUTSIDE, 1, ONE, true);
    flows_list_begin(f);
    tell(f, OUTSIDE, 1, ONE, false); /* known, and over */
    tell(f, OUTSIDE, 2, ONE, false); /* not known yet, and over */
    tell(f, OUTSIDE, 3, TWO, true);  /* begun after the list was made */
    tell(f, OUTSIDE, 4, ONE, true);  /* begun again */
    flows_list(f, all, 3);
    flows_list_end(f);
    expect(f, ONE, 1, 0);
    expect(f, TWO, 1, 0);
    flows_list_begin(f);
    flows_list_end(f);
    expect(f, ONE, 0, 0);
    expect(f, TWO, 0, 0);
    flows_free(f);
}

static void the_keys_of_a_guest_are_those_of_its_open_connections(void **state)
{
    struct flows *f = flows_new();
    struct flow_news unanswered = news(OUTSIDE, 4, ONE, true);
    struct flow_key *v;
    size_t n;

    (void)state;
    tell(f, ONE, 1, TWO, true);
    tell(f, OUTSIDE, 2, ONE, true);
    tell(f, OUTSIDE, 3, TWO, true);
    v = flows_keys(f, ONE, FLOWS_ALL, &n);
    assert_int_equal(n, 2);
    assert_int_equal(v[0].to, TWO);
    assert_int_equal(v[1].from, OUTSIDE);
    free(v);
    assert_null(flows_keys(f, OUTSIDE, FLOWS_ALL, &n));
    assert_int_equal(n, 0);
    free(flows_keys(f, ONE, FLOWS_UNANSWERED, &n));
    assert_int_equal(n, 0);
    unanswered.is_new = true;
    flows_tell(f, &unanswered);
    v = flows_keys(f, ONE, FLOWS_UNANSWERED, &n);
    assert_int_equal(n, 1);
    assert_int_equal(v[0].from_port, 4);
    free(v);
    flows_free(f);
}

/* --- the kernel's messages --- */

static void put_tuple(struct nlmsghdr *h, uint16_t which, uint32_t from, uint32_t to, uint8_t proto)
{
    struct nlattr *tuple = mnl_attr_nest_start(h, which);
    struct nlattr *part = mnl_attr_nest_start(h, CTA_TUPLE_IP);

    mnl_attr_put_u32(h, CTA_IP_V4_SRC, htonl(from));
    mnl_attr_put_u32(h, CTA_IP_V4_DST, htonl(to));
    mnl_attr_nest_end(h, part);
    part = mnl_attr_nest_start(h, CTA_TUPLE_PROTO);
    mnl_attr_put_u8(h, CTA_PROTO_NUM, proto);
    mnl_attr_put_u16(h, CTA_PROTO_SRC_PORT, htons(4000));
    mnl_attr_put_u16(h, CTA_PROTO_DST_PORT, htons(80));
    mnl_attr_nest_end(h, part);
    mnl_attr_nest_end(h, tuple);
}

static struct nlmsghdr *message(char *room, uint16_t type, uint16_t flags, uint8_t proto, int tcp)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(room);
    struct nlattr *info;
    struct nlattr *part;

    h->nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | type);
    h->nlmsg_flags = flags;
    (void)mnl_nlmsg_put_extra_header(h, sizeof(struct nfgenmsg));
    put_tuple(h, CTA_TUPLE_ORIG, OUTSIDE, 0xc6336401, proto); /* to a published port */
    put_tuple(h, CTA_TUPLE_REPLY, ONE, OUTSIDE, proto);
    if (tcp >= 0) {
        info = mnl_attr_nest_start(h, CTA_PROTOINFO);
        part = mnl_attr_nest_start(h, CTA_PROTOINFO_TCP);
        mnl_attr_put_u8(h, CTA_PROTOINFO_TCP_STATE, (uint8_t)tcp);
        mnl_attr_nest_end(h, part);
        mnl_attr_nest_end(h, info);
    }
    return h;
}

static void a_message_of_the_kernels_is_understood(void **state)
{
    _Alignas(struct nlmsghdr) char room[1024];
    const struct subnet guests = {0x0a640000, 16};
    struct flow_news n;

    (void)state;
    assert_true(conntrack_read(
        message(room, IPCTNL_MSG_CT_NEW, NLM_F_CREATE, IPPROTO_TCP, TCP_CONNTRACK_SYN_SENT),
        guests,
        &n));
    assert_true(n.is_open && n.is_new);
    assert_int_equal(n.guests[0], 0);
    assert_int_equal(n.guests[1], ONE);
    assert_int_equal(n.key.from_port, 4000);
    assert_true(conntrack_read(
        message(room, IPCTNL_MSG_CT_NEW, 0, IPPROTO_TCP, TCP_CONNTRACK_TIME_WAIT), guests, &n));
    assert_false(n.is_open);
    assert_true(
        conntrack_read(message(room, IPCTNL_MSG_CT_DELETE, 0, IPPROTO_TCP, -1), guests, &n));
    assert_false(n.is_open);
    /* a mark was set; datagrams; other people's */
    assert_false(conntrack_read(message(room, IPCTNL_MSG_CT_NEW, 0, IPPROTO_TCP, -1), guests, &n));
    assert_false(conntrack_read(
        message(room, IPCTNL_MSG_CT_NEW, NLM_F_CREATE, IPPROTO_UDP, -1), guests, &n));
    assert_false(conntrack_read(message(room, IPCTNL_MSG_CT_NEW, NLM_F_CREATE, IPPROTO_TCP, 1),
                                (struct subnet){0xac1f0000, 16},
                                &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(each_change_counts_once),
        checked_test(a_list_puts_right_what_was_not_heard),
        checked_test(what_is_told_while_a_list_is_made_is_newer_than_the_list),
        checked_test(the_keys_of_a_guest_are_those_of_its_open_connections),
        checked_test(a_message_of_the_kernels_is_understood),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
