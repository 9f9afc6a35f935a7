/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"

struct inspection {
    json_t *found; /* an array */
    bool show_env;
};

/* Secrets are passed in the environment, and terminals are looked at over shoulders. */
static void mask_env(const json_t *instance)
{
    json_t *env = json_object_get(instance, "env");
    const char *key;
    json_t *value;

    json_object_foreach(env, key, value)
    {
        json_object_set_new(env, key, json_string("***"));
    }
}

static int inspect_one(void *ctx, const char *name)
{
    const struct inspection *in = ctx;
    auto_free char *path = instance_path(name, "");
    struct err e = {0};
    json_t *doc = session_get(path, &e);

    if (!doc)
        return report_instance(name, &e);
    if (!in->show_env)
        mask_env(doc);
    json_array_append_new(in->found, doc);
    return CLI_OK;
}

static int inspect(int argc, char **argv)
{
    json_auto_t *found = json_array();
    struct inspection in = {.found = found};
    const char *format_word = "json";
    const struct opt opts[] = {
        {0, "show-env", OPT_FLAG, &in.show_env, NULL, "the values of environment variables too"},
        {0, "format", OPT_TEXT, &format_word, "FORMAT", "json (an array) or jsonl"},
        {0},
    };
    int rc = opt_parse(&cli_inspect, opts, &argc, &argv);
    enum format format = FORMAT_JSON;

    if (rc != OPT_GO)
        return rc;
    if (argc == 0)
        return cli_misuse(&cli_inspect, "name an instance");
    if (!format_parse(format_word, &format) || format == FORMAT_TABLE)
        return cli_misuse(&cli_inspect, "no such format: %s", format_word);
    rc = for_each_name(argc, argv, inspect_one, &in);
    json_print(found, format);
    return rc;
}

const struct cli_verb cli_inspect = {
    .name = "inspect",
    .help = "Show all that is known of instances, as JSON",
    .usage = "[flags] NAME...",
    .run = inspect,
};
