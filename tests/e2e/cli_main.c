/* SPDX-License-Identifier: Apache-2.0 */
/* The client alone, for test_cli.py. The real program has the daemon's verbs in its table too. */
#include <stdio.h>

#include "cli/cli.h"

static int serve(int argc, char **argv)
{
    (void)argv;
    printf("serve with %d arguments\n", argc - 1);
    return CLI_OK;
}

int main(int argc, char **argv)
{
    static const struct cli_verb extra[] = {
        {.name = "serve", .help = "Run the daemon", .usage = "[flags]", .run = serve},
        {0},
    };

    return cli_main(argc, argv, extra);
}
