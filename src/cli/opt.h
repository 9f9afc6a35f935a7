/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flags of a verb: one table says how they are parsed and what --help prints, so the two agree.
 *
 * getopt_long does the parsing: flags and operands may be mixed (unless the
 * verb is a prefix), "--" ends the flags, unique beginnings of a name are
 * enough. Go's "--flag=false" works too. --help, --base-url and --socket are
 * every verb's.
 */
#pragma once

#include "base/argv.h"
#include "cli/cli.h"

enum opt_kind {
    OPT_FLAG, /* bool: true by its presence, or by =true or =false */
    OPT_TEXT, /* const char *: the last one wins; borrowed from argv */
    OPT_LIST, /* struct argv: all of them */
};

struct opt {
    char letter;      /* 0 for none */
    const char *name; /* NULL ends the table */
    enum opt_kind kind;
    void *to;
    const char *arg; /* what --help calls the value */
    const char *help;
};

enum { OPT_GO = -1 };

/*
 * Fills what the table points to and leaves the operands in *argc and *argv,
 * without the verb. Returns OPT_GO, or the exit code to end with, after --help
 * or misuse.
 */
int opt_parse(const struct cli_verb *verb, const struct opt *opts, int *argc, char ***argv);
