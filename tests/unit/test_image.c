/* SPDX-License-Identifier: Apache-2.0 */
/* References, the table of images, and their records. Making images: test_import.c. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/mem.h"
#include "image/catalog.h"
#include "image/reference.h"
#include "unit.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define D1 "sha256:" HEX
#define D2 "sha256:1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X128 X64 X64
#define X256 X128 X128

static void references_are_normalised_as_docker_does(void **state)
{
    static const struct {
        const char *text;
        const char *want;
    } cases[] = {
        {"alpine", "docker.io/library/alpine:latest"},
        {"alpine:3.19", "docker.io/library/alpine:3.19"},
        {"library/alpine", "docker.io/library/alpine:latest"},
        {"docker.io/alpine", "docker.io/library/alpine:latest"},
        {"index.docker.io/alpine:1", "docker.io/library/alpine:1"},
        {"docker.io/library/alpine:latest", "docker.io/library/alpine:latest"},
        {"user/app", "docker.io/user/app:latest"},
        {"user/app/deep:v1", "docker.io/user/app/deep:v1"},
        {"ghcr.io/org/app", "ghcr.io/org/app:latest"},
        {"localhost/app", "localhost/app:latest"},
        {"localhost:5000", "docker.io/library/localhost:5000"},
        {"localhost:5000/app:v1", "localhost:5000/app:v1"},
        {"registry:5000/app", "registry:5000/app:latest"},
        {"registry/app", "docker.io/registry/app:latest"},
        {"HOST/app", "HOST/app:latest"},
        {"10.0.0.1:80/a", "10.0.0.1:80/a:latest"},
        {"[::1]:5000/a/b", "[::1]:5000/a/b:latest"},
        {"[fe80::1]/a", "[fe80::1]/a:latest"},
        {"h.x/a__b.c---d/e_f", "h.x/a__b.c---d/e_f:latest"},
        {"alpine@" D1, "docker.io/library/alpine@" D1},
        {"alpine:3@" D1, "docker.io/library/alpine:3@" D1},
        {"h.x/a:T_.-9", "h.x/a:T_.-9"},
        {"a:_x", "docker.io/library/a:_x"},
        {"a:" X128, "docker.io/library/a:" X128},
        {"sha256:" HEX, "docker.io/library/sha256:" HEX}, /* a name and a tag, to the parser */
        {"busybox:demo", "docker.io/library/busybox:demo"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[REF_TEXT_SIZE];
        char again[REF_TEXT_SIZE];
        struct image_ref ref;
        struct err e = {0};

        if (image_ref_parse(cases[i].text, &ref, &e) < 0)
            fail_msg("%s: %s", cases[i].text, e.msg);
        assert_string_equal(image_ref_text(&ref, text), cases[i].want);
        assert_int_equal(image_ref_parse(text, &ref, &e), 0);
        assert_string_equal(image_ref_text(&ref, again), text);
    }
}

static void bad_references_are_refused(void **state)
{
    /* NOLINTBEGIN(bugprone-suspicious-missing-comma): digests are put together on purpose */
    static const char *const cases[] = {
        "",
        " ",
        "/",
        "/alpine",
        "alpine/",
        "a//b",
        "a/./b",
        "a/../b",
        "..",
        "Alpine",
        "docker.io/Alpine",
        "user/App",
        "a b",
        "alpine\n",
        "alpine:",
        "alpine:a b",
        "alpine:-x",
        "alpine:.x",
        "alpine:a:b",
        "a:" X128 "x",
        "-a",
        "a-",
        "_a",
        "a_",
        "a___b",
        "a..b",
        "a._b",
        "a.-b",
        "h.x:/a",
        "h.x:port/a",
        "-h.x/a",
        "h-.x/a",
        "h..x/a",
        ".x/a",
        "[::1/a",
        "[]/a",
        "[::g]/a",
        "[::1]x/a",
        "[::1]:/a",
        "h.x/",
        "alpine@",
        "alpine@sha256:",
        "alpine@sha256:" HEX "0",
        "alpine@sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
        "alpine@sha512:" HEX,
        "alpine@md5:" HEX,
        "alpine@" D1 "@" D1,
        "@" D1,
        HEX,
        "\xc3\xa4",
        X256,
        "h.x/" X256,
    };
    /* NOLINTEND(bugprone-suspicious-missing-comma) */

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct image_ref ref;
        struct err e = {0};

        if (image_ref_parse(cases[i], &ref, &e) == 0)
            fail_msg("%s was taken", cases[i]);
        assert_int_equal(e.code, ERR_INVALID);
        assert_string_equal(err_name(&e), "invalid_name");
        assert_int_equal(strncmp(e.msg, "invalid image reference", 23), 0);
    }
}

/* --- images --- */

static struct image make(const char *name, const char *digest)
{
    struct image image = {
        .name = mem_strdup(name), .size_bytes = 4096, .created_us = 1767225600000000};

    memcpy(image.digest, digest, DIGEST_SIZE);
    return image;
}

static void an_image_says_null_for_some_and_leaves_out_others(void **state)
{
    struct image image = make("docker.io/library/a:latest", D1);
    auto_buf struct buf text = BUF(1 << 16);
    struct jout j = JOUT(&text);

    (void)state;
    image_write(&j, NULL, &image);
    assert_string_equal(buf_str(&text),
                        "{\"name\":\"docker.io/library/a:latest\",\"digest\":\"" D1 "\","
                        "\"platform\":\"linux/amd64\",\"status\":\"ready\","
                        "\"queue_position\":null,\"error\":null,\"size_bytes\":4096,"
                        "\"entrypoint\":null,\"cmd\":null,\"working_dir\":null,"
                        "\"created_at\":\"2026-01-01T00:00:00.000000Z\"}");
    image_fini(&image);
}

static void an_image_shows_what_it_runs(void **state)
{
    struct image image = make("h.x/a:1", D1);
    auto_buf struct buf text = BUF(1 << 16);
    struct jout j = JOUT(&text);

    (void)state;
    argv_push(&image.config.entrypoint, "/bin/sh");
    argv_push(&image.config.entrypoint, "-c");
    argv_push(&image.config.cmd, "echo \"hi\"");
    image_config_set_env(&image.config, "A=1");
    image_config_set_env(&image.config, "B=x=y");
    image_config_set_env(&image.config, "A=2");
    image_config_set_env(&image.config, "AB=");
    image.config.working_dir = mem_strdup("/w");
    image_write(&j, NULL, &image);
    assert_non_null(strstr(buf_str(&text),
                           "\"entrypoint\":[\"/bin/sh\",\"-c\"],\"cmd\":[\"echo \\\"hi\\\"\"],"
                           "\"env\":{\"A\":\"2\",\"B\":\"x=y\",\"AB\":\"\"},"
                           "\"working_dir\":\"/w\""));
    image_fini(&image);
}

static int read_config(const char *text, struct image_config *out, struct err *e)
{
    json_t *doc = parse_json(text, strlen(text), e);
    int rc;

    assert_non_null(doc);
    rc = image_config_read(doc, out, e);
    json_decref(doc);
    return rc;
}

static void a_configuration_of_wrong_types_is_refused(void **state)
{
    static const char *const bad[] = {
        "[]",
        "{\"Cmd\": \"sh\"}",
        "{\"Cmd\": [1]}",
        "{\"Entrypoint\": {}}",
        "{\"Env\": [null]}",
        "{\"WorkingDir\": 1}",
        "{\"User\": []}",
    };
    struct image_config config = {0};
    struct err e = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (read_config(bad[i], &config, &e) == 0)
            fail_msg("%s was taken", bad[i]);
        assert_int_equal(e.code, ERR_INVALID);
        err_clear(&e);
    }
    assert_int_equal(read_config("{\"Env\": [\"A=1\", \"bare\", \"=x\", \"A=2\"], \"Cmd\": null,"
                                 " \"User\": \"\", \"Labels\": {\"x\": \"y\"}}",
                                 &config,
                                 &e),
                     0);
    assert_int_equal(config.env.n, 1);
    assert_string_equal(config.env.v[0], "A=2");
    assert_null(config.user);
    image_config_fini(&config);
}

/* --- the table --- */

struct fixture {
    char path[64];
    int dirfd;
    struct store *store;
    struct catalog *catalog;
    struct buf unused; /* digests, by their first digit */
    size_t fds;
};

static void on_unused(void *arg, const char *digest)
{
    struct fixture *f = arg;

    buf_printf(&f->unused, "%c ", digest_hex(digest)[0]);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct err e = {0};

    f->fds = open_fds();
    (void)snprintf(f->path, sizeof(f->path), "/var/tmp/test_image.XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->store = store_open(f->dirfd, &e);
    f->unused = BUF(1000);
    f->catalog = catalog_new(on_unused, f);
    *state = f;
    return f->store ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};

    catalog_free(f->catalog);
    buf_free(&f->unused);
    store_close(f->store);
    close(f->dirfd);
    assert_int_equal(tree_remove(AT_FDCWD, f->path, &e), 0);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

static void put(struct fixture *f, const char *name, const char *digest)
{
    struct image image = make(name, digest);

    assert_string_equal(catalog_put(f->catalog, &image)->name, name);
    assert_null(image.name); /* moved */
}

static void expect_unused(struct fixture *f, const char *want)
{
    assert_string_equal(buf_str(&f->unused), want);
    buf_reset(&f->unused);
}

static void expect_found(struct fixture *f, const char *text, const char *name)
{
    struct err e = {0};
    const struct image *image = catalog_resolve(f->catalog, text, &e);

    if (image)
        assert_string_equal(image->name, name);
    else
        fail_msg("%s: %s", text, e.msg);
}

static void expect_lost(struct fixture *f, const char *text, enum err_code code)
{
    struct err e = {0};

    assert_null(catalog_resolve(f->catalog, text, &e));
    assert_int_equal(e.code, code);
}

static void an_image_is_found_by_every_form_of_its_name(void **state)
{
    struct fixture *f = *state;

    put(f, "docker.io/library/alpine:latest", D1);
    put(f, "h.x/a:1", D2);
    expect_found(f, "alpine", "docker.io/library/alpine:latest");
    expect_found(f, "docker.io/alpine:latest", "docker.io/library/alpine:latest");
    expect_found(f, "alpine@" D1, "docker.io/library/alpine:latest");
    expect_found(f, "alpine:other@" D1, "docker.io/library/alpine:latest");
    expect_found(f, D2, "h.x/a:1");
    expect_found(f, "h.x/a:1", "h.x/a:1");
    expect_lost(f, "h.x/a", ERR_NOT_FOUND);
    expect_lost(f, "alpine@" D2, ERR_NOT_FOUND);
    expect_lost(f, "alpin@" D1, ERR_NOT_FOUND);
    expect_lost(f, "Alpine", ERR_INVALID);
    assert_null(catalog_find(f->catalog, "alpine"));
    assert_non_null(catalog_find(f->catalog, "docker.io/library/alpine:latest"));
}

static void files_are_given_up_with_their_last_use(void **state)
{
    struct fixture *f = *state;

    put(f, "h.x/a:1", D1);
    put(f, "h.x/a:2", D1);
    catalog_remove(f->catalog, "h.x/a:1");
    catalog_remove(f->catalog, "h.x/a:1");
    expect_unused(f, "");
    catalog_use(f->catalog, D1); /* an instance */
    catalog_remove(f->catalog, "h.x/a:2");
    expect_unused(f, "");
    assert_true(catalog_is_used(f->catalog, D1));
    catalog_unuse(f->catalog, D1);
    expect_unused(f, "0 ");
    assert_false(catalog_is_used(f->catalog, D1));
}

static void a_name_that_moves_gives_up_its_old_files(void **state)
{
    struct fixture *f = *state;

    put(f, "h.x/a:1", D1);
    put(f, "h.x/a:1", D1);
    expect_unused(f, "");
    put(f, "h.x/a:1", D2);
    expect_unused(f, "0 ");
    expect_lost(f, D1, ERR_NOT_FOUND);
}

static void no_files_are_given_up_during_an_import(void **state)
{
    struct fixture *f = *state;

    put(f, "h.x/a:1", D1);
    put(f, "h.x/b:1", D2);
    catalog_pin(f->catalog);
    catalog_pin(f->catalog);
    catalog_remove(f->catalog, "h.x/a:1");
    catalog_remove(f->catalog, "h.x/b:1");
    catalog_unpin(f->catalog);
    expect_unused(f, "");
    put(f, "h.x/c:1", D1); /* the import found the files of D1 and took them */
    catalog_unpin(f->catalog);
    expect_unused(f, "1 ");
}

static void append_name(void *arg, const struct image *image)
{
    buf_printf(arg, "%s ", image->name);
}

static void the_table_survives_in_the_store(void **state)
{
    struct fixture *f = *state;
    struct image image = make("h.x/a:1", D1);
    struct store_change *change = store_change_new();
    auto_buf struct buf names = BUF(1000);
    auto_buf struct buf before = BUF(1 << 16);
    auto_buf struct buf after = BUF(1 << 16);
    struct jout j = JOUT(&before);
    const struct image *loaded;
    struct err e = {0};

    argv_push(&image.config.cmd, "sh");
    image_config_set_env(&image.config, "A=\"1\"\n");
    image.config.user = mem_strdup("1000:1000");
    image_write(&j, NULL, &image);
    image_put(change, &image);
    image_fini(&image);
    image = make("h.x/0:1", D2);
    image_put(change, &image);
    image_fini(&image);
    assert_int_equal(store_commit(f->store, change, &e), 0);

    assert_int_equal(catalog_load(f->catalog, f->store, &e), 0);
    catalog_each(f->catalog, append_name, &names);
    assert_string_equal(buf_str(&names), "h.x/0:1 h.x/a:1 ");
    loaded = catalog_find(f->catalog, "h.x/a:1");
    j = JOUT(&after);
    image_write(&j, NULL, loaded);
    assert_string_equal(buf_str(&after), buf_str(&before));
    assert_string_equal(loaded->config.user, "1000:1000");
    assert_true(catalog_is_used(f->catalog, D1));
}

static void a_record_that_cannot_be_read_says_which(void **state)
{
    struct fixture *f = *state;
    struct store_change *change = store_change_new();
    struct err e = {0};

    images_put(change, &(struct image_record){"h.x/a:1", "sha256:short", "{}"});
    assert_int_equal(store_commit(f->store, change, &e), 0);
    assert_int_equal(catalog_load(f->catalog, f->store, &e), -1);
    assert_non_null(strstr(e.msg, "h.x/a:1"));
}

#define table_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(references_are_normalised_as_docker_does),
        checked_test(bad_references_are_refused),
        checked_test(an_image_says_null_for_some_and_leaves_out_others),
        checked_test(an_image_shows_what_it_runs),
        checked_test(a_configuration_of_wrong_types_is_refused),
        table_test(an_image_is_found_by_every_form_of_its_name),
        table_test(files_are_given_up_with_their_last_use),
        table_test(a_name_that_moves_gives_up_its_old_files),
        table_test(no_files_are_given_up_during_an_import),
        table_test(the_table_survives_in_the_store),
        table_test(a_record_that_cannot_be_read_says_which),
    };

    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
