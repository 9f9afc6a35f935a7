/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/text.h"

static int stop_one(void *ctx, const char *name)
{
    auto_free char *path = instance_path(name, "/stop");
    json_auto_t *doc = NULL;
    struct err e = {0};

    (void)ctx;
    progress_begin("stopping %s", name);
    doc = session_call("POST", path, NULL, SESSION_CALL_MS, &e);
    progress_end();
    if (!doc)
        return report_instance(name, &e);
    puts(name);
    return CLI_OK;
}

static int stop(int argc, char **argv)
{
    const struct opt opts[] = {{0}};
    int rc = opt_parse(&cli_stop, opts, &argc, &argv);

    if (rc != OPT_GO)
        return rc;
    if (argc == 0)
        return cli_misuse(&cli_stop, "name an instance");
    return for_each_name(argc, argv, stop_one, NULL);
}

const struct cli_verb cli_stop = {
    .name = "stop",
    .help = "Stop instances; their disks stay",
    .usage = "NAME...",
    .run = stop,
};
