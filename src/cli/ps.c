/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/columns.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"
#include "cli/watch.h"

enum { SHORT_ID = 12, REASON_SIZE = 60 };

/* What has no process is left out by default, as docker does; what hangs is not. */
static bool is_gone(const json_t *row)
{
    const char *state = text_of(row, "state");

    return strcmp(state, "Stopped") == 0 || strcmp(state, "Standby") == 0;
}

static enum colour state_colour(const char *state)
{
    if (strcmp(state, "Running") == 0)
        return COLOUR_GREEN;
    if (strcmp(state, "Unknown") == 0)
        return COLOUR_RED;
    return strcmp(state, "Stopped") == 0 || strcmp(state, "Standby") == 0 ? COLOUR_DIM
                                                                          : COLOUR_YELLOW;
}

/* "Running 3m", "Stopped (137) 2h", "Unknown 12s: the VMM does not answer". */
static void add_state(struct columns *t, const json_t *row)
{
    const char *state = text_of(row, "state");
    const json_t *code = json_object_get(row, "exit_code");
    const char *since = text_of(row, "current_phase_since");
    const char *reason = text_of(row, "state_error");
    auto_buf struct buf b = BUF(512);
    char age[AGE_SIZE];

    if (!*since && strcmp(state, "Stopped") == 0)
        since = text_of(row, "stopped_at");
    else if (!*since)
        since = text_of(row, "started_at");
    buf_puts(&b, state);
    if (strcmp(state, "Stopped") == 0 && json_is_integer(code))
        buf_printf(&b, " (%lld)", (long long)json_integer_value(code));
    if (*age_text(since, age))
        buf_printf(&b, " %s", age);
    if (*reason)
        buf_printf(&b, ": %.*s%s", REASON_SIZE, reason, strlen(reason) > REASON_SIZE ? "..." : "");
    columns_add(t, buf_str(&b), state_colour(state));
}

static void print_table(const json_t *list)
{
    static const char *const headings[] = {
        "NAME", "ID", "IMAGE", "STATE", "HYPERVISOR", "SIZE", "IP"};
    auto_columns struct columns t = {0};
    const json_t *row;
    size_t i;

    columns_begin(&t, sizeof(headings) / sizeof(headings[0]), headings);
    json_array_foreach(list, i, row)
    {
        char id[SHORT_ID + 1];

        (void)snprintf(id, sizeof(id), "%s", text_of(row, "id"));
        columns_add(&t, text_of(row, "name"), COLOUR_NONE);
        columns_add(&t, id, COLOUR_NONE);
        columns_add(&t, image_short(text_of(row, "image")), COLOUR_NONE);
        add_state(&t, row);
        columns_add(&t, text_of(row, "hypervisor"), COLOUR_NONE);
        columns_add(&t, text_of(row, "size"), COLOUR_NONE);
        columns_add(&t, text_of(json_object_get(row, "network"), "ip"), COLOUR_NONE);
    }
    columns_print(&t);
}

static void print_ids(const json_t *list)
{
    const json_t *row;
    size_t i;

    json_array_foreach(list, i, row)
    {
        text_print(stdout, text_of(row, "id"));
        putchar('\n');
    }
}

/* The query's "?state=Running&tags%5Bteam%5D=web". False for a tag without "=". */
static bool add_query(struct buf *path, const char *state, const struct argv *tags)
{
    char separator = '?';

    if (state) {
        auto_free char *name = state_name(state);

        buf_printf(path, "%cstate=", separator);
        url_puts(path, name);
        separator = '&';
    }
    for (size_t i = 0; i < tags->n; i++) {
        char *equals = strchr(tags->v[i], '=');

        if (!equals || equals == tags->v[i])
            return false;
        *equals = '\0';
        buf_printf(path, "%ctags%%5B", separator);
        url_puts(path, tags->v[i]);
        buf_puts(path, "%5D=");
        url_puts(path, equals + 1);
        separator = '&';
    }
    return true;
}

static void drop_gone(json_t *list)
{
    for (size_t i = json_array_size(list); i-- > 0;) {
        if (is_gone(json_array_get(list, i)))
            json_array_remove(list, i);
    }
}

/* --- ps --watch --- */

struct view {
    bool all;
    bool is_terminal;
    bool is_shown; /* the table was, once */
    const char *state;
    const struct argv *tags; /* "KEY", NUL, "VALUE" each: add_query() has cut them */
};

static bool is_seen(const struct view *v, const json_t *row)
{
    const json_t *tags = json_object_get(row, "tags");

    if (v->state ? strcmp(text_of(row, "state"), v->state) != 0 : !v->all && is_gone(row))
        return false;
    for (size_t i = 0; i < v->tags->n; i++) {
        const char *key = v->tags->v[i];

        if (strcmp(text_of(tags, key), key + strlen(key) + 1) != 0)
            return false;
    }
    return true;
}

/* A terminal shows the table as it is now; who reads through a pipe gets it once, then changes. */
static void show_rows(void *ctx, json_t *rows)
{
    struct view *v = ctx;
    json_auto_t *list = json_array();
    const char *id;
    json_t *row;

    if (v->is_shown && !v->is_terminal)
        return;
    json_object_foreach(rows, id, row)
    {
        if (is_seen(v, row))
            json_array_append(list, row);
    }
    if (v->is_terminal)
        fputs("\033[H\033[2J", stdout);
    print_table(list);
    v->is_shown = true;
}

static void show_change(void *ctx, const json_t *event)
{
    const struct view *v = ctx;
    const json_t *row = json_object_get(event, "instance");

    if (v->is_terminal || (row && v->tags->n > 0 && !is_seen(v, row)))
        return;
    text_print(stdout, *text_of(row, "name") ? text_of(row, "name") : text_of(event, "id"));
    printf(" %s %s\n", text_of(event, "type"), text_of(row, "state"));
}

static int watch(struct view *v)
{
    const struct watch_sink sink = {show_rows, show_change, v};
    struct err e = {0};

    v->is_terminal = isatty(STDOUT_FILENO);
    (void)watch_instances(&sink, &e);
    return report(&e);
}

static int ps(int argc, char **argv)
{
    auto_argv struct argv tags = {0};
    auto_buf struct buf path = BUF(1 << 20);
    const char *format_word = NULL;
    const char *state = NULL;
    bool all = false;
    bool quiet = false;
    bool watched = false;
    const struct opt opts[] = {
        {'a', "all", OPT_FLAG, &all, NULL, "also Stopped and Standby"},
        {'q', "quiet", OPT_FLAG, &quiet, NULL, "only ids"},
        {0, "state", OPT_TEXT, &state, "STATE", "only those in this state"},
        {0, "tag", OPT_LIST, &tags, "KEY=VALUE", "only those with this tag; repeatable"},
        {'w', "watch", OPT_FLAG, &watched, NULL, "go on with what changes, until Ctrl-C"},
        {0, "format", OPT_TEXT, &format_word, "FORMAT", "table, json or jsonl"},
        {0},
    };
    int rc = opt_parse(&cli_ps, opts, &argc, &argv);
    enum format format = FORMAT_TABLE;
    json_auto_t *list = NULL;
    struct err e = {0};

    if (rc != OPT_GO)
        return rc;
    if (argc > 0)
        return cli_misuse(&cli_ps, "it takes no names; 'hypeman inspect %s' shows one", argv[0]);
    if (!format_parse(format_word, &format))
        return cli_misuse(&cli_ps, "no such format: %s", format_word);
    buf_puts(&path, "/instances");
    if (!add_query(&path, state, &tags))
        return cli_misuse(&cli_ps, "--tag takes KEY=VALUE");

    if (watched) {
        auto_free char *name = state ? state_name(state) : NULL;

        if (quiet || format != FORMAT_TABLE)
            return cli_misuse(&cli_ps, "--watch shows a table; programs read GET /events");
        return watch(&(struct view){.all = all, .state = name, .tags = &tags});
    }
    list = session_get(buf_str(&path), &e);
    if (!list)
        return report(&e);
    if (!all && !state)
        drop_gone(list);
    if (quiet)
        print_ids(list);
    else if (format != FORMAT_TABLE)
        json_print(list, format);
    else
        print_table(list);
    return CLI_OK;
}

const struct cli_verb cli_ps = {
    .name = "ps",
    .alias = "list",
    .help = "List instances",
    .usage = "[flags]",
    .run = ps,
};
