/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/columns.h"
#include "cli/opt.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/text.h"

static const struct cli_verb image_import;
static const struct cli_verb image_list;
static const struct cli_verb image_get;
static const struct cli_verb image_delete;

/* --- import --- */

enum { POLL_FIRST_MS = 20, POLL_MOST_MS = 500 };

/*
 * "dir:PATH" or "oci:PATH" with an absolute path, which the daemon can open. An
 * absolute one stays as it is: the daemon may be on another host.
 */
static char *absolute_source(const char *source, struct err *e)
{
    const char *path = source + 4;
    auto_free char *full = NULL;

    if (strncmp(source, "dir:", 4) != 0 && strncmp(source, "oci:", 4) != 0) {
        err_set(e, ERR_INVALID, "the source must be dir:PATH or oci:PATH, not %s", source);
        return NULL;
    }
    full = *path == '/' ? mem_strdup(path) : realpath(path, NULL);
    if (!full) {
        err_errno(e, "%s", path);
        return NULL;
    }
    return mem_printf("%.4s%s", source, full);
}

/* Asks until the daemon has made the image or failed to. Takes the first answer, returns the last.
 */
static json_t *await_image(json_t *image, const char *name, struct err *e)
{
    auto_free char *path = image_path(name);
    const struct op op = session_op(SESSION_CREATE_MS);
    int64_t pause = POLL_FIRST_MS;

    while (image && strcmp(text_of(image, "status"), "ready") != 0) {
        const char *status = text_of(image, "status");
        bool has_failed = strcmp(status, "failed") == 0;

        if (has_failed)
            err_set(e, ERR_INTERNAL, "import failed: %s", text_of(image, "error"));
        progress_note("importing %s (%s)", name, status);
        json_decref(image);
        image = NULL;
        if (has_failed || op_sleep(&op, pause, e) < 0)
            break;
        progress_tick();
        pause = pause * 2 < POLL_MOST_MS ? pause * 2 : POLL_MOST_MS;
        image = session_get(path, e);
    }
    return image;
}

static int import_with(json_t *body)
{
    const char *name = text_of(body, "name");
    json_auto_t *image = NULL;
    auto_free char *full_name = NULL; /* with the registry and the tag that the daemon adds */
    struct err e = {0};

    progress_begin("importing %s", name);
    image = session_call("POST", "/images/import", body, SESSION_CREATE_MS, &e);
    if (image) {
        full_name = mem_strdup(*text_of(image, "name") ? text_of(image, "name") : name);
        image = await_image(image, full_name, &e);
    }
    progress_end();
    if (!image)
        return report_image(name, &e);
    text_print(stdout, full_name);
    putchar('\n');
    return CLI_OK;
}

struct import_flags {
    const char *entrypoint;
    const char *cmd;
    const char *workdir;
    const char *user;
    struct argv env;
};

static int import_body(const struct import_flags *f, json_t *body)
{
    json_t *env = json_object();

    json_object_set_new(body, "env", env);
    for (size_t i = 0; i < f->env.n; i++) {
        if (!pair_add(env, f->env.v[i]))
            return cli_misuse(&image_import, "--env takes KEY=VALUE, not %s", f->env.v[i]);
    }
    if (f->entrypoint && json_object_set_new(body, "entrypoint", words_parse(f->entrypoint)) < 0)
        return cli_misuse(&image_import, "--entrypoint takes words or a JSON array of strings");
    if (f->cmd && json_object_set_new(body, "cmd", words_parse(f->cmd)) < 0)
        return cli_misuse(&image_import, "--cmd takes words or a JSON array of strings");
    if (f->workdir)
        json_object_set_new(body, "working_dir", json_string(f->workdir));
    if (f->user)
        json_object_set_new(body, "user", json_string(f->user));
    return CLI_OK;
}

static int import_source(const struct import_flags *f, int argc, char **argv)
{
    json_auto_t *body = json_object();
    auto_free char *source = NULL;
    struct err e = {0};
    int rc;

    if (argc != 2)
        return cli_misuse(&image_import, "give a source and a name");
    rc = import_body(f, body);
    if (rc != CLI_OK)
        return rc;
    source = absolute_source(argv[0], &e);
    if (!source)
        return e.code == ERR_INVALID ? cli_misuse(&image_import, "%s", e.msg) : report(&e);
    if (json_object_set_new(body, "source", json_string(source)) < 0 ||
        json_object_set_new(body, "name", json_string(argv[1])) < 0)
        return cli_misuse(&image_import, "the source or the name is not UTF-8");
    return import_with(body);
}

static int import_verb(int argc, char **argv)
{
    struct import_flags f = {0};
    const struct opt opts[] = {
        {0, "entrypoint", OPT_TEXT, &f.entrypoint, "WORDS", "words or a JSON array"},
        {0, "cmd", OPT_TEXT, &f.cmd, "WORDS", "words or a JSON array"},
        {'e', "env", OPT_LIST, &f.env, "KEY=VALUE", "a variable; repeatable"},
        {0, "workdir", OPT_TEXT, &f.workdir, "PATH", "where the workload starts"},
        {0, "user", OPT_TEXT, &f.user, "USER[:GROUP]", "whom it runs as"},
        {0},
    };
    int rc = opt_parse(&image_import, opts, &argc, &argv);

    if (rc == OPT_GO)
        rc = import_source(&f, argc, argv);
    argv_free(&f.env);
    return rc;
}

/* --- list, get, delete --- */

static void print_images(const json_t *list)
{
    static const char *const headings[] = {"NAME", "STATUS", "SIZE", "CREATED"};
    auto_columns struct columns t = {0};
    const json_t *row;
    size_t i;

    columns_begin(&t, sizeof(headings) / sizeof(headings[0]), headings);
    json_array_foreach(list, i, row)
    {
        const json_t *bytes = json_object_get(row, "size_bytes");
        const char *status = text_of(row, "status");
        char size[SIZE_TEXT_SIZE] = "";
        char age[AGE_SIZE];

        if (json_is_integer(bytes) && json_integer_value(bytes) >= 0)
            size_text((uint64_t)json_integer_value(bytes), size);
        columns_add(&t, image_short(text_of(row, "name")), COLOUR_NONE);
        columns_add(&t, status, strcmp(status, "failed") == 0 ? COLOUR_RED : COLOUR_NONE);
        columns_add(&t, size, COLOUR_NONE);
        columns_add(&t, age_text(text_of(row, "created_at"), age), COLOUR_NONE);
    }
    columns_print(&t);
}

static int list_verb(int argc, char **argv)
{
    const char *format_word = NULL;
    bool quiet = false;
    const struct opt opts[] = {
        {'q', "quiet", OPT_FLAG, &quiet, NULL, "only names"},
        {0, "format", OPT_TEXT, &format_word, "FORMAT", "table, json or jsonl"},
        {0},
    };
    int rc = opt_parse(&image_list, opts, &argc, &argv);
    enum format format = FORMAT_TABLE;
    json_auto_t *list = NULL;
    const json_t *row;
    struct err e = {0};
    size_t i;

    if (rc != OPT_GO)
        return rc;
    if (argc > 0)
        return cli_misuse(&image_list, "it takes no names");
    if (!format_parse(format_word, &format))
        return cli_misuse(&image_list, "no such format: %s", format_word);
    list = session_get("/images", &e);
    if (!list)
        return report(&e);
    if (quiet) {
        json_array_foreach(list, i, row)
        {
            text_print(stdout, text_of(row, "name"));
            putchar('\n');
        }
    } else if (format != FORMAT_TABLE)
        json_print(list, format);
    else
        print_images(list);
    return CLI_OK;
}

static int get_verb(int argc, char **argv)
{
    const struct opt opts[] = {{0}};
    int rc = opt_parse(&image_get, opts, &argc, &argv);
    auto_free char *path = NULL;
    json_auto_t *doc = NULL;
    struct err e = {0};

    if (rc != OPT_GO)
        return rc;
    if (argc != 1)
        return cli_misuse(&image_get, "name one image");
    path = image_path(argv[0]);
    doc = session_get(path, &e);
    if (!doc)
        return report_image(argv[0], &e);
    json_print(doc, FORMAT_JSON);
    return CLI_OK;
}

static int delete_one(void *ctx, const char *name)
{
    auto_free char *path = image_path(name);
    struct err e = {0};
    json_auto_t *doc = session_call("DELETE", path, NULL, SESSION_CALL_MS, &e);

    (void)ctx;
    if (!doc)
        return report_image(name, &e);
    puts(name);
    return CLI_OK;
}

static int delete_verb(int argc, char **argv)
{
    const struct opt opts[] = {{0}};
    int rc = opt_parse(&image_delete, opts, &argc, &argv);

    if (rc != OPT_GO)
        return rc;
    if (argc == 0)
        return cli_misuse(&image_delete, "name an image");
    return for_each_name(argc, argv, delete_one, NULL);
}

static const struct cli_verb image_import = {
    .name = "image import",
    .help = "Make an image of a directory or an OCI layout on the daemon's host",
    .usage = "[flags] dir:PATH|oci:PATH NAME",
    .run = import_verb,
};
static const struct cli_verb image_list = {
    .name = "image list",
    .alias = "ls",
    .help = "List images",
    .usage = "[flags]",
    .run = list_verb,
};
static const struct cli_verb image_get = {
    .name = "image get",
    .alias = "inspect",
    .help = "Show all that is known of an image, as JSON",
    .usage = "NAME",
    .run = get_verb,
};
static const struct cli_verb image_delete = {
    .name = "image delete",
    .alias = "rm",
    .help = "Delete images",
    .usage = "NAME...",
    .run = delete_verb,
};

static int image(int argc, char **argv)
{
    const struct cli_verb table[] = {image_import, image_list, image_get, image_delete, {0}};

    return cli_dispatch(table, " image", argc, argv);
}

const struct cli_verb cli_image = {
    .name = "image",
    .help = "Import, list and delete images",
    .usage = "COMMAND",
    .run = image,
};
