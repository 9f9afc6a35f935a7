/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/columns.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"
#include "cli/usage.h"

enum { INTERVAL_MS = 1000 };

static json_t *as_json(const struct usages *u)
{
    json_t *list = json_array();

    for (size_t i = 0; i < u->n; i++) {
        const struct usage *one = &u->all[i];

        json_array_append_new(list,
                              json_pack("{s:s, s:f, s:f, s:I, s:I, s:I, s:I}",
                                        "name",
                                        one->name,
                                        "cpu_percent",
                                        one->cpu_percent,
                                        "cpu_seconds",
                                        one->cpu_s,
                                        "memory_bytes",
                                        (json_int_t)one->memory_bytes,
                                        "allocated_memory_bytes",
                                        (json_int_t)one->allocated_bytes,
                                        "network_rx_bytes",
                                        (json_int_t)one->received_bytes,
                                        "network_tx_bytes",
                                        (json_int_t)one->sent_bytes));
    }
    return list;
}

static void print_table(const struct usages *u)
{
    static const char *const headings[] = {
        "NAME", "CPU %", "MEMORY", "OF", "MEMORY %", "NET RX", "NET TX"};
    auto_columns struct columns t = {0};

    columns_begin(&t, sizeof(headings) / sizeof(headings[0]), headings);
    for (size_t i = 0; i < u->n; i++) {
        const struct usage *one = &u->all[i];
        double of = one->allocated_bytes ? (double)one->allocated_bytes : 1;
        char text[AMOUNT_SIZE];

        columns_add(&t, one->name, COLOUR_NONE);
        (void)snprintf(text, sizeof(text), "%.1f", one->cpu_percent);
        columns_add(&t, text, COLOUR_NONE);
        columns_add(&t, amount_text(one->memory_bytes, text), COLOUR_NONE);
        columns_add(&t, amount_text(one->allocated_bytes, text), COLOUR_NONE);
        (void)snprintf(text, sizeof(text), "%.1f", (double)one->memory_bytes / of * 100);
        columns_add(&t, text, COLOUR_NONE);
        columns_add(&t, amount_text(one->received_bytes, text), COLOUR_NONE);
        columns_add(&t, amount_text(one->sent_bytes, text), COLOUR_NONE);
    }
    columns_print(&t);
}

/* Two looks, with the interval between them. */
static int measure(struct usages *out, int64_t interval_ms, int n, char **names, struct err *e)
{
    auto_usages struct usages first = {0};
    struct op op = session_op(INT64_MAX);

    if (usages_look(&first, NULL, n, names, e) < 0 || op_sleep(&op, interval_ms, e) < 0)
        return -1;
    return usages_look(out, &first, n, names, e);
}

static int stats(int argc, char **argv)
{
    const char *format_word = NULL;
    const char *interval = NULL;
    const struct opt opts[] = {
        {0, "interval", OPT_TEXT, &interval, "DURATION", "measure the CPU for this long: 1s"},
        {0, "format", OPT_TEXT, &format_word, "FORMAT", "table, json or jsonl"},
        {0},
    };
    int rc = opt_parse(&cli_stats, opts, &argc, &argv);
    enum format format = FORMAT_TABLE;
    int64_t interval_ms = INTERVAL_MS;
    auto_usages struct usages u = {0};
    struct err e = {0};

    if (rc != OPT_GO)
        return rc;
    if (!format_parse(format_word, &format))
        return cli_misuse(&cli_stats, "no such format: %s", format_word);
    if (interval && !parse_duration_ms(interval, &interval_ms))
        return cli_misuse(&cli_stats, "--interval takes a duration like 1s, not %s", interval);
    if (measure(&u, interval_ms, argc, argv, &e) < 0)
        return report(&e);
    if (format == FORMAT_TABLE) {
        print_table(&u);
    } else {
        json_auto_t *list = as_json(&u);

        json_print(list, format);
    }
    return CLI_OK;
}

const struct cli_verb cli_stats = {
    .name = "stats",
    .help = "Show what instances use: CPU, memory, network",
    .usage = "[flags] [NAME...]",
    .run = stats,
};
