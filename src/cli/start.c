/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/text.h"

static int start_one(void *ctx, const char *name)
{
    auto_free char *path = instance_path(name, "/start");
    json_auto_t *doc = NULL;
    struct err e = {0};

    progress_begin("starting %s", name);
    doc = session_call("POST", path, ctx, SESSION_CALL_MS, &e);
    progress_end();
    if (!doc)
        return report_instance(name, &e);
    puts(name);
    return CLI_OK;
}

static int start(int argc, char **argv)
{
    const char *entrypoint = NULL;
    const char *cmd = NULL;
    const struct opt opts[] = {
        {0,
         "entrypoint",
         OPT_TEXT,
         &entrypoint,
         "WORDS",
         "another entrypoint, also for later starts"},
        {0, "cmd", OPT_TEXT, &cmd, "WORDS", "another command, also for later starts"},
        {0},
    };
    int rc = opt_parse(&cli_start, opts, &argc, &argv);
    json_auto_t *body = json_object();

    if (rc != OPT_GO)
        return rc;
    if (argc == 0)
        return cli_misuse(&cli_start, "name an instance");
    if (entrypoint && json_object_set_new(body, "entrypoint", words_parse(entrypoint)) < 0)
        return cli_misuse(&cli_start, "--entrypoint takes words or a JSON array of strings");
    if (cmd && json_object_set_new(body, "cmd", words_parse(cmd)) < 0)
        return cli_misuse(&cli_start, "--cmd takes words or a JSON array of strings");
    return for_each_name(argc, argv, start_one, body);
}

const struct cli_verb cli_start = {
    .name = "start",
    .help = "Start stopped instances",
    .usage = "[flags] NAME...",
    .run = start,
};
