/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/text.h"

static int fork_verb(int argc, char **argv)
{
    bool from_running = false;
    const char *target = NULL;
    const struct opt opts[] = {
        {0, "from-running", OPT_FLAG, &from_running, NULL, "fork a source that runs; it goes on"},
        {0,
         "target-state",
         OPT_TEXT,
         &target,
         "STATE",
         "Stopped, Standby or Running; else the source's"},
        {0},
    };
    int rc = opt_parse(&cli_fork, opts, &argc, &argv);
    json_auto_t *body = json_object();
    json_auto_t *doc = NULL;
    auto_free char *path = NULL;
    struct err e = {0};

    if (rc != OPT_GO)
        return rc;
    if (argc != 2)
        return cli_misuse(&cli_fork, "name the source and the new instance");
    if (json_object_set_new(body, "name", json_string(argv[1])) < 0 ||
        (target && json_object_set_new(body, "target_state", json_string(target)) < 0))
        return cli_misuse(&cli_fork, "a name is not UTF-8");
    json_object_set_new(body, "from_running", json_boolean(from_running));
    path = instance_path(argv[0], "/fork");
    progress_begin("forking %s", argv[0]);
    doc = session_call("POST", path, body, SESSION_CALL_MS, &e);
    progress_end();
    if (!doc)
        return report_instance(argv[0], &e);
    puts(text_of(doc, "id"));
    return CLI_OK;
}

const struct cli_verb cli_fork = {
    .name = "fork",
    .help = "Make a new instance from another, with its disk and memory",
    .usage = "[flags] SOURCE NAME",
    .run = fork_verb,
};
