/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs that ask the server for one thing and print the name: stop, standby, restore. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/text.h"

struct action {
    const char *path;
    const char *progress; /* "stopping" */
};

static int act_on_one(void *ctx, const char *name)
{
    const struct action *action = ctx;
    auto_free char *path = instance_path(name, action->path);
    json_auto_t *doc = NULL;
    struct err e = {0};

    progress_begin("%s %s", action->progress, name);
    doc = session_call("POST", path, NULL, SESSION_CALL_MS, &e);
    progress_end();
    if (!doc)
        return report_instance(name, &e);
    puts(name);
    return CLI_OK;
}

static int act(const struct cli_verb *verb, struct action action, int argc, char **argv)
{
    const struct opt opts[] = {{0}};
    int rc = opt_parse(verb, opts, &argc, &argv);

    if (rc != OPT_GO)
        return rc;
    if (argc == 0)
        return cli_misuse(verb, "name an instance");
    return for_each_name(argc, argv, act_on_one, &action);
}

static int stop(int argc, char **argv)
{
    return act(&cli_stop, (struct action){"/stop", "stopping"}, argc, argv);
}

static int standby(int argc, char **argv)
{
    return act(&cli_standby, (struct action){"/standby", "putting to sleep"}, argc, argv);
}

static int restore(int argc, char **argv)
{
    return act(&cli_restore, (struct action){"/restore", "waking"}, argc, argv);
}

const struct cli_verb cli_stop = {
    .name = "stop",
    .help = "Stop instances; their disks stay",
    .usage = "NAME...",
    .run = stop,
};

const struct cli_verb cli_standby = {
    .name = "standby",
    .help = "Put instances to sleep as snapshots; their memory and disks stay",
    .usage = "NAME...",
    .run = standby,
};

const struct cli_verb cli_restore = {
    .name = "restore",
    .help = "Wake instances from standby, where they were",
    .usage = "NAME...",
    .run = restore,
};
