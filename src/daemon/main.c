/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "cli/cli.h"
#include "daemon/serve.h"
#include "vmm/accel.h"

int main(int argc, char **argv)
{
    static const struct cli_verb verbs[] = {
        {
            .name = "serve",
            .help = "run the daemon",
            .usage = SERVE_USAGE,
            .run = daemon_serve,
        },
        {0},
    };

    if (argc == 2 && strcmp(argv[1], ACCEL_PROBE_ARGUMENT) == 0)
        return accel_probe_main();
    return cli_main(argc, argv, verbs);
}
