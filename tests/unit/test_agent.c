/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "agent/config.h"
#include "agent/jread.h"
#include "agent/user.h"
#include "base/cleanup.h"
#include "unit.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
                             "broken line\n"
                             "web:x:101:102::/var/www\n"
                             "1234:x:7:8::/named-like-a-number:\n"
                             "nohome:x:55:66:::";
static const char group[] = "root:x:0:\n"
                            "bin:x:1:root,daemon\n"
                            "web:x:102:\n"
                            "ssl:x:30:nobody,web\n"
                            "tty:x:5:webby\n"
                            "::9:web\n";

static struct user resolve(const char *spec)
{
    struct user u;
    struct err e = {0};

    assert_int_equal(user_resolve(spec, passwd, group, &u, &e), 0);
    return u;
}

static void a_name_brings_its_groups_and_home(void **state)
{
    struct user u = resolve("web");

    (void)state;
    assert_int_equal(u.uid, 101);
    assert_int_equal(u.gid, 102);
    assert_int_equal(u.groups_n, 2);
    assert_int_equal(u.groups[0], 30);
    assert_int_equal(u.groups[1], 9);
    assert_string_equal(u.home, "/var/www");
    assert_int_equal(resolve("101").groups_n, 2);
}

static void nobody_named_is_root(void **state)
{
    struct user u = resolve("");

    (void)state;
    assert_int_equal(u.uid, 0);
    assert_int_equal(u.groups_n, 1);
    assert_int_equal(u.groups[0], 1);
    assert_string_equal(u.home, "/root");
}

static void a_group_that_is_named_is_the_only_one(void **state)
{
    struct user u = resolve("web:ssl");

    (void)state;
    assert_int_equal(u.gid, 30);
    assert_int_equal(u.groups_n, 0);
    u = resolve("web:4000");
    assert_int_equal(u.gid, 4000);
    assert_string_equal(u.home, "/var/www");
    u = resolve(":web");
    assert_int_equal(u.uid, 0);
    assert_int_equal(u.gid, 102);
}

static void a_number_needs_no_entry(void **state)
{
    struct user u = resolve("4000:5000");

    (void)state;
    assert_int_equal(u.uid, 4000);
    assert_int_equal(u.gid, 5000);
    assert_string_equal(u.home, "/");
    assert_int_equal(resolve("4294967294").uid, 4294967294U);
    assert_string_equal(resolve("55").home, "/");
    assert_int_equal(resolve("1234").uid, 7);
}

static void who_is_not_there_is_an_error(void **state)
{
    static const char *const bad[] = {
        "nobody", "web:nogroup", "-1", "4294967295", "99999999999", "we", "webx"};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct err e = {0};
        struct user u;

        assert_int_equal(user_resolve(bad[i], passwd, group, &u, &e), -1);
        assert_int_equal(e.code, ERR_NOT_FOUND);
    }
}

static void images_without_these_files_have_numbers_still(void **state)
{
    struct err e = {0};
    struct user u;

    (void)state;
    assert_int_equal(user_resolve("", "", "", &u, &e), 0);
    assert_int_equal(u.uid, 0);
    assert_int_equal(user_resolve("12:34", "", "", &u, &e), 0);
    assert_int_equal(u.gid, 34);
}

static bool accepts(const char *json)
{
    struct jread j = JREAD(json, strlen(json));

    jread_skip(&j);
    return jread_done(&j);
}

static void json_is_read_strictly(void **state)
{
    static const char *const good[] = {"{}",
                                       " [ ] ",
                                       "0",
                                       "-0",
                                       "-9223372036854775808",
                                       "\"\\u00e9\\ud83d\\ude00\"",
                                       "[1,{\"a\":null},true]",
                                       "[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]"};
    static const char *const bad[] = {"",
                                      "{",
                                      "[1,]",
                                      "{\"a\"}",
                                      "{\"a\":1,}",
                                      "{,}",
                                      "[,1]",
                                      "[1 2]",
                                      "01",
                                      "1.5",
                                      "1e3",
                                      "+1",
                                      "-",
                                      "9223372036854775808",
                                      "\"\\u0000\"",
                                      "\"\\ud83d\"",
                                      "\"\\ude00\"",
                                      "\"\\ud83d\\u0041\"",
                                      "\"\\x\"",
                                      "\"a",
                                      "\"\n\"",
                                      "\"\xff\"",
                                      "nul",
                                      "tru",
                                      "{} {}",
                                      "{\"a\":1]",
                                      "[1}",
                                      "'a'",
                                      "[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]"};

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(accepts(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(accepts(bad[i]));
}

static void json_text_is_unescaped(void **state)
{
    const char *json = "\"a\\n\\u00e9\\u20AC\\ud83d\\ude00\\/\"";
    struct jread j = JREAD(json, strlen(json));
    auto_free char *s = jread_str(&j);

    (void)state;
    assert_true(jread_done(&j));
    assert_string_equal(s, "a\n\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80/");
}

static void a_config_is_read_whole(void **state)
{
    const char *json = "{\"cmd\":[\"-c\",\"true\"],\"later\":{\"x\":[1]},\"entrypoint\":[\"/bin/"
                       "sh\"],\"incarnation\":5,"
                       "\"user\":\"web\",\"workdir\":\"/w\",\"hostname\":\"h\",\"skip_agent\":true,"
                       "\"env\":{\"A\":\"1\",\"A_NAME_THAT_IS_LONGER_THAN_ANYBODY_WOULD_THINK_A_"
                       "NAME_OF_A_VARIABLE_CAN_BE\":\"=\"},"
                       "\"network\":{\"enabled\":true,\"address\":\"192.0.0.2\",\"prefix\":29,"
                       "\"gateway\":\"192.0.0.1\","
                       "\"gateway_mac\":\"02:00:00:00:00:01\",\"dns\":[\"1.1.1.1\"],\"outer_"
                       "address\":\"10.100.0.9\"}}";
    auto_guest_config struct guest_config c = {0};
    struct err e = {0};

    (void)state;
    assert_int_equal(guest_config_parse(json, strlen(json), &c, &e), 0);
    assert_int_equal(c.incarnation, 5);
    assert_string_equal(c.entrypoint.v[0], "/bin/sh");
    assert_int_equal(c.cmd.n, 2);
    assert_string_equal(c.env.v[0], "A=1");
    assert_string_equal(
        c.env.v[1], "A_NAME_THAT_IS_LONGER_THAN_ANYBODY_WOULD_THINK_A_NAME_OF_A_VARIABLE_CAN_BE==");
    assert_true(c.network.enabled);
    assert_int_equal(c.network.prefix, 29);
    assert_string_equal(c.network.outer_address, "10.100.0.9");
    assert_string_equal(c.user, "web");
}

static void a_config_that_is_not_one_is_refused_and_leaves_nothing(void **state)
{
    static const char *const bad[] = {"",
                                      "[]",
                                      "{\"cmd\":\"sh\"}",
                                      "{\"cmd\":[1]}",
                                      "{\"env\":{\"A\":1}}",
                                      "{\"hostname\":\"a\",\"hostname\":2}"};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct guest_config c = {.incarnation = 77};
        struct err e = {0};

        assert_int_equal(guest_config_parse(bad[i], strlen(bad[i]), &c, &e), -1);
        assert_int_equal(c.incarnation, 77);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(a_name_brings_its_groups_and_home),
        checked_test(nobody_named_is_root),
        checked_test(a_group_that_is_named_is_the_only_one),
        checked_test(a_number_needs_no_entry),
        checked_test(who_is_not_there_is_an_error),
        checked_test(images_without_these_files_have_numbers_still),
        checked_test(json_is_read_strictly),
        checked_test(json_text_is_unescaped),
        checked_test(a_config_is_read_whole),
        checked_test(a_config_that_is_not_one_is_refused_and_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
