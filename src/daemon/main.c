#include "daemon/serve.h"
#include "vmm/accel.h"
#include <string.h>
int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], ACCEL_PROBE_ARGUMENT) == 0)
        return accel_probe_main();
    return daemon_serve(argc - 1, argv + 1);
}
