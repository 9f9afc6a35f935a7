/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of net/ that need no rights. What packets do is in tests/net. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "net/address.h"
#include "net/plan.h"
#include "net/tap.h"
#include "unit.h"

static struct subnet subnet(const char *text)
{
    struct subnet s;

    assert_true(subnet_parse(text, &s));
    return s;
}

static void a_subnet_is_what_it_prints(void **state)
{
    char text[SUBNET_TEXT_SIZE];
    struct subnet s;

    (void)state;
    assert_string_equal(subnet_text(subnet("10.100.0.0/16"), text), "10.100.0.0/16");
    assert_string_equal(subnet_text(subnet("0.0.0.0/0"), text), "0.0.0.0/0");
    assert_false(subnet_parse("10.100.0.1/16", &s)); /* bits beyond the prefix */
    assert_false(subnet_parse("10.100.0.0", &s));
    assert_false(subnet_parse("10.100.0.0/33", &s));
    assert_false(subnet_parse("10.100.0/16", &s));
    assert_false(subnet_parse("255.255.255.255000/1", &s));
    assert_false(subnet_parse("/16", &s));
}

static void overlaps_are_seen_both_ways(void **state)
{
    (void)state;
    assert_false(subnet_overlaps(subnet("10.100.0.0/16"), subnet("10.112.0.0/12")));
    assert_true(subnet_overlaps(subnet("10.100.0.0/16"), subnet("10.64.0.0/10")));
    assert_true(subnet_overlaps(subnet("10.64.0.0/10"), subnet("10.100.0.0/16")));
    assert_true(subnet_overlaps(subnet("10.100.0.0/16"), subnet("10.100.7.3/32")));
    assert_false(subnet_overlaps(subnet("10.100.0.0/16"), subnet("10.101.0.0/16")));
}

static void each_address_is_given_once_and_comes_back_late(void **state)
{
    struct addresses a;
    struct err e = {0};
    uint32_t first;

    (void)state;
    addresses_init(&a, subnet("10.1.2.0/29"));
    first = addresses_take(&a, &e);
    assert_int_equal(first, 0x0a010202); /* .0 and .1 are never given */
    for (uint32_t i = 1; i < 5; i++)
        assert_int_equal(addresses_take(&a, &e), first + i);
    assert_int_equal(addresses_take(&a, &e), 0); /* .7 is broadcast */
    assert_int_equal(e.code, ERR_LIMIT);
    addresses_give_back(&a, first + 1);
    addresses_give_back(&a, first + 3);
    err_clear(&e);
    assert_int_equal(addresses_take(&a, &e), first + 1);
    addresses_give_back(&a, first + 1);
    assert_int_equal(addresses_take(&a, &e), first + 3); /* not the one that was just free */
    addresses_free(&a);
}

static void a_kept_address_is_nobody_elses(void **state)
{
    struct addresses a;
    struct err e = {0};

    (void)state;
    addresses_init(&a, subnet("10.1.2.0/29"));
    assert_true(addresses_take_this(&a, 0x0a010203));
    assert_false(addresses_take_this(&a, 0x0a010203));
    assert_false(addresses_take_this(&a, 0x0a010201));
    assert_false(addresses_take_this(&a, 0x0a010207));
    assert_false(addresses_take_this(&a, 0x0a010302));
    assert_int_equal(addresses_take(&a, &e), 0x0a010202);
    assert_int_equal(addresses_take(&a, &e), 0x0a010204);
    addresses_give_back(&a, 0);
    addresses_give_back(&a, 0x0a010302);
    assert_int_equal(a.n_taken, 3);
    addresses_free(&a);
}

static struct net_settings settings(void)
{
    return (struct net_settings){
        .enabled = true,
        .subnet = "10.100.0.0/16",
        .inner_address = "192.0.0.2/29",
        .inner_gateway = "192.0.0.1",
        .uplink = "",
        .dns = "1.1.1.1",
        .host_ports = "",
        .guest_to_guest = true,
    };
}

static void a_plan_is_read_from_the_settings(void **state)
{
    struct net_settings s = settings();
    struct net_plan p;
    struct err e = {0};

    (void)state;
    s.host_ports = "tcp/8080, udp/514";
    assert_int_equal(plan_read(&s, &p, &e), 0);
    assert_int_equal(p.inner, 0xc0000002);
    assert_int_equal(p.inner_net.base, 0xc0000000);
    assert_int_equal(p.n_ports, 2);
    assert_true(p.ports[1].is_udp && p.ports[1].number == 514);
    assert_false(p.ports[0].is_udp);
}

static void refuse(const struct net_settings *s, const char *setting)
{
    struct net_plan p;
    struct err e = {0};

    assert_int_equal(plan_read(s, &p, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, setting));
}

static void a_setting_that_cannot_be_is_named(void **state)
{
    struct net_settings s = settings();
    struct net_plan p;
    struct err e = {0};

    (void)state;
    s.subnet = "10.100.0.0/30";
    refuse(&s, "network.subnet_cidr");
    s = settings();
    s.subnet = "224.0.0.0/8";
    refuse(&s, "network.subnet_cidr");
    s = settings();
    s.inner_address = "192.0.0.2";
    refuse(&s, "network.inner_address");
    s = settings();
    s.inner_gateway = "192.0.0.2"; /* the guest itself */
    refuse(&s, "network.inner_gateway");
    s = settings();
    s.inner_gateway = "10.0.0.1";
    refuse(&s, "network.inner_gateway");
    s = settings();
    s.subnet = "192.0.0.0/16";
    refuse(&s, "network.inner_address");
    s = settings();
    s.host_ports = "tcp/0";
    refuse(&s, "network.host_ports");
    s = settings();
    s.host_ports = "8080";
    refuse(&s, "network.host_ports");
    s = settings();
    s.uplink = "eth0\" accept; #";
    refuse(&s, "network.uplink_interface");
    s = settings();
    s.dns = "1.1.1.1,dns.example";
    refuse(&s, "network.dns_server");
    s = settings();
    s.ready = NET_READY_MAX;
    assert_int_equal(plan_read(&s, &p, &e), 0);
    s.ready++;
    refuse(&s, "network.ready_slots");
}

static void what_is_drained_is_not_waited_for(void **state)
{
    char byte;
    int ends[2];

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0); /* reads wait, as those of some VMM's TAP */
    assert_int_equal(write(ends[1], "abc", 3), 3);
    tap_drain(ends[0]);
    assert_int_equal(read(ends[0], &byte, 1), -1);
    assert_int_equal(errno, EAGAIN);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(a_subnet_is_what_it_prints),
        checked_test(overlaps_are_seen_both_ways),
        checked_test(each_address_is_given_once_and_comes_back_late),
        checked_test(a_kept_address_is_nobody_elses),
        checked_test(a_plan_is_read_from_the_settings),
        checked_test(a_setting_that_cannot_be_is_named),
        checked_test(what_is_drained_is_not_waited_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
