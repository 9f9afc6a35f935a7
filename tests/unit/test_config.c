/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "daemon/config.h"
#include "unit.h"

static char path[64];

static void write_config(const char *text)
{
    struct err e = {0};
    auto_close int dir_fd = -1;

    (void)snprintf(path, sizeof(path), "/tmp/config-test-XXXXXX");
    assert_non_null(mkdtemp(path));
    dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(file_replace(dir_fd, "c.yaml", 0600, text, strlen(text), &e), 0);
    (void)strncat(path, "/c.yaml", sizeof(path) - strlen(path) - 1);
}

static void remove_config(void)
{
    *strrchr(path, '/') = '\0';
    {
        struct err e = {0};

        assert_int_equal(tree_remove(AT_FDCWD, path, &e), 0);
    }
}

static int read_config(struct config *c, const char *text, struct err *e)
{
    int rc;

    config_init(c);
    write_config(text);
    rc = config_read_file(c, path, e);
    remove_config();
    return rc;
}

static void a_file_is_read_over_the_defaults(void **state)
{
    struct config c;
    struct err e = {0};

    (void)state;
    assert_int_equal(read_config(&c,
                                 "port: 9999\n"
                                 "limits:\n  max_vcpus_per_instance: 3\n  max_overlay_size: 20GB\n"
                                 "instances:\n  stop_timeout: 1m\n"
                                 "caddy:\n  listen_address: 0.0.0.0\n  ports: [80, 443]\n",
                                 &e),
                     0);
    assert_string_equal(c.port, "9999");
    assert_string_equal(c.address, "127.0.0.1");
    assert_int_equal(c.max_vcpus, 3);
    assert_true(c.max_overlay_bytes == 20ULL << 30);
    assert_int_equal(c.stop_grace_ms, 60000);
    config_free(&c);
}

static void what_makes_no_sense_is_named(void **state)
{
    static const struct {
        const char *text;
        const char *named;
    } bad[] = {
        {"limits:\n  max_overlay_size: large\n", "limits.max_overlay_size"},
        {"limits: {max_vcpus_per_instance: 0}\n", "limits.max_vcpus_per_instance"},
        {"port: [\n", "line"},
        {"- a\n- b\n", "mapping"},
        {"a: {a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}\n", "too deeply"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct config c;
        struct err e = {0};

        assert_int_equal(read_config(&c, bad[i].text, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_non_null(strstr(e.msg, bad[i].named));
        assert_non_null(strstr(e.msg, "c.yaml"));
        config_free(&c);
    }
}

static void the_environment_wins_over_the_file_by_both_kinds_of_name(void **state)
{
    struct config c;
    struct err e = {0};

    (void)state;
    assert_int_equal(read_config(&c, "port: 1\nlimits:\n  max_memory_per_instance: 1GB\n", &e), 0);
    assert_int_equal(setenv("PORT", "7", 1), 0);
    assert_int_equal(setenv("LIMITS__MAX_MEMORY_PER_INSTANCE", "2GB", 1), 0);
    assert_int_equal(config_read_environment(&c, &e), 0);
    assert_string_equal(c.port, "7");
    assert_true(c.max_memory_bytes == 2ULL << 30);
    assert_int_equal(setenv("LIMITS__MAX_MEMORY_PER_INSTANCE", "much", 1), 0);
    assert_int_equal(config_read_environment(&c, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(unsetenv("PORT"), 0);
    assert_int_equal(unsetenv("LIMITS__MAX_MEMORY_PER_INSTANCE"), 0);
    config_free(&c);
}

static void a_named_file_must_be_there(void **state)
{
    struct config c;
    struct err e = {0};

    (void)state;
    config_init(&c);
    assert_int_equal(config_read_file(&c, "/does/not/exist.yaml", &e), -1);
    err_clear(&e);
    assert_int_equal(config_set(&c, "no.such.key", "1", &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    config_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(a_file_is_read_over_the_defaults),
        checked_test(what_makes_no_sense_is_named),
        checked_test(the_environment_wins_over_the_file_by_both_kinds_of_name),
        checked_test(a_named_file_must_be_there),
    };

    log_init(LOG_ERROR_); /* unknown keys are warned about */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
