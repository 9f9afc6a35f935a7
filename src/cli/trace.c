/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"

enum { BAR = 40, NAME_WIDTH = 38, SHOWN = 5, DEEPEST = 16 };

static int64_t number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static int depth_of(const json_t *spans, const json_t *span)
{
    int depth = 0;

    while (number(span, "parent") >= 0 && depth < DEEPEST) {
        span = json_array_get(spans, (size_t)number(span, "parent"));
        depth++;
    }
    return depth;
}

/* Where in the whole it lies: at least one character, however short it was. */
static void print_bar(const json_t *span, int64_t whole_us)
{
    int64_t from = number(span, "start_us") * BAR / whole_us;
    int64_t to = (number(span, "start_us") + number(span, "duration_us")) * BAR / whole_us;

    if (from >= BAR)
        from = BAR - 1;
    if (to <= from)
        to = from + 1;
    for (int64_t i = 0; i < BAR; i++)
        fputs(i >= from && i < to ? "#" : "·", stdout);
}

static void print_attributes(const json_t *trace)
{
    const char *key;
    json_t *value;

    json_object_foreach(json_object_get(trace, "attributes"), key, value)
    {
        putchar(' ');
        text_print(stdout, key);
        putchar('=');
        if (json_is_string(value))
            text_print(stdout, json_string_value(value));
        else
            printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    }
}

static void print_trace(const json_t *trace)
{
    const json_t *spans = json_object_get(trace, "spans");
    int64_t whole_us = number(json_array_get(spans, 0), "duration_us");
    const json_t *span;
    size_t i;

    printf("%s %s%s",
           text_of(trace, "began_at"),
           text_of(trace, "instance_id"),
           json_is_true(json_object_get(trace, "failed")) ? " FAILED" : "");
    print_attributes(trace);
    putchar('\n');
    json_array_foreach(spans, i, span)
    {
        int indent = 2 * depth_of(spans, span);
        int64_t us = number(span, "duration_us");

        printf("  %*s%-*.*s ",
               indent,
               "",
               NAME_WIDTH - indent,
               NAME_WIDTH - indent,
               text_of(span, "name"));
        print_bar(span, whole_us > 0 ? whole_us : 1);
        printf(" %6" PRId64 ".%03" PRId64 " ms\n", us / 1000, us % 1000);
    }
    putchar('\n');
}

/* The id that a name stands for; of an instance that is gone, what was typed. */
static json_t *find_id(const char *name, struct err *e)
{
    auto_free char *path = instance_path(name, "");
    json_auto_t *doc = session_get(path, e);

    if (doc)
        return json_string(text_of(doc, "id"));
    if (e->code != ERR_NOT_FOUND)
        return NULL;
    err_clear(e);
    return json_string(name);
}

static bool is_wanted(const json_t *trace, const char *id, const char *operation)
{
    return (!id || strcmp(text_of(trace, "instance_id"), id) == 0) &&
           (!operation || strcmp(text_of(trace, "name"), operation) == 0);
}

static int trace(int argc, char **argv)
{
    const char *count_word = NULL;
    const char *operation = NULL;
    const char *format_word = NULL;
    const struct opt opts[] = {
        {'n', "lines", OPT_TEXT, &count_word, "N", "the last N of them; 5"},
        {0, "name", OPT_TEXT, &operation, "SPAN", "only those, as in instances.start"},
        {0, "format", OPT_TEXT, &format_word, "FORMAT", "table (a waterfall), json or jsonl"},
        {0},
    };
    int rc = opt_parse(&cli_trace, opts, &argc, &argv);
    enum format format = FORMAT_TABLE;
    json_auto_t *shown = json_array();
    json_auto_t *all = NULL;
    json_auto_t *id = NULL;
    struct err e = {0};
    uint64_t count = SHOWN;
    json_t *one;
    size_t i;

    if (rc != OPT_GO)
        return rc;
    if (argc > 1)
        return cli_misuse(&cli_trace, "it takes one instance at most");
    if (!format_parse(format_word, &format))
        return cli_misuse(&cli_trace, "no such format: %s", format_word);
    if (count_word && !parse_u64(count_word, 1, 100000, &count))
        return cli_misuse(&cli_trace, "-n takes a number, not %s", count_word);
    if (argc == 1 && !(id = find_id(argv[0], &e)))
        return report_instance(argv[0], &e);
    all = session_get("/debug/traces", &e);
    if (!all)
        return report(&e);
    json_array_foreach(all, i, one)
    {
        if (json_array_size(shown) < count && is_wanted(one, json_string_value(id), operation))
            json_array_append(shown, one);
    }
    if (format != FORMAT_TABLE) {
        json_print(shown, format);
        return CLI_OK;
    }
    json_array_foreach(shown, i, one)
    {
        print_trace(one);
    }
    return CLI_OK;
}

const struct cli_verb cli_trace = {
    .name = "trace",
    .help = "Show where the time of the last operations went",
    .usage = "[flags] [NAME]",
    .run = trace,
};
