/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"

static int print_log(const char *name, const char *query, bool follow)
{
    auto_free char *path = instance_path(name, query);
    auto_log struct log_stream log;
    struct err e = {0};
    struct op op;

    follow_begin(&log);
    if (log_open(&log, path, &e) < 0)
        return report_instance(name, &e);
    op = session_op(follow ? INT64_MAX : SESSION_CALL_MS);
    return log_print(&op, &log, &e) < 0 ? report(&e) : CLI_OK;
}

static int logs(int argc, char **argv)
{
    auto_buf struct buf query = BUF(4096);
    const char *source = "app";
    const char *tail = "100";
    bool follow = false;
    const struct opt opts[] = {
        {'f', "follow", OPT_FLAG, &follow, NULL, "go on with what comes"},
        {'n',
         "tail",
         OPT_TEXT,
         &tail,
         "LINES",
         "begin so many lines before the end (100), or \"all\""},
        {'s', "source", OPT_TEXT, &source, "SOURCE", "app (its console), vmm or hypeman"},
        {0},
    };
    int rc = opt_parse(&cli_logs, opts, &argc, &argv);
    uint64_t lines;

    if (rc != OPT_GO)
        return rc;
    if (argc != 1)
        return cli_misuse(&cli_logs, "name one instance");
    if (strcmp(tail, "all") != 0 && !parse_u64(tail, 1, INT32_MAX, &lines))
        return cli_misuse(&cli_logs, "--tail takes a number of lines or \"all\", not %s", tail);
    buf_printf(&query, "/logs?tail=%s&follow=%s&source=", tail, follow ? "true" : "false");
    url_puts(&query, source);
    return print_log(argv[0], buf_str(&query), follow);
}

const struct cli_verb cli_logs = {
    .name = "logs",
    .help = "Print an instance's log",
    .usage = "[flags] NAME",
    .run = logs,
};
