/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client half of the program: a table of verbs.
 *
 * A verb is a row here and a file beside this one. The daemon's own verbs are
 * handed in by main(), since nothing in cli/ knows of the daemon. Verbs run one
 * a process, single-threaded, may block, and return the exit code.
 */
#pragma once

#include <stdbool.h>

enum { CLI_OK = 0, CLI_FAILURE = 1, CLI_MISUSE = 2, CLI_INTERRUPTED = 130 };

struct cli_verb {
    const char *name;                  /* with its parent's in front: "image list" */
    const char *alias;                 /* another last word for it, or NULL */
    const char *help;                  /* one line */
    const char *usage;                 /* what follows the name: "[flags] NAME..." */
    int (*run)(int argc, char **argv); /* argv[0] is the verb */

    /* The first operand ends the flags, because what follows may have flags of its own. */
    bool is_prefix;
};

/* extra: verbs for the front of the table, ended by a row without a name; or NULL. */
int cli_main(int argc, char **argv, const struct cli_verb *extra);

/* Runs the row of a table (ended by a row without a name) that argv[1] names. */
int cli_dispatch(const struct cli_verb *table, const char *parent, int argc, char **argv);

/* "hypeman ps: what is wrong; see 'hypeman ps --help'". Returns CLI_MISUSE. */
int cli_misuse(const struct cli_verb *verb, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

extern const struct cli_verb cli_cp;
extern const struct cli_verb cli_exec;
extern const struct cli_verb cli_fork;
extern const struct cli_verb cli_image;
extern const struct cli_verb cli_inspect;
extern const struct cli_verb cli_logs;
extern const struct cli_verb cli_ps;
extern const struct cli_verb cli_rm;
extern const struct cli_verb cli_run;
extern const struct cli_verb cli_start;
extern const struct cli_verb cli_stats;
extern const struct cli_verb cli_stop;
extern const struct cli_verb cli_standby;
extern const struct cli_verb cli_restore;
extern const struct cli_verb cli_token;
extern const struct cli_verb cli_trace;
extern const struct cli_verb cli_top;
extern const struct cli_verb cli_update;
extern const struct cli_verb cli_version;
extern const struct cli_verb cli_wait;
