/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/columns.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"

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

static int ps(int argc, char **argv)
{
    auto_argv struct argv tags = {0};
    auto_buf struct buf path = BUF(1 << 20);
    const char *format_word = NULL;
    const char *state = NULL;
    bool all = false;
    bool quiet = false;
    const struct opt opts[] = {
        {'a', "all", OPT_FLAG, &all, NULL, "also Stopped and Standby"},
        {'q', "quiet", OPT_FLAG, &quiet, NULL, "only ids"},
        {0, "state", OPT_TEXT, &state, "STATE", "only those in this state"},
        {0, "tag", OPT_LIST, &tags, "KEY=VALUE", "only those with this tag; repeatable"},
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
